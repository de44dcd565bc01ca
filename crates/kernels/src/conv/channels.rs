//! Which channel blocks meet: the block structure of grouped weights, and where each weight lies.

use super::ConvGeometry;
use super::panel::Panel;
use crate::{LANES, blocks};
use std::ops::Range;

/// Elements of the weights between one input and one output block at one tap: `[16 in][16 out]`.
pub(super) const CELL: usize = LANES * LANES;

/// Consecutive output blocks that read the same input blocks. Dense convolutions have one span, grouped ones several;
/// weights inside of a span but between different groups are zero.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) outputs: Range<usize>,
    pub(super) inputs: Range<usize>,
    /// Start of its packed weights `[output block][input block][tap][16 in][16 out]`.
    packed: usize,
}

/// Direction in which weights are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    /// Input and output channels change places.
    InputGrad,
}

/// Channels of one direction of a convolution. Where kernel columns are folded into channels, input channel
/// `c * columns + kx` stands for channel `c` at kernel column `kx`, and taps are kernel rows.
#[derive(Clone, Debug)]
pub(super) struct Channels {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) spans: Vec<Span>,
    /// Kernel positions with weights of their own.
    pub(super) taps: usize,
    pub(super) direction: Direction,
    geometry: ConvGeometry,
}

impl Channels {
    pub(super) fn new(g: &ConvGeometry, direction: Direction) -> Channels {
        let [kh, kw] = g.window.kernel;
        let folded = direction == Direction::Forward && g.folds_columns();
        let (inputs, outputs) = match direction {
            Direction::Forward if folded => (g.channels_in * kw, g.channels_out),
            Direction::Forward => (g.channels_in, g.channels_out),
            Direction::InputGrad => (g.channels_out, g.channels_in),
        };
        let taps = if folded { kh } else { kh * kw };
        let spans = spans(inputs, outputs, g.groups, taps);
        Channels { inputs, outputs, spans, taps, direction, geometry: g.clone() }
    }

    /// Elements of the packed weights.
    pub(super) fn packed_len(&self) -> usize {
        self.spans.last().map_or(0, |s| s.packed + s.outputs.len() * self.packed_output(s))
    }

    /// Elements of the weights in OIHW.
    pub(super) fn weights(&self) -> usize {
        let g = &self.geometry;
        g.channels_out * (g.channels_in / g.groups) * g.taps()
    }

    /// Packed elements of one output block of `span`.
    pub(super) fn packed_output(&self, span: &Span) -> usize {
        span.inputs.len() * self.taps * CELL
    }

    /// Start of the packed weights between two blocks.
    pub(super) fn packed_at(&self, span: &Span, output: usize, input: usize) -> usize {
        let input = (input - span.inputs.start) * self.taps * CELL;
        span.packed + (output - span.outputs.start) * self.packed_output(span) + input
    }

    /// How many lanes of input block `block` are channels.
    pub(super) fn valid_inputs(&self, block: usize) -> usize {
        (self.inputs - block * LANES).min(LANES)
    }

    /// Where the weights between two blocks lie in OIHW, if they all exist and columns are not folded.
    pub(super) fn panel(&self, output: usize, input: usize) -> Option<Panel> {
        let g = &self.geometry;
        let taps = self.taps;
        if g.groups > 1 || taps != g.taps() {
            return None;
        }
        let (o, i) = match self.direction {
            Direction::Forward => (output * LANES, input * LANES),
            Direction::InputGrad => (input * LANES, output * LANES),
        };
        let (rows, columns) = ((g.channels_out - o).min(LANES), (g.channels_in - i).min(LANES) * taps);
        Some(Panel { at: (o * g.channels_in + i) * taps, pitch: g.channels_in * taps, rows, columns, taps })
    }

    /// Where the weights between two blocks lie in OIHW, whichever exist.
    pub(super) fn cell(&self, output: usize, input: usize) -> Cell {
        let g = &self.geometry;
        let as_out = |o: usize| (o * g.channels_in / g.groups * g.taps(), o / (g.channels_out / g.groups));
        let per_group = g.channels_in / g.groups;
        let as_in = |c: usize| match self.taps == g.taps() {
            true => (c % per_group * g.taps(), c / per_group),
            false => (c / g.window.kernel[1] * g.taps() + c % g.window.kernel[1], 0),
        };
        let (inputs, outputs) = match self.direction {
            Direction::Forward => (lanes(input, self.inputs, as_in), lanes(output, self.outputs, as_out)),
            Direction::InputGrad => (lanes(input, self.inputs, as_out), lanes(output, self.outputs, as_in)),
        };
        Cell { inputs, outputs, taps: self.taps, tap: g.taps() / self.taps }
    }
}

/// The group of lanes that are no channel.
const NONE: usize = usize::MAX;

/// Offset and group of each lane.
type LaneMap = [(usize, usize); LANES];

fn lanes(block: usize, channels: usize, at: impl Fn(usize) -> (usize, usize)) -> LaneMap {
    std::array::from_fn(|l| Some(block * LANES + l).filter(|&c| c < channels).map_or((0, NONE), &at))
}

/// The OIHW addresses of the weights between two blocks, all taps.
pub(super) struct Cell {
    inputs: LaneMap,
    outputs: LaneMap,
    taps: usize,
    tap: usize,
}

impl Cell {
    /// Calls `f(index in [tap][16 in][16 out], index in OIHW)` for every weight that exists, in the order
    /// of OIHW.
    #[inline(always)]
    pub(super) fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        for (o, &(at_out, group)) in self.outputs.iter().enumerate() {
            for (i, &(at_in, other)) in self.inputs.iter().enumerate() {
                if group == other && group != NONE {
                    for tap in 0..self.taps {
                        f(tap * CELL + i * LANES + o, at_in + at_out + tap * self.tap);
                    }
                }
            }
        }
    }
}

fn spans(inputs: usize, outputs: usize, groups: usize, taps: usize) -> Vec<Span> {
    let (per_in, per_out) = (inputs / groups, outputs / groups);
    let mut spans: Vec<Span> = Vec::new();
    let mut packed = 0;
    for block in 0..blocks(outputs) {
        let (first, last) = (block * LANES, ((block + 1) * LANES).min(outputs) - 1);
        let channels = first / per_out * per_in..(last / per_out + 1) * per_in;
        let reads = channels.start / LANES..blocks(channels.end);
        let size = reads.len() * taps * CELL;
        match spans.last_mut() {
            Some(span) if span.inputs == reads => span.outputs.end = block + 1,
            _ => spans.push(Span { outputs: block..block + 1, inputs: reads, packed }),
        }
        packed += size;
    }
    spans
}
