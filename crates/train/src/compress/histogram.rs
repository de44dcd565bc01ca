//! How often a value was how large, and the range that its bytes should span.

use espalier_graph::Quant;
use espalier_passes::quantize::quant_of;
use serde::{Deserialize, Serialize};

/// Cells of a histogram, half of them for negative numbers.
const CELLS: usize = 8192;
/// Share of the numbers that [`Method::Percentile`] cuts off at each end.
const CUT: f64 = 1e-4;
/// How many ranges [`Method::Mse`] tries, and the smallest of them as a share of the whole.
const TRIED: usize = 80;
const SMALLEST: f64 = 0.2;

/// How the range of a value's bytes follows from the numbers that were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// From the least to the largest.
    MinMax,
    /// Without the outermost 0.01 % at each end.
    Percentile,
    /// The part of it that rounds the numbers with the least mean squared error.
    Mse,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 3] = [Method::MinMax, Method::Percentile, Method::Mse];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        ["min-max", "percentile", "mse"][self as usize]
    }
}

/// Counts of numbers in cells of equal width around zero. It widens by doubling, so that the numbers need not be known
/// before.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Cells reach from `-limit` to `limit`.
    limit: f32,
    counts: Vec<u64>,
    lo: f32,
    hi: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { limit: 1.0 / 1024.0, counts: vec![0; CELLS], lo: f32::INFINITY, hi: f32::NEG_INFINITY }
    }
}

impl Histogram {
    /// Counts the finite numbers among `values`; returns how many are not.
    pub fn add(&mut self, values: &[f32]) -> usize {
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        let (lo, hi) = finite().fold((self.lo, self.hi), |(lo, hi), v| (lo.min(v), hi.max(v)));
        (self.lo, self.hi) = (lo, hi);
        while self.limit <= hi.max(-lo) && hi >= lo {
            self.widen();
        }
        let cells_per_unit = CELLS as f32 / 2.0 / self.limit;
        for v in finite() {
            let cell = (v * cells_per_unit).floor() as isize + (CELLS / 2) as isize;
            self.counts[cell.clamp(0, CELLS as isize - 1) as usize] += 1;
        }
        values.len() - finite().count()
    }

    /// Twice as wide: two cells become one.
    fn widen(&mut self) {
        let mut wider = vec![0; CELLS];
        for (cell, count) in self.counts.iter().enumerate() {
            wider[CELLS / 4 + cell / 2] += count;
        }
        (self.counts, self.limit) = (wider, self.limit * 2.0);
    }

    /// The middle of a cell.
    fn middle(&self, cell: usize) -> f64 {
        (cell as f64 + 0.5 - CELLS as f64 / 2.0) * f64::from(self.limit) / (CELLS as f64 / 2.0)
    }

    /// The range by `method`; zeros where nothing was counted.
    pub fn range(&self, method: Method) -> [f32; 2] {
        if self.hi < self.lo {
            return [0.0; 2];
        }
        match method {
            Method::MinMax => [self.lo, self.hi],
            Method::Percentile => self.percentile(),
            Method::Mse => self.least_error(),
        }
    }

    fn percentile(&self) -> [f32; 2] {
        let allowed = self.counts.iter().sum::<u64>() as f64 * CUT;
        // The first cell by which more than that many were counted.
        let first = |cells: &mut dyn Iterator<Item = usize>| {
            let counted = cells.scan(0, |seen, cell| {
                *seen += self.counts[cell];
                Some((cell, *seen))
            });
            counted.into_iter().find(|&(_, seen)| seen as f64 > allowed).map(|(cell, _)| cell)
        };
        let width = self.limit / (CELLS as f32 / 2.0);
        let edge = |cell: usize| (cell as f32 - CELLS as f32 / 2.0) * width;
        let lo = first(&mut (0..CELLS)).map_or(self.lo, edge);
        let hi = first(&mut (0..CELLS).rev()).map_or(self.hi, |cell| edge(cell + 1));
        [lo.max(self.lo), hi.min(self.hi)]
    }

    fn least_error(&self) -> [f32; 2] {
        let counted: Vec<(f64, u64)> = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(cell, &count)| (self.middle(cell), count))
            .collect();
        let mut best = ([self.lo, self.hi], f64::INFINITY);
        for tried in 0..TRIED {
            let share = (1.0 - (1.0 - SMALLEST) * tried as f64 / TRIED as f64) as f32;
            let range = [self.lo * share, self.hi * share];
            let Ok(quant) = quant_of(range) else { continue };
            let error = counted.iter().map(|&(x, count)| count as f64 * squared_error(quant, x)).sum();
            if error < best.1 {
                best = (range, error);
            }
        }
        best.0
    }
}

fn squared_error(quant: Quant, x: f64) -> f64 {
    (f64::from(quant.dequantize(quant.quantize(x as f32))) - x).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_graph::random::Random;

    fn check(values: &[f32], method: Method, want: [f32; 2], within: f32) {
        // In parts, so that the histogram has to widen.
        let mut histogram = Histogram::default();
        values.chunks(7).for_each(|part| assert_eq!(histogram.add(part), 0));
        let got = histogram.range(method);
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= within, "{method:?}: {got} is not {want}");
        }
    }

    #[test]
    fn ranges_by_every_method() {
        let even: Vec<f32> = (0..=10_000).map(|i| i as f32 / 1_000.0 - 3.0).collect();
        check(&even, Method::MinMax, [-3.0, 7.0], 0.0);
        check(&even, Method::Percentile, [-2.999, 6.999], 0.005);
        // Numbers that lie evenly need all of their range.
        check(&even, Method::Mse, [-3.0, 7.0], 0.2);
        let mut outlier: Vec<f32> = even.iter().map(|v| v.max(0.0) / 7.0).collect();
        outlier.push(50.0);
        check(&outlier, Method::MinMax, [0.0, 50.0], 0.0);
        check(&outlier, Method::Percentile, [0.0, 1.0], 0.05);
        check(&[], Method::Mse, [0.0, 0.0], 0.0);
        check(&[2.0], Method::Percentile, [2.0, 2.0], 1e-3);
        check(&[0.0; 9], Method::Mse, [0.0, 0.0], 0.0);
    }

    /// Of normal numbers the far tails are worth less than finer steps for the rest.
    #[test]
    fn the_least_error_cuts_tails() {
        let mut random = Random::new(0, 0);
        let normal: Vec<f32> =
            (0..200_000).map(|_| (0..12).map(|_| random.uniform()).sum::<f32>() - 6.0).collect();
        let mut histogram = Histogram::default();
        histogram.add(&normal);
        let [all, cut] = [Method::MinMax, Method::Mse].map(|method| histogram.range(method)[1]);
        assert!(cut < all && cut > 2.5, "{cut} of {all}");
    }

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.add(&[1.0, f32::NAN, f32::INFINITY]), 2);
        assert_eq!(histogram.range(Method::MinMax), [1.0, 1.0]);
    }
}
