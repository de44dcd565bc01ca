use crate::int8::dots::Dots;
use crate::int8::form::{Form, per_form};
use crate::int8::sums::{Limits, Sums};
use crate::int8::testing::bytes;

per_form!(fn pick_extremes(bytes: &mut [[u8; 16]; 4]) = extremes);

/// Sums at the ends of their range, by lanes and by channels.
#[inline(always)]
unsafe fn extremes<D: Dots>(results: &mut [[u8; 16]; 4]) {
    let limits = Limits { zero: 200, lo: 7, hi: 250 };
    // SAFETY: all hold as many bytes as are written.
    unsafe {
        let (least, most) = (D::Sums::splat(i32::MIN), D::Sums::splat(i32::MAX));
        least.store_bytes(limits, results[0].as_mut_ptr());
        most.store_bytes(limits, results[1].as_mut_ptr());
        let mut quads = [0; 64];
        D::Sums::store_channels([least, most, least, most], limits, quads.as_mut_ptr());
        results[2].copy_from_slice(&quads[..16]);
        D::Sums::store_pixels([most, least, most, least], limits, quads.as_mut_ptr(), 16, 4, 4);
        results[3].copy_from_slice(&quads[48..]);
    }
}

#[test]
fn zero_points_do_not_wrap() {
    for form in Form::available() {
        let mut results = [[0; 16]; 4];
        // SAFETY: the form exists here.
        unsafe { pick_extremes(form)(&mut results) };
        let pairs: [u8; 16] = std::array::from_fn(|i| if i % 2 == 0 { 7 } else { 250 });
        let pixels: [u8; 16] = std::array::from_fn(|i| if i / 4 % 2 == 0 { 250 } else { 7 });
        assert_eq!(results, [[7; 16], [250; 16], pairs, pixels], "{form}");
    }
}

/// A quad plane's 64 bytes through load and store, by channels, by pixels and lane by lane.
struct Case<'a> {
    x: &'a [u8],
    planes: usize,
    pixels: usize,
    channels: [u8; 64],
    pixels_out: [u8; 64],
    lanes: [u8; 16],
}

per_form!(fn pick_copies(case: &mut Case<'_>) = copies);

#[inline(always)]
unsafe fn copies<D: Dots>(c: &mut Case<'_>) {
    let limits = Limits { zero: 17, lo: 30, hi: 240 };
    // SAFETY: all hold 64 bytes; planes are 16 bytes apart.
    unsafe {
        D::Sums::store_channels(D::Sums::load_channels(c.x.as_ptr()), limits, c.channels.as_mut_ptr());
        let pixels = D::Sums::load_pixels(c.x.as_ptr(), 16, c.planes, c.pixels);
        D::Sums::store_pixels(pixels, limits, c.pixels_out.as_mut_ptr(), 16, c.planes, c.pixels);
        D::Sums::widen(c.x.as_ptr()).store_bytes(limits, c.lanes.as_mut_ptr());
    }
}

#[test]
fn loads_and_stores_are_inverse() {
    let x = bytes(1, 64);
    let want: Vec<u8> = x.iter().map(|&x| x.saturating_add(17).clamp(30, 240)).collect();
    for form in Form::available() {
        for (planes, pixels) in [(4, 4), (1, 4), (3, 2), (4, 1), (0, 4)] {
            let mut case =
                Case { x: &x, planes, pixels, channels: [0; 64], pixels_out: [0; 64], lanes: [0; 16] };
            // SAFETY: the form exists here.
            unsafe { pick_copies(form)(&mut case) };
            assert_eq!(case.channels[..], want[..], "{form}");
            assert_eq!(case.lanes[..], want[..16], "{form}");
            for (i, &byte) in case.pixels_out.iter().enumerate() {
                let inside = i / 16 < planes && i % 16 < 4 * pixels;
                assert_eq!(byte, if inside { want[i] } else { 0 }, "{form} {planes} {pixels} {i}");
            }
        }
    }
}
