use super::testing::Problem;
use super::*;
use crate::conv::ConvGeometry;
use crate::int8::quads;
use crate::int8::testing::quad_index;
use espalier_graph::Window;
use proptest::prelude::*;

/// batch, channels in, channels out, groups, input, kernel, stride, pad, dilation.
pub(in crate::int8) type Case =
    (usize, usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 4], [usize; 2]);

pub(in crate::int8) fn geometry(
    &(batch, channels_in, channels_out, groups, input, kernel, stride, pad, dilation): &Case,
) -> Option<ConvGeometry> {
    let window = Window { kernel, stride, pad, dilation };
    let output = window.output(input)?;
    Some(ConvGeometry { batch, channels_in, channels_out, groups, input, output, window })
}

pub(in crate::int8) const CASES: &[Case] = &[
    // Odd channels.
    (1, 1, 1, 1, [1, 1], [1, 1], [1, 1], [0; 4], [1, 1]),
    (2, 3, 17, 1, [9, 7], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 17, 5, 1, [5, 6], [3, 3], [1, 1], [1; 4], [1, 1]),
    (2, 5, 33, 1, [7, 7], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 20, 70, 1, [3, 4], [2, 2], [1, 1], [0; 4], [1, 1]),
    (1, 19, 18, 1, [8, 9], [5, 1], [1, 1], [2, 0, 2, 0], [1, 1]),
    (1, 8, 40, 1, [8, 9], [1, 4], [1, 1], [0, 1, 0, 2], [1, 1]),
    // Widths around a tile, in a row and across rows.
    (1, 6, 36, 1, [3, 13], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 6, 36, 1, [2, 14], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 6, 36, 1, [2, 15], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 9, 65, 1, [2, 29], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 9, 80, 1, [1, 6], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 24, 68, 1, [7, 7], [1, 1], [1, 1], [0; 4], [1, 1]),
    // Pixels in lanes: large maps, and small ones whose last channels are few.
    (1, 5, 12, 1, [33, 57], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 16, 24, 1, [28, 28], [1, 1], [1, 1], [0; 4], [1, 1]),
    (2, 9, 20, 1, [5, 7], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 40, 17, 1, [6, 6], [1, 1], [1, 1], [0; 4], [1, 1]),
    // Planes whose size is that of a cache's way.
    (1, 40, 20, 1, [32, 32], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 40, 20, 1, [32, 32], [2, 2], [2, 2], [0; 4], [1, 1]),
    // Strides: also ones that skip inputs, kernels smaller than the stride, rows no window reaches.
    (2, 3, 20, 1, [15, 13], [7, 7], [2, 2], [3; 4], [1, 1]),
    (3, 18, 16, 1, [9, 8], [3, 3], [2, 2], [1; 4], [1, 1]),
    (2, 16, 35, 1, [8, 8], [1, 1], [2, 2], [0; 4], [1, 1]),
    (1, 18, 20, 1, [11, 10], [2, 3], [3, 2], [0, 1, 1, 0], [1, 1]),
    (1, 3, 24, 1, [8, 8], [4, 4], [4, 4], [0; 4], [1, 1]),
    (2, 16, 16, 1, [10, 10], [1, 1], [4, 5], [0; 4], [1, 1]),
    // Dilation, and padding larger than the kernel.
    (1, 17, 16, 1, [9, 9], [3, 3], [1, 1], [2; 4], [2, 2]),
    (1, 16, 18, 1, [10, 9], [3, 2], [2, 3], [3, 0, 1, 4], [2, 3]),
    (1, 5, 4, 1, [6, 5], [3, 3], [1, 1], [6; 4], [6, 6]),
    (1, 16, 16, 1, [2, 2], [3, 3], [1, 1], [5, 4, 5, 4], [1, 1]),
    // Groups: aligned, unaligned, with a channel multiplier, many of a few channels.
    (2, 32, 64, 2, [5, 5], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 12, 18, 3, [6, 5], [3, 3], [2, 2], [1; 4], [1, 1]),
    (1, 40, 20, 4, [4, 5], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 20, 40, 20, [5, 4], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 48, 48, 3, [4, 4], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 54, 54, 18, [4, 4], [1, 1], [1, 1], [0; 4], [1, 1]),
    // A single row or column; several images; several items of rows.
    (2, 20, 18, 1, [1, 50], [1, 5], [1, 2], [0, 2, 0, 1], [1, 1]),
    (1, 24, 17, 1, [60, 1], [3, 1], [2, 1], [1, 0, 1, 0], [1, 1]),
    (9, 33, 65, 1, [4, 4], [3, 3], [1, 1], [1; 4], [1, 1]),
    (7, 130, 50, 1, [1, 1], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 130, 16, 1, [37, 27], [3, 3], [1, 1], [1; 4], [1, 1]),
    // Depthwise, whose result is wanted in f32.
    (1, 20, 20, 20, [6, 5], [3, 3], [2, 1], [1; 4], [1, 1]),
];

#[test]
fn every_form_gives_the_bits_of_the_definition() {
    let silu_like = Table::new(|x| (u32::from(x) * u32::from(x) / 255) as u8);
    for (seed, case) in CASES.iter().enumerate() {
        let new = || Problem::new(geometry(case).unwrap(), seed as u64);
        new().check();
        new()
            .zero(0)
            .result(Output::Quads { zero: 77, lo: 0, hi: 255, table: Some(silu_like.clone()) })
            .check();
        new()
            .zero(255)
            .residual(3, 0.37)
            .result(Output::Quads { zero: 77, lo: 20, hi: 199, table: None })
            .check();
        new().zero(7).result(Output::Float).check();
        new().residual(255, -1.5).result(Output::Float).check();
    }
}

/// All products at the ends of their range, as many as sums can hold; results far beyond a byte and beyond i32.
#[test]
fn extremes_saturate_and_do_not_wrap() {
    for (x, w) in [(255, -128), (255, 127), (0, -128), (0, 127)] {
        for (zero, scale) in [(0, 1e-5), (255, 1.0), (0, -3e4), (128, 1e30), (0, f32::MAX), (255, f32::MIN)] {
            let case = (1, 800, 20, 1, [3, 3], [3, 3], [1, 1], [1; 4], [1, 1]);
            let mut p = Problem::new(geometry(&case).unwrap(), 1).zero(zero);
            p.x.fill(x);
            p.w.fill(w);
            p.scale.fill(scale);
            p.check();
            p.clone().residual(0, -1e30).check();
            p.residual(128, 1e30).result(Output::Quads { zero: 7, lo: 5, hi: 250, table: None }).check();
        }
    }
    let case = (1, 65_793, 1, 1, [1, 1], [1, 1], [1, 1], [0; 4], [1, 1]);
    let mut p = Problem::new(geometry(&case).unwrap(), 1).zero(0).result(Output::Float);
    p.x.fill(255);
    p.w.fill(-128);
    p.bias.fill(0);
    p.check();
}

#[test]
fn sums_with_their_bias_wrap() {
    for groups in [1, 4] {
        let case = (1, 4, 4, groups, [9, 9], [3, 3], [1, 1], [1; 4], [1, 1]);
        let mut p = Problem::new(geometry(&case).unwrap(), 1);
        p.scale.fill(1e-7);
        p.bias.copy_from_slice(&[i32::MAX, i32::MIN, i32::MAX - 1000, 0]);
        p.check();
    }
}

#[test]
fn ties_go_to_even() {
    let case = (1, 4, 20, 1, [6, 6], [1, 1], [1, 1], [0; 4], [1, 1]);
    let mut p = Problem::new(geometry(&case).unwrap(), 1).zero(0);
    p.x.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 7) as u8);
    p.w.fill(1);
    p.scale.fill(0.5);
    p.bias.fill(4);
    p.check();
    p.residual(1, 0.5).check();
}

/// Stems: the three channels of a picture do not fill a quad.
#[test]
fn few_channels_fill_part_of_a_quad() {
    let cases: &[Case] = &[
        (1, 3, 32, 1, [16, 20], [3, 3], [2, 2], [1; 4], [1, 1]),
        (2, 3, 33, 1, [15, 13], [7, 7], [2, 2], [3; 4], [1, 1]),
        (1, 1, 6, 1, [28, 28], [5, 5], [1, 1], [2; 4], [1, 1]),
        (1, 3, 16, 1, [9, 9], [3, 3], [1, 1], [2; 4], [2, 2]),
        (1, 5, 20, 1, [8, 8], [4, 4], [4, 4], [0; 4], [1, 1]),
        (1, 3, 16, 1, [70, 90], [3, 3], [2, 2], [0, 0, 1, 1], [1, 1]),
        // Without gaps: steps of every length, rows of a pixel or two, a kernel wider than the row, several items.
        (1, 1, 20, 1, [9, 33], [3, 3], [2, 4], [1; 4], [1, 1]),
        (2, 2, 17, 1, [6, 5], [2, 5], [1, 2], [0, 2, 0, 2], [2, 1]),
        (1, 2, 8, 1, [3, 2], [3, 3], [1, 1], [1; 4], [1, 1]),
        (1, 1, 4, 1, [5, 1], [1, 3], [1, 1], [0, 1, 0, 1], [1, 1]),
        (1, 3, 5, 1, [1, 2], [1, 9], [1, 3], [0, 5, 0, 4], [1, 1]),
        (1, 3, 16, 1, [300, 200], [7, 7], [2, 2], [3; 4], [1, 1]),
    ];
    for (seed, case) in cases.iter().enumerate() {
        let p = Problem::new(geometry(case).unwrap(), seed as u64).zero(124);
        p.check();
        p.result(Output::Float).check();
    }
}

#[test]
fn names_say_what_runs() {
    let name = |case: &Case| {
        let p = Problem::new(geometry(case).unwrap(), 1);
        p.prepare(Form::of(Isa::SCALAR), Method::Dense).kernel.name()
    };
    let one = (1, 16, 16, 1, [28, 28], [1, 1], [1, 1], [0; 4], [1, 1]);
    assert_eq!(name(&one), "conv 1x1 int8, pixels in lanes, scalar");
    let three = (1, 16, 16, 2, [28, 28], [3, 3], [1, 1], [1; 4], [1, 1]);
    assert_eq!(name(&three), "conv 3x3 grouped int8, channels in lanes, scalar");
}

#[test]
fn what_does_not_fit_is_refused() {
    let g = geometry(&(1, 4, 4, 1, [2, 2], [1, 1], [1, 1], [0; 4], [1, 1])).unwrap();
    let refused = |scale: f32, weights: usize| {
        let (values, scale, bias) = (vec![1; weights], [scale; 4], [1; 4]);
        let weights = Weights { values: &values, scale: (&scale[..]).into(), bias: &bias };
        std::panic::catch_unwind(|| conv(Isa::SCALAR, &g, 0, &weights, &Epilogue::default())).is_err()
    };
    assert!(!refused(1.0, 16));
    assert!(refused(f32::INFINITY, 16) && refused(f32::NAN, 16) && refused(1.0, 15));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_geometry_gives_the_bits_of_the_definition(
        batch in 1usize..3,
        [group_in, group_out, groups] in [1usize..20, 1usize..20, 1usize..4],
        input in [1usize..20, 1usize..34],
        kernel in [1usize..5, 1usize..5],
        stride in [1usize..4, 1usize..4],
        pad in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
        dilation in [1usize..3, 1usize..3],
        zero: u8,
        seed in 0u64..1000,
        kind in 0usize..4,
    ) {
        let case =
            (batch, group_in * groups, group_out * groups, groups, input, kernel, stride, pad, dilation);
        let Some(g) = geometry(&case) else { return Ok(()) };
        let p = Problem::new(g, seed).zero(zero);
        match kind {
            0 => p,
            1 => p.residual(zero, 0.9),
            2 => p.result(Output::Float),
            _ => p.result(Output::Quads { zero, lo: zero / 2, hi: zero, table: Some(Table::new(|x| 255 - x)) }),
        }
        .check();
    }
}

/// The quads of the tests are those of the layout's definition.
#[test]
fn quads_are_what_the_layout_says() {
    assert_eq!(quads(5), 2);
    // Image 1, channel 5, pixel 2 of [2, 6, 3].
    assert_eq!(quad_index(6 * 3 + 5 * 3 + 2, 6, 3), ((2 + 1) * 3 + 2) * 4 + 1);
}
