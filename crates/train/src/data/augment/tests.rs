//! All ideas together.

use super::*;

fn run(augment: &Augment, image: &[u8], shape: [usize; 3], position: u64) -> Vec<u8> {
    let mut out = vec![0; image.len()];
    augment.apply(image, shape, [shape[1], shape[2]], 7, position, &mut out);
    out
}

/// Everything that moves or changes colours.
fn everything() -> Augment {
    let geometric =
        Geometric { pad: 4, flip: true, rotate_degrees: 15.0, scale: 0.2, crop: 0.5, edge: Edge::Reflect };
    let colour = Jitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
    Augment { erase: 0.5, geometric, colour, ..Augment::default() }
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 37 % 251) as u8).collect()
}

#[test]
fn nothing_to_do_changes_nothing() {
    let image = pattern(5 * 4 * 3);
    assert_eq!(run(&Augment::default(), &image, [3, 5, 4], 1), image);
    // The bilinear way as well, where the angle is practically zero.
    let mut tiny = Augment::default();
    tiny.geometric.rotate_degrees = 1e-6;
    assert_eq!(run(&tiny, &image, [3, 5, 4], 1), image);
}

#[test]
fn positions_differ_and_repeat() {
    let image = pattern(32 * 32 * 3);
    let outputs: Vec<_> = (0..20).map(|position| run(&everything(), &image, [3, 32, 32], position)).collect();
    for (position, output) in outputs.iter().enumerate() {
        assert_eq!(*output, run(&everything(), &image, [3, 32, 32], position as u64));
        assert!(outputs[..position].iter().all(|other| other != output), "position {position}");
    }
}

#[test]
fn one_setting_does_not_change_what_another_does() {
    let image = pattern(32 * 32 * 3);
    let without_erasing = Augment { erase: 0.0, ..everything() };
    for position in 0..40 {
        let [all, without] =
            [everything(), without_erasing.clone()].map(|a| run(&a, &image, [3, 32, 32], position));
        let same = all.chunks(3).zip(without.chunks(3)).filter(|(a, b)| a == b).count();
        assert!(same >= 32 * 32 / 2, "position {position}: only {same} pixels are the same");
    }
}

#[test]
fn any_shape_and_flat_pictures_stay_flat() {
    for (height, width) in [(1, 1), (1, 9), (9, 1), (2, 3), (17, 31)] {
        for edge in [Edge::Clamp, Edge::Reflect] {
            let geometric = Geometric { pad: 40, edge, ..everything().geometric };
            let augment = Augment { geometric, ..Augment::default() };
            for size in [[height, width], [5, 7], [1, 1]] {
                let (image, flat) = (vec![77; height * width], vec![77; size[0] * size[1]]);
                let mut out = flat.clone();
                for position in 0..20 {
                    augment.apply(&image, [1, height, width], size, 7, position, &mut out);
                    assert_eq!(out, flat);
                }
            }
        }
    }
}

#[test]
fn levels_follow_the_data() {
    let statistics = |grey| Statistics {
        grey,
        width: crate::data::Range { min: 100, median: 300, max: 400 },
        height: crate::data::Range { min: 100, median: 200, max: 400 },
        ..Statistics::default()
    };
    let set = |level, grey, side| Augment::for_data(level, &statistics(grey), side);
    let nothing = set(Level::None, false, 32);
    assert_eq!(nothing, Augment { level: Level::None, ..Augment::default() });
    for level in [Level::Light, Level::Strong] {
        for side in [28, 128] {
            assert!(set(level, false, side).geometric.flip && !set(level, true, side).geometric.flip);
        }
        assert!(set(level, true, 28).geometric.rotate_degrees > 0.0);
        assert!(set(level, false, 32).geometric.crop == 0.0 && set(level, false, 128).geometric.crop > 0.0);
    }
    let [light, strong] = [Level::Light, Level::Strong].map(|level| set(level, false, 128));
    assert!(light.mixup == 0.0 && light.erase == 0.0 && strong.mixup > 0.0 && strong.erase > 0.0);
    assert!(light.colour.brightness < strong.colour.brightness);
    // 200 pixels are enough for inputs of 160, not for larger ones; shifted pictures are kept as they are.
    assert_eq!([128, 160, 192].map(|side| light.stored_side(side, &statistics(false))), [160, 200, 192]);
    assert_eq!(set(Level::Light, false, 32).stored_side(32, &statistics(false)), 32);
}

#[test]
fn fast_enough_for_small_pictures() {
    let image = vec![9; 32 * 32 * 3];
    let mut out = image.clone();
    let [light, strong] = [Level::Light, Level::Strong]
        .map(|level| Augment::for_data(level, &Statistics { grey: false, ..Statistics::default() }, 32));
    for (augment, micros) in [(light, 20), (strong, 60), (everything(), 60)] {
        let mut round = |position| {
            let start = std::time::Instant::now();
            (0..50).for_each(|_| augment.apply(&image, [3, 32, 32], [32, 32], 1, position, &mut out));
            start.elapsed() / 50
        };
        let best = (0..40).map(&mut round).min().unwrap();
        println!("{augment:?}: {best:?} a picture");
        assert!(best.as_micros() < micros, "{best:?}");
    }
}
