//! Bytes that change their place: resizing, plain order to quads and back.

use super::form::Form;
use super::quads;
use super::share::Share;
use crate::{Io, Isa, Kernel, Worker};

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
        let (rows, planes) =
            Share { rows: oh, row: 4 * ow, planes: self.planes, planes_weigh: false, plane_by_plane: true }
                .of(worker);
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
    use crate::int8::quads_len;
    use crate::int8::testing::{self, bytes, run};

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
