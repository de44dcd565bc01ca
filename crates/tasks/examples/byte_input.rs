//! What it brings to give a network of integers bytes instead of floats: both ways in turn, from the picture at its size to
//! the outputs.
//!
//!     cargo run --release -p espalier-tasks --example byte_input -- PACKAGE [THREADS]

use std::time::Instant;

use espalier_graph::{Bindings, Package};
use espalier_runtime::{Isa, Options, Pool, lower, lower_for_bytes};
use espalier_tasks::Task;

/// Pairs of measurements, of so many runs each.
const PAIRS: usize = 101;
const RUNS: usize = 20;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let package = Package::read(std::path::Path::new(&arguments[1])).expect("a package");
    let threads = arguments.get(2).map_or(1, |n| n.parse().expect("a number of threads"));
    let task: Task =
        serde_json::from_value(package.manifest.task.clone().expect("a task")).expect("a task of pictures");
    let options = Options { isa: Isa::best(), threads, bindings: Bindings::batch(1) };
    let (graph, weights) = (&package.graph, &package.weights);
    let (name, input) =
        (&graph.value(graph.inputs()[0]).name, task.picture_input().expect("it looks at pictures"));
    let mut pool = Pool::new(threads);
    let mut floats = lower(graph, weights, options).expect("a plan");
    let mut bytes = lower_for_bytes(graph, weights, options).expect("a plan");
    let (quant, quads) = bytes.input_bytes(name).expect("a network that begins by rounding");
    let (tables, len) = (input.byte_tables(quant), 3 * quads.len() / 4);
    let pixels: Vec<u8> = (0..len).map(|i| (i * 83 % 251) as u8).collect();
    let mut time = |as_bytes: bool| {
        let begin = Instant::now();
        for _ in 0..RUNS {
            if as_bytes {
                let (_, quads) = bytes.input_bytes(name).expect("as before");
                tables.apply(&pixels, quads).expect("as many pixels");
                bytes.run(&mut pool);
            } else {
                input.normalize(&pixels, floats.input(name)).expect("as many pixels");
                floats.run(&mut pool);
            }
        }
        begin.elapsed().as_secs_f64() / RUNS as f64
    };
    let mut pairs: Vec<[f64; 2]> = (0..PAIRS).map(|_| [time(false), time(true)]).collect();
    for (output, _) in graph.outputs() {
        assert_eq!(floats.output(output), bytes.output(output), "the same bits");
    }
    pairs.sort_by(|a, b| (a[1] / a[0]).total_cmp(&(b[1] / b[0])));
    let best = |i: usize| pairs.iter().map(|pair| pair[i]).fold(f64::INFINITY, f64::min) * 1e6;
    let ratio = |at: usize| pairs[at][1] / pairs[at][0];
    println!(
        "{:?}, {threads} threads: bytes/floats {:.3} (quartiles {:.3} {:.3}); best {:.1} and {:.1} us",
        input.size,
        ratio(PAIRS / 2),
        ratio(PAIRS / 4),
        ratio(3 * PAIRS / 4),
        best(1),
        best(0)
    );
}
