//! Packed weights: blocks of 16 output channels, each a header and then, by taps and quads, 16 quads of s8.
//!
//! The header holds 16 i32 where sums start, bias included, and 16 f32 scales. A block reads `quads` input quads from
//! its own first one on: all of them, or with groups those of the groups that the block touches, with zeros between.
//! Channels past the last one have zeros everywhere, so they come out as 0.

use super::{Input, Weights};
use crate::conv::ConvGeometry;
use crate::lanes::LANES;

/// Bytes of a header, and of 16 quads of weights.
pub(super) const HEADER: usize = 2 * 4 * LANES;
pub(super) const QUADS: usize = 4 * LANES;

/// How packed weights are arranged.
#[derive(Clone, Debug)]
pub(in crate::int8) struct Arrangement {
    /// Taps, and quads of each.
    pub(in crate::int8) taps: usize,
    pub(in crate::int8) quads: usize,
    /// The first input quad of each block.
    pub(in crate::int8) starts: Vec<usize>,
}

impl Arrangement {
    pub(in crate::int8) fn new(g: &ConvGeometry, input: &Input) -> Arrangement {
        let blocks = g.channels_out.div_ceil(LANES);
        let [kh, kw] = g.window.kernel;
        match input {
            Input::Picture { .. } if g.window.dilation[1] == 1 => {
                let quads = (kw * g.channels_in).div_ceil(4);
                Arrangement { taps: kh, quads, starts: vec![0; blocks] }
            }
            Input::Picture { .. } => {
                let quads = g.channels_in.div_ceil(4);
                Arrangement { taps: kh * kw, quads, starts: vec![0; blocks] }
            }
            Input::Quads { .. } => {
                let spans: Vec<[usize; 2]> = (0..blocks).map(|block| span(g, block)).collect();
                let quads = spans.iter().map(|[first, end]| end - first).max().unwrap_or(0);
                let all = g.channels_in.div_ceil(4);
                let starts = spans.iter().map(|[first, _]| (*first).min(all - quads)).collect();
                Arrangement { taps: kh * kw, quads, starts }
            }
        }
    }

    /// Bytes of one block.
    pub(in crate::int8) fn block(&self) -> usize {
        HEADER + self.taps * self.quads * QUADS
    }
}

/// The input quads, first and past the last, that an output block reads.
fn span(g: &ConvGeometry, block: usize) -> [usize; 2] {
    let (inputs, outputs) = (g.channels_in / g.groups, g.channels_out / g.groups);
    let first = block * LANES / outputs;
    let last = (g.channels_out.min((block + 1) * LANES) - 1) / outputs;
    [first * inputs / 4, ((last + 1) * inputs).div_ceil(4)]
}

/// Packs all blocks for sums of bytes from which `offset` is taken.
pub(super) fn pack(
    g: &ConvGeometry,
    input: &Input,
    weights: &Weights<'_>,
    a: &Arrangement,
    offset: u8,
) -> Vec<u8> {
    let mut packed = vec![0; a.starts.len() * a.block()];
    for (index, block) in packed.chunks_exact_mut(a.block()).enumerate() {
        let (header, quads) = block.split_at_mut(HEADER);
        for lane in 0..LANES.min(g.channels_out - index * LANES) {
            let output = index * LANES + lane;
            let lane_of = |field: usize| (field * LANES + lane) * 4..(field * LANES + lane + 1) * 4;
            header[lane_of(0)].copy_from_slice(&start(g, input, weights, output, offset).to_le_bytes());
            header[lane_of(1)].copy_from_slice(&weights.scale[output].to_le_bytes());
        }
        for lane in 0..LANES.min(g.channels_out - index * LANES) {
            let output = index * LANES + lane;
            pack_lane(g, input, weights, a, index, output, &mut quads[4 * lane..]);
        }
    }
    packed
}

fn of_output<'a>(g: &ConvGeometry, weights: &Weights<'a>, output: usize) -> &'a [i8] {
    let len = g.channels_in / g.groups * g.window.kernel[0] * g.window.kernel[1];
    &weights.values[output * len..(output + 1) * len]
}

/// Where the sum of an output starts: at its bias, from which is taken what the zero points will add. Sums wrap.
pub(in crate::int8) fn start(
    g: &ConvGeometry,
    input: &Input,
    weights: &Weights<'_>,
    output: usize,
    offset: u8,
) -> i32 {
    let w = of_output(g, weights, output);
    let taps = (g.window.kernel[0] * g.window.kernel[1]).max(1);
    let zeros = w.chunks_exact(taps).enumerate().map(|(channel, taps)| {
        let sum: i64 = taps.iter().map(|&w| i64::from(w)).sum();
        sum * (i64::from(input.zero(channel)) - i64::from(offset))
    });
    (i64::from(weights.bias[output]) - zeros.sum::<i64>()) as i32
}

/// Writes the quads of one output, which are `QUADS` bytes apart.
fn pack_lane(
    g: &ConvGeometry,
    input: &Input,
    weights: &Weights<'_>,
    a: &Arrangement,
    block: usize,
    output: usize,
    to: &mut [u8],
) {
    let [kh, kw] = g.window.kernel;
    let (inputs, outputs) = (g.channels_in / g.groups, g.channels_out / g.groups);
    let first = output / outputs * inputs;
    let mut w = of_output(g, weights, output).iter();
    for channel in first..first + inputs {
        for row in 0..kh {
            for column in 0..kw {
                let (tap, byte) = match input {
                    Input::Quads { .. } => (row * kw + column, channel - 4 * a.starts[block]),
                    Input::Picture { .. } if a.taps == kh => (row, column * g.channels_in + channel),
                    Input::Picture { .. } => (row * kw + column, channel),
                };
                let value = w.next().expect("as many weights as the geometry says");
                to[(tap * a.quads + byte / 4) * QUADS + byte % 4] = *value as u8;
            }
        }
    }
}
