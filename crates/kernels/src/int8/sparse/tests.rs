use super::*;
use crate::int8::conv::testing::Problem;
use crate::int8::conv::tests::{CASES, Case, geometry};
use crate::int8::conv::{Method, conv_by};
use crate::int8::table::Table;
use crate::{Isa, Rows, Worker};
use espalier_graph::random::Random;
use proptest::prelude::*;

/// Of the cases of dense convolutions those without groups, and shapes that only sparse ones know.
fn cases() -> impl Iterator<Item = Case> {
    const MORE: &[Case] = &[
        // 7 x 7: rows of 9 positions; 3 to 7 vectors, the last of which begins among those before.
        (1, 13, 9, 1, [7, 7], [3, 3], [1, 1], [1; 4], [1, 1]),
        (1, 13, 9, 1, [7, 7], [1, 1], [1, 1], [0; 4], [1, 1]),
        (2, 8, 6, 1, [14, 14], [3, 3], [1, 1], [1; 4], [1, 1]),
        (1, 8, 7, 1, [14, 14], [1, 1], [1, 1], [0; 4], [1, 1]),
        (1, 8, 8, 1, [28, 28], [3, 3], [1, 1], [1; 4], [1, 1]),
        // More workers than rows or planes, and weights beyond the input.
        (1, 64, 4, 1, [1, 3], [3, 3], [1, 1], [1; 4], [1, 1]),
        (1, 64, 9, 1, [1, 2], [3, 3], [1, 1], [1; 4], [1, 1]),
        // Copied only to begin with cache lines; more than a level 1 cache holds.
        (1, 21, 512, 1, [7, 7], [1, 1], [1, 1], [0; 4], [1, 1]),
        (2, 9, 517, 1, [6, 3], [1, 1], [1, 1], [0; 4], [1, 1]),
        (1, 500, 6, 1, [13, 12], [1, 1], [1, 1], [0; 4], [1, 1]),
        // Read where it lies, with rows of positions that are no pixels.
        (1, 9, 6, 1, [9, 11], [3, 3], [1, 1], [0; 4], [1, 1]),
        (1, 9, 6, 1, [12, 12], [2, 3], [1, 1], [0; 4], [2, 2]),
        (1, 5, 4, 1, [3, 40], [2, 25], [1, 1], [0; 4], [1, 1]),
        // A copy for each kernel column: one vector, half of one; strides and dilations. Few rows at a time.
        (2, 9, 6, 1, [4, 4], [3, 3], [1, 1], [1; 4], [1, 1]),
        (1, 9, 6, 1, [8, 8], [3, 5], [1, 1], [1, 2, 1, 2], [1, 1]),
        (1, 9, 6, 1, [8, 8], [3, 3], [1, 1], [2; 4], [2, 2]),
        (1, 1100, 5, 1, [16, 16], [3, 3], [1, 1], [1; 4], [1, 1]),
        (2, 700, 5, 1, [21, 14], [3, 3], [2, 2], [1; 4], [1, 1]),
        (1, 36, 8, 1, [16, 16], [3, 3], [1, 1], [1; 4], [1, 1]),
        (1, 6, 4, 1, [33, 31], [3, 3], [2, 2], [1; 4], [1, 1]),
        (1, 5, 4, 1, [35, 61], [3, 4], [4, 4], [1, 3, 1, 3], [2, 1]),
        // Several residues of the strides, and strides beyond the kernel.
        (1, 9, 6, 1, [15, 15], [5, 5], [3, 3], [2; 4], [1, 1]),
        (1, 9, 6, 1, [15, 14], [3, 3], [2, 2], [1; 4], [3, 2]),
        (1, 4, 3, 1, [13, 13], [2, 2], [5, 4], [0; 4], [1, 1]),
    ];
    CASES.iter().chain(MORE).filter(|case| case.3 == 1).copied()
}

/// Zeroes each block with the given probability.
fn sparser(mut p: Problem, zeros: f32, block: Block, seed: u64) -> Problem {
    let mut random = Random::new(17, seed);
    let (inputs, taps) = (p.g.channels_in, p.g.window.kernel[0] * p.g.window.kernel[1]);
    for first in (0..p.g.channels_out).step_by(block.outputs()) {
        for quad in (0..inputs).step_by(4) {
            for tap in 0..taps {
                if random.uniform() < zeros {
                    for output in first..p.g.channels_out.min(first + block.outputs()) {
                        for channel in quad..inputs.min(quad + 4) {
                            p.w[(output * inputs + channel) * taps + tap] = 0;
                        }
                    }
                }
            }
        }
    }
    p
}

#[test]
fn every_form_gives_the_bits_of_the_definition() {
    for (seed, case) in cases().enumerate() {
        let zeros = [0.0, 0.5, 0.75, 0.95, 1.0][seed % 5];
        for block in Block::ALL {
            let new =
                || sparser(Problem::new(geometry(&case).unwrap(), seed as u64), zeros, block, seed as u64);
            let method = Method::Sparse(block);
            let result = |lo, hi, table| Output::Quads { zero: 100, lo, hi, table };
            new().check_by(method);
            new().zero(0).result(result(0, 255, Some(Table::new(|x| x / 3 + 9)))).check_by(method);
            new().zero(255).residual(3, 0.37).result(result(20, 199, None)).check_by(method);
            new().zero(7).residual(255, -1.5).check_by(method);
        }
    }
}

/// All shares of zeros, from all blocks to none, in either form; and blocks of the other form.
#[test]
fn every_share_of_zeros_gives_the_bits_of_the_definition() {
    let case = (1, 21, 11, 1, [8, 9], [3, 3], [1, 1], [1; 4], [1, 1]);
    for percent in (0..=100).step_by(5) {
        for zeroed in Block::ALL {
            let p = Problem::new(geometry(&case).unwrap(), percent);
            let p = sparser(p, percent as f32 / 100.0, zeroed, percent);
            Block::ALL.into_iter().for_each(|block| p.check_by(Method::Sparse(block)));
        }
    }
}

#[test]
fn extremes_saturate_and_do_not_wrap() {
    let case = (1, 400, 6, 1, [4, 5], [3, 3], [1, 1], [1; 4], [1, 1]);
    for (x, w) in [(255, -128), (255, 127), (0, -128), (0, 127)] {
        for (zero, scale) in [(0, 1e-5), (255, 1.0), (0, -3e4), (128, 1e30), (0, f32::MAX), (255, f32::MIN)] {
            for block in Block::ALL {
                let mut p = Problem::new(geometry(&case).unwrap(), 1).zero(zero);
                p.x.fill(x);
                p.w.fill(w);
                p.scale.fill(scale);
                let p = sparser(p, 0.3, block, 1);
                p.check_by(Method::Sparse(block));
                p.clone().residual(0, -1e30).check_by(Method::Sparse(block));
                let result = Output::Quads { zero: 7, lo: 5, hi: 250, table: None };
                p.residual(128, 1e30).result(result).check_by(Method::Sparse(block));
            }
        }
    }
}

/// Every row of every plane has one worker, also where planes differ in their blocks or there are few of them.
#[test]
fn workers_share_everything_once() {
    let sizes = [[1, 3], [1, 9], [2, 2], [7, 7], [14, 5]];
    for (size, channels_out) in sizes.into_iter().flat_map(|size| [1, 4, 5, 36].map(|c| (size, c))) {
        let g = geometry(&(1, 64, channels_out, 1, size, [3, 3], [1, 1], [1; 4], [1, 1])).unwrap();
        let mut p = sparser(Problem::new(g, 1), 0.5, Block::Two, 1);
        let half = p.w.len() / 2;
        p.w[half..].fill(0);
        let field = Field::new(&p.g, 0);
        let stream = Stream::new(&p.g, 0, 0, &p.weights(), Block::Two, &field);
        let after = After { finish: finish(&p.g, &p.weights(), &p.e), residual: false, table: None };
        let name = ("test".to_string(), Form::of(Isa::SCALAR));
        let (engine, _) = Engine::new(name, &p.g, field, Block::Two, stream, after);
        for count in 1..6 {
            let mut times = vec![0; size[0] * channels_out.div_ceil(4)];
            for (rows, planes) in (0..count).map(|index| engine.share(Worker { index, count })) {
                let places = rows.flat_map(|row| planes.clone().map(move |plane| plane * size[0] + row));
                places.for_each(|at| times[at] += 1);
            }
            assert!(times.iter().all(|&n| n == 1), "{size:?} {channels_out} {count}: {times:?}");
        }
    }
}

#[test]
fn only_blocks_that_are_not_zero_are_packed_and_counted() {
    let g = geometry(&(1, 8, 6, 1, [6, 6], [3, 3], [1, 1], [1; 4], [1, 1])).unwrap();
    let mut p = Problem::new(g, 3);
    p.w.fill(0);
    // One weight in three blocks of 1 x 4, two of which are one block of 2 x 4.
    let at = |output: usize, channel: usize, tap: usize| (output * 8 + channel) * 9 + tap;
    [at(0, 0, 4), at(1, 3, 4), at(5, 7, 8)].into_iter().for_each(|at| p.w[at] = -3);
    for (block, kept, name) in [(Block::One, 3, "1x4 3 %"), (Block::Two, 2, "2x4 4 %")] {
        let prepared = p.prepare(Form::of(Isa::SCALAR), Method::Sparse(block));
        assert_eq!(prepared.packed.bytes(), 2 * stream::HEADER + kept * 4 * block.outputs());
        assert_eq!(prepared.macs, 36 * kept * 4 * block.outputs());
        assert_eq!(prepared.kernel.name(), format!("conv 3x3 int8 sparse {name}, scalar"));
        p.check_by(Method::Sparse(block));
    }
    assert_eq!(p.prepare(Form::of(Isa::SCALAR), Method::Dense).macs, 36 * 6 * 8 * 9);
}

/// How long rows are and how many copies there are of each: few vectors, few loads across cache lines, little that misses a
/// level 1 cache, little to copy.
#[test]
fn rows_are_copied_as_suits_the_cache() {
    for (what, (size, [channels, outputs], kernel, stride), pitch, copies) in [
        ("read where it lies", (28, [128, 128], 1, 1), 28, 0),
        ("padding between rows is shared", (28, [128, 128], 3, 1), 29, 1),
        ("as many taps begin with cache lines as in rows of 16", (14, [256, 256], 3, 1), 15, 1),
        ("copies of columns make rows cache lines", (32, [64, 64], 3, 1), 32, 3),
        ("or halves", (56, [64, 64], 3, 1), 56, 3),
        ("which few outputs do not pay for", (56, [64, 8], 3, 1), 57, 1),
        ("which many channels have no room for", (56, [512, 512], 3, 1), 57, 1),
        ("one vector", (4, [256, 256], 3, 1), 4, 3),
        ("four phases", (28, [256, 256], 3, 2), 15, 4),
    ] {
        let pad = [kernel / 2; 4];
        let case = (1, channels, outputs, 1, [size; 2], [kernel; 2], [stride; 2], pad, [1, 1]);
        let field = Field::new(&geometry(&case).unwrap(), 0);
        assert_eq!((field.pitch, field.copies()), (pitch, copies), "{what}");
    }
    // One long row, of which 31 copies would be half a megabyte.
    let case = (1, 16, 16, 1, [1, 1000], [1, 31], [1, 1], [0, 15, 0, 15], [1, 1]);
    assert_eq!(Field::new(&geometry(&case).unwrap(), 0).copies(), 1);
}

/// Whatever is chosen, the bits are the same.
#[test]
fn choices_follow_the_zeros() {
    let g = geometry(&(1, 64, 64, 1, [28, 28], [3, 3], [1, 1], [1; 4], [1, 1])).unwrap();
    let chosen = |p: &Problem| choose(Form::of(Isa::best()), &p.g, &p.weights(), &p.e);
    let dense = Problem::new(g, 1);
    assert_eq!(chosen(&dense), Method::Dense);
    for block in Block::ALL {
        let p = sparser(dense.clone(), 0.9, block, 1);
        assert_eq!(chosen(&p), Method::Sparse(block));
        // The kernel of conv itself is that one.
        let kernel = crate::int8::conv(Isa::best(), &p.g, p.zero, &p.weights(), &p.e).kernel;
        assert!(kernel.name().contains("sparse"), "{}", kernel.name());
        assert_eq!(chosen(&p.result(Output::Float)), Method::Dense);
    }
    // A connected layer fills one of sixteen lanes.
    let connected = geometry(&(1, 64, 64, 1, [1, 1], [1, 1], [1, 1], [0; 4], [1, 1])).unwrap();
    assert_eq!(chosen(&sparser(Problem::new(connected, 1), 0.9, Block::Two, 1)), Method::Dense);
}

/// Fewer positions than a vector are read with those around them, which others may be writing.
#[test]
fn rows_of_others_are_read_where_there_are_few() {
    let reads = |size: [usize; 2], workers: usize| {
        let g = geometry(&(1, 8, 12, 1, size, [1, 1], [1, 1], [0; 4], [1, 1])).unwrap();
        let p = sparser(Problem::new(g, 1), 0.5, Block::Two, 1);
        let prepared = p.prepare(Form::of(Isa::best()), Method::Sparse(Block::Two));
        (prepared.kernel.reads_rows(0, workers), prepared.kernel.writes_rows(workers))
    };
    let rows = |planes, [rows, width]: [usize; 2]| Some(Rows { images: 1, planes, rows, bytes: 4 * width });
    // Planes of whole cache lines are shared out by these.
    for (size, workers, is_own, by) in [
        ([8, 8], 2, true, [4, 16]),
        ([8, 8], 4, true, [4, 16]),
        ([6, 6], 2, true, [6, 6]),
        ([6, 6], 6, false, [6, 6]),
        ([6, 5], 2, false, [6, 5]),
    ] {
        let want = rows(2, by).filter(|_| is_own);
        assert_eq!(reads(size, workers), (want, rows(3, by)), "{size:?} {workers}");
    }
}

#[test]
fn what_is_never_sparse_is_refused() {
    let weights = [0; 64];
    let refused = |groups: usize, e: &Epilogue| {
        let case = (1, 8, 8, groups, [4, 4], [1, 1], [1, 1], [0; 4], [1, 1]);
        let g = geometry(&case).unwrap();
        let weights = Weights { values: &weights[..64 / groups], scale: vec![1.0; 8].into(), bias: &[0; 8] };
        std::panic::catch_unwind(|| conv_by(Isa::SCALAR, Method::Sparse(Block::Two), &g, 0, &weights, e))
            .is_err()
    };
    let float = Epilogue { result: Output::Float, ..Epilogue::default() };
    assert!(!refused(1, &Epilogue::default()));
    assert!(refused(2, &Epilogue::default()) && refused(1, &float));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn any_geometry_gives_the_bits_of_the_definition(
        batch in 1usize..3,
        channels in [1usize..30, 1usize..30],
        input in [1usize..20, 1usize..34],
        kernel in [1usize..5, 1usize..5],
        stride in [1usize..4, 1usize..4],
        pad in [0usize..4, 0usize..4, 0usize..4, 0usize..4],
        dilation in [1usize..3, 1usize..3],
        zero: u8,
        zeros in 0.0f32..1.0,
        seed in 0u64..1000,
        kind in 0usize..3,
    ) {
        let case = (batch, channels[0], channels[1], 1, input, kernel, stride, pad, dilation);
        let Some(g) = geometry(&case) else { return Ok(()) };
        for block in Block::ALL {
            let p = sparser(Problem::new(g.clone(), seed).zero(zero), zeros, block, seed);
            match kind {
                0 => p,
                1 => p.residual(zero, 0.9),
                _ => p.result(Output::Quads { zero, lo: zero / 2, hi: zero, table: Some(Table::new(|x| 255 - x)) }),
            }
            .check_by(Method::Sparse(block));
        }
    }
}
