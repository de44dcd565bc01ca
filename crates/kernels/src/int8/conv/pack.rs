//! Packed weights: blocks of 16 output channels, each a header and then, by taps and quads, 16 quads of s8.
//!
//! The header holds 16 i32 where sums start, bias included, and 16 f32 scales. A block reads `quads` input quads from
//! its own first one on: all of them, or with groups those of the groups that the block touches, with zeros between.
//! Channels past the last one have zeros everywhere, so they come out as 0.
//!
//! Pixels of fewer than four channels lie without gaps where that leaves fewer quads: then a kernel row is one tap, whose
//! quads follow each other through its pixels. The 21 bytes of a row of 7 pixels of a picture are 6 quads and not 7.

use super::Weights;
use crate::conv::ConvGeometry;
use crate::int8::QUAD;
use crate::int8::packing::Packing;
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
    /// Bytes of a pixel as it is read: a quad, or fewer where taps are kernel rows.
    pub(in crate::int8) pixel: usize,
    /// The first input quad of each block.
    pub(in crate::int8) starts: Vec<usize>,
}

impl Arrangement {
    pub(in crate::int8) fn new(g: &ConvGeometry) -> Arrangement {
        let [height, width] = g.window.kernel;
        let spans: Vec<[usize; 2]> =
            (0..g.channels_out.div_ceil(LANES)).map(|block| span(g, block)).collect();
        let quads = spans.iter().map(|[first, end]| end - first).max().unwrap_or(0);
        let all = g.channels_in.div_ceil(4);
        let starts = spans.iter().map(|[first, _]| (*first).min(all - quads)).collect();
        let by_rows = (width * g.channels_in).div_ceil(QUAD);
        if g.channels_in < QUAD && g.groups == 1 && g.window.dilation[1] == 1 && by_rows < width * quads {
            return Arrangement { taps: height, quads: by_rows, pixel: g.channels_in, starts };
        }
        Arrangement { taps: height * width, quads, pixel: QUAD, starts }
    }

    /// Quads that are multiplied for an output, as a share of those of all kernel positions without groups.
    pub(in crate::int8) fn share_of_quads(&self, g: &ConvGeometry) -> f64 {
        let positions = g.window.kernel[0] * g.window.kernel[1];
        (self.taps * self.quads) as f64 / (positions * g.channels_in.div_ceil(QUAD)).max(1) as f64
    }

    /// Whether a kernel row is one tap.
    pub(in crate::int8) fn by_rows(&self) -> bool {
        self.pixel < QUAD
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

/// All blocks, for sums of bytes from which `offset` is taken.
pub(super) fn packing<'a>(
    g: &ConvGeometry,
    zero: u8,
    weights: &Weights<'a>,
    a: &Arrangement,
    offset: u8,
) -> Packing<'a> {
    let (g, weights, a) = (g.clone(), weights.clone(), a.clone());
    Packing::new(a.starts.len() * a.block(), move |to| pack(&g, zero, &weights, &a, offset, to))
}

fn pack(g: &ConvGeometry, zero: u8, weights: &Weights<'_>, a: &Arrangement, offset: u8, to: &mut [u8]) {
    for (index, block) in to.chunks_exact_mut(a.block()).enumerate() {
        let (header, quads) = block.split_at_mut(HEADER);
        let outputs = index * LANES..g.channels_out.min((index + 1) * LANES);
        for (lane, output) in outputs.clone().enumerate() {
            let lane_of = |field: usize| (field * LANES + lane) * 4..(field * LANES + lane + 1) * 4;
            header[lane_of(0)].copy_from_slice(&start(g, zero, weights, output, offset).to_le_bytes());
            header[lane_of(1)].copy_from_slice(&weights.scale[output].to_le_bytes());
        }
        if g.groups == 1 && !a.by_rows() {
            let row = g.channels_in * a.taps;
            let rows = &weights.values[outputs.start * row..outputs.end * row];
            pack_quads(rows, g.channels_in, a.taps, quads);
        } else {
            for (lane, output) in outputs.enumerate() {
                pack_lane(g, weights, a, index, output, &mut quads[4 * lane..]);
            }
        }
    }
}

fn of_output<'a>(g: &ConvGeometry, weights: &Weights<'a>, output: usize) -> &'a [i8] {
    let len = g.channels_in / g.groups * g.window.kernel[0] * g.window.kernel[1];
    &weights.values[output * len..(output + 1) * len]
}

/// Where the sum of an output starts: at its bias, from which is taken what the zero points will add. Sums wrap.
pub(in crate::int8) fn start(
    g: &ConvGeometry,
    zero: u8,
    weights: &Weights<'_>,
    output: usize,
    offset: u8,
) -> i32 {
    let w = of_output(g, weights, output);
    // Sums of weights are within i32, as `check` made sure.
    let sum = i64::from(w.iter().map(|&w| i32::from(w)).sum::<i32>());
    let zeros = sum * (i64::from(zero) - i64::from(offset));
    (i64::from(weights.bias[output]) - zeros) as i32
}

/// Writes the quads of one output, which are `QUADS` bytes apart.
fn pack_lane(
    g: &ConvGeometry,
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
                let (tap, byte) = match a.by_rows() {
                    true => (row, column * a.pixel + channel),
                    false => (row * kw + column, channel - 4 * a.starts[block]),
                };
                let value = w.next().expect("as many weights as the geometry says");
                to[(tap * a.quads + byte / 4) * QUADS + byte % 4] = *value as u8;
            }
        }
    }
}

/// As [`pack_lane`] for the outputs of a block, which lie one after another in `w`, where quads of the weights are those of
/// the input: `taps` kernel positions for each of `channels`.
fn pack_quads(w: &[i8], channels: usize, taps: usize, to: &mut [u8]) {
    let quads = channels.div_ceil(4);
    for quad in 0..quads {
        for (lane, row) in w.chunks_exact(channels * taps).enumerate() {
            let row = &row[4 * quad * taps..];
            let to = &mut to[quad * QUADS + 4 * lane..];
            if let Some((whole, _)) = row.split_at_checked(4 * taps) {
                let ((a, b), (c, d)) = (whole[..2 * taps].split_at(taps), whole[2 * taps..].split_at(taps));
                for (tap, (((a, b), c), d)) in a.iter().zip(b).zip(c).zip(d).enumerate() {
                    to[tap * quads * QUADS..][..4].copy_from_slice(&[*a, *b, *c, *d].map(|w| w as u8));
                }
            } else {
                for (byte, channel) in row.chunks_exact(taps).enumerate() {
                    for (tap, w) in channel.iter().enumerate() {
                        to[tap * quads * QUADS + byte] = *w as u8;
                    }
                }
            }
        }
    }
}
