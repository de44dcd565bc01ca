//! Mixup (Zhang et al. 2018): two pictures and their targets, mixed in the same shares.

use espalier_graph::random::Random;

/// Mixes neighbours of a batch in place: `lambda` of a picture with `1 - lambda` of the next, and the other way round,
/// their targets likewise, with a lambda from Beta(alpha, alpha) for each pair. Batches are shuffled, so neighbours are
/// any two pictures. The last of an odd number stays as it is, and so does all with an alpha of 0.
///
/// `images` holds `size` values a picture, `targets` `classes`.
pub(in crate::data) fn mixup(
    alpha: f32,
    images: &mut [f32],
    size: usize,
    targets: &mut [f32],
    classes: usize,
    random: &mut Random,
) {
    if alpha <= 0.0 {
        return;
    }
    let pairs = images.chunks_exact_mut(2 * size).zip(targets.chunks_exact_mut(2 * classes));
    for (images, targets) in pairs {
        let lambda = beta(f64::from(alpha), random) as f32;
        mix(images, size, lambda);
        mix(targets, classes, lambda);
    }
}

fn mix(pair: &mut [f32], size: usize, lambda: f32) {
    let (one, other) = pair.split_at_mut(size);
    for (a, b) in one.iter_mut().zip(other) {
        (*a, *b) = (lambda * *a + (1.0 - lambda) * *b, lambda * *b + (1.0 - lambda) * *a);
    }
}

/// A draw from Beta(alpha, alpha), by the method of Jöhnk (1964), which is quick for an alpha up to 1.
fn beta(alpha: f64, random: &mut Random) -> f64 {
    loop {
        let [x, y] = [(); 2].map(|()| f64::from(random.uniform()).powf(1.0 / alpha));
        if x + y > 0.0 && x + y <= 1.0 {
            return x / (x + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_beta() {
        for alpha in [0.1, 0.2, 0.5, 1.0] {
            let mut random = Random::new(4, 1);
            let draws: Vec<f64> = (0..20_000).map(|_| beta(alpha, &mut random)).collect();
            let mean = draws.iter().sum::<f64>() / 20_000.0;
            let variance = draws.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20_000.0;
            let want = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!(
                (mean - 0.5).abs() < 0.01 && (variance / want - 1.0).abs() < 0.03,
                "{alpha}: {mean} {variance}"
            );
        }
    }

    #[test]
    fn pictures_and_targets_go_together() {
        // Picture k holds k + 1 everywhere, its target is class k.
        let before: Vec<f32> = (0..15).map(|i| (i / 3 + 1) as f32).collect();
        let one_hot: Vec<f32> = (0..25).map(|i| f32::from(i % 6 == 0)).collect();
        let (mut images, mut targets) = (before.clone(), one_hot.clone());
        mixup(0.0, &mut images, 3, &mut targets, 5, &mut Random::new(1, 1));
        assert_eq!((&images, &targets), (&before, &one_hot));
        mixup(0.5, &mut images, 3, &mut targets, 5, &mut Random::new(1, 1));
        assert!(images[..12].iter().zip(&before).all(|(a, b)| a != b), "{images:?}");
        assert_eq!((&images[12..], &targets[20..]), (&before[12..], &one_hot[20..]));
        for (image, target) in images.chunks(3).zip(targets.chunks(5)) {
            let expected: f32 = target.iter().zip(1..).map(|(share, value)| share * value as f32).sum();
            assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!(image.iter().all(|v| (v - expected).abs() < 1e-5), "{image:?} {target:?}");
        }
        let lambdas = [targets[0], targets[12]];
        assert_ne!(lambdas[0], lambdas[1], "one for each pair");
    }
}
