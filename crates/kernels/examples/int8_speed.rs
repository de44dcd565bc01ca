//! Speed of the int8 kernels on one core, on the shapes of MobileNetV2 and ResNet-18, against the register-only peak of
//! their multiply-adds, which is measured anew beside every case.
//!
//! `cargo run --release --example int8_speed -p espalier-kernels [-- FILTER [ISA]]` prints microseconds, useful giga
//! multiply-adds a second, the share of the peak, and which kernel it was; best of many repetitions.

mod common;

use common::{Memory, seconds};
use espalier_graph::Window;
use espalier_kernels::conv::ConvGeometry;
use espalier_kernels::int8::{Epilogue, Input, Weights, conv, quads_len};
use espalier_kernels::{Isa, peak};

/// group, input size, channels in and out, kernel, stride, pad; depthwise where the group says so.
type Case = (&'static str, usize, usize, usize, usize, usize, usize);

const CASES: &[Case] = &[
    ("pointwise", 112, 32, 16, 1, 1, 0),
    ("pointwise", 112, 16, 96, 1, 1, 0),
    ("pointwise", 56, 24, 144, 1, 1, 0),
    ("pointwise", 56, 144, 24, 1, 1, 0),
    ("pointwise", 28, 32, 192, 1, 1, 0),
    ("pointwise", 28, 192, 32, 1, 1, 0),
    ("pointwise", 14, 64, 384, 1, 1, 0),
    ("pointwise", 14, 384, 64, 1, 1, 0),
    ("pointwise", 14, 96, 576, 1, 1, 0),
    ("pointwise", 14, 576, 96, 1, 1, 0),
    ("pointwise", 7, 160, 960, 1, 1, 0),
    ("pointwise", 7, 960, 160, 1, 1, 0),
    ("pointwise", 7, 960, 320, 1, 1, 0),
    ("pointwise", 7, 320, 1280, 1, 1, 0),
    ("dense", 56, 64, 64, 3, 1, 1),
    ("dense", 28, 128, 128, 3, 1, 1),
    ("dense", 14, 256, 256, 3, 1, 1),
    ("dense", 7, 512, 512, 3, 1, 1),
    ("strided", 56, 64, 128, 3, 2, 1),
    ("strided", 28, 128, 256, 3, 2, 1),
    ("strided", 14, 256, 512, 3, 2, 1),
    ("strided", 56, 64, 128, 1, 2, 0),
    ("strided", 14, 256, 512, 1, 2, 0),
    ("picture", 224, 3, 64, 7, 2, 3),
    ("picture", 224, 3, 32, 3, 2, 1),
    ("connected", 1, 1280, 1000, 1, 1, 0),
    ("connected", 1, 512, 1000, 1, 1, 0),
    ("depthwise", 112, 32, 32, 3, 1, 1),
    ("depthwise", 112, 96, 96, 3, 2, 1),
    ("depthwise", 56, 144, 144, 3, 1, 1),
    ("depthwise", 56, 144, 144, 3, 2, 1),
    ("depthwise", 28, 192, 192, 3, 1, 1),
    ("depthwise", 28, 192, 192, 3, 2, 1),
    ("depthwise", 14, 384, 384, 3, 1, 1),
    ("depthwise", 14, 576, 576, 3, 1, 1),
    ("depthwise", 14, 576, 576, 3, 2, 1),
    ("depthwise", 7, 960, 960, 3, 1, 1),
    ("depthwise", 28, 120, 120, 5, 1, 2),
    ("depthwise", 14, 240, 240, 5, 2, 2),
];

/// How long each kernel is repeated.
const SECONDS: f64 = 0.2;

fn main() {
    let mut args = std::env::args().skip(1);
    let filter = args.next().unwrap_or_default();
    let isa =
        args.next().map_or(Isa::best(), |name| Isa::named(&name).expect("an instruction set of this CPU"));
    println!(
        "{:9} {:>4} {:>10} {:>6} {:>9} {:>7} {:>5} {:>6}",
        "", "size", "channels", "kernel", "us", "GMAC/s", "%", "peak"
    );
    CASES.iter().filter(|case| case.0.contains(&filter)).for_each(|case| print_case(case, isa));
}

fn print_case(&(group, size, channels_in, channels_out, kernel, stride, pad): &Case, isa: Isa) {
    let window = Window::square(kernel, stride, pad);
    let output = window.output([size; 2]).expect("the window fits");
    let groups = if group == "depthwise" { channels_in } else { 1 };
    let g = ConvGeometry { batch: 1, channels_in, channels_out, groups, input: [size; 2], output, window };
    let terms = channels_in / groups * kernel * kernel;
    let content: Vec<u8> = (0..251u32).map(|i| (i * 83 % 251) as u8).collect();
    let values: Vec<i8> = (0..channels_out * terms).map(|i| content[i % 251] as i8).collect();
    let (scale, bias) = (vec![0.002 / (terms as f32).sqrt(); channels_out], vec![100.0; channels_out]);
    let weights = Weights { values: &values, scale: &scale, bias: &bias };
    let (input, x) = match group {
        "picture" => (Input::Picture { zero: vec![124, 117, 104] }, size * size * channels_in),
        _ => (Input::Quads { zero: 3 }, quads_len(1, channels_in, size * size)),
    };
    let prepared = conv(isa, &g, &input, &weights, &Epilogue::default());
    let mut inputs = [Memory::new(x, &content), Memory::new(prepared.packed.len(), &prepared.packed)];
    let mut outputs = [Memory::new(quads_len(1, channels_out, output[0] * output[1]), &[0])];
    let time = seconds(&*prepared.kernel, &mut inputs, &mut outputs, SECONDS);
    let peak = peak::measure(isa, 1).int8_macs_per_second;
    let rate = (output[0] * output[1] * channels_out * terms) as f64 / time;
    println!(
        "{group:9} {size:4} {:>10} {kernel:4}/{stride} {:9.1} {:7.1} {:5.0} {:6.1}  {}",
        format!("{channels_in}->{channels_out}"),
        time * 1e6,
        rate / 1e9,
        rate / peak * 100.0,
        peak / 1e9,
        prepared.kernel.name()
    );
}
