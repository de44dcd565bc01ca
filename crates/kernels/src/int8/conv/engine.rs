//! The engine of dense and grouped convolutions: items of rows, tiles over them, a table at the end.

use super::pack::Arrangement;
use super::source::Source;
use super::tile::{Call, Tiles};
use crate::conv::ConvGeometry;
use crate::int8::table::Lookup;
use crate::int8::{finish::Finish, quads, quads_len, share::Share};
use crate::kernel::as_bytes;
use crate::{InputRows, Io, Kernel, LANES, Rows, Worker, blocks};
use std::ops::Range;

/// A convolution whose form has been chosen.
pub(super) struct Engine {
    pub(super) name: String,
    pub(super) g: ConvGeometry,
    pub(super) arrangement: Arrangement,
    pub(super) source: Source,
    pub(super) tiles: Tiles,
    /// Whether pixels, not channels, lie in lanes where a run is long enough.
    pub(super) pixels: bool,
    pub(super) finish: Finish,
    /// Whether the result is f32.
    pub(super) float: bool,
    pub(super) residual: bool,
    pub(super) table: Option<Lookup>,
}

/// The buffers of a call, after checking their lengths.
#[derive(Clone, Copy)]
struct Tensors<'a> {
    x: InputRows<'a>,
    w: &'a [u8],
    residual: Option<InputRows<'a>>,
    y: *mut u8,
}

/// Rows of one image, for some output blocks.
struct Item<'a> {
    image: usize,
    rows: Range<usize>,
    outputs: Range<usize>,
    /// Plane 0 of the first pixel.
    x: *const u8,
    tensors: Tensors<'a>,
}

/// Whether output pixels lie one step apart in the input from the last column of a row to the first of the next.
pub(super) fn rows_join(g: &ConvGeometry, source: &Source) -> bool {
    source.row_step == g.output[1] * source.step
}

impl Engine {
    /// Bytes of an output pixel in its plane, of a plane, and planes of an image.
    fn y_sizes(&self) -> (usize, usize, usize) {
        let pixels = self.g.output[0] * self.g.output[1];
        match self.float {
            true => (4 * LANES, 4 * LANES * pixels, blocks(self.g.channels_out)),
            false => (4, 4 * pixels, quads(self.g.channels_out)),
        }
    }

    fn tensors<'a>(&self, io: &Io<'a>) -> Tensors<'a> {
        let (_, plane, planes) = self.y_sizes();
        let y_len = self.g.batch * planes * plane;
        let r_len = quads_len(self.g.batch, self.g.channels_out, self.g.output[0] * self.g.output[1]);
        let (x, w, y) = (io.input_rows(0), io.input::<u8>(1), io.output::<u8>(0));
        let residual = self.residual.then(|| io.input_rows(2));
        assert_eq!(x.len(), self.g.batch * self.source.image(), "{}: input", self.name);
        assert_eq!(
            w.len(),
            self.arrangement.starts.len() * self.arrangement.block(),
            "{}: weights",
            self.name
        );
        assert_eq!(y.len(), y_len, "{}: output", self.name);
        assert!(residual.is_none_or(|r| r.len() == r_len), "{}: residual", self.name);
        Tensors { x, w, residual, y: y.as_mut_ptr() }
    }

    fn share(&self) -> Share {
        Share {
            rows: self.g.batch * self.g.output[0],
            row: 4 * self.g.output[1],
            planes: self.arrangement.starts.len(),
            planes_weigh: self.g.batch == 1
                && self.arrangement.starts.len() * self.arrangement.block() > self.source.image(),
            plane_by_plane: false,
        }
    }

    fn run_item(&self, item: &Item<'_>) {
        let joined = rows_join(&self.g, &self.source);
        let width = self.g.output[1];
        let (runs, pixels) = if joined { (1, item.rows.len() * width) } else { (item.rows.len(), width) };
        match self.pixels && pixels >= LANES {
            true => (0..runs).for_each(|run| self.run_pixels(item, run, pixels)),
            false => self.run_channels(item, runs, pixels),
        }
        if let Some(table) = &self.table {
            let (unit, plane, planes) = self.y_sizes();
            let at = item.rows.start * width * unit;
            for p in 4 * item.outputs.start..planes.min(4 * item.outputs.end) {
                let start = (item.image * planes + p) * plane + at;
                // SAFETY: rows of a plane of the output, which this worker alone writes; the tiles are done.
                unsafe {
                    let to = item.tensors.y.add(start);
                    table.apply(std::slice::from_raw_parts_mut(to, item.rows.len() * width * unit));
                }
            }
        }
    }

    /// Runs with channels in lanes. Either all weights are read anew for each run, or all runs for each few blocks of
    /// weights: what moves fewer bytes.
    fn run_channels(&self, item: &Item<'_>, runs: usize, pixels: usize) {
        let groups = self.groups(&item.outputs, pixels);
        let weights = item.outputs.len() * self.arrangement.block();
        let input = self.arrangement.quads * runs * self.source.row_step;
        if runs * weights <= groups.clone().count() * input {
            for run in 0..runs {
                groups.clone().for_each(|blocks| self.run_blocks(item, blocks, run, pixels));
            }
        } else {
            for blocks in groups {
                (0..runs).for_each(|run| self.run_blocks(item, blocks.clone(), run, pixels));
            }
        }
    }

    /// The output blocks that a tile computes together, for a run of `pixels`.
    fn groups(&self, outputs: &Range<usize>, pixels: usize) -> impl Iterator<Item = Range<usize>> + Clone {
        let (starts, end) = (&self.arrangement.starts, outputs.end);
        let group = move |block: usize| {
            let alike = starts[block..end].iter().take_while(|&&s| s == starts[block]).count();
            (block < end).then(|| block..block + self.tiles.blocks(pixels, alike))
        };
        std::iter::successors(group(outputs.start), move |last| group(last.end))
    }

    /// A run for a few blocks, whose weights stay in a cache while the pixels pass.
    fn run_blocks(&self, item: &Item<'_>, outputs: Range<usize>, run: usize, pixels: usize) {
        let cuts = self.tiles.cuts(pixels, outputs.len());
        let mut call = self.call(item, outputs.start, run, 0);
        let mut start = 0;
        for cut in 1..=cuts {
            let take = pixels * cut / cuts - start;
            // SAFETY: the tile reads what `Source` located and what was packed, and writes pixels of this item and these
            // output blocks, which no other worker has; all lengths were checked at the start.
            unsafe { self.tiles.channels(take, outputs.len())(&call) };
            call.advance(take * call.step, take * self.y_sizes().0, 4 * take);
            start += take;
        }
    }

    /// A run of at least 16 pixels with pixels in lanes: a few vectors of pixels stay in a cache while the weights pass.
    fn run_pixels(&self, item: &Item<'_>, run: usize, pixels: usize) {
        let vectors = pixels.div_ceil(LANES);
        let tiles = vectors.div_ceil(self.tiles.most_vectors().min(pixels / LANES));
        let end = quads(self.g.channels_out).min(4 * item.outputs.end);
        for tile in 0..tiles {
            let (first, last) = (vectors * tile / tiles, vectors * (tile + 1) / tiles);
            // The last vector is full too: it begins among pixels that come out a second time.
            let start = (first * LANES).min(pixels - (last - first) * LANES);
            let mut call = self.call(item, item.outputs.start, run, start);
            let mut plane = 4 * item.outputs.start;
            while plane < end {
                let count = self.tiles.most_planes().min(end - plane);
                // SAFETY: as in `run_blocks`; 16 pixels from `start` on for each vector lie in the run.
                unsafe { self.tiles.pixels(count, last - first)(&call) };
                plane += count;
                call.plane = plane % 4;
                call.w = call.w.wrapping_add(if call.plane == 0 { call.w_block } else { 0 });
                call.advance(0, count * call.y_plane, count * call.r_plane);
            }
        }
    }

    /// Arguments for the tile that begins at output block `block` and pixel `start` of a run.
    fn call(&self, item: &Item<'_>, block: usize, run: usize, start: usize) -> Call<'_> {
        let (unit, y_plane, y_planes) = self.y_sizes();
        let (source, [height, width]) = (&self.source, self.g.output);
        let first = 4 * block;
        let pixel = (item.rows.start + run) * width + start;
        let at = (item.image * y_planes + if self.float { block } else { first }) * y_plane + pixel * unit;
        let (r_plane, planes) = (4 * height * width, quads(self.g.channels_out));
        let r_at = (item.image * planes + first) * r_plane + 4 * pixel;
        let x = self.arrangement.starts[block] * source.plane + run * source.row_step + start * source.step;
        Call {
            x: item.x.wrapping_add(x),
            step: source.step,
            quad: source.quad,
            taps: &source.taps,
            quads: self.arrangement.quads,
            w: item.tensors.w[block * self.arrangement.block()..].as_ptr(),
            w_block: self.arrangement.block(),
            plane: 0,
            y: item.tensors.y.wrapping_add(at),
            y_plane,
            planes: planes - first,
            residual: item.tensors.residual.map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(r_at)),
            r_plane,
            float: self.float,
            finish: self.finish,
        }
    }

    /// The input planes that `outputs` read.
    fn planes(&self, outputs: &Range<usize>) -> Range<usize> {
        match &self.arrangement.starts[outputs.clone()] {
            [first, .., last] => *first..last + self.arrangement.quads,
            [only] => *only..only + self.arrangement.quads,
            [] => 0..0,
        }
    }
}

impl Kernel for Engine {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        self.source.scratch().div_ceil(size_of::<f32>())
    }

    fn writes_rows(&self, workers: usize) -> Option<Rows> {
        let (bytes, _, planes) = self.y_sizes();
        let ConvGeometry { batch: images, output: [rows, width], .. } = self.g;
        (!self.share().by_planes(workers)).then_some(Rows { images, planes, rows, bytes: width * bytes })
    }

    fn reads_rows(&self, index: usize, workers: usize) -> Option<Rows> {
        let ConvGeometry { batch: images, input, output, window, .. } = &self.g;
        let is_pointwise = window.kernel == [1, 1] && window.stride == [1, 1];
        let (channels, [rows, width]) = match index {
            0 if is_pointwise && !self.source.gathered => (self.g.channels_in, *input),
            2 => (self.g.channels_out, *output),
            _ => return None,
        };
        let rows = Rows { images: *images, planes: quads(channels), rows, bytes: 4 * width };
        (!self.share().by_planes(workers)).then_some(rows)
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let tensors = self.tensors(io);
        let (units, outputs) = self.share().of(worker);
        let (height, mut at) = (self.g.output[0], units.start);
        if outputs.is_empty() || self.g.output[1] == 0 {
            return;
        }
        let planes = self.planes(&outputs);
        while at < units.end {
            let left = units.end.min((at / height + 1) * height) - at;
            let take = left.div_ceil(left.div_ceil(self.source.rows));
            let (image, rows) = (at / height, at % height..at % height + take);
            // SAFETY: as many images, and where rows are gathered, nobody writes any: `reads_rows` says so.
            let x = unsafe {
                self.source.locate(tensors.x.as_ptr(), image, &rows, planes.clone(), as_bytes(scratch))
            };
            self.run_item(&Item { image, rows, outputs: outputs.clone(), x, tensors });
            at += take;
        }
    }
}
