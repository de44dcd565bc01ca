//! What statistics for drift cost: the time of an answer with and without them, in turns, for a 1280x720 picture.
//!
//!     cargo run --release -p espalier-tasks --example observe -- PACKAGE

use std::time::{Duration, Instant};

use espalier_graph::Package;
use espalier_graph::random::Random;
use espalier_runtime::Isa;
use espalier_tasks::{Image, Model, Task};

const RUNS: usize = 300;

fn main() {
    let path = std::env::args().nth(1).expect("a package whose batch normalisation is folded");
    let package = Package::read(&path).unwrap();
    let task: Task = serde_json::from_value(package.manifest.task.expect("a task")).unwrap();
    let mut model = Model::new(package.graph, package.weights, task, Isa::best(), 1).unwrap();
    let mut random = Random::new(1, 0);
    let pixels = (0..1280 * 720 * 3).map(|_| random.bits() as u8).collect();
    let large = Image::new(1280, 720, 3, pixels).unwrap();
    let fitted = model.task().picture_input().expect("it looks at pictures").fit(&large);
    for (name, image) in [("1280x720", &large), ("of the network's size", &fitted)] {
        let (mut plain, mut observed) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            plain.push(timed(|| drop(model.answer(image).unwrap())));
            observed.push(timed(|| drop(model.observe(image).unwrap())));
        }
        let [plain, observed] = [plain, observed].map(median);
        let more = 100.0 * (observed / plain - 1.0);
        println!("{name}: answer {plain:.3} ms, observe {observed:.3} ms ({more:+.1} %)");
    }
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
