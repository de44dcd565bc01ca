//! Speed of the int8 kernels on one core, on the shapes of MobileNetV2 and ResNet-18, against the register-only peak of
//! their multiply-adds, which is measured anew beside every case.
//!
//! `cargo run --release --example int8_speed -p espalier-kernels [-- FILTER [ISA]]` prints microseconds, useful giga
//! multiply-adds a second, the share of the peak, and which kernel it was; best of many repetitions. With `sparse` as the
//! filter, all shapes but the stem and depthwise ones: the time with random blocks of weights zero, as a share of the
//! dense kernel's, which is measured anew beside each.

mod common;

use common::{Memory, seconds};
use espalier_graph::Window;
use espalier_graph::random::Random;
use espalier_kernels::conv::ConvGeometry;
use espalier_kernels::int8::{Block, Epilogue, Method, Weights, conv_by, quads_len};
use espalier_kernels::{Isa, Kernel, peak};

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
    ("stem", 224, 3, 64, 7, 2, 3),
    ("stem", 224, 3, 32, 3, 2, 1),
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
    ("depthwise", 56, 72, 72, 5, 2, 2),
    ("depthwise", 14, 240, 240, 5, 2, 2),
    ("depthwise", 14, 672, 672, 5, 1, 2),
    ("depthwise", 14, 672, 672, 5, 2, 2),
    ("depthwise", 7, 960, 960, 5, 1, 2),
    ("depthwise", 8, 512, 512, 3, 1, 1),
    ("depthwise", 8, 512, 512, 5, 1, 2),
];

/// Shapes of ResNet-50 that the others lack, and small maps.
const SPARSE: &[Case] = &[
    ("strided", 28, 256, 256, 3, 2, 1),
    ("strided", 56, 128, 128, 3, 2, 1),
    ("strided", 14, 512, 512, 3, 2, 1),
    ("pointwise", 56, 64, 64, 1, 1, 0),
    ("pointwise", 56, 256, 64, 1, 1, 0),
    ("pointwise", 28, 512, 128, 1, 1, 0),
    ("pointwise", 28, 128, 512, 1, 1, 0),
    ("pointwise", 14, 1024, 256, 1, 1, 0),
    ("pointwise", 14, 256, 1024, 1, 1, 0),
    ("pointwise", 7, 2048, 512, 1, 1, 0),
    ("pointwise", 7, 512, 2048, 1, 1, 0),
    ("pointwise", 6, 256, 256, 1, 1, 0),
    ("pointwise", 5, 256, 256, 1, 1, 0),
    ("pointwise", 4, 512, 512, 1, 1, 0),
    ("pointwise", 2, 512, 512, 1, 1, 0),
    ("dense", 64, 64, 64, 3, 1, 1),
    ("dense", 32, 64, 64, 3, 1, 1),
    ("dense", 16, 128, 128, 3, 1, 1),
    ("dense", 8, 256, 256, 3, 1, 1),
    ("dense", 6, 256, 256, 3, 1, 1),
    ("dense", 5, 256, 256, 3, 1, 1),
    ("dense", 4, 256, 256, 3, 1, 1),
    ("dense", 2, 256, 256, 3, 1, 1),
];

/// Shares of zero blocks, in percent.
const ZEROS: [u32; 6] = [30, 50, 70, 75, 85, 95];

/// How long each kernel is repeated.
const SECONDS: f64 = 0.2;

fn main() {
    let mut args = std::env::args().skip(1);
    let filter = args.next().unwrap_or_default();
    let isa =
        args.next().map_or(Isa::best(), |name| Isa::named(&name).expect("an instruction set of this CPU"));
    if filter == "sparse" {
        return print_sparse(isa);
    }
    println!(
        "{:9} {:>4} {:>10} {:>6} {:>9} {:>7} {:>5} {:>6}",
        "", "size", "channels", "kernel", "us", "GMAC/s", "%", "peak"
    );
    CASES.iter().filter(|case| case.0.contains(&filter)).for_each(|case| print_case(case, isa));
}

/// Zero point of the inputs.
const ZERO: u8 = 3;

/// A kernel and its weights.
struct Packed {
    kernel: Box<dyn Kernel>,
    weights: Vec<u8>,
    macs: usize,
}

/// A case with its weights.
struct Layer {
    g: ConvGeometry,
    values: Vec<i8>,
}

fn bytes() -> Vec<u8> {
    (0..251u32).map(|i| (i * 83 % 251) as u8).collect()
}

impl Layer {
    fn new(&(group, size, channels_in, channels_out, kernel, stride, pad): &Case) -> Layer {
        let window = Window::square(kernel, stride, pad);
        let output = window.output([size; 2]).expect("the window fits");
        let groups = if group == "depthwise" { channels_in } else { 1 };
        let g =
            ConvGeometry { batch: 1, channels_in, channels_out, groups, input: [size; 2], output, window };
        let terms = channels_in / groups * kernel * kernel;
        let values = bytes().iter().cycle().take(channels_out * terms).map(|&b| b as i8).collect();
        Layer { g, values }
    }

    /// With so many random blocks zero; channels are multiples of a block's.
    fn sparser(&self, percent: u32, block: Block) -> Layer {
        let (mut random, mut values) = (Random::new(1, 1), self.values.clone());
        let (g, taps) = (&self.g, self.g.window.kernel[0] * self.g.window.kernel[1]);
        let row = g.channels_in * taps;
        for output in (0..g.channels_out).step_by(block.outputs()) {
            for quad in 0..g.channels_in / 4 {
                for tap in (0..taps).filter(|_| random.below(100) < percent as usize) {
                    let channels = 4 * quad..4 * quad + 4;
                    let places = channels.flat_map(|c| {
                        (output..output + block.outputs()).map(move |o| o * row + c * taps + tap)
                    });
                    places.for_each(|at| values[at] = 0);
                }
            }
        }
        Layer { g: g.clone(), values }
    }

    fn prepare(&self, isa: Isa, method: Method) -> Packed {
        let terms = self.values.len() / self.g.channels_out;
        let scale = vec![0.002 / (terms as f32).sqrt(); self.g.channels_out];
        let bias = vec![10_000; self.g.channels_out];
        let weights = Weights { values: &self.values, scale: (&scale[..]).into(), bias: &bias };
        let prepared = conv_by(isa, method, &self.g, ZERO, &weights, &Epilogue::default());
        Packed { kernel: prepared.kernel, weights: prepared.packed.to_vec(), macs: prepared.macs }
    }

    fn seconds(&self, prepared: &Packed, budget: f64) -> f64 {
        let g = &self.g;
        let x = quads_len(1, g.channels_in, g.input[0] * g.input[1]);
        let mut inputs = [Memory::new(x, &bytes()), Memory::new(prepared.weights.len(), &prepared.weights)];
        let mut outputs = [Memory::new(quads_len(1, g.channels_out, g.output[0] * g.output[1]), &[0])];
        seconds(&*prepared.kernel, &mut inputs, &mut outputs, budget)
    }
}

fn print_case(case: &Case, isa: Isa) {
    let &(group, size, channels_in, channels_out, kernel, stride, _) = case;
    let layer = Layer::new(case);
    let prepared = layer.prepare(isa, Method::Dense);
    let time = layer.seconds(&prepared, SECONDS);
    let peak = peak::measure(isa, 1).int8_macs_per_second;
    let rate = prepared.macs as f64 / time;
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

fn print_sparse(isa: Isa) {
    let head: String = ZEROS.iter().map(|percent| format!("{percent:5} %")).collect();
    println!(
        "{isa}\n{:9} {:>4} {:>10} {:>6} {:>9}  {:5}{head}",
        "", "size", "channels", "kernel", "dense us", ""
    );
    let dense = |case: &&Case| !["stem", "depthwise"].contains(&case.0);
    CASES.iter().filter(dense).chain(SPARSE).for_each(|case| print_sparse_case(case, isa));
}

fn print_sparse_case(case: &Case, isa: Isa) {
    let &(group, size, channels_in, channels_out, kernel, stride, _) = case;
    let layer = Layer::new(case);
    let dense = layer.prepare(isa, Method::Dense);
    let (mut best, mut rows) = (f64::INFINITY, String::new());
    for block in [Block::Two, Block::One] {
        rows += &format!("  {block:5}");
        for percent in ZEROS {
            let sparse = layer.sparser(percent, block);
            let prepared = sparse.prepare(isa, Method::Sparse(block));
            let budget = SECONDS / 10.0;
            let (a, b) = (layer.seconds(&dense, budget), sparse.seconds(&prepared, budget));
            best = best.min(a);
            rows += &format!(" {:6.2}", b / a);
        }
    }
    let channels = format!("{channels_in}->{channels_out}");
    println!("{group:9} {size:4} {channels:>10} {kernel:4}/{stride} {:9.1}{rows}", best * 1e6);
}
