//! A small classifier of the built-in digits, made without training.

use espalier_digits::SIDE;
use espalier_graph::{Format, Graph, Manifest, Package, Tensor, Weights};
use espalier_runtime::Isa;
use espalier_tasks::{ClassifyImage, Image, Model, Recorder, Task};

const CLASSES: usize = 10;
const PIXELS: usize = SIDE * SIDE;
/// How sure it is of a digit that is near to the mean of its class.
const SURE: f32 = 0.2;

/// Says which class has the nearest mean, as a linear network; with reference statistics.
pub(crate) fn package(labels: &[&str]) -> Package {
    let digits = espalier_digits::test();
    let mut means = vec![[0f32; PIXELS]; CLASSES];
    let mut counts = [0f32; CLASSES];
    for digit in &digits {
        let class = usize::from(digit.label);
        counts[class] += 1.0;
        means[class].iter_mut().zip(&digit.pixels).for_each(|(sum, &p)| *sum += f32::from(p) / 255.0);
    }
    means.iter_mut().zip(&counts).for_each(|(mean, count)| mean.iter_mut().for_each(|sum| *sum /= count));
    let bias = means.iter().map(|mean| -SURE / 2.0 * mean.iter().map(|m| m * m).sum::<f32>()).collect();
    let rows = means.concat().into_iter().map(|m| SURE * m).collect();
    let graph: Graph = format!(
        "input x: f32[N,1,{SIDE},{SIDE}]\nweight w: f32[{CLASSES},1,{SIDE},{SIDE}]\nweight b: f32[{CLASSES}]\n\
         c: f32[N,{CLASSES},1,1] = Conv(x, w, b) window=[[{SIDE},{SIDE}],[1,1],[0,0,0,0],[1,1]] groups=1\n\
         y: f32[N,{CLASSES}] = Reshape(c) shape=[N,{CLASSES}]\noutput y = y\n"
    )
    .parse()
    .unwrap();
    let weights = Weights::from([
        ("w".to_owned(), Tensor::f32(&[CLASSES, 1, SIDE, SIDE], rows)),
        ("b".to_owned(), Tensor::f32(&[CLASSES], bias)),
    ]);
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let task = Task::ClassifyImage(ClassifyImage::new([SIDE; 2], vec![0.0], vec![1.0], labels));
    let mut model = Model::new(graph.clone(), weights.clone(), task.clone(), Isa::best(), 1).unwrap();
    let mut recorder = Recorder::new(&task);
    let images = digits.iter().map(|digit| Image::new(SIDE, SIDE, 1, digit.pixels.clone()).unwrap());
    let images: Vec<Image> = images.collect();
    images.iter().for_each(|image| recorder.add(model.observe(image).unwrap().1));
    let golden = vec![model.golden(&images[0]).unwrap()];
    let manifest = Manifest {
        format: Format::of(&graph).with_reference(),
        name: "digits".into(),
        task: serde_json::to_value(&task).ok(),
        ..Manifest::default()
    };
    Package { manifest, graph, weights, golden, reference: recorder.finish().unwrap().tensors() }
}
