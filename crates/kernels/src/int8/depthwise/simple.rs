//! Any kernel, stride and dilation: the four channels of four pixels are sixteen lanes, taps follow each other.

use super::{HEADER, Part, Way, places};
use crate::conv::ConvGeometry;
use crate::int8::conv::{pack::Arrangement, source::Source};
use crate::int8::dots::Dots;
use crate::int8::form::{Form, per_form};
use crate::int8::sums::Sums;
use crate::lanes::{LANES, Lanes};

/// Vectors of four pixels that are computed together.
const TOGETHER: usize = 4;

pub(super) struct Simple {
    /// A plane as an image of four channels.
    source: Source,
    /// Of every tap of a plane's first channel, where it lies in the packed weights.
    places: Vec<usize>,
    width: usize,
    body: BodyFn,
}

impl Simple {
    pub(super) fn new(form: Form, g: &ConvGeometry, zero: u8) -> Simple {
        let plane = ConvGeometry { channels_in: 4, channels_out: 4, groups: 1, ..g.clone() };
        let arrangement = Arrangement::new(&plane);
        Simple {
            source: Source::new(&plane, zero, &arrangement),
            places: places(&g.window),
            width: g.output[1],
            body: pick_body(form),
        }
    }

    fn weights(&self) -> usize {
        self.places.len() * 4 * size_of::<i32>()
    }
}

impl Way for Simple {
    fn scratch(&self) -> usize {
        self.weights() + self.source.scratch()
    }

    fn run(&self, part: &Part<'_>, scratch: &mut [u8]) {
        let (w, scratch) = scratch.split_at_mut(self.weights());
        widen_weights(&self.places, &part.w[HEADER..], w);
        let mut row = part.rows.start;
        while row < part.rows.end {
            let rows = row..part.rows.end.min(row + self.source.rows);
            // SAFETY: a plane as an image, which nobody writes.
            let x = unsafe { self.source.locate(part.x.as_ptr(), 0, &rows, 0..1, scratch) };
            for y in rows.clone() {
                let call = Call {
                    x: x.wrapping_add((y - row) * self.source.row_step),
                    step: self.source.step,
                    taps: &self.source.taps,
                    header: part.w.as_ptr(),
                    w: w.as_ptr().cast(),
                    width: self.width,
                    y: part.y.wrapping_add(4 * y * self.width),
                    residual: part.residual.map_or(std::ptr::null(), |r| r[4 * y * self.width..].as_ptr()),
                    part,
                };
                // SAFETY: a row of the output whose taps `source` located; the header has its three parts.
                unsafe { (self.body)(&call) };
            }
            row = rows.end;
        }
    }
}

/// Quads of taps to four i32, one for each channel, for each tap.
fn widen_weights(places: &[usize], quads: &[u8], to: &mut [u8]) {
    for (place, to) in places.iter().zip(to.chunks_exact_mut(16)) {
        for (channel, to) in to.chunks_exact_mut(4).enumerate() {
            let w = quads[place + 4 * channel] as i8;
            to.copy_from_slice(&i32::from(w).to_ne_bytes());
        }
    }
}

/// One output row; lengths in bytes.
struct Call<'a> {
    x: *const u8,
    step: usize,
    taps: &'a [usize],
    header: *const u8,
    /// Four i32 for each tap.
    w: *const i32,
    width: usize,
    y: *mut u8,
    /// Or null.
    residual: *const u8,
    part: &'a Part<'a>,
}

type BodyFn = for<'a, 'b> unsafe fn(&'a Call<'b>);

per_form!(fn pick_body(call: &Call<'_>) = body);

#[inline(always)]
unsafe fn body<D: Dots>(c: &Call<'_>) {
    let mut at = 0;
    while at < c.width {
        // SAFETY: the caller gives a row of `width` pixels.
        unsafe {
            if c.width - at >= 4 * TOGETHER {
                pixels::<D::Sums, TOGETHER>(c, at, 4);
                at += 4 * TOGETHER;
            } else {
                // The last four overlap those before, which get the same values again.
                let count = c.width.min(4);
                pixels::<D::Sums, 1>(c, at.min(c.width - count), count);
                at += 4;
            }
        }
    }
}

/// `U` vectors of `count` (4, or fewer where the row is shorter) pixels from `at` on.
#[inline(always)]
unsafe fn pixels<S: Sums, const U: usize>(c: &Call<'_>, at: usize, count: usize) {
    // SAFETY: as in `body`.
    unsafe {
        let mut sums = [S::repeat4(c.header.cast()); U];
        for (i, &tap) in c.taps.iter().enumerate() {
            let w = S::repeat4(c.w.add(4 * i));
            for u in 0..U {
                let x = c.x.add(tap + (at + 4 * u) * c.step);
                sums[u] = sums[u].mul_add(load::<S>(x, c.step, count), w);
            }
        }
        let scale = repeat4::<S>(c.header.add(16));
        let finish = &c.part.finish;
        for u in 0..U {
            let mut v = sums[u].floats().mul(scale);
            let pixel = 4 * (at + 4 * u);
            if !c.residual.is_null() {
                v = finish.add(v, load::<S>(c.residual.add(pixel), 4, count));
            }
            let v: S = finish.round(v);
            if count == 4 {
                v.store_bytes(finish.limits, c.y.add(pixel));
            } else {
                let mut bytes = [0u8; LANES];
                v.store_bytes(finish.limits, bytes.as_mut_ptr());
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), c.y.add(pixel), 4 * count);
            }
        }
    }
}

/// `count <= 4` quads that are `step` bytes apart, each byte a lane.
#[inline(always)]
unsafe fn load<S: Sums>(x: *const u8, step: usize, count: usize) -> S {
    // SAFETY: the caller gives `count` quads.
    unsafe {
        if step == 4 && count == 4 {
            return S::widen(x);
        }
        let mut quads = [[0u8; 4]; 4];
        for i in 0..count {
            quads[i] = x.add(i * step).cast::<[u8; 4]>().read();
        }
        S::widen(quads.as_ptr().cast())
    }
}

/// Four f32, four times.
#[inline(always)]
unsafe fn repeat4<S: Sums>(p: *const u8) -> S::Floats {
    // SAFETY: the caller gives four f32.
    unsafe {
        let four = p.cast::<[f32; 4]>().read_unaligned();
        let mut all = [0.0; LANES];
        for (i, lane) in all.iter_mut().enumerate() {
            *lane = four[i % 4];
        }
        S::Floats::from_array(all)
    }
}
