//! One statistic's values in the window, by where they lie among the reference's.

/// The window's values of one statistic. Only their places among the reference values are kept: they are all that the
/// distance between both distributions depends on.
#[derive(Debug)]
pub(super) struct Column {
    /// Its number among the task's statistics.
    pub(super) at: usize,
    pub(super) name: &'static str,
    reference: Vec<f32>,
    /// For each value of the reference that differs from the one before: how many are below it, and how many not above.
    steps: Vec<(usize, usize)>,
    /// Of the window, how many are at each place: an even one is between two values of the reference, an odd one is a
    /// value of it.
    counts: Vec<u32>,
    /// What the distance may be too large by, because the reference holds fewer values than images.
    slack: f64,
}

impl Column {
    pub(super) fn new(at: usize, name: &'static str, reference: &[f32], images: usize) -> Column {
        let below = |x: f32| reference.partition_point(|&v| v < x);
        let mut steps: Vec<_> =
            reference.iter().map(|&x| (below(x), reference.partition_point(|&v| v <= x))).collect();
        steps.dedup();
        let slack = if reference.len() < images { 1.0 / reference.len() as f64 } else { 0.0 };
        let counts = vec![0; 2 * reference.len() + 1];
        Column { at, name, reference: reference.to_vec(), steps, counts, slack }
    }

    /// Counts a value; where it lies.
    pub(super) fn add(&mut self, value: f32) -> u16 {
        let below = self.reference.partition_point(|&v| v < value);
        let is_equal = self.reference.get(below) == Some(&value);
        let place = 2 * below + usize::from(is_equal);
        self.counts[place] += 1;
        place as u16
    }

    /// Takes back a value that was counted at `place`.
    pub(super) fn remove(&mut self, place: u16) {
        self.counts[usize::from(place)] -= 1;
    }

    /// Kolmogorov and Smirnov's distance: the largest difference between the distribution of the `n` values of the window
    /// and that of the reference.
    pub(super) fn distance(&self, n: usize) -> f64 {
        let (n, m) = (n as f64, self.reference.len() as f64);
        let (mut seen, mut next, mut largest) = (0, 0, 0f64);
        for &(below, upto) in &self.steps {
            // Between two steps the reference stands still: it is enough to look before and at each.
            let at = 2 * below + 1;
            let before: u32 = self.counts[next..at].iter().sum::<u32>() + seen;
            let here = before + self.counts[at];
            let gap = |count: u32, reference: usize| (f64::from(count) / n - reference as f64 / m).abs();
            largest = largest.max(gap(before, below)).max(gap(here, upto));
            (seen, next) = (here, at + 1);
        }
        (largest - self.slack).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(window: &[f32], reference: &[f32]) -> f64 {
        let share = |values: &[f32], x: f32, equal: bool| {
            let hit = |v: &&f32| **v < x || equal && **v == x;
            values.iter().filter(hit).count() as f64 / values.len() as f64
        };
        let gap = |x: f32, equal| (share(window, x, equal) - share(reference, x, equal)).abs();
        window.iter().chain(reference).map(|&x| gap(x, true).max(gap(x, false))).fold(0.0, f64::max)
    }

    proptest! {
        #[test]
        fn the_distance_is_that_of_the_definition(
            reference in prop::collection::vec(0u8..12, 1..20),
            window in prop::collection::vec(0u8..12, 1..20),
            gone in prop::collection::vec(0u8..12, 0..10),
        ) {
            let floats = |bytes: &[u8]| bytes.iter().map(|&v| f32::from(v) / 2.0).collect::<Vec<_>>();
            let (mut reference, window) = (floats(&reference), floats(&window));
            reference.sort_by(f32::total_cmp);
            let mut column = Column::new(0, "x", &reference, reference.len());
            let places: Vec<u16> = floats(&gone).into_iter().map(|v| column.add(v)).collect();
            for &v in &window {
                column.add(v);
            }
            places.into_iter().for_each(|place| column.remove(place));
            prop_assert!((column.distance(window.len()) - naive(&window, &reference)).abs() < 1e-12);
        }
    }
}
