//! The gradient for the weights: for each pair of an input and an output block and each tap, the product of gathered
//! input and output gradient, summed over all pixels.

use super::ConvGeometry;
use super::channels::{CELL, Channels, Direction};
use super::gather::{self, Gather, GatherFn, Input, Item, Pitch};
use super::panel::{self, Panel};
use super::space::Phase;
use crate::isa::{Level, multiversion};
use crate::lanes::Lanes;
use crate::{Io, Isa, Kernel, LANES, Layout, Worker, blocks};
use std::ops::Range;

/// Pixels that a register tile sums before it goes to memory: they and their gradients fit a level 1 cache.
const PIXELS: usize = 256;
/// Most output blocks of a register tile.
#[cfg(target_arch = "x86_64")]
const OUTPUTS: usize = 2;

/// Arguments of a register tile: sums over `segments` runs of `len` pixels each. Lengths are in elements.
struct Call {
    x: *const f32,
    x_segment: usize,
    dy: *const f32,
    dy_segment: usize,
    /// Between the output blocks.
    dy_output: usize,
    segments: usize,
    len: usize,
    /// Sums `[16 in][16 out]` to be added to, and the distance between those of the output blocks.
    sums: *mut f32,
    sums_output: usize,
}

type TileFn = for<'a> unsafe fn(&'a Call);

multiversion!(fn pick<; const I: usize, const NB: usize>(call: &Call) = tile);

/// `sums[nb][i] += x[pixel][i] * dy[nb][pixel]` over all pixels, for I input channels and NB output blocks.
#[inline(always)]
unsafe fn tile<V: Lanes, const I: usize, const NB: usize>(c: &Call) {
    if I * NB + NB + 1 > V::REGISTERS {
        unreachable!("tiles are chosen to fit the registers");
    }
    // SAFETY: the caller gives addresses that are valid for all pixels of I lanes and NB blocks.
    unsafe {
        let mut acc = [[V::zero(); NB]; I];
        for segment in 0..c.segments {
            let x = c.x.add(segment * c.x_segment);
            let dy = c.dy.add(segment * c.dy_segment);
            for pixel in 0..c.len {
                let mut gradient = [V::zero(); NB];
                for nb in 0..NB {
                    gradient[nb] = V::load(dy.add(nb * c.dy_output + pixel * LANES));
                }
                for i in 0..I {
                    let value = V::splat(*x.add(pixel * LANES + i));
                    for nb in 0..NB {
                        acc[i][nb] = value.mul_add(gradient[nb], acc[i][nb]);
                    }
                }
            }
        }
        for i in 0..I {
            for nb in 0..NB {
                let sums = c.sums.add(nb * c.sums_output + i * LANES);
                V::load(sums).add(acc[i][nb]).store(sums);
            }
        }
    }
}

/// The tiles of one instruction set.
struct Tiles {
    one: [TileFn; 16],
    two: [TileFn; 14],
    /// Most input channels of a tile with as many output blocks as `outputs`.
    inputs: usize,
    outputs: usize,
}

macro_rules! by_inputs {
    ($isa:expr, $nb:literal: $($i:literal)*) => { [$(pick::<$i, $nb>($isa)),*] };
}

impl Tiles {
    fn new(isa: Isa) -> Tiles {
        let (inputs, outputs) = match isa.level() {
            Level::Scalar => (2, 1),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => (6, 1),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => (14, OUTPUTS),
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDotprod => (6, 1),
        };
        Tiles {
            one: by_inputs!(isa, 1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
            two: by_inputs!(isa, 2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14),
            inputs,
            outputs,
        }
    }

    fn get(&self, inputs: usize, outputs: usize) -> TileFn {
        if outputs == 1 { self.one[inputs - 1] } else { self.two[inputs - 1] }
    }
}

/// An input block with the output blocks of one register tile.
#[derive(Clone, Copy)]
struct Pair {
    input: usize,
    output: usize,
    outputs: usize,
}

/// `x, dy -> dw`.
pub(super) struct WeightGrad {
    name: String,
    batch: usize,
    channels: Channels,
    phase: Phase,
    input: Input,
    /// What workers share out, ordered by input block.
    pairs: Vec<Pair>,
    tiles: Tiles,
    gather: GatherFn,
    unpack: unsafe fn(Panel, &[f32], *mut f32),
    /// Images and rows of an item.
    images: usize,
    rows: usize,
}

impl WeightGrad {
    pub(super) fn new(isa: Isa, g: &ConvGeometry, name: String, layout: Layout) -> WeightGrad {
        let channels = Channels::new(g, Direction::Forward);
        let input = Input::new(layout, g.channels_in, g.input, g.folds_columns().then_some(&g.window));
        let tiles = Tiles::new(isa);
        let [height, width] = g.output;
        WeightGrad {
            name: format!("{name} {isa}"),
            batch: g.batch,
            phase: Phase::forward(g),
            pairs: pairs(&channels, tiles.outputs),
            gather: gather::pick(isa, &input),
            unpack: panel::pick_unpack(isa),
            images: (PIXELS / (height * width)).clamp(1, g.batch.max(1)),
            rows: PIXELS.div_ceil(width).min(height),
            channels,
            input,
            tiles,
        }
    }

    fn direct(&self) -> bool {
        self.phase.identity && self.input.layout == Layout::Blocked
    }

    fn pair_len(&self) -> usize {
        self.channels.taps * self.tiles.outputs * CELL
    }

    fn gathered_len(&self) -> usize {
        if self.direct() { 0 } else { self.phase.area(self.rows, self.images) }
    }

    fn items(&self) -> impl Iterator<Item = Item> + '_ {
        let height = self.phase.y.count;
        (0..self.batch).step_by(self.images).flat_map(move |image| {
            let images = image..(image + self.images).min(self.batch);
            (0..height)
                .step_by(self.rows)
                .map(move |row| Item { images: images.clone(), rows: row..(row + self.rows).min(height) })
        })
    }

    /// Adds what the pixels of `item` contribute to `pair`.
    fn add_pair(&self, pair: Pair, item: &Item, source: (*const f32, Pitch), dy: &[f32], sums: &mut [f32]) {
        let [height, width] = [self.phase.y.count, self.phase.x.count];
        let all = blocks(self.channels.outputs);
        let plane = height * width * LANES;
        let dy = &dy[(item.images.start * all + pair.output) * plane + item.rows.start * width * LANES..];
        let (x, pitch) = source;
        let lanes = self.channels.valid_inputs(pair.input);
        let cuts = lanes.div_ceil(self.tiles.inputs);
        for tap in &self.phase.taps {
            let at = tap.class * pitch.class + tap.row * pitch.row + tap.column * pitch.column;
            for cut in 0..cuts {
                let (start, end) = (lanes * cut / cuts, lanes * (cut + 1) / cuts);
                let call = Call {
                    x: x.wrapping_add(at + start),
                    x_segment: pitch.image,
                    dy: dy.as_ptr(),
                    dy_segment: all * plane,
                    dy_output: plane,
                    segments: item.images.len(),
                    len: item.rows.len() * width,
                    sums: sums[tap.weight * CELL + start * LANES..].as_mut_ptr(),
                    sums_output: self.channels.taps * CELL,
                };
                // SAFETY: the item's pixels lie in the gathered input and, all lengths being checked, in `dy`; `sums` has
                // a cell for each tap and output block.
                unsafe { self.tiles.get(end - start, pair.outputs)(&call) };
            }
        }
    }

    /// Input block `block` as the taps see it.
    fn source(&self, block: usize, item: &Item, x: &[f32], scratch: &mut [f32]) -> (*const f32, Pitch) {
        if self.direct() {
            let [height, width] = self.input.size;
            let image = self.input.image_len();
            let start = item.images.start * image + (block * height + item.rows.start) * width * LANES;
            return (x[start..].as_ptr(), Pitch { image, ..Pitch::default() });
        }
        let pitch = Pitch::by_image(&self.phase, item);
        let from = scratch.as_ptr();
        let (input, phase) = (&self.input, &self.phase);
        let mut gather = Gather { input, phase, item, blocks: block..block + 1, pitch, x, to: scratch };
        // SAFETY: picked for this CPU; the gather checks its bounds.
        unsafe { (self.gather)(&mut gather) };
        (from, pitch)
    }

    /// Writes the weights of `pair` from its sums.
    fn finish_pair(&self, pair: Pair, sums: &[f32], dw: *mut f32) {
        for (nb, cells) in sums.chunks_exact(self.channels.taps * CELL).take(pair.outputs).enumerate() {
            match self.channels.panel(pair.output + nb, pair.input) {
                // SAFETY: the panel is the weights between these two blocks, which are inside of `dw`, whose length was
                // checked, and which no other worker has; picked for this CPU.
                Some(panel) => unsafe { (self.unpack)(panel, cells, dw) },
                None => self.channels.cell(pair.output + nb, pair.input).for_each(|at, index| {
                    // SAFETY: the index of one of these weights, as above.
                    unsafe { dw.add(index).write(cells[at]) }
                }),
            }
        }
    }

    fn check(&self, io: &Io<'_>) {
        let [height, width] = [self.phase.y.count, self.phase.x.count];
        let dy = self.batch * blocks(self.channels.outputs) * height * width * LANES;
        assert_eq!(io.input::<f32>(0).len(), self.batch * self.input.image_len(), "{}: input", self.name);
        assert_eq!(io.input::<f32>(1).len(), dy, "{}: output gradient", self.name);
        assert_eq!(io.output::<f32>(0).len(), self.channels.weights(), "{}: weights", self.name);
    }
}

fn pairs(channels: &Channels, most: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for span in &channels.spans {
        for input in span.inputs.clone() {
            pairs.extend(span.outputs.clone().step_by(most).map(|output| {
                let outputs = most.min(span.outputs.end - output);
                Pair { input, output, outputs }
            }));
        }
    }
    pairs
}

impl Kernel for WeightGrad {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scratch_len(&self, workers: usize) -> usize {
        self.gathered_len() + self.pairs.len().div_ceil(workers) * self.pair_len()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        self.check(io);
        let share: Range<usize> = worker.share(self.pairs.len());
        let pairs = &self.pairs[share];
        let (gathered, sums) = scratch.split_at_mut(self.gathered_len());
        let sums = &mut sums[..pairs.len() * self.pair_len()];
        sums.fill(0.0);
        for item in self.items() {
            let each = pairs.chunk_by(|a, b| a.input == b.input);
            let mut rest = &mut *sums;
            for same in each {
                let source = self.source(same[0].input, &item, io.input(0), gathered);
                for &pair in same {
                    let (own, after) = rest.split_at_mut(self.pair_len());
                    self.add_pair(pair, &item, source, io.input(1), own);
                    rest = after;
                }
            }
        }
        let dw = io.output::<f32>(0).as_mut_ptr();
        for (&pair, sums) in pairs.iter().zip(sums.chunks_exact(self.pair_len())) {
            self.finish_pair(pair, sums, dw);
        }
    }
}
