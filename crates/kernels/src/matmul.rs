//! Matrix products.
//!
//! A tile of the result stays in registers while it runs over `k`: rows of `a` are broadcast against a panel of `b`, one
//! or two vectors wide, which each worker packs for itself (Goto and van de Geijn 2008, with the panel in L2). The sum
//! over `k` has one order, whatever the tile or the worker.

use crate::isa::{Level, multiversion};
use crate::lanes::{LANES, Lanes};
use crate::reference::RefTensor;
use crate::{Io, Isa, Kernel, Worker};
use espalier_graph::Op;
use std::ops::Range;

/// Terms of `k` that are packed at once: a panel of 64 KB.
const DEPTH: usize = 512;
/// Rows of `a` that are multiplied with one packed panel, so that they stay in L2 over the panels.
const HEIGHT: usize = 256;

/// Sizes of `y[batch, m, n] = a b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatMulGeometry {
    /// Number of products.
    pub batch: usize,
    /// Rows of the result.
    pub m: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
    /// `a` is stored `[batch, k, m]` rather than `[batch, m, k]`.
    pub trans_a: bool,
    /// `b` is stored `[batch, n, k]` rather than `[batch, k, n]`.
    pub trans_b: bool,
    /// `b` has no batch axis: one matrix serves all products.
    pub shared_b: bool,
}

/// A tile of the result, up to 14 rows by up to two vectors.
struct Tile {
    a: *const f32,
    /// Steps in `a` from row to row and along `k`.
    a_row: usize,
    a_step: usize,
    b: *const f32,
    /// Step in `b` along `k`.
    b_step: usize,
    k: usize,
    y: *mut f32,
    y_row: usize,
    /// Valid columns; `b` has full vectors all the same.
    columns: usize,
    /// What the sums start from: what `y` holds, else a bias, else zero.
    resume: bool,
    bias: *const f32,
}

type TileBody = unsafe fn(&Tile);

multiversion!(fn pick_tile<; const R: usize, const N: usize>(tile: &Tile) = tile_body);

/// Multiplies `R` rows with `N` vectors.
#[inline(always)]
unsafe fn tile_body<V: Lanes, const R: usize, const N: usize>(t: &Tile) {
    // SAFETY: the caller gives a tile whose strides reach valid elements only.
    unsafe {
        let mut sums = [[V::zero(); N]; R];
        for r in 0..R {
            for j in 0..N {
                if t.resume {
                    sums[r][j] = load(t.y.add(r * t.y_row + j * LANES), t.columns - j * LANES);
                } else if !t.bias.is_null() {
                    sums[r][j] = load(t.bias.add(j * LANES), t.columns - j * LANES);
                }
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.k {
            let mut row = [V::zero(); N];
            for j in 0..N {
                row[j] = V::load(b.add(j * LANES));
            }
            for r in 0..R {
                let factor = V::splat(*a.add(r * t.a_row));
                for j in 0..N {
                    sums[r][j] = factor.mul_add(row[j], sums[r][j]);
                }
            }
            (a, b) = (a.wrapping_add(t.a_step), b.wrapping_add(t.b_step));
        }
        for r in 0..R {
            for j in 0..N {
                store(sums[r][j], t.y.add(r * t.y_row + j * LANES), t.columns - j * LANES);
            }
        }
    }
}

#[inline(always)]
unsafe fn load<V: Lanes>(p: *const f32, columns: usize) -> V {
    // SAFETY: the caller gives `columns` elements.
    unsafe { if columns >= LANES { V::load(p) } else { V::load_first(p, columns, V::zero()) } }
}

#[inline(always)]
unsafe fn store<V: Lanes>(v: V, p: *mut f32, columns: usize) {
    // SAFETY: the caller gives `columns` elements.
    unsafe { if columns >= LANES { v.store(p) } else { v.store_first(p, columns) } }
}

/// `b`, its row step, depth and columns, and the packed panel of `vectors` vectors.
type PackBody = unsafe fn(*const f32, usize, usize, usize, *mut f32, usize);

multiversion!(fn pick_pack(b: *const f32, step: usize, k: usize, columns: usize, panel: *mut f32, vectors: usize) = pack_body);

/// Copies `k` rows of `columns` into a panel of full vectors, zero past the columns.
#[inline(always)]
unsafe fn pack_body<V: Lanes>(
    b: *const f32,
    step: usize,
    k: usize,
    columns: usize,
    panel: *mut f32,
    vectors: usize,
) {
    for p in 0..k {
        for j in 0..vectors {
            // SAFETY: the caller gives `k` rows of `columns`, at least one of them in each vector, and the panel.
            unsafe {
                let v = load::<V>(b.add(p * step + j * LANES), columns - j * LANES);
                v.store(panel.add((p * vectors + j) * LANES));
            }
        }
    }
}

multiversion!(fn pick_pack_transposed(b: *const f32, step: usize, k: usize, columns: usize, panel: *mut f32, vectors: usize) = pack_transposed_body);

/// As [`pack_body`] where `b` is transposed: `columns` rows of `k`.
#[inline(always)]
unsafe fn pack_transposed_body<V: Lanes>(
    b: *const f32,
    step: usize,
    k: usize,
    columns: usize,
    panel: *mut f32,
    vectors: usize,
) {
    for j in 0..vectors {
        let columns = (columns - j * LANES).min(LANES);
        for p in (0..k).step_by(LANES) {
            let depth = (k - p).min(LANES);
            // SAFETY: as for `pack_body`.
            unsafe {
                let (b, panel) = (b.add(j * LANES * step + p), panel.add((p * vectors + j) * LANES));
                if columns == LANES && depth == LANES {
                    transpose_square::<V>(b, step, LANES, LANES, panel, vectors * LANES);
                } else {
                    transpose_square::<V>(b, step, columns, depth, panel, vectors * LANES);
                }
            }
        }
    }
}

/// Writes `depth` columns of `columns` rows of `b` as full vectors.
#[inline(always)]
unsafe fn transpose_square<V: Lanes>(
    b: *const f32,
    step: usize,
    columns: usize,
    depth: usize,
    panel: *mut f32,
    panel_step: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut square = [V::zero(); LANES];
        for i in 0..columns {
            square[i] = load(b.add(i * step), depth);
        }
        let square = V::transpose(square);
        for i in 0..depth {
            square[i].store(panel.add(i * panel_step));
        }
    }
}

/// A few rows of `a` against `columns` rows of a transposed `b`, all contiguous along `k`.
struct Dots {
    a: *const f32,
    b: *const f32,
    k: usize,
    columns: usize,
    y: *mut f32,
    y_row: usize,
    bias: *const f32,
}

type DotsBody = unsafe fn(&Dots);

multiversion!(fn pick_dots<; const R: usize>(dots: &Dots) = dots_body);

/// Dot products where packing `b` would cost more than multiplying: four columns at once, then one by one.
#[inline(always)]
unsafe fn dots_body<V: Lanes, const R: usize>(d: &Dots) {
    let whole = d.columns / 4 * 4;
    // SAFETY: the caller gives `R` rows and `columns` columns.
    unsafe {
        for j in (0..whole).step_by(4) {
            dots_tile::<V, R, 4>(d, j);
        }
        for j in whole..d.columns {
            dots_tile::<V, R, 1>(d, j);
        }
    }
}

#[inline(always)]
unsafe fn dots_tile<V: Lanes, const R: usize, const C: usize>(d: &Dots, column: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let b = d.b.add(column * d.k);
        let mut sums = [[V::zero(); C]; R];
        for p in (0..d.k).step_by(LANES) {
            let mut row = [V::zero(); R];
            for r in 0..R {
                row[r] = load(d.a.add(r * d.k + p), d.k - p);
            }
            for c in 0..C {
                let terms: V = load(b.add(c * d.k + p), d.k - p);
                for r in 0..R {
                    sums[r][c] = row[r].mul_add(terms, sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let bias = if d.bias.is_null() { 0.0 } else { *d.bias.add(column + c) };
                *d.y.add(r * d.y_row + column + c) = sums[r][c].sum() + bias;
            }
        }
    }
}

/// The dot products for this geometry, where they are the better way.
fn dots(isa: Isa, g: MatMulGeometry) -> Option<DotsBody> {
    let contiguous = g.trans_b && (!g.trans_a || g.m == 1);
    match g.m {
        1 if contiguous => Some(pick_dots::<1>(isa)),
        2 if contiguous => Some(pick_dots::<2>(isa)),
        3 if contiguous => Some(pick_dots::<3>(isa)),
        4 if contiguous => Some(pick_dots::<4>(isa)),
        _ => None,
    }
}

struct MatMul {
    isa: Isa,
    g: MatMulGeometry,
    bias: bool,
    /// Vectors of a full panel.
    vectors: usize,
    /// Rows and bodies (for one vector and for a full panel), tallest first; the last has one row.
    tiles: Vec<(usize, [TileBody; 2])>,
    pack: PackBody,
    /// Instead of panels and tiles.
    dots: Option<DotsBody>,
}

/// `a, b (, bias[n]) -> y[batch, m, n]`.
pub fn matmul(isa: Isa, g: MatMulGeometry, bias: bool) -> Box<dyn Kernel> {
    let g = if g.shared_b && !g.trans_a { MatMulGeometry { batch: 1, m: g.batch * g.m, ..g } } else { g };
    let pack = if g.trans_b { pick_pack_transposed(isa) } else { pick_pack(isa) };
    let (vectors, tiles) = tiles(isa);
    Box::new(MatMul { isa, g, bias, vectors, tiles, pack, dots: dots(isa, g) })
}

/// The tiles whose sums fit in the registers.
fn tiles(isa: Isa) -> (usize, Vec<(usize, [TileBody; 2])>) {
    macro_rules! heights {
        ($vectors:literal: $($rows:literal)+) => {
            ($vectors, vec![$(($rows, [pick_tile::<$rows, 1>(isa), pick_tile::<$rows, $vectors>(isa)])),+])
        };
    }
    match isa.level() {
        Level::Scalar => heights!(1: 2 1),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => heights!(1: 6 4 3 2 1),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => heights!(2: 14 12 10 8 6 4 3 2 1),
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDotprod => heights!(1: 6 4 3 2 1),
    }
}

/// The addresses of one product of the batch.
#[derive(Clone, Copy)]
struct Product {
    a: *const f32,
    b: *const f32,
    bias: *const f32,
    y: *mut f32,
}

impl Kernel for MatMul {
    fn name(&self) -> String {
        match self.dots {
            Some(_) => format!("matmul dots {}", self.isa),
            None => format!("matmul {}x{} tiles {}", self.tiles[0].0, self.vectors * LANES, self.isa),
        }
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        if self.dots.is_some() {
            return 0;
        }
        self.g.k.min(DEPTH) * self.vectors * LANES
    }

    /// Splits the longer side of the result, so that little of `b` is packed twice.
    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let g = self.g;
        let panels = g.n.div_ceil(self.vectors * LANES);
        let by_rows = g.m.div_ceil(self.tiles[0].0) > panels;
        let side = if by_rows { g.m } else { panels };
        let share = worker.share(g.batch * side);
        let mut unit = share.start;
        while unit < share.end {
            let (batch, first) = (unit / side, unit % side);
            let last = side.min(first + share.end - unit);
            let (rows, columns) = if by_rows { (first..last, 0..panels) } else { (0..g.m, first..last) };
            self.block(&self.product(io, batch), rows, columns, scratch);
            unit += last - first;
        }
    }
}

impl MatMul {
    fn product(&self, io: &Io<'_>, batch: usize) -> Product {
        let g = self.g;
        let b_batch = if g.shared_b { 0 } else { batch };
        let (a, b, y) = (io.input::<f32>(0), io.input::<f32>(1), io.output::<f32>(0));
        assert!(a.len() >= g.batch * g.m * g.k && y.len() >= g.batch * g.m * g.n, "{g:?}: buffers");
        assert!(b.len() >= if g.shared_b { 1 } else { g.batch } * g.k * g.n, "{g:?}: buffer of b");
        Product {
            a: a[batch * g.m * g.k..].as_ptr(),
            b: b[b_batch * g.k * g.n..].as_ptr(),
            bias: if self.bias { io.input::<f32>(2)[..g.n].as_ptr() } else { std::ptr::null() },
            y: y.as_mut_ptr().wrapping_add(batch * g.m * g.n),
        }
    }

    /// Computes the rows of the panels.
    fn block(&self, product: &Product, rows: Range<usize>, panels: Range<usize>, scratch: &mut [f32]) {
        if let Some(body) = self.dots {
            return self.dots(body, product, panels);
        }
        for start in rows.clone().step_by(HEIGHT) {
            let rows = start..rows.end.min(start + HEIGHT);
            for depth in (0..self.g.k.max(1)).step_by(DEPTH) {
                let depth = depth..self.g.k.min(depth + DEPTH);
                for panel in panels.clone() {
                    self.panel(product, rows.clone(), depth.clone(), panel, scratch);
                }
            }
        }
    }

    /// Computes all rows of the panels by dot products.
    fn dots(&self, body: DotsBody, product: &Product, panels: Range<usize>) {
        let width = self.vectors * LANES;
        let columns = panels.start * width..self.g.n.min(panels.end * width);
        let dots = Dots {
            a: product.a,
            b: product.b.wrapping_add(columns.start * self.g.k),
            k: self.g.k,
            columns: columns.len(),
            y: product.y.wrapping_add(columns.start),
            y_row: self.g.n,
            bias: if product.bias.is_null() {
                product.bias
            } else {
                product.bias.wrapping_add(columns.start)
            },
        };
        // SAFETY: the body was picked for `m` rows; rows and columns are within `a`, `b` and `y`.
        unsafe { body(&dots) }
    }

    /// Packs one panel, unless it is used once only and can be read where it lies, and multiplies the rows with it.
    fn panel(
        &self,
        product: &Product,
        rows: Range<usize>,
        depth: Range<usize>,
        panel: usize,
        scratch: &mut [f32],
    ) {
        let g = self.g;
        let start = panel * self.vectors * LANES;
        let columns = (g.n - start).min(self.vectors * LANES);
        let vectors = columns.div_ceil(LANES);
        let (step, offset) =
            if g.trans_b { (g.k, start * g.k + depth.start) } else { (g.n, depth.start * g.n + start) };
        let in_place = !g.trans_b && columns == vectors * LANES && rows.len() <= self.tiles[0].0;
        let b = product.b.wrapping_add(offset);
        let (b, b_step) = if in_place {
            (b, step)
        } else {
            assert!(scratch.len() >= depth.len() * vectors * LANES, "scratch for a panel");
            // SAFETY: the panel's rows and columns are within `b`, and its vectors within scratch, as just checked.
            unsafe { (self.pack)(b, step, depth.len(), columns, scratch.as_mut_ptr(), vectors) };
            (scratch.as_ptr(), vectors * LANES)
        };
        let (a_row, a_step) = if g.trans_a { (1, g.m) } else { (g.k, 1) };
        let tile = Tile {
            a: product.a.wrapping_add(rows.start * a_row + depth.start * a_step),
            a_row,
            a_step,
            b,
            b_step,
            k: depth.len(),
            y: product.y.wrapping_add(rows.start * g.n + start),
            y_row: g.n,
            columns,
            resume: depth.start > 0,
            bias: if product.bias.is_null() { product.bias } else { product.bias.wrapping_add(start) },
        };
        self.rows(tile, rows.len(), vectors);
    }

    /// Covers the rows with as few tiles as can be, of about equal height.
    fn rows(&self, mut tile: Tile, mut rows: usize, vectors: usize) {
        while rows > 0 {
            let fair = rows.div_ceil(rows.div_ceil(self.tiles[0].0));
            let fitting = self.tiles.iter().filter(|(height, _)| *height <= rows);
            let at_least_fair = fitting.clone().rfind(|(height, _)| *height >= fair);
            let (height, bodies) =
                at_least_fair.or(fitting.clone().next()).expect("there is a tile of one row");
            // SAFETY: `height` of the remaining rows are within `a` and `y`.
            unsafe { bodies[vectors - 1](&tile) };
            tile.a = tile.a.wrapping_add(height * tile.a_row);
            tile.y = tile.y.wrapping_add(height * tile.y_row);
            rows -= height;
        }
    }
}

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let Op::MatMul { trans_a, trans_b } = *op else { unreachable!("{} is not of this family", op.name()) };
    let (a, b, shape) = (inputs[0], inputs[1], &outputs[0]);
    let (m, n) = (shape[shape.len() - 2], shape[shape.len() - 1]);
    let k = a.shape[a.shape.len() - if trans_a { 2 } else { 1 }];
    let shared = b.shape.len() == 2;
    let at_a = |batch, i, p| batch * m * k + if trans_a { p * m + i } else { i * k + p };
    let at_b =
        |batch, p, j| if shared { 0 } else { batch * k * n } + if trans_b { j * k + p } else { p * n + j };
    vec![RefTensor::from_fn(shape, |flat| {
        let (batch, i, j) = (flat / (m * n), flat / n % m, flat % n);
        (0..k).map(|p| a.data[at_a(batch, i, p)] * b.data[at_b(batch, p, j)]).sum()
    })]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Input, Out, assert_close, run, values};

    fn tensor(shape: &[usize], data: &[f32]) -> RefTensor {
        RefTensor::new(shape, data.iter().map(|&v| f64::from(v)).collect())
    }

    fn check(g: MatMulGeometry) {
        let MatMulGeometry { batch, m, k, n, .. } = g;
        let swap = |swap: bool, [r, c]: [usize; 2]| if swap { [c, r] } else { [r, c] };
        let a_shape = [&[batch][..], &swap(g.trans_a, [m, k])].concat();
        let b_batch = if g.shared_b { vec![] } else { vec![batch] };
        let b_shape = [&b_batch[..], &swap(g.trans_b, [k, n])].concat();
        let a = values(1, batch * m * k);
        let b = values(2, b_shape.iter().product());
        let bias = values(3, n);
        let op = Op::MatMul { trans_a: g.trans_a, trans_b: g.trans_b };
        let shape = vec![batch, m, n];
        let want = reference(&op, &[&tensor(&a_shape, &a), &tensor(&b_shape, &b)], &[shape]).remove(0).data;
        let biased: Vec<f64> = want.iter().enumerate().map(|(i, v)| v + f64::from(bias[i % n])).collect();
        // Rounding errors of partial sums, which walk at random.
        let tolerance = 1e-6 + 2e-6 * (k as f64).sqrt();
        for isa in Isa::available() {
            let inputs = [Input::F32(&a), Input::F32(&b), Input::F32(&bias)];
            let y = run(&*matmul(isa, g, false), &inputs[..2], &[Out::Len(want.len())]);
            assert_close(&format!("{g:?} {isa}"), &y[0], &want, tolerance);
            let y = run(&*matmul(isa, g, true), &inputs, &[Out::Len(want.len())]);
            assert_close(&format!("{g:?} bias {isa}"), &y[0], &biased, tolerance);
        }
    }

    #[test]
    fn matches_reference() {
        let sizes = [
            [1, 1, 1, 1],
            [1, 14, 16, 32],
            [1, 13, 17, 33],
            [1, 29, 5, 10],
            [1, 16, 600, 40],
            [1, 3, 1100, 100],
            [5, 2, 36, 35],
            [1, 4, 16, 8],
            [3, 5, 7, 9],
            [4, 31, 33, 48],
            [1, 270, 20, 17],
            [1, 1, 40, 70],
            [2, 3, 0, 5],
            [0, 3, 4, 5],
        ];
        for [batch, m, k, n] in sizes {
            for flags in 0..8 {
                let [trans_a, trans_b, shared_b] = [0, 1, 2].map(|bit| flags >> bit & 1 == 1);
                check(MatMulGeometry { batch, m, k, n, trans_a, trans_b, shared_b });
            }
        }
    }

    #[test]
    fn transposes_lanes() {
        for isa in Isa::available() {
            let b: Vec<f32> = (0..256).map(|i| i as f32).collect();
            let mut panel = vec![0.0; 256];
            // SAFETY: both have 16 x 16 elements.
            unsafe { pick_pack_transposed(isa)(b.as_ptr(), 16, 16, 16, panel.as_mut_ptr(), 1) };
            assert!((0..256).all(|i| panel[i] == b[i % 16 * 16 + i / 16]), "{isa}: {panel:?}");
        }
    }
}
