//! Blocks of weights, and the stream of those that are not zero.
//!
//! A *list* is one output channel, or two that share what they load; its blocks lie in the order of the addresses that
//! they read, so that the taps of a plane meet its cache lines while they are near. Weights and the numbers of the
//! epilogue are an input of the kernel like those of other kernels:
//!
//! * for each plane of quads of the output a header: 4 i32 where sums start, bias included, 4 f32 scales;
//! * the blocks of all lists, 4 bytes for each of their outputs.
//!
//! What each block reads, and where lists end, is no input: the kernel keeps it (`offsets`, `ends`), for addresses must not
//! come out of a buffer that anyone may fill. A block takes 8 or 12 bytes in all.

use super::field::Field;
use crate::conv::ConvGeometry;
use crate::int8::conv::{Weights, pack};
use crate::int8::quads;
use std::fmt;

/// Bytes of a plane's header.
pub(super) const HEADER: usize = 2 * 16;

/// Output channels by input channels of a block, which is zero or not as a whole: one quad of one tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// 1 x 4.
    One,
    /// 2 x 4.
    Two,
}

impl Block {
    /// Both.
    pub const ALL: [Block; 2] = [Block::One, Block::Two];

    /// Its output channels.
    pub fn outputs(self) -> usize {
        match self {
            Block::One => 1,
            Block::Two => 2,
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x4", self.outputs())
    }
}

/// Weights that are zero in places.
pub(super) struct Stream {
    pub(super) packed: Vec<u8>,
    /// What each block reads: bytes from the first pixel of plane 0.
    pub(super) offsets: Vec<u32>,
    /// Where each list begins among the blocks, and where the last one ends; whole planes of lists.
    pub(super) ends: Vec<u32>,
}

/// The weights of a convolution without groups, as blocks.
pub(super) struct Blocks<'a> {
    values: &'a [i8],
    channels: [usize; 2],
    taps: usize,
    block: Block,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(g: &ConvGeometry, values: &'a [i8], block: Block) -> Blocks<'a> {
        let taps = g.window.kernel[0] * g.window.kernel[1];
        Blocks { values, channels: [g.channels_out, g.channels_in], taps, block }
    }

    /// Blocks in all, zero or not.
    pub(super) fn all(&self) -> usize {
        let [outputs, inputs] = self.channels;
        outputs.div_ceil(self.block.outputs()) * quads(inputs) * self.taps
    }

    /// Blocks that are not zero.
    pub(super) fn count(&self) -> usize {
        let lists = self.channels[0].div_ceil(self.block.outputs());
        (0..lists).map(|list| self.list(list).count()).sum()
    }

    /// The blocks of a list that are not zero: quad of input, tap, and the weights of each output.
    fn list(&self, list: usize) -> impl Iterator<Item = (usize, usize, [[i8; 4]; 2])> {
        let quads = quads(self.channels[1]);
        let places = (0..quads).flat_map(|quad| (0..self.taps).map(move |tap| (quad, tap)));
        places
            .map(move |(quad, tap)| (quad, tap, self.at(list, quad, tap)))
            .filter(|(.., w)| *w != [[0; 4]; 2])
    }

    fn at(&self, list: usize, quad: usize, tap: usize) -> [[i8; 4]; 2] {
        let [outputs, inputs] = self.channels;
        let mut block = [[0; 4]; 2];
        let first = list * self.block.outputs();
        for (output, row) in (first..outputs.min(first + self.block.outputs())).zip(&mut block) {
            let from = &self.values[output * inputs * self.taps..(output + 1) * inputs * self.taps];
            for (channel, w) in (4 * quad..inputs.min(4 * quad + 4)).zip(row) {
                *w = from[channel * self.taps + tap];
            }
        }
        block
    }
}

impl Stream {
    /// Packs the blocks of `weights` that are not zero, for sums of bytes from which `offset` is taken.
    pub(super) fn new(
        g: &ConvGeometry,
        zero: u8,
        offset: u8,
        weights: &Weights<'_>,
        block: Block,
        field: &Field,
    ) -> Stream {
        let blocks = Blocks::new(g, weights.values, block);
        let planes = quads(g.channels_out);
        let mut stream =
            Stream { packed: headers(g, zero, offset, weights), offsets: Vec::new(), ends: vec![0] };
        for list in 0..planes * 4 / block.outputs() {
            for (quad, tap, w) in blocks.list(list) {
                stream.offsets.push(u32::try_from(field.offset(quad, tap)).expect("an image within 4 GiB"));
                let bytes = w[..block.outputs()].as_flattened().iter().map(|&w| w as u8);
                stream.packed.extend(bytes);
            }
            stream.ends.push(stream.offsets.len() as u32);
        }
        stream
    }
}

/// Channels past the last have zeros everywhere, so they come out as 0.
fn headers(g: &ConvGeometry, zero: u8, offset: u8, weights: &Weights<'_>) -> Vec<u8> {
    let mut headers = vec![0; quads(g.channels_out) * HEADER];
    for output in 0..g.channels_out {
        let header = &mut headers[output / 4 * HEADER..][..HEADER];
        let start = pack::start(g, zero, weights, output, offset);
        let fields = [start.to_le_bytes(), weights.scale[output].to_le_bytes()];
        for (field, bytes) in fields.iter().enumerate() {
            header[16 * field + 4 * (output % 4)..][..4].copy_from_slice(bytes);
        }
    }
    headers
}
