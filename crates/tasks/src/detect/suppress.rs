//! Non-maximum suppression: of boxes of one class that overlap, the surest stays.

/// A box of a class, as left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) bounds: [f32; 4],
    pub(crate) class: usize,
    pub(crate) score: f32,
}

/// Of candidates that come sorted by score, the surest first, those of which no two of one class overlap by more than `iou`
/// (intersection over union), at most `most` of them; further candidates are not asked for.
pub(crate) fn suppress(candidates: impl Iterator<Item = Candidate>, iou: f32, most: usize) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() == most {
            break;
        }
        let covers = |other: &Candidate| other.class == candidate.class && overlap(other, &candidate) > iou;
        if !kept.iter().any(covers) {
            kept.push(candidate);
        }
    }
    kept
}

fn overlap(a: &Candidate, b: &Candidate) -> f32 {
    let area = |[left, top, right, bottom]: [f32; 4]| (right - left) * (bottom - top);
    let side = |i: usize| (a.bounds[i + 2].min(b.bounds[i + 2]) - a.bounds[i].max(b.bounds[i])).max(0.0);
    let common = side(0) * side(1);
    common / (area(a.bounds) + area(b.bounds) - common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(left: f32, class: usize, score: f32) -> Candidate {
        Candidate { bounds: [left, 0.0, left + 10.0, 10.0], class, score }
    }

    #[test]
    fn the_surest_of_a_class_stays() {
        let check = |candidates: &[Candidate], iou, most, want: &[f32]| {
            let kept = suppress(candidates.iter().copied(), iou, most);
            assert_eq!(kept.iter().map(|c| c.score).collect::<Vec<_>>(), want);
        };
        // Moved by 5 of 10: a third is common.
        let row = [candidate(5.0, 0, 0.9), candidate(0.0, 0, 0.5), candidate(10.0, 0, 0.4)];
        check(&row, 0.3, 9, &[0.9]);
        check(&row, 0.34, 9, &[0.9, 0.5, 0.4]);
        check(&row, 0.34, 2, &[0.9, 0.5]);
        check(&[candidate(0.0, 0, 0.5), candidate(0.0, 1, 0.4)], 0.3, 9, &[0.5, 0.4]);
        // What was suppressed suppresses nothing.
        check(&[candidate(0.0, 0, 0.9), candidate(4.0, 0, 0.8), candidate(8.0, 0, 0.7)], 0.4, 9, &[0.9, 0.7]);
        check(&[], 0.4, 9, &[]);
    }
}
