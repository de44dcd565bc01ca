//! From which value on a test's result is not chance. The bounds hold for samples of any size, without a distribution
//! assumed for what is compared.

/// Twice the constant 1 that Massart proved for one sample: for two samples of n = m it is 2.169 at most (n = 4) and 2 from
/// n = 458 on; Wei and Dudley (Two-sample Dvoretzky-Kiefer-Wolfowitz inequalities, 2012) found no worse for n unlike m.
const MASSART: f64 = 2.169;

/// The distance between the empirical distributions of two samples of `n` and `m` from one distribution exceeds this with
/// chance `chance` at most: `P(D > e) <= C exp(-2 e^2 nm/(n+m))`.
pub(super) fn distance_threshold(n: usize, m: usize, chance: f64) -> f64 {
    let (n, m) = (n as f64, m as f64);
    ((MASSART / chance).ln() / 2.0 * (1.0 / n + 1.0 / m)).sqrt()
}

/// Half of the likelihood ratio statistic G of two binomials, `[hits, trials]` each, against one that both share:
/// `n KL(p, q) + m KL(r, q)` with `q` the share of both together.
pub(super) fn mix_value([a, n]: [usize; 2], [b, m]: [usize; 2]) -> f64 {
    let share = |hits: usize, trials: usize| hits as f64 / trials as f64;
    let both = share(a + b, n + m);
    n as f64 * divergence(share(a, n), both) + m as f64 * divergence(share(b, m), both)
}

/// Kullback and Leibler's, of a coin with chance `p` from one with chance `q`.
fn divergence(p: f64, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    (part(p, q) + part(1.0 - p, 1.0 - q)).max(0.0)
}

/// [`mix_value`] exceeds this with chance `chance` at most where both have one share. The pooled share makes the sum smallest,
/// so the true one bounds it; by Chernoff each term then exceeds x with chance 2 exp(-x) at most, and two of them together
/// with 4 exp(-x) (1 + x - 2 ln 2).
pub(super) fn mix_threshold(chance: f64) -> f64 {
    let exceeds = |x: f64| 4.0 * (-x).exp() * (1.0 + x - 4f64.ln());
    let (mut low, mut high) = (4f64.ln(), 1000.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if exceeds(middle) > chance { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use espalier_graph::random::Random;

    use super::*;

    #[test]
    fn by_hand() {
        assert!((distance_threshold(250, 500, 1e-6) - 0.2091).abs() < 1e-3);
        assert_eq!(mix_value([10, 100], [50, 500]), 0.0);
        // Ten of ten against none of ten: 20 ln 2.
        assert!((mix_value([10, 10], [0, 10]) - 20.0 * 2f64.ln()).abs() < 1e-9);
        let x = mix_threshold(1e-6);
        assert!((4.0 * (-x).exp() * (1.0 + x - 4f64.ln()) / 1e-6 - 1.0).abs() < 1e-6, "{x}");
    }

    /// How often samples of one distribution come out above the bounds, next to what these allow. The bounds are not far
    /// off either, else nothing would ever be found.
    #[test]
    fn chance_exceeds_the_bounds_no_more_than_they_say() {
        let (n, m, trials, chance) = (60, 45, 20_000, 0.05);
        let (distance, mix) = (distance_threshold(n, m, chance), mix_threshold(chance));
        let (mut far, mut odd) = (0, 0);
        for trial in 0..trials {
            let mut random = Random::new(trial, 7);
            let mut sample = |size: usize| {
                let mut values: Vec<f32> = (0..size).map(|_| random.uniform()).collect();
                values.sort_by(f32::total_cmp);
                values
            };
            let (a, b) = (sample(n), sample(m));
            let below = |values: &[f32], x: f32| values.partition_point(|&v| v <= x);
            let gap = |&x: &f32| (below(&a, x) as f64 / n as f64 - below(&b, x) as f64 / m as f64).abs();
            far += usize::from(a.iter().chain(&b).map(gap).fold(0.0, f64::max) > distance);
            odd += usize::from(mix_value([below(&a, 0.2), n], [below(&b, 0.2), m]) > mix);
        }
        let allowed = (trials as f64 * chance) as usize;
        assert!(far <= allowed && far > allowed / 4, "{far} of {trials} distances, {allowed} allowed");
        assert!(odd <= allowed, "{odd} of {trials} shares, {allowed} allowed");
    }
}
