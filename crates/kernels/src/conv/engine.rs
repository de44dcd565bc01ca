//! The engine of the forward pass and the input gradient: gather a part of the input, then run tiles over it.

use super::channels::{Channels, Span};
use super::gather::{self, Gather, GatherFn, Input, Item, Pitch};
use super::space::Phase;
use super::tile::{Call, OUTPUTS, PIXELS, Tiles};
use super::{ConvGeometry, Epilogue};
use crate::{Activation, Io, Isa, Kernel, LANES, Worker, blocks};
use std::ops::Range;

/// Output pixels of an item: enough to make reading the weights once per item cheap.
const ITEM_PIXELS: usize = 448;
/// Elements of gathered input that leave room for weights in a level 2 cache.
const GATHERED: usize = 112 * 1024;

/// A correlation over blocked output.
pub(super) struct Engine {
    name: String,
    batch: usize,
    channels: Channels,
    phases: Vec<Phase>,
    input: Input,
    output: [usize; 2],
    epilogue: Epilogue,
    tiles: Tiles,
    gather: GatherFn,
    /// Whether items are groups of whole images, rather than rows of one image.
    by_images: bool,
    /// Most images or rows of an item.
    most: usize,
    /// Most input blocks that are gathered at once, and the elements of one.
    chunk: usize,
    area: usize,
}

impl Engine {
    pub(super) fn new(
        isa: Isa,
        g: &ConvGeometry,
        name: String,
        channels: Channels,
        phases: Vec<Phase>,
        input: Input,
        output: [usize; 2],
        epilogue: Epilogue,
    ) -> Engine {
        let rows = phases.iter().map(|p| p.y.count).max().unwrap_or(0);
        let row = phases.iter().map(|p| p.x.count).max().unwrap_or(0).max(1);
        let by_images = rows * row <= ITEM_PIXELS / 2;
        let most = match by_images {
            true => (ITEM_PIXELS / (rows * row).max(1)).clamp(1, g.batch.max(1)),
            false => ITEM_PIXELS.div_ceil(row).max(4).min(rows),
        };
        let (images, rows) = if by_images { (most, rows) } else { (1, most) };
        let area = phases.iter().map(|p| p.area(p.y.count.min(rows), images)).max().unwrap_or(0);
        let inputs = channels.spans.iter().map(|s| s.inputs.len()).max().unwrap_or(1);
        let chunks = inputs.div_ceil((GATHERED / area.max(1)).max(1));
        Engine {
            name: format!("{name} {isa}"),
            batch: g.batch,
            gather: gather::pick(isa, &input),
            tiles: Tiles::new(isa),
            chunk: inputs.div_ceil(chunks),
            channels,
            phases,
            input,
            output,
            epilogue,
            by_images,
            most,
            area,
        }
    }

    /// Images, or rows of all images: what workers share out.
    fn units(&self) -> usize {
        if self.by_images { self.batch } else { self.batch * self.rows() }
    }

    fn rows(&self) -> usize {
        self.phases.iter().map(|p| p.y.count).max().unwrap_or(0)
    }

    /// What a worker computes: some units of some output blocks. Output blocks are split where units do not divide
    /// well, and for single images whose weights are more than their pixels, so that weights are read once.
    fn share(&self, worker: Worker) -> (Range<usize>, Range<usize>) {
        let outputs = blocks(self.channels.outputs);
        let rounds = |n: usize| n.div_ceil(worker.count) * worker.count;
        let (units, total) = (self.units(), rounds(self.units()) * outputs);
        let split = rounds(outputs) * units;
        let weighty = self.batch == 1 && self.channels.packed_len() > self.input.image_len();
        if split < total || (split == total && weighty) {
            (0..units, worker.share(outputs))
        } else {
            (worker.share(units), 0..outputs)
        }
    }

    /// The buffers of a call, after checking their lengths.
    fn tensors<'a>(&self, io: &Io<'a>) -> Tensors<'a> {
        let y_len = self.batch * blocks(self.channels.outputs) * self.output[0] * self.output[1] * LANES;
        let (x, w) = (io.input(0), io.input(1));
        let bias: Option<&[f32]> = self.epilogue.bias.then(|| io.input(2));
        let residual: Option<&[f32]> =
            self.epilogue.residual.then(|| io.input(2 + usize::from(self.epilogue.bias)));
        assert_eq!(x.len(), self.batch * self.input.image_len(), "{}: input", self.name);
        assert_eq!(w.len(), self.channels.packed_len(), "{}: weights", self.name);
        assert_eq!(io.output::<f32>(0).len(), y_len, "{}: output", self.name);
        assert!(bias.is_none_or(|b| b.len() == self.channels.outputs), "{}: bias", self.name);
        assert!(residual.is_none_or(|r| r.len() == y_len), "{}: residual", self.name);
        Tensors { x, w, bias, residual, y: io.output(0).as_mut_ptr() }
    }

    /// Takes the next item off `units`.
    fn next_item(&self, units: &mut Range<usize>) -> Option<Item> {
        if units.start >= units.end {
            return None;
        }
        let start = units.start;
        let rows = self.rows();
        let end = if self.by_images { units.end } else { units.end.min((start / rows + 1) * rows) };
        let left = end - start;
        let take = left.div_ceil(left.div_ceil(self.most));
        units.start += take;
        Some(match self.by_images {
            true => Item { images: start..start + take, rows: 0..rows },
            false => Item { images: start / rows..start / rows + 1, rows: start % rows..start % rows + take },
        })
    }
}

impl Kernel for Engine {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        self.chunk * self.area
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let tensors = self.tensors(io);
        let (mut units, outputs) = self.share(worker);
        while let Some(item) = self.next_item(&mut units) {
            for phase in &self.phases {
                let rows = item.rows.start..item.rows.end.min(phase.y.count);
                if rows.is_empty() || phase.x.count == 0 {
                    continue;
                }
                let item = Item { images: item.images.clone(), rows };
                Part { engine: self, phase, item, outputs: outputs.clone(), tensors }.run(scratch);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Tensors<'a> {
    x: &'a [f32],
    w: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    y: *mut f32,
}

/// One phase of one item.
struct Part<'a> {
    engine: &'a Engine,
    phase: &'a Phase,
    item: Item,
    outputs: Range<usize>,
    tensors: Tensors<'a>,
}

/// Gathered (or untouched) input of some blocks.
struct Source {
    x: *const f32,
    pitch: Pitch,
    blocks: Range<usize>,
}

impl Part<'_> {
    fn run(&self, scratch: &mut [f32]) {
        let direct = self.phase.identity
            && self.item.images.len() == 1
            && self.engine.input.layout == crate::Layout::Blocked;
        for span in &self.engine.channels.spans {
            let outputs = span.outputs.start.max(self.outputs.start)..span.outputs.end.min(self.outputs.end);
            if outputs.is_empty() {
                continue;
            }
            let chunk = if direct { span.inputs.len() } else { self.engine.chunk };
            for start in span.inputs.clone().step_by(chunk) {
                let blocks = start..(start + chunk).min(span.inputs.end);
                let source = if direct { self.in_place(blocks) } else { self.gathered(blocks, scratch) };
                self.run_span(span, outputs.clone(), &source);
            }
        }
    }

    /// The input itself, where gathering would only copy it.
    fn in_place(&self, blocks: Range<usize>) -> Source {
        let input = &self.engine.input;
        let [height, width] = input.size;
        let start = self.item.images.start * input.image_len()
            + (blocks.start * height + self.item.rows.start) * width * LANES;
        let pitch = Pitch { block: height * width * LANES, ..Pitch::default() };
        Source { x: self.tensors.x[start..].as_ptr(), pitch, blocks }
    }

    fn gathered(&self, blocks: Range<usize>, scratch: &mut [f32]) -> Source {
        let pitch = Pitch::by_row(self.phase, &self.item);
        let to = &mut scratch[..blocks.len() * pitch.block];
        let x = to.as_ptr();
        let mut gather = Gather {
            input: &self.engine.input,
            phase: self.phase,
            item: &self.item,
            blocks: blocks.clone(),
            pitch,
            x: self.tensors.x,
            to,
        };
        // SAFETY: picked for this CPU; the gather checks its bounds.
        unsafe { (self.engine.gather)(&mut gather) };
        Source { x, pitch, blocks }
    }

    /// All pixels of the item for `outputs`, from one chunk of input blocks.
    fn run_span(&self, span: &Span, mut outputs: Range<usize>, source: &Source) {
        let pixels = self.item.rows.len() * self.item.images.len() * self.phase.x.count;
        while !outputs.is_empty() {
            let count = self.engine.tiles.outputs(pixels, outputs.len());
            let mut call = self.call(span, outputs.start, count, source);
            outputs.start += count;
            let cuts = self.engine.tiles.cuts(pixels);
            let mut cursor = self.cursor();
            for cut in 0..cuts {
                let (start, end) = (pixels * cut / cuts, pixels * (cut + 1) / cuts);
                call.at[..end - start].fill_with(|| cursor.next());
                call.x = source.x.wrapping_add(start * LANES);
                // SAFETY: the tile reads what was gathered and packed, and writes pixels of this item and these output
                // blocks, which no other worker has; all lengths were checked at the start.
                unsafe { self.engine.tiles.get(end - start, count)(&call) };
            }
        }
    }

    fn call(&self, span: &Span, output: usize, count: usize, source: &Source) -> Call<'_> {
        let e = self.engine;
        let channels = &e.channels;
        let y_output = e.output[0] * e.output[1] * LANES;
        let last = source.blocks.end - 1;
        let ends = source.blocks.end == span.inputs.end;
        let mut bias = [0.0; OUTPUTS * LANES];
        if let Some(b) = self.tensors.bias {
            let b = &b[output * LANES..b.len().min((output + count) * LANES)];
            bias[..b.len()].copy_from_slice(b);
        }
        let residual = self.tensors.residual.filter(|_| ends);
        Call {
            x: source.x,
            pitch: source.pitch,
            w: self.tensors.w[channels.packed_at(span, output, source.blocks.start)..].as_ptr(),
            w_input: channels.taps * super::channels::CELL,
            w_output: channels.packed_output(span),
            taps: &self.phase.taps,
            blocks: source.blocks.len(),
            last: channels.valid_inputs(last),
            y: self.tensors.y.wrapping_add(output * y_output),
            at: [0; PIXELS],
            y_output,
            resume: source.blocks.start > span.inputs.start,
            bias,
            residual: residual.map_or(std::ptr::null(), |r| r[output * y_output..].as_ptr()),
            activation: if ends { e.epilogue.activation } else { Activation::Identity },
        }
    }

    fn cursor(&self) -> Cursor {
        let e = self.engine;
        let [height, width] = e.output;
        let (y, x) = (&self.phase.y, &self.phase.x);
        let image = blocks(e.channels.outputs) * height * width * LANES;
        let first = y.start + self.item.rows.start * y.step;
        let row = self.item.images.start * image + (first * width + x.start) * LANES;
        Cursor {
            at: row,
            row,
            line: row,
            column: 0,
            image: 0,
            columns: x.count,
            images: self.item.images.len(),
            step: x.step * LANES,
            image_step: image,
            row_step: y.step * width * LANES,
        }
    }
}

/// Walks the output addresses of a run: along a row, over the images, down the rows.
struct Cursor {
    at: usize,
    /// Start of this row in this image, and in the item's first image.
    line: usize,
    row: usize,
    column: usize,
    image: usize,
    columns: usize,
    images: usize,
    step: usize,
    image_step: usize,
    row_step: usize,
}

impl Cursor {
    #[inline]
    fn next(&mut self) -> usize {
        let at = self.at;
        self.at += self.step;
        self.column += 1;
        if self.column == self.columns {
            self.next_line();
        }
        at
    }

    fn next_line(&mut self) {
        self.column = 0;
        self.image += 1;
        self.line += self.image_step;
        if self.image == self.images {
            self.image = 0;
            self.row += self.row_step;
            self.line = self.row;
        }
        self.at = self.line;
    }
}
