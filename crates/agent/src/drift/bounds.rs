//! What chance can do, to samples of any size, without a distribution assumed for what is compared. What is true lies within
//! such a bound of the reference, whatever the window shows later; so the reference's part of the chance is spent once, and
//! the window's part in every look.

/// An empirical distribution of `n` values is further than this from the true one with chance `chance` at most: by Dvoretzky,
/// Kiefer and Wolfowitz with Massart's constant (1990), `P(D > e) <= 2 exp(-2 n e^2)`.
pub(super) fn band(n: usize, chance: f64) -> f64 {
    ((2.0 / chance).ln() / (2.0 * n as f64)).sqrt()
}

/// [`surprise`] at the true share exceeds this with chance `chance` at most (Chernoff 1952).
pub(super) fn surprise_threshold(chance: f64) -> f64 {
    (2.0 / chance).ln()
}

/// How surprising `hits` of `n` are where the share is `q`: n times Kullback and Leibler's divergence.
pub(super) fn surprise(hits: usize, n: usize, q: f64) -> f64 {
    let part = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    let p = hits as f64 / n as f64;
    n as f64 * (part(p, q) + part(1.0 - p, 1.0 - q)).max(0.0)
}

/// The shares at which `hits` of `n` are no more surprising than chance `chance` allows.
pub(super) fn shares(hits: usize, n: usize, chance: f64) -> [f64; 2] {
    let (found, threshold) = (hits as f64 / n as f64, surprise_threshold(chance));
    let edge = |mut far: f64| {
        let mut near = found;
        for _ in 0..50 {
            let middle = (near + far) / 2.0;
            if surprise(hits, n, middle) > threshold { far = middle } else { near = middle }
        }
        far
    };
    [edge(0.0), edge(1.0)]
}

#[cfg(test)]
mod tests {
    use espalier_graph::random::Random;

    use super::*;

    #[test]
    fn by_hand() {
        assert!((band(250, 1e-6) - 0.17035).abs() < 1e-4);
        assert_eq!(surprise(50, 500, 0.1), 0.0);
        assert!((surprise(10, 10, 0.5) - 10.0 * 2f64.ln()).abs() < 1e-9);
        // None of n: (1 - q)^n is chance / 2.
        let [low, high] = shares(0, 100, 0.02);
        assert!(low == 0.0 && ((1.0 - high).powi(100) / 0.01 - 1.0).abs() < 1e-6, "{low} {high}");
        let [low, high] = shares(50, 100, 0.02);
        assert!((low + high - 1.0).abs() < 1e-9 && low < 0.4 && low > 0.3, "{low} {high}");
        assert_eq!(shares(7, 7, 0.1)[1], 1.0);
    }

    /// How often chance exceeds the bounds, next to what these allow; and they are not far off either, else nothing would
    /// ever be found.
    #[test]
    fn chance_exceeds_the_bounds_no_more_than_they_say() {
        let (n, trials, chance, share) = (60, 20_000, 0.05, 0.2f32);
        let (mut far, mut odd) = (0, 0);
        for trial in 0..trials {
            let mut random = Random::new(trial, 7);
            let mut values: Vec<f64> = (0..n).map(|_| f64::from(random.uniform())).collect();
            values.sort_by(f64::total_cmp);
            let gap = |(i, x): (usize, &f64)| {
                let (below, upto) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
                (x - below).abs().max((upto - x).abs())
            };
            far += usize::from(values.iter().enumerate().map(gap).fold(0.0, f64::max) > band(n, chance));
            let hits = values.iter().filter(|v| **v < f64::from(share)).count();
            let [low, high] = shares(hits, n, chance);
            odd += usize::from(!(low..=high).contains(&f64::from(share)));
        }
        let allowed = (trials as f64 * chance) as usize;
        assert!(far <= allowed && far > allowed / 2, "{far} of {trials} distances, {allowed} allowed");
        assert!(odd <= allowed && odd > allowed / 10, "{odd} of {trials} shares, {allowed} allowed");
    }
}
