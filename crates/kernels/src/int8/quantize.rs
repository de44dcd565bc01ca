//! From f32 to quads of bytes and back.

use super::dots::Dots;
use super::form::{Form, Step, per_form};
use super::sums::{Limits, Sums};
use super::{quads, quads_len};
use crate::lanes::{LANES, Lanes};
use crate::layout::{load_up_to, store_up_to};
use crate::{Io, Isa, Kernel, Layout, Worker, physical_len};
use std::ops::Range;

/// Kernel: f32 `[n, c, spatial]` in `layout -> ` quads `q = clamp(round_ties_even(x / scale) + zero, 0, 255)`, as ONNX
/// has it. NaN becomes 0. Panics unless `scale` is finite and positive.
pub fn quantize(isa: Isa, layout: Layout, dims: [usize; 3], scale: f32, zero: u8) -> Box<dyn Kernel> {
    quantize_with(Form::of(isa), layout, dims, scale, zero)
}

fn quantize_with(form: Form, layout: Layout, dims: [usize; 3], scale: f32, zero: u8) -> Box<dyn Kernel> {
    let body = match layout {
        Layout::Plain => pick_from_plain(form),
        Layout::Blocked => pick_from_blocked(form),
    };
    let reciprocal = if form.step() == Step::Scalar { None } else { reciprocal(scale) };
    let convert = Convert::new(format!("quantize {form}"), layout, dims, scale, zero, true, body);
    Box::new(Convert { reciprocal, ..convert })
}

/// Kernel: quads `->` f32 `[n, c, spatial]` in `layout`, `(q - zero) * scale`. Panics unless `scale` is finite and
/// positive.
pub fn dequantize(isa: Isa, layout: Layout, dims: [usize; 3], scale: f32, zero: u8) -> Box<dyn Kernel> {
    dequantize_with(Form::of(isa), layout, dims, scale, zero)
}

fn dequantize_with(form: Form, layout: Layout, dims: [usize; 3], scale: f32, zero: u8) -> Box<dyn Kernel> {
    let body = match layout {
        Layout::Plain => pick_to_plain(form),
        Layout::Blocked => pick_to_blocked(form),
    };
    Box::new(Convert::new(format!("dequantize {form}"), layout, dims, scale, zero, false, body))
}

/// Pixels that are handed out at once: pictures have few planes.
const PART: usize = 64 * LANES;

/// `1 / scale`, where neither it nor what [`quotient`] makes of it leaves the range of f32.
fn reciprocal(scale: f32) -> Option<f32> {
    (1e-27..1e27).contains(&scale).then(|| 1.0 / scale)
}

/// Pixels of one plane of quads, or of the up to four planes of a block.
struct Planes {
    scale: f32,
    /// See [`reciprocal`].
    reciprocal: Option<f32>,
    zero: u8,
    floats: *mut f32,
    bytes: *mut u8,
    /// Channels (plain) or planes of quads (blocked).
    count: usize,
    /// Of a whole plane, and those to convert.
    spatial: usize,
    pixels: Range<usize>,
}

impl Planes {
    fn limits(&self) -> Limits {
        Limits { zero: self.zero, ..Limits::NONE }
    }
}

type Body = unsafe fn(&Planes);

struct Convert {
    name: String,
    layout: Layout,
    dims: [usize; 3],
    scale: f32,
    reciprocal: Option<f32>,
    zero: u8,
    to_bytes: bool,
    body: Body,
}

impl Convert {
    fn new(
        name: String,
        layout: Layout,
        dims: [usize; 3],
        scale: f32,
        zero: u8,
        to_bytes: bool,
        body: Body,
    ) -> Convert {
        assert!(scale.is_finite() && scale > 0.0, "scale {scale} must be finite and positive");
        Convert { name, layout, dims, scale, reciprocal: None, zero, to_bytes, body }
    }
}

impl Kernel for Convert {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let [n, c, spatial] = self.dims;
        let floats_len = physical_len(self.layout, n, c, spatial);
        let bytes_len = quads_len(n, c, spatial);
        // The input is only read: the bodies write to one side.
        let (floats, bytes, lens) = match self.to_bytes {
            true => {
                let (x, y) = (io.input::<f32>(0), io.output::<u8>(0));
                (x.as_ptr().cast_mut(), y.as_mut_ptr(), [x.len(), y.len()])
            }
            false => {
                let (x, y) = (io.input::<u8>(0), io.output::<f32>(0));
                (y.as_mut_ptr(), x.as_ptr().cast_mut(), [y.len(), x.len()])
            }
        };
        assert_eq!(lens, [floats_len, bytes_len], "{}: elements", self.name);
        let (planes, block) = (quads(c), if self.layout == Layout::Plain { 1 } else { 4 });
        let (units, parts) = (planes.div_ceil(block), spatial.div_ceil(PART));
        for at in worker.share(n * units * parts) {
            let (unit, part) = (at / parts, at % parts * PART);
            let (image, first) = (unit / units, unit % units * block);
            let (float, count) = match self.layout {
                Layout::Plain => ((image * c + 4 * first) * spatial, (c - 4 * first).min(4)),
                Layout::Blocked => (unit * LANES * spatial, (planes - first).min(4)),
            };
            let planes = Planes {
                scale: self.scale,
                reciprocal: self.reciprocal,
                zero: self.zero,
                floats: floats.wrapping_add(float),
                bytes: bytes.wrapping_add((image * planes + first) * 4 * spatial),
                count,
                spatial,
                pixels: part..spatial.min(part + PART),
            };
            // SAFETY: the channels of a unit lie in both buffers, whose lengths were checked; no other worker has these
            // pixels of them.
            unsafe { (self.body)(&planes) };
        }
    }
}

per_form!(fn pick_from_plain(p: &Planes) = from_plain);
per_form!(fn pick_from_blocked(p: &Planes) = from_blocked);
per_form!(fn pick_to_plain(p: &Planes) = to_plain);
per_form!(fn pick_to_blocked(p: &Planes) = to_blocked);

/// The integers nearest to `v / scale`, as far as bytes can tell.
#[inline(always)]
unsafe fn divide<S: Sums>(p: &Planes, v: S::Floats) -> S {
    // SAFETY: inside of a function made by `per_form!`. NaN takes the bound.
    unsafe {
        let limited = |v: S::Floats, far: f32| v.max(S::Floats::splat(-far)).min(S::Floats::splat(far));
        let scale = S::Floats::splat(p.scale);
        S::round(match p.reciprocal {
            Some(reciprocal) => quotient::<S>(limited(v, 1e3 * p.scale), scale, S::Floats::splat(reciprocal)),
            None => limited(v.div(scale), 1e3),
        })
    }
}

/// `v / scale` to the bit, in a third of a division's time. The product with the reciprocal may be 2 ulp off, one correction
/// by the remainder leaves less than 1, and the second rounds correctly (Markstein, "Computation of elementary functions
/// on the IBM RISC System/6000 processor", 1990). Remainders below f32's range belong to quotients that round to 0.
#[inline(always)]
unsafe fn quotient<S: Sums>(v: S::Floats, scale: S::Floats, reciprocal: S::Floats) -> S::Floats {
    // SAFETY: inside of a function made by `per_form!`.
    unsafe {
        let scale = S::Floats::zero().sub(scale);
        let mut quotient = v.mul(reciprocal);
        for _ in 0..2 {
            quotient = S::fused(S::fused(quotient, scale, v), reciprocal, quotient);
        }
        quotient
    }
}

#[inline(always)]
unsafe fn multiply<S: Sums>(p: &Planes, sums: S) -> S::Floats {
    // SAFETY: inside of a function made by `per_form!`.
    unsafe { sums.sub(S::splat(i32::from(p.zero))).floats().mul(S::Floats::splat(p.scale)) }
}

#[inline(always)]
unsafe fn from_plain<D: Dots>(p: &Planes) {
    for at in p.pixels.clone().step_by(LANES) {
        let count = (p.pixels.end - at).min(LANES);
        // SAFETY: the caller gives `count` pixels of each channel.
        unsafe {
            let mut sums = [D::Sums::splat(0); 4];
            // Constant indices keep the sums in registers.
            for c in 0..4 {
                if c < p.count {
                    let v = load_up_to(p.floats.add(c * p.spatial + at), count, Lanes::zero());
                    sums[c] = divide::<D::Sums>(p, v);
                }
            }
            if count == LANES {
                D::Sums::store_channels(sums, p.limits(), p.bytes.add(4 * at));
                continue;
            }
            let mut rest = [0u8; 4 * LANES];
            D::Sums::store_channels(sums, p.limits(), rest.as_mut_ptr());
            std::ptr::copy_nonoverlapping(rest.as_ptr(), p.bytes.add(4 * at), 4 * count);
        }
    }
}

#[inline(always)]
unsafe fn from_blocked<D: Dots>(p: &Planes) {
    for at in p.pixels.clone().step_by(4) {
        let count = (p.pixels.end - at).min(4);
        // SAFETY: the caller gives `count` pixels of the block and of its planes.
        unsafe {
            let mut sums = [D::Sums::splat(0); 4];
            for i in 0..count {
                sums[i] = divide(p, Lanes::load(p.floats.add((at + i) * LANES)));
            }
            D::Sums::store_pixels(sums, p.limits(), p.bytes.add(4 * at), 4 * p.spatial, p.count, count);
        }
    }
}

#[inline(always)]
unsafe fn to_plain<D: Dots>(p: &Planes) {
    for at in p.pixels.clone().step_by(LANES) {
        let count = (p.pixels.end - at).min(LANES);
        // SAFETY: the caller gives `count` pixels of each channel.
        unsafe {
            let mut rest = [0u8; 4 * LANES];
            let mut from = p.bytes.cast_const().add(4 * at);
            if count < LANES {
                std::ptr::copy_nonoverlapping(from, rest.as_mut_ptr(), 4 * count);
                from = rest.as_ptr();
            }
            let sums = D::Sums::load_channels(from);
            for c in 0..p.count {
                store_up_to(multiply(p, sums[c]), p.floats.add(c * p.spatial + at), count);
            }
        }
    }
}

#[inline(always)]
unsafe fn to_blocked<D: Dots>(p: &Planes) {
    for at in p.pixels.clone().step_by(4) {
        let count = (p.pixels.end - at).min(4);
        // SAFETY: the caller gives `count` pixels of the block and of its planes.
        unsafe {
            let sums = D::Sums::load_pixels(p.bytes.add(4 * at), 4 * p.spatial, p.count, count);
            for i in 0..count {
                multiply(p, sums[i]).store(p.floats.add((at + i) * LANES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::testing::{bytes, from_blocks, from_quads, to_quads};
    use crate::layout::blocked;
    use crate::testing::{Input, Out, run_bytes, values};
    use espalier_graph::random::Random;

    const SIZES: [[usize; 3]; 8] =
        [[1, 1, 1], [2, 3, 5], [1, 17, 16], [2, 5, 49], [1, 16, 33], [1, 33, 4], [2, 4, 0], [2, 3, PART + 7]];

    fn close(form: Form, dims: [usize; 3], scale: f32, zero: u8) {
        let [n, c, spatial] = dims;
        let mut x: Vec<f32> = values(1, n * c * spatial).iter().map(|v| v * 200.0 * scale).collect();
        let special =
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 0.5 * scale, 1.5 * scale, -0.0];
        x.iter_mut().zip(special.iter().cycle()).step_by(3).for_each(|(x, &s)| *x = s);
        let byte = |x: &f32| match (x / scale).round_ties_even() {
            v if v.is_nan() => 0,
            v => (v + f32::from(zero)).clamp(0.0, 255.0) as u8,
        };
        let want: Vec<u8> = x.iter().map(byte).collect();
        let in_blocks = if spatial == 0 { Vec::new() } else { blocked(&x, c, spatial, 1.0) };
        for (layout, x) in [(Layout::Plain, &x), (Layout::Blocked, &in_blocks)] {
            let kernel = quantize_with(form, layout, dims, scale, zero);
            let y = run_bytes(&*kernel, &[Input::F32(x)], &[Out::Bytes(quads_len(n, c, spatial))]).remove(0);
            assert_eq!(from_quads(&y, n, c, spatial), want, "{} {layout:?} {dims:?} {scale}", kernel.name());
        }
    }

    #[test]
    fn bytes_are_those_of_the_definition() {
        for form in Form::available() {
            for dims in SIZES {
                for (scale, zero) in [(1.0, 0), (0.037, 128), (1e-30, 255), (1e30, 7), (1e38, 128)] {
                    close(form, dims, scale, zero);
                }
            }
        }
    }

    /// Quotients that are ties, and as near to one as f32 has any.
    #[test]
    fn ties_are_those_of_a_division() {
        let mut random = Random::new(1, 1);
        for _ in 0..300 {
            let scale = f32::exp2(random.range(-80.0, 80.0)) * random.range(1.0, 2.0);
            let near = |k: i32| {
                let v = ((f64::from(k) + 0.5) * f64::from(scale)) as f32;
                [v.next_down(), v, v.next_up()].into_iter()
            };
            let x: Vec<f32> = (-130..130).flat_map(near).collect();
            let byte = |x: &f32| ((x / scale).round_ties_even() + 128.0).clamp(0.0, 255.0) as u8;
            let want: Vec<u8> = x.iter().map(byte).collect();
            let dims = [1, 1, x.len()];
            for form in Form::available() {
                let kernel = quantize_with(form, Layout::Plain, dims, scale, 128);
                let y =
                    run_bytes(&*kernel, &[Input::F32(&x)], &[Out::Bytes(quads_len(1, 1, x.len()))]).remove(0);
                assert_eq!(from_quads(&y, 1, 1, x.len()), want, "{} {scale}", kernel.name());
            }
        }
    }

    #[test]
    fn floats_are_those_of_the_definition() {
        for form in Form::available() {
            for dims in SIZES {
                let [n, c, spatial] = dims;
                let q = bytes(1, n * c * spatial);
                let want: Vec<f32> = q.iter().map(|&q| (f32::from(q) - 9.0) * 0.037).collect();
                let quads = to_quads(&q, c, spatial);
                for layout in [Layout::Plain, Layout::Blocked] {
                    let kernel = dequantize_with(form, layout, dims, 0.037, 9);
                    let len = 4 * physical_len(layout, n, c, spatial);
                    let y = run_bytes(&*kernel, &[Input::U8(&quads)], &[Out::Bytes(len)]).remove(0);
                    let y: Vec<f32> = match layout {
                        Layout::Plain => {
                            y.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
                        }
                        Layout::Blocked => from_blocks(&y, n, c, spatial),
                    };
                    assert_eq!(y, want, "{} {layout:?} {dims:?}", kernel.name());
                }
            }
        }
    }
}
