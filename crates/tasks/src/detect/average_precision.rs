//! Average precision by the rules of COCO's own evaluation (pycocotools): boxes of all areas, at most 100 of a class for
//! each picture, precision read off at 101 recalls.

/// Most boxes of one class for one picture; further ones do not count.
const BOXES_MAX: usize = 100;

/// Overlaps at which a box counts as found: 0.5, 0.55, ... 0.95.
const THRESHOLDS: usize = 10;

/// Recalls at which precision is read: 0, 0.01, ... 1.
const RECALLS: usize = 101;

/// What is truly in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct TrueBox {
    /// Index of its class among the task's labels.
    pub class: usize,
    /// Left, top, right, bottom in pixels.
    pub bounds: [f64; 4],
    /// Many things in one box: finding them is neither right nor wrong.
    pub crowd: bool,
}

/// A box that was found: its class, score and bounds, as in [`TrueBox`].
pub(crate) struct Found {
    pub(crate) class: usize,
    pub(crate) score: f32,
    pub(crate) bounds: [f64; 4],
}

/// The boxes of all pictures so far.
#[derive(Clone, Debug)]
pub(crate) struct Evaluation {
    classes: Vec<Class>,
}

#[derive(Clone, Debug, Default)]
struct Class {
    /// True boxes, crowds apart.
    n: u64,
    found: Vec<Counted>,
}

/// A box that was found. Bit t of `right` and `ignored` is for threshold t.
#[derive(Clone, Copy, Debug)]
struct Counted {
    score: f32,
    right: u16,
    ignored: u16,
}

impl Evaluation {
    pub(crate) fn new(classes: usize) -> Self {
        Evaluation { classes: vec![Class::default(); classes] }
    }

    /// Adds one picture; `found` is sorted by score, the highest first.
    pub(crate) fn add(&mut self, found: &[Found], truth: &[TrueBox]) {
        for (number, class) in self.classes.iter_mut().enumerate() {
            let mut truth: Vec<&TrueBox> = truth.iter().filter(|t| t.class == number).collect();
            truth.sort_by_key(|t| t.crowd);
            let found = found.iter().filter(|f| f.class == number).take(BOXES_MAX);
            class.add(&found.collect::<Vec<_>>(), &truth);
        }
    }

    /// True boxes of a class, crowds apart.
    pub(crate) fn n(&self, class: usize) -> u64 {
        self.classes[class].n
    }

    /// Average precision of a class at overlap 0.5, and the mean over all thresholds; `None` where it has no true box.
    pub(crate) fn class(&self, class: usize) -> Option<[f64; 2]> {
        let class = &self.classes[class];
        let mut found = class.found.clone();
        // Stable: of equal scores, the picture that was added first.
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        let all: [f64; THRESHOLDS] = std::array::from_fn(|t| average_precision(&found, class.n, t));
        (class.n > 0).then(|| [all[0], all.iter().sum::<f64>() / THRESHOLDS as f64])
    }

    /// The means over the classes that have a true box; 0 where none has.
    pub(crate) fn mean(&self) -> [f64; 2] {
        let classes: Vec<[f64; 2]> = (0..self.classes.len()).filter_map(|c| self.class(c)).collect();
        [0, 1].map(|i| classes.iter().map(|ap| ap[i]).sum::<f64>() / classes.len().max(1) as f64)
    }
}

impl Class {
    /// The boxes of one picture; in `truth` crowds come last.
    fn add(&mut self, found: &[&Found], truth: &[&TrueBox]) {
        self.n += truth.iter().filter(|t| !t.crowd).count() as u64;
        let overlaps: Vec<Vec<f64>> =
            found.iter().map(|f| truth.iter().map(|t| overlap(&f.bounds, t)).collect()).collect();
        let mut counted: Vec<Counted> =
            found.iter().map(|f| Counted { score: f.score, right: 0, ignored: 0 }).collect();
        let mut taken = vec![false; truth.len()];
        for t in 0..THRESHOLDS {
            taken.fill(false);
            for (counted, overlaps) in counted.iter_mut().zip(&overlaps) {
                if let Some(at) = best(overlaps, truth, &taken, threshold(t)) {
                    taken[at] = true;
                    *(if truth[at].crowd { &mut counted.ignored } else { &mut counted.right }) |= 1 << t;
                }
            }
        }
        self.found.extend(counted);
    }
}

/// The true box that a found one stands for: of those that are free and overlap enough, the one that overlaps most, the
/// last of equals; a crowd, which is never used up, only where nothing else does.
fn best(overlaps: &[f64], truth: &[&TrueBox], taken: &[bool], least: f64) -> Option<usize> {
    let (mut least, mut best) = (least, None);
    for (at, &overlap) in overlaps.iter().enumerate() {
        if taken[at] && !truth[at].crowd {
            continue;
        }
        if truth[at].crowd && best.is_some_and(|best: usize| !truth[best].crowd) {
            break;
        }
        if overlap >= least {
            (least, best) = (overlap, Some(at));
        }
    }
    best
}

/// As numpy spaces them, to the last bit: overlaps of round boxes lie on thresholds.
fn threshold(t: usize) -> f64 {
    0.5 + (0.95 - 0.5) / 9.0 * t as f64
}

/// Intersection over union; with a crowd, over the area of the found box.
fn overlap(found: &[f64; 4], truth: &TrueBox) -> f64 {
    let area = |b: &[f64; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let side = |i: usize| (found[i + 2].min(truth.bounds[i + 2]) - found[i].max(truth.bounds[i])).max(0.0);
    let common = side(0) * side(1);
    let whole = if truth.crowd { area(found) } else { area(found) + area(&truth.bounds) - common };
    common / whole
}

/// `found` is sorted by score, `n` the number of true boxes.
fn average_precision(found: &[Counted], n: u64, t: usize) -> f64 {
    let (mut right, mut wrong) = (0u64, 0u64);
    let mut curve: Vec<(f64, f64)> = Vec::with_capacity(found.len());
    for counted in found.iter().filter(|f| f.ignored >> t & 1 == 0) {
        if counted.right >> t & 1 == 1 {
            right += 1
        } else {
            wrong += 1
        }
        curve.push((right as f64 / n.max(1) as f64, right as f64 / (right + wrong) as f64));
    }
    // Precision at a recall is the best that any higher recall has.
    let mut best = 0.0f64;
    for (_, precision) in curve.iter_mut().rev() {
        best = best.max(*precision);
        *precision = best;
    }
    let at = |i: usize| {
        let recall = i as f64 * 0.01;
        curve.get(curve.partition_point(|point| point.0 < recall)).map_or(0.0, |point| point.1)
    };
    (0..RECALLS).map(at).sum::<f64>() / RECALLS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(left: f64, score: f32) -> Found {
        Found { class: 0, score, bounds: [left, 0.0, left + 10.0, 10.0] }
    }

    fn truth(left: f64, crowd: bool) -> TrueBox {
        TrueBox { class: 0, bounds: [left, 0.0, left + 10.0, 10.0], crowd }
    }

    fn check(found: &[Found], truth: &[TrueBox], want: [f64; 2]) {
        let mut evaluation = Evaluation::new(2);
        evaluation.add(found, truth);
        let got = evaluation.mean();
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-9), "{got:?}, not {want:?}");
        assert_eq!(evaluation.class(1), None, "a class without true boxes counts for nothing");
    }

    #[test]
    fn values_by_hand() {
        let two = [truth(0.0, false), truth(100.0, false)];
        check(&[found(0.0, 0.9), found(100.0, 0.8)], &two, [1.0, 1.0]);
        check(&[], &two, [0.0, 0.0]);
        // Half of the recalls, 0 to 0.5, are reached.
        check(&[found(0.0, 0.9)], &two, [51.0 / 101.0; 2]);
        // A wrong box first: precision is 1/2 up to recall 0.5, and 2/3 of all three at recall 1, which is better.
        check(&[found(50.0, 0.9), found(0.0, 0.8), found(100.0, 0.7)], &two, [2.0 / 3.0; 2]);
        // The second box for one thing is wrong, and after everything is found costs nothing.
        check(&[found(0.0, 0.9), found(0.0, 0.8)], &two[..1], [1.0, 1.0]);
        // Moved by 1 of 10, overlap is 9/11: right at the seven thresholds up to 0.8.
        check(&[found(1.0, 0.9)], &two[..1], [1.0, 0.7]);
    }

    #[test]
    fn crowds_are_neither_right_nor_wrong() {
        let crowd = [truth(0.0, false), truth(100.0, true)];
        check(&[found(100.0, 0.9), found(100.0, 0.8), found(0.0, 0.7)], &crowd, [1.0, 1.0]);
    }

    #[test]
    fn only_the_first_hundred_of_a_picture_count() {
        let wrong = |n: usize| (0..n).map(|i| found(50.0 + 20.0 * i as f64, 0.9));
        let one = [truth(0.0, false)];
        let then_right = |n| wrong(n).chain([found(0.0, 0.1)]).collect::<Vec<_>>();
        check(&then_right(99), &one, [0.01; 2]);
        check(&then_right(100), &one, [0.0; 2]);
    }
}
