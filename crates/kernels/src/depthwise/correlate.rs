//! The correlation behind forward and the gradient for the input, a row of one block of channels at a time.

use super::{ConvGeometry, Epilogue, Phase, ZEROS, packed_len};
use crate::activation::Activation;
use crate::isa::{Isa, multiversion};
use crate::kernel::{Io, Kernel, Worker};
use crate::lanes::{LANES, Lanes};
use crate::layout::{blocks, load_up_to};

pub(super) struct Correlate {
    name: String,
    batch: usize,
    channels: usize,
    input: [usize; 2],
    output: [usize; 2],
    packed: usize,
    rows: Vec<Taps>,
    columns: Vec<(Phase, RowFn)>,
    /// First packed tap of each pair of phases.
    firsts: Vec<usize>,
    e: Epilogue,
}

/// The taps of an output row that lie on the input.
#[derive(Clone, Copy)]
struct Taps {
    /// Index of the row's phase.
    phase: usize,
    begin: usize,
    count: usize,
    /// Input row of the first of them, and rows from one to the next.
    input: usize,
    dilation: usize,
}

impl Taps {
    fn new(phases: &[Phase], row: usize) -> Taps {
        let phase = row % phases.len();
        let (taps, input) = phases[phase].inside(row / phases.len());
        Taps { phase, begin: taps.start, count: taps.len(), input, dilation: phases[phase].dilation }
    }
}

type RowFn = unsafe fn(&Row<'_>);

/// One phase of one output row of one block.
struct Row<'a> {
    phase: &'a Phase,
    /// Column 0 of the first input row that counts.
    x: *const f32,
    /// Elements from an input row to the next.
    x_step: usize,
    /// Number of input rows.
    taps: usize,
    weights: *const f32,
    /// The block's biases, and how many there are.
    bias: Option<(*const f32, usize)>,
    residual: Option<*const f32>,
    activation: Activation,
    y: *mut f32,
}

impl Correlate {
    pub(super) fn new(
        isa: Isa,
        name: String,
        g: &ConvGeometry,
        [input, output]: [[usize; 2]; 2],
        [rows, columns]: [Vec<Phase>; 2],
        e: Epilogue,
    ) -> Correlate {
        let mut firsts = vec![0];
        for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
            firsts.push(firsts[firsts.len() - 1] + row.taps * column.taps);
        }
        let columns = columns.into_iter().map(|phase| (phase, pick(isa, &phase))).collect();
        let rows = (0..output[0]).map(|row| Taps::new(&rows, row)).collect();
        let packed = packed_len(g);
        Correlate {
            name,
            batch: g.batch,
            channels: g.channels_in,
            input,
            output,
            packed,
            rows,
            columns,
            firsts,
            e,
        }
    }

    fn physical(&self, [h, w]: [usize; 2]) -> usize {
        self.batch * blocks(self.channels) * h * w * LANES
    }

    fn residual_input(&self) -> usize {
        2 + usize::from(self.e.bias)
    }

    fn check(&self, io: &Io<'_>) {
        let y = self.physical(self.output);
        assert_eq!(io.input::<f32>(0).len(), self.physical(self.input), "{}: elements of x", self.name);
        assert_eq!(io.input::<f32>(1).len(), self.packed, "{}: elements of weights", self.name);
        assert!(!self.e.bias || io.input::<f32>(2).len() == self.channels, "{}: biases", self.name);
        let residual = !self.e.residual || io.input::<f32>(self.residual_input()).len() == y;
        assert!(residual && io.output::<f32>(0).len() == y, "{}: elements of y", self.name);
    }

    /// Row `row` of plane `plane`, which is of block `block`.
    ///
    /// # Safety
    /// The buffers have the lengths that `check` wants, and nobody else writes this row.
    unsafe fn row(&self, io: &Io<'_>, plane: usize, block: usize, row: usize) {
        let taps = self.rows[row];
        let ([h, w], [oh, ow]) = (self.input, self.output);
        let y = (plane * oh + row) * ow * LANES;
        let all_taps = self.firsts[self.firsts.len() - 1];
        for (i, (column, run)) in self.columns.iter().enumerate() {
            let tap = self.firsts[taps.phase * self.columns.len() + i] + taps.begin * column.taps;
            // SAFETY: all offsets are inside of their buffers: taps, rows and planes exist.
            unsafe {
                run(&Row {
                    phase: column,
                    x: io.input::<f32>(0).as_ptr().wrapping_add((plane * h + taps.input) * w * LANES),
                    x_step: taps.dilation * w * LANES,
                    taps: taps.count,
                    weights: io.input::<f32>(1).as_ptr().wrapping_add((block * all_taps + tap) * LANES),
                    bias: self.e.bias.then(|| {
                        let bias = io.input::<f32>(2).as_ptr().add(block * LANES);
                        (bias, LANES.min(self.channels - block * LANES))
                    }),
                    residual: self.e.residual.then(|| io.input::<f32>(self.residual_input()).as_ptr().add(y)),
                    activation: self.e.activation,
                    y: io.output::<f32>(0).as_mut_ptr().add(y),
                });
            }
        }
    }
}

impl Kernel for Correlate {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        self.check(io);
        let (height, blocks) = (self.output[0], blocks(self.channels));
        let items = worker.share(self.batch * blocks * height);
        let (mut plane, mut row) = (items.start / height, items.start % height);
        for _ in items {
            // SAFETY: lengths were checked; rows are disjoint.
            unsafe { self.row(io, plane, plane % blocks, row) };
            (plane, row) = if row + 1 < height { (plane, row + 1) } else { (plane + 1, 0) };
        }
    }
}

/// The row function whose taps and stride are constants, where there is one.
fn pick(isa: Isa, phase: &Phase) -> RowFn {
    let tile = tile_width(isa, phase.count);
    match (phase.taps, phase.stride, phase.dilation) {
        (1, 1, _) => pick_tile::<1, 1>(isa, tile),
        (2, 1, 1) => pick_tile::<2, 1>(isa, tile),
        (3, 1, 1) => pick_tile::<3, 1>(isa, tile),
        (3, 2, 1) => pick_tile::<3, 2>(isa, tile),
        (5, 1, 1) => pick_tile::<5, 1>(isa, tile),
        (5, 2, 1) => pick_tile::<5, 2>(isa, tile),
        _ => pick_tile::<0, 0>(isa, tile),
    }
}

/// Pixels of a tile: the last tile of a row moves back to fit, so a width that divides the row loses nothing. Eight
/// sums in flight keep both multipliers busy.
fn tile_width(isa: Isa, count: usize) -> usize {
    let cost = |tile: usize| count.div_ceil(tile) * (tile + 2);
    let widths = [8, 7, 4, 1].into_iter().filter(|&tile| tile <= count && fits(tile, isa.registers()));
    widths.min_by_key(|&tile| cost(tile)).unwrap_or(1)
}

/// Whether the sums of a tile leave room in the registers for what they are made of.
const fn fits(tile: usize, registers: usize) -> bool {
    2 * tile <= registers
}

fn pick_tile<const K: usize, const S: usize>(isa: Isa, tile: usize) -> RowFn {
    match tile {
        8 => pick_row::<8, K, S>(isa),
        7 => pick_row::<7, K, S>(isa),
        4 => pick_row::<4, K, S>(isa),
        _ => pick_row::<1, K, S>(isa),
    }
}

multiversion! { fn pick_row<; const T: usize, const K: usize, const S: usize>(row: &Row<'_>) = row_body }

/// A row in tiles of `T` pixels, for `K` taps and stride `S` (0: whatever the phase says).
#[inline(always)]
unsafe fn row_body<V: Lanes, const T: usize, const K: usize, const S: usize>(row: &Row<'_>) {
    if !fits(T, V::REGISTERS) {
        unreachable!("tiles are chosen to fit the registers");
    }
    let p = row.phase;
    let (taps, stride, dilation) = if K > 0 { (K, S, 1) } else { (p.taps, p.stride, p.dilation) };
    let reach = ((T - 1) * stride + taps.saturating_sub(1) * dilation) as isize;
    for tile in 0..p.count.div_ceil(T) {
        let t = (tile * T).min(p.count - T);
        let column = p.start + (t * stride) as isize;
        // SAFETY: T <= count, so the tile's outputs exist; its inputs do, or are replaced.
        unsafe {
            if column >= 0 && column + reach < p.input as isize {
                tile_body::<V, T, K, S, false>(row, t, column);
            } else {
                tile_body::<V, T, K, S, true>(row, t, column);
            }
        }
    }
}

/// Outputs `t..t + T` of the phase, whose first tap is at input `column`.
#[inline(always)]
unsafe fn tile_body<V: Lanes, const T: usize, const K: usize, const S: usize, const EDGE: bool>(
    row: &Row<'_>,
    t: usize,
    column: isize,
) {
    let p = row.phase;
    let (taps, stride, dilation) = if K > 0 { (K, S, 1) } else { (p.taps, p.stride, p.dilation) };
    // SAFETY: the caller's tile; the row's pointers.
    unsafe {
        let bias = match row.bias {
            Some((bias, len)) => load_up_to(bias, len, V::zero()),
            None => V::zero(),
        };
        let mut sums = [bias; T];
        for ky in 0..row.taps {
            let (x, w) = (row.x.add(ky * row.x_step), row.weights.add(ky * taps * LANES));
            for kx in 0..taps {
                let weight = V::load(w.add(kx * LANES));
                for i in 0..T {
                    let at = column + (i * stride + kx * dilation) as isize;
                    sums[i] = V::load(pixel::<EDGE>(x, at, p.input)).mul_add(weight, sums[i]);
                }
            }
        }
        for i in 0..T {
            finish(row, sums[i], (p.first + (t + i) * p.step) * LANES);
        }
    }
}

/// Address of pixel `at` of the row `x`; that of zeros where it lies outside.
#[inline(always)]
pub(super) fn pixel<const EDGE: bool>(x: *const f32, at: isize, width: usize) -> *const f32 {
    let inside = !EDGE || (at as usize) < width;
    if inside { x.wrapping_offset(at * LANES as isize) } else { ZEROS.as_ptr() }
}

#[inline(always)]
unsafe fn finish<V: Lanes>(row: &Row<'_>, sum: V, at: usize) {
    // SAFETY: the caller's output exists.
    unsafe {
        let mut v = sum;
        if let Some(residual) = row.residual {
            v = v.add(V::load(residual.add(at)));
        }
        row.activation.value(v).store(row.y.add(at));
    }
}
