//! Bytes that change their place: joining channels, resizing, plain order to quads and back.

use super::form::Form;
use super::share::Share;
use super::table::{Lookup, Table, lookup_of};
use super::{quads, quads_len};
use crate::{Io, Isa, Kernel, Worker};

/// A tensor that is joined to others: its channels, and how its bytes become bytes of the result (a change of scale,
/// say).
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its channels.
    pub channels: usize,
    /// Applied to each byte.
    pub table: Option<Table>,
}

/// Kernel: quads of `[n, channels of the part, spatial]` for each part `->` quads with the channels of all in turn. Parts
/// that begin at a multiple of four channels are copied plane by plane.
pub fn concat(isa: Isa, n: usize, spatial: usize, parts: &[Part]) -> Box<dyn Kernel> {
    concat_with(Form::of(isa), n, spatial, parts)
}

fn concat_with(form: Form, n: usize, spatial: usize, parts: &[Part]) -> Box<dyn Kernel> {
    let channels: Vec<(usize, usize)> = (0..parts.len())
        .flat_map(|part| (0..parts[part].channels).map(move |channel| (part, channel)))
        .collect();
    Box::new(Concat {
        name: format!("concat int8 {form}"),
        n,
        spatial,
        channels,
        parts: parts.iter().map(|p| p.channels).collect(),
        tables: parts.iter().map(|p| lookup_of(form, p.table.as_ref())).collect(),
    })
}

struct Concat {
    name: String,
    n: usize,
    spatial: usize,
    /// Part and channel there of each channel of the result.
    channels: Vec<(usize, usize)>,
    /// Channels of each part.
    parts: Vec<usize>,
    tables: Vec<Option<Lookup>>,
}

impl Concat {
    /// The plane of quads that holds `channel` of `part`.
    fn plane<'a>(&self, io: &Io<'a>, part: usize, channel: usize, image: usize) -> &'a [u8] {
        let plane = image * quads(self.parts[part]) + channel / 4;
        &io.input::<u8>(part)[plane * 4 * self.spatial..(plane + 1) * 4 * self.spatial]
    }

    fn join(&self, io: &Io<'_>, image: usize, channels: &[(usize, usize)], y: &mut [u8]) {
        let (part, first) = channels[0];
        let follow = channels.iter().enumerate().all(|(i, &c)| c == (part, first + i));
        if first.is_multiple_of(4) && follow {
            let x = self.plane(io, part, first, image);
            match &self.tables[part] {
                Some(table) => table.copy(x, y),
                None => y.copy_from_slice(x),
            }
            return;
        }
        y.fill(0);
        for (lane, &(part, channel)) in channels.iter().enumerate() {
            let x = self.plane(io, part, channel, image);
            let table = self.tables[part].as_ref();
            for (y, x) in y.chunks_exact_mut(4).zip(x.chunks_exact(4)) {
                let byte = x[channel % 4];
                y[lane] = table.map_or(byte, |table| table.get(byte));
            }
        }
    }
}

impl Kernel for Concat {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let y = io.output::<u8>(0);
        for (part, &channels) in self.parts.iter().enumerate() {
            let len = quads_len(self.n, channels, self.spatial);
            assert_eq!(io.input::<u8>(part).len(), len, "{}: input {part}", self.name);
        }
        let (planes, plane) = (quads(self.channels.len()), 4 * self.spatial);
        assert_eq!(y.len(), self.n * planes * plane, "{}: output", self.name);
        for p in worker.share(self.n * planes) {
            let first = 4 * (p % planes);
            let channels = &self.channels[first..self.channels.len().min(first + 4)];
            // SAFETY: planes are disjoint.
            self.join(io, p / planes, channels, unsafe { y.slice_mut(p * plane..(p + 1) * plane) });
        }
    }
}

/// Kernel: quads of `planes` planes `-> ` the same in another size, by the nearest pixel: row `o` is input row
/// `o * input / output`, as in [`resize`](crate::resize::resize).
pub fn resize_nearest(isa: Isa, planes: usize, input: [usize; 2], output: [usize; 2]) -> Box<dyn Kernel> {
    for axis in 0..2 {
        assert!(input[axis] > 0 || output[axis] == 0, "nothing can be resized to {output:?}");
    }
    let columns = (0..output[1]).map(|o| o * input[1] / output[1]).collect();
    Box::new(Resize {
        name: format!("resize nearest int8 {}", Form::of(isa)),
        planes,
        input,
        output,
        columns,
    })
}

struct Resize {
    name: String,
    planes: usize,
    input: [usize; 2],
    output: [usize; 2],
    columns: Vec<usize>,
}

impl Kernel for Resize {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (x, y) = (io.input::<u8>(0), io.output::<u8>(0));
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        assert_eq!(
            [x.len(), y.len()],
            [4 * self.planes * ih * iw, 4 * self.planes * oh * ow],
            "{}",
            self.name
        );
        let (rows, planes) = Share { rows: oh, planes: self.planes, planes_weigh: false }.of(worker);
        for plane in planes {
            for o in rows.clone() {
                let (from, _) = x[4 * (plane * ih + o * ih / oh) * iw..][..4 * iw].as_chunks::<4>();
                // SAFETY: rows of planes are disjoint.
                let to = unsafe { y.slice_mut(4 * (plane * oh + o) * ow..4 * (plane * oh + o + 1) * ow) };
                for (to, &column) in to.as_chunks_mut::<4>().0.iter_mut().zip(&self.columns) {
                    *to = from[column];
                }
            }
        }
    }
}

/// Kernel: bytes `[n, c, spatial]` in the logical order `->` quads; bytes past the last channel become 0.
pub fn to_quads(isa: Isa, n: usize, c: usize, spatial: usize) -> Box<dyn Kernel> {
    let name = format!("reorder to quads int8 {}", Form::of(isa));
    Box::new(Reorder { name, n, c, spatial, to_quads: true })
}

/// Kernel: quads of `[n, c, spatial] ->` bytes in the logical order.
pub fn from_quads(isa: Isa, n: usize, c: usize, spatial: usize) -> Box<dyn Kernel> {
    let name = format!("reorder to plain int8 {}", Form::of(isa));
    Box::new(Reorder { name, n, c, spatial, to_quads: false })
}

struct Reorder {
    name: String,
    n: usize,
    c: usize,
    spatial: usize,
    to_quads: bool,
}

impl Kernel for Reorder {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (x, y) = (io.input::<u8>(0), io.output::<u8>(0));
        let (c, spatial, planes) = (self.c, self.spatial, quads(self.c));
        let mut lens = [self.n * c * spatial, self.n * planes * 4 * spatial];
        if !self.to_quads {
            lens.reverse();
        }
        assert_eq!([x.len(), y.len()], lens, "{}: bytes", self.name);
        for plane in worker.share(self.n * planes) {
            let (image, first) = (plane / planes, 4 * (plane % planes));
            let channels = (c - first).min(4);
            let quads = 4 * spatial * plane..4 * spatial * (plane + 1);
            let plain = (image * c + first) * spatial..(image * c + first + channels) * spatial;
            // SAFETY: planes, and the channels of each, are disjoint.
            unsafe {
                match self.to_quads {
                    true => interleave(&x[plain], y.slice_mut(quads), spatial),
                    false => separate(&x[quads], y.slice_mut(plain), spatial),
                }
            }
        }
    }
}

/// One to four channels to quads.
fn interleave(plain: &[u8], quads: &mut [u8], spatial: usize) {
    quads.fill(0);
    for (lane, channel) in plain.chunks_exact(spatial.max(1)).enumerate() {
        for (quad, &byte) in quads.chunks_exact_mut(4).zip(channel) {
            quad[lane] = byte;
        }
    }
}

/// The inverse of [`interleave`].
fn separate(quads: &[u8], plain: &mut [u8], spatial: usize) {
    for (lane, channel) in plain.chunks_exact_mut(spatial.max(1)).enumerate() {
        for (byte, quad) in channel.iter_mut().zip(quads.chunks_exact(4)) {
            *byte = quad[lane];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::testing::{self, bytes, run};

    #[test]
    fn channels_are_joined_in_turn() {
        for (n, spatial) in [(1, 1), (2, 35), (1, 64), (1, 0)] {
            for channels in [vec![4, 8], vec![1, 2, 3, 17], vec![5], vec![16, 3, 4], vec![4, 0, 4]] {
                let table = |i: usize| (i % 2 == 1).then(|| Table::new(|x| x / 2 + 11));
                let parts: Vec<Part> = channels
                    .iter()
                    .enumerate()
                    .map(|(i, &channels)| Part { channels, table: table(i) })
                    .collect();
                let logical: Vec<Vec<u8>> =
                    (0..channels.len()).map(|i| bytes(i as u64, n * channels[i] * spatial)).collect();
                let mut want = Vec::new();
                for image in 0..n {
                    for (part, x) in parts.iter().zip(&logical) {
                        let len = part.channels * spatial;
                        let value = |&x: &u8| part.table.as_ref().map_or(x, |table| table.get(x));
                        want.extend(x[image * len..(image + 1) * len].iter().map(value));
                    }
                }
                let all: usize = channels.iter().sum();
                let x: Vec<Vec<u8>> =
                    channels.iter().zip(&logical).map(|(&c, x)| testing::to_quads(x, c, spatial)).collect();
                let x: Vec<&[u8]> = x.iter().map(|x| &x[..]).collect();
                for form in Form::available() {
                    let kernel = concat_with(form, n, spatial, &parts);
                    let y = run(&*kernel, &x, quads_len(n, all, spatial));
                    assert_eq!(
                        testing::from_quads(&y, n, all, spatial),
                        want,
                        "{form} {channels:?} {spatial}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_nearest_pixel_is_taken() {
        for (c, input, output) in
            [(1, [1, 1], [2, 3]), (5, [4, 6], [8, 12]), (3, [7, 5], [3, 9]), (4, [3, 3], [0, 5])]
        {
            let x = bytes(1, c * input[0] * input[1]);
            let at = |i: usize| {
                let (channel, y, z) = (i / (output[0] * output[1]), i / output[1] % output[0], i % output[1]);
                x[(channel * input[0] + y * input[0] / output[0]) * input[1] + z * input[1] / output[1]]
            };
            let want: Vec<u8> = (0..c * output[0] * output[1]).map(at).collect();
            let spatial = output[0] * output[1];
            let kernel = resize_nearest(Isa::SCALAR, quads(c), input, output);
            let y =
                run(&*kernel, &[&testing::to_quads(&x, c, input[0] * input[1])], quads_len(1, c, spatial));
            assert_eq!(testing::from_quads(&y, 1, c, spatial), want, "{c} {input:?} {output:?}");
        }
    }

    #[test]
    fn quads_and_plain_order_are_inverse() {
        for (n, c, spatial) in [(1, 1, 1), (2, 3, 5), (1, 17, 49), (2, 8, 64), (1, 5, 0)] {
            let x = bytes(1, n * c * spatial);
            let there = to_quads(Isa::SCALAR, n, c, spatial);
            let y = run(&*there, &[&x], quads_len(n, c, spatial));
            assert_eq!(testing::from_quads(&y, n, c, spatial), x, "{n} {c} {spatial}");
            let back = from_quads(Isa::SCALAR, n, c, spatial);
            assert_eq!(run(&*back, &[&testing::to_quads(&x, c, spatial)], x.len()), x, "{n} {c} {spatial}");
        }
    }
}
