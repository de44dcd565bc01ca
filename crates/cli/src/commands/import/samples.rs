//! What a network gives for made-up input, stored so that other machines can be held to it.

use espalier_graph::random::Random;
use espalier_graph::{Bindings, DType, Data, Golden, Graph, Tensor, TensorType, Weights};
use espalier_runtime::Isa;
use espalier_tasks::golden::Raw;
use espalier_tasks::{Image, Model, Task};

/// Golden samples of a task, and their height and width. Fewer where their outputs would take more than so many elements.
const PICTURES: usize = 4;
const SIDE: usize = 64;
const ELEMENTS_MAX: usize = 1 << 18;

/// What the network gives for made-up input: pictures for a task, else one sample of random tensors. None where a value
/// is not finite.
pub(super) fn golden(
    graph: &Graph,
    weights: &Weights,
    task: Option<Task>,
    threads: usize,
) -> anyhow::Result<Vec<Golden>> {
    let isa = Isa::best();
    let golden = match task {
        Some(task) => {
            let mut model = Model::new(graph.clone(), weights.clone(), task, isa, threads)?;
            let elements = |(_, id): &(String, _)| {
                graph.ty(*id).shape.bind(Bindings::batch(1)).iter().product::<usize>()
            };
            let elements: usize = graph.outputs().iter().map(elements).sum();
            let pictures = (ELEMENTS_MAX / elements.max(1)).clamp(1, PICTURES);
            (0..pictures).map(|i| model.golden(&blobs(i as u64))).collect::<Result<Vec<_>, _>>()?
        }
        None => {
            let options = espalier_runtime::Options { isa, threads, bindings: Bindings::batch(1) };
            let inputs =
                graph.inputs().iter().zip(0..).map(|(&id, stream)| random(graph.ty(id), stream)).collect();
            vec![Raw::new(graph, weights, options)?.golden(inputs)?]
        }
    };
    let finite = |t: &Tensor| t.as_f32().is_none_or(|v| v.iter().all(|v| v.is_finite()));
    Ok(if golden.iter().all(|sample| sample.outputs.iter().all(finite)) { golden } else { Vec::new() })
}

/// Floats in 0..1; integers, which are indices, are 0.
fn random(ty: &TensorType, stream: u64) -> Tensor {
    let shape = ty.shape.bind(Bindings::batch(1));
    let count = shape.iter().product();
    let mut random = Random::new(0, stream);
    let data = match ty.dtype {
        DType::F32 => Data::F32((0..count).map(|_| random.uniform()).collect()),
        DType::I32 => Data::I32(vec![0; count].into()),
        DType::U8 | DType::Q8(_) => Data::U8(vec![0; count].into()),
        DType::S8 => Data::S8(vec![0; count].into()),
    };
    Tensor::new(&shape, data)
}

/// A picture of coloured blobs: smooth as photographs are.
fn blobs(number: u64) -> Image {
    let mut random = Random::new(1, number);
    let blobs: Vec<[f32; 6]> = (0..6).map(|_| [(); 6].map(|()| random.uniform())).collect();
    let pixel = |x: usize, y: usize| {
        [0, 1, 2].map(|channel| {
            let value = blobs.iter().map(|b| {
                let (dx, dy) = (x as f32 / SIDE as f32 - b[0], y as f32 / SIDE as f32 - b[1]);
                b[2 + channel] / (1.0 + (dx * dx + dy * dy) * 40.0 * (0.5 + b[5]))
            });
            (value.sum::<f32>() * 160.0).min(255.0) as u8
        })
    };
    let pixels = (0..SIDE * SIDE).flat_map(|i| pixel(i % SIDE, i / SIDE)).collect();
    Image { width: SIDE, height: SIDE, channels: 3, pixels }
}
