//! Depthwise convolution of bytes: every channel by itself, so a dot product's four bytes are four taps of a row.
//!
//! Where bytes can be moved anywhere within a register (`permuted`), 3x3 and 5x5 kernels at strides 1 and 2 gather those
//! taps for sixteen pixels of a channel with one instruction, and each gathered row serves all output rows that it
//! touches: 48 useful multiply-adds for each dot product with a 3x3 kernel, against 16 of the simple way. Everything
//! else, and every other CPU, goes the simple way (`simple`): a lane for each channel of four pixels, one tap at a time.
//!
//! Packed weights are the same for both: for each plane of quads a header of 4 starting sums (i32, bias included)
//! and 4 scales (f32), then for each kernel row its quads of taps (`Columns`), each for all four channels in turn.

#[cfg(target_arch = "x86_64")]
mod permuted;
mod simple;
#[cfg(test)]
mod tests;

use super::conv::{Epilogue, Prepared, Weights, finish, lookup, macs};
use super::finish::Finish;
use super::form::Form;
use super::packing::Packing;
use super::quads;
use super::share::Share;
use super::table::Lookup;
use crate::conv::ConvGeometry;
use crate::kernel::as_bytes;
use crate::{Io, Kernel, Rows, Worker};
use espalier_graph::Window;
use std::ops::Range;

/// Bytes of a plane's header, and of a quad of taps for four channels.
const HEADER: usize = 2 * 16;
const TAPS: usize = 16;

/// Part of one plane: what a way of computing it needs to know.
struct Part<'a> {
    /// One plane of the input and its packed weights.
    x: &'a [u8],
    w: &'a [u8],
    /// The same plane of the residual.
    residual: Option<&'a [u8]>,
    /// One plane of the output, of which `rows` are to be written.
    y: *mut u8,
    rows: Range<usize>,
    finish: Finish,
}

/// A way of computing a part.
trait Way: Send + Sync {
    /// Bytes of scratch.
    fn scratch(&self) -> usize;
    /// Computes a part. The plane, its weights and rows must fit the geometry that the way was made for.
    fn run(&self, part: &Part<'_>, scratch: &mut [u8]);
}

/// Prepares `x`, packed weights, residual if there is one `-> y`, all in quads.
pub(super) fn prepare<'a>(
    form: Form,
    g: &ConvGeometry,
    zero: u8,
    weights: &Weights<'a>,
    e: &Epilogue,
) -> Prepared<'a> {
    let [kh, kw] = g.window.kernel;
    let (way, how) = choose(form, g, zero, e.residual.is_some());
    Prepared {
        packed: packing(g, zero, weights),
        kernel: Box::new(Depthwise {
            name: format!("depthwise {kh}x{kw} int8, {how}, {form}"),
            g: g.clone(),
            way,
            finish: finish(g, weights, e),
            residual: e.residual.is_some(),
            table: lookup(form, &e.result),
        }),
        macs: macs(g),
    }
}

fn choose(form: Form, g: &ConvGeometry, zero: u8, residual: bool) -> (Box<dyn Way>, &'static str) {
    // Gathered taps know of no residual.
    #[cfg(target_arch = "x86_64")]
    if let (Some(way), false) = (permuted::Permuted::new(form, g, zero), residual) {
        return (Box::new(way), "taps gathered");
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = residual;
    (Box::new(simple::Simple::new(form, g, zero)), "tap by tap")
}

/// How the columns of a kernel row are divided among as few quads of taps as hold them: evenly, neighbours together; or, where
/// the stride is the number of quads, so that the columns of a quad lie one stride apart.
struct Columns {
    quads: usize,
    /// Columns of a quad.
    each: usize,
    spaced: bool,
}

impl Columns {
    fn new(kernel: usize, stride: usize) -> Columns {
        let quads = kernel.div_ceil(4);
        Columns { quads, each: kernel.div_ceil(quads), spaced: quads == stride }
    }

    /// Quad and place within it of a column.
    fn place(&self, column: usize) -> (usize, usize) {
        match self.spaced {
            true => (column % self.quads, column / self.quads),
            false => (column / self.each, column % self.each),
        }
    }

    /// The inverse of [`Columns::place`].
    #[cfg(target_arch = "x86_64")]
    fn column(&self, quad: usize, place: usize) -> usize {
        match self.spaced {
            true => place * self.quads + quad,
            false => quad * self.each + place,
        }
    }
}

/// Where the taps of a plane's first channel lie in its packed weights after the header, in the order of the definition; those
/// of the next channel lie four bytes on.
fn places(window: &Window) -> Vec<usize> {
    let [kh, kw] = window.kernel;
    let columns = Columns::new(kw, window.stride[1]);
    let at = |row: usize, (quad, place): (usize, usize)| (row * columns.quads + quad) * TAPS + place;
    (0..kh)
        .flat_map(|row| (0..kw).map(move |column| (row, column)))
        .map(|(row, column)| at(row, columns.place(column)))
        .collect()
}

/// Bytes of one plane's packed weights.
fn packed_plane(g: &ConvGeometry) -> usize {
    HEADER + g.window.kernel[0] * g.window.kernel[1].div_ceil(4) * TAPS
}

fn packing<'a>(g: &ConvGeometry, zero: u8, weights: &Weights<'a>) -> Packing<'a> {
    let (g, weights) = (g.clone(), weights.clone());
    Packing::new(quads(g.channels_out) * packed_plane(&g), move |to| pack(&g, zero, &weights, to))
}

fn pack(g: &ConvGeometry, zero: u8, weights: &Weights<'_>, packed: &mut [u8]) {
    let ([kh, kw], places) = (g.window.kernel, places(&g.window));
    for channel in 0..g.channels_out {
        let plane = &mut packed[channel / 4 * packed_plane(g)..][..packed_plane(g)];
        let w = &weights.values[channel * kh * kw..(channel + 1) * kh * kw];
        let sum: i64 = w.iter().map(|&w| i64::from(w)).sum();
        let start = (i64::from(weights.bias[channel]) - sum * i64::from(zero)) as i32;
        let lane = channel % 4;
        let mut field = |i: usize, bytes: [u8; 4]| plane[16 * i + 4 * lane..][..4].copy_from_slice(&bytes);
        field(0, start.to_le_bytes());
        field(1, weights.scale[channel].to_le_bytes());
        for (place, &w) in places.iter().zip(w) {
            plane[HEADER + place + 4 * lane] = w as u8;
        }
    }
}

struct Depthwise {
    name: String,
    g: ConvGeometry,
    way: Box<dyn Way>,
    finish: Finish,
    residual: bool,
    table: Option<Lookup>,
}

impl Depthwise {
    fn share(&self) -> Share {
        let planes = self.g.batch * quads(self.g.channels_in);
        let [rows, width] = self.g.output;
        Share { rows, row: 4 * width, planes, planes_weigh: false, plane_by_plane: true }
    }
}

impl Kernel for Depthwise {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn scratch_len(&self, _workers: usize) -> usize {
        self.way.scratch().div_ceil(size_of::<f32>())
    }

    fn writes_rows(&self, workers: usize) -> Option<Rows> {
        self.share().written(1, workers)
    }

    fn run(&self, io: &Io<'_>, worker: Worker, scratch: &mut [f32]) {
        let planes = quads(self.g.channels_in);
        let [x_plane, y_plane] = [self.g.input, self.g.output].map(|[h, w]| 4 * h * w);
        let w_plane = packed_plane(&self.g);
        let all = self.g.batch * planes;
        let (x, w, y) = (io.input::<u8>(0), io.input::<u8>(1), io.output::<u8>(0));
        let residual: Option<&[u8]> = self.residual.then(|| io.input(2));
        assert_eq!([x.len(), y.len()], [all * x_plane, all * y_plane], "{}: input and output", self.name);
        assert_eq!(w.len(), planes * w_plane, "{}: weights", self.name);
        assert!(residual.is_none_or(|r| r.len() == y.len()), "{}: residual", self.name);
        let (rows, share) = self.share().of(worker);
        if rows.is_empty() || y_plane == 0 {
            return;
        }
        for plane in share {
            let part = Part {
                x: &x[plane * x_plane..(plane + 1) * x_plane],
                w: &w[plane % planes * w_plane..][..w_plane],
                residual: residual.map(|r| &r[plane * y_plane..(plane + 1) * y_plane]),
                y: y.as_mut_ptr().wrapping_add(plane * y_plane),
                rows: rows.clone(),
                finish: self.finish,
            };
            self.way.run(&part, as_bytes(scratch));
            if let Some(table) = &self.table {
                let row = 4 * self.g.output[1];
                let at = plane * y_plane;
                // SAFETY: rows of a plane that this worker alone writes.
                table.apply(unsafe { y.slice_mut(at + rows.start * row..at + rows.end * row) });
            }
        }
    }
}
