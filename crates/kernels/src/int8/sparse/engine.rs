//! The engine of sparse convolutions: items of rows, tiles of positions, all output planes for each.

use super::field::{Field, pick_gather};
use super::stream::{Block, HEADER, Stream};
use super::tile::{self, Call, Spot, TileFn, VECTORS};
use crate::conv::ConvGeometry;
use crate::int8::table::Lookup;
use crate::int8::{finish::Finish, form::Form, quads, quads_len, share::Share};
use crate::kernel::as_bytes;
use crate::{InputRows, Io, Kernel, LANES, Rows, Worker};
use std::ops::Range;

/// A convolution whose form and blocks have been chosen.
pub(super) struct Engine {
    name: String,
    g: ConvGeometry,
    field: Field,
    gather: Gather,
    block: Block,
    /// See [`Stream`].
    offsets: Vec<u32>,
    ends: Vec<u32>,
    /// Before each plane, and all of it; an epilogue takes as long as about two blocks of each list.
    work: Vec<usize>,
    tiles: [TileFn; VECTORS],
    vectors: usize,
    finish: Finish,
    residual: bool,
    table: Option<Lookup>,
}

type Gather = for<'a> unsafe fn(&'a Field, &'a [u8], &'a Range<usize>, &'a mut [u8]);

/// What a convolution does with its sums.
pub(super) struct After {
    pub(super) finish: Finish,
    pub(super) residual: bool,
    pub(super) table: Option<Lookup>,
}

/// The buffers of a call, after checking their lengths.
#[derive(Clone, Copy)]
struct Tensors<'a> {
    x: InputRows<'a>,
    packed: &'a [u8],
    residual: Option<InputRows<'a>>,
    y: *mut u8,
}

/// Rows of one image, for some output planes.
struct Item<'a> {
    image: usize,
    rows: Range<usize>,
    planes: Range<usize>,
    /// Where position 0 reads, the positions of the rows, and how many there are to be read.
    x: *const u8,
    positions: Range<usize>,
    readable: usize,
    /// The output row in which position 0 lies.
    row: usize,
    tensors: Tensors<'a>,
}

impl Engine {
    /// The kernel and its packed weights.
    pub(super) fn new(
        (name, form): (String, Form),
        g: &ConvGeometry,
        field: Field,
        block: Block,
        stream: Stream,
        after: After,
    ) -> (Engine, Vec<u8>) {
        let lists = 4 / block.outputs();
        let average = stream.offsets.len() / (stream.ends.len() - 1).max(1);
        let work = |plane: usize| stream.ends[plane * lists] as usize + 2 * lists * plane;
        let engine = Engine {
            name,
            g: g.clone(),
            gather: pick_gather(form),
            block,
            work: (0..=quads(g.channels_out)).map(work).collect(),
            offsets: stream.offsets,
            ends: stream.ends,
            tiles: tile::tiles(form, block.outputs(), average),
            vectors: tile::most_vectors(form, |vectors| field.tile(vectors)),
            finish: after.finish,
            residual: after.residual,
            table: after.table,
            field,
        };
        (engine, stream.packed)
    }

    fn y_plane(&self) -> usize {
        4 * self.g.output[0] * self.g.output[1]
    }

    fn packed_len(&self) -> usize {
        quads(self.g.channels_out) * HEADER + self.offsets.len() * 4 * self.block.outputs()
    }

    fn tensors<'a>(&self, io: &Io<'a>) -> Tensors<'a> {
        let y_len = quads_len(self.g.batch, self.g.channels_out, self.g.output[0] * self.g.output[1]);
        let (x, packed, y) = (io.input_rows(0), io.input::<u8>(1), io.output::<u8>(0));
        let residual = self.residual.then(|| io.input_rows(2));
        assert_eq!(x.len(), self.g.batch * self.field.image(), "{}: input", self.name);
        assert_eq!(packed.len(), self.packed_len(), "{}: weights", self.name);
        assert_eq!(y.len(), y_len, "{}: output", self.name);
        assert!(residual.is_none_or(|r| r.len() == y_len), "{}: residual", self.name);
        Tensors { x, packed, residual, y: y.as_mut_ptr() }
    }

    fn ways(&self) -> Share {
        Share {
            rows: self.g.batch * self.g.output[0],
            row: 4 * self.g.output[1],
            planes: quads(self.g.channels_out),
            planes_weigh: self.g.batch == 1 && self.packed_len() > self.field.image(),
            plane_by_plane: false,
        }
    }

    /// This worker's rows and planes; planes are shared out by the blocks that they have.
    pub(super) fn share(&self, worker: Worker) -> (Range<usize>, Range<usize>) {
        let ways = self.ways();
        if !ways.by_planes(worker.count) {
            return ways.of(worker);
        }
        let Range { start, end } = worker.share(self.work[ways.planes]);
        let plane_at = |work: usize| self.work.partition_point(|&before| before < work);
        (0..ways.rows, plane_at(start)..plane_at(end))
    }

    fn item<'a>(
        &self,
        tensors: Tensors<'a>,
        (image, rows): (usize, Range<usize>),
        planes: Range<usize>,
        scratch: &mut [u8],
    ) -> Item<'a> {
        let x = image * self.field.image()..(image + 1) * self.field.image();
        let (pitch, [height, width]) = (self.field.pitch, self.g.output);
        let positions = |rows: &Range<usize>| rows.start * pitch..(rows.end - 1) * pitch + width;
        if self.field.gathered {
            // SAFETY: it was picked for this CPU; nobody writes what is gathered (`reads_rows`).
            unsafe { (self.gather)(&self.field, tensors.x.slice(x), &rows, scratch) };
            let (positions, row) = (positions(&(0..rows.len())), rows.start);
            let readable = positions.end.next_multiple_of(LANES);
            return Item { image, rows, planes, x: scratch.as_ptr(), positions, readable, row, tensors };
        }
        let (positions, all) = (positions(&rows), positions(&(0..height)).end);
        let readable = if positions.len() < LANES { all } else { positions.end };
        let x = tensors.x.as_ptr().wrapping_add(x.start);
        Item { image, rows, planes, x, positions, readable, row: 0, tensors }
    }

    fn run_item(&self, item: &Item<'_>) {
        let vectors = item.positions.len().div_ceil(LANES);
        let tiles = vectors.div_ceil(self.vectors);
        for tile in 0..tiles {
            let (first, end) = (vectors * tile / tiles, vectors * (tile + 1) / tiles);
            let call = self.call(item, first..end);
            // SAFETY: vectors begin where 16 positions can be read, for every tap and quad: `item` says so, and blocks
            // read no other (`Field::offset`); what is written are pixels of this item and these planes, which no other
            // worker has. All lengths were checked at the start.
            unsafe { self.tiles[end - first - 1](&call) };
        }
        let Some(table) = &self.table else { return };
        let row = 4 * self.g.output[1];
        for plane in item.planes.clone() {
            let start = (item.image * quads(self.g.channels_out) + plane) * self.y_plane();
            // SAFETY: rows of a plane of the output, which this worker alone writes; the tiles are done.
            unsafe {
                let to = item.tensors.y.add(start + item.rows.start * row);
                table.apply(std::slice::from_raw_parts_mut(to, item.rows.len() * row));
            }
        }
    }

    /// Arguments for so many vectors of an item.
    fn call(&self, item: &Item<'_>, vectors: Range<usize>) -> Call<'_> {
        // The last vector may begin among positions of the one before.
        let begin = |v: usize| (item.positions.start + v * LANES).min(item.readable - LANES);
        let (first, last) = (begin(vectors.start), begin(vectors.end - 1));
        let mut spots = [Spot::default(); VECTORS];
        for (spot, v) in spots.iter_mut().zip(vectors) {
            *spot = self.spot(item, begin(v));
        }
        let (plane, y_plane) = (item.planes.start, self.y_plane());
        let at = (item.image * quads(self.g.channels_out) + plane) * y_plane;
        let packed = item.tensors.packed;
        Call {
            x: item.x.wrapping_add(4 * first),
            last: 4 * (last - first),
            offsets: &self.offsets,
            ends: &self.ends[plane * 4 / self.block.outputs()..],
            header: packed[plane * HEADER..].as_ptr(),
            weights: packed[quads(self.g.channels_out) * HEADER..].as_ptr(),
            planes: item.planes.len(),
            spots,
            y: item.tensors.y.wrapping_add(at),
            residual: item.tensors.residual.map_or(std::ptr::null(), |r| r.as_ptr().wrapping_add(at)),
            y_plane,
            finish: self.finish,
        }
    }

    /// Which of 16 positions from `begin` on are pixels of the item, and where they belong.
    fn spot(&self, item: &Item<'_>, begin: usize) -> Spot {
        let (pitch, width) = (self.field.pitch, self.g.output[1]);
        let low = |count: usize| ((1u32 << count.min(LANES)) - 1) as u16;
        let mut chosen = low(item.positions.end.saturating_sub(begin));
        chosen &= !low(item.positions.start.saturating_sub(begin));
        let mut lane = 0;
        let mut column = begin % pitch;
        while lane < LANES && pitch > width {
            let (pixels, all) = (width.saturating_sub(column), pitch - column);
            chosen &= !(low(lane + all) & !low(lane + pixels));
            (lane, column) = (lane + all, 0);
        }
        let first = begin.max(item.positions.start);
        let pixel = (item.row + first / pitch) * width + (first % pitch).min(width);
        Spot { chosen, at: 4 * pixel }
    }
}

impl Kernel for Engine {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        self.field.scratch().div_ceil(size_of::<f32>())
    }

    fn writes_rows(&self, workers: usize) -> Option<Rows> {
        self.ways().written(self.g.batch, workers)
    }

    fn reads_rows(&self, index: usize, workers: usize) -> Option<Rows> {
        let written = self.writes_rows(workers)?;
        let Rows { images, rows, bytes, .. } = written;
        // Where a worker has fewer positions than a vector, it reads those around them too.
        let is_own = images == 1 && rows / workers * (bytes / 4) >= LANES;
        match index {
            0 if self.g.window.kernel == [1, 1] && !self.field.gathered && is_own => {
                Some(Rows { planes: quads(self.g.channels_in), ..written })
            }
            2 => Some(written),
            _ => None,
        }
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let tensors = self.tensors(io);
        let (units, planes) = self.share(worker);
        let (height, mut at) = (self.g.output[0], units.start);
        if planes.is_empty() || self.g.output[1] == 0 {
            return;
        }
        while at < units.end {
            let left = units.end.min((at / height + 1) * height) - at;
            let take = left.div_ceil(left.div_ceil(self.field.rows));
            let place = (at / height, at % height..at % height + take);
            self.run_item(&self.item(tensors, place, planes.clone(), as_bytes(scratch)));
            at += take;
        }
    }
}
