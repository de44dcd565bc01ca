//! A model that keeps only its prepared plans.

use espalier_graph::{Graph, Tensor, Weights};
use espalier_runtime::Isa;
use espalier_tasks::{ClassifyImage, Image, Model, ModelError, Task};

#[test]
fn prepared_plans_answer_without_the_weights() {
    let text = "input x: f32[N,1,2,2]\nweight w: f32[2,1,2,2]\nc: f32[N,2,1,1] = Conv(x, w) \
                window=[[2,2],[1,1],[0,0,0,0],[1,1]] groups=1\ny: f32[N,2] = Reshape(c) shape=[N,2]\noutput y = y\n";
    let graph: Graph = text.parse().unwrap();
    let data = vec![1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0];
    let weights = Weights::from([("w".to_owned(), Tensor::f32(&[2, 1, 2, 2], data))]);
    let labels = ["bright", "dark"].map(String::from).to_vec();
    let task = Task::ClassifyImage(ClassifyImage::new([2, 2], vec![0.5], vec![0.5], labels));
    let mut model = Model::new(graph, weights, task, Isa::best(), 1).unwrap();
    let image = Image::new(2, 2, 1, vec![255; 4]).unwrap();
    let before = model.outputs(&image).unwrap();
    assert!(model.prepare(1).unwrap().unwrap().weight_bytes > 0);
    model.keep_prepared();
    assert_eq!(model.outputs(&image).unwrap(), before);
    let other = model.infer(&[0.0; 8], 2).unwrap_err();
    assert!(matches!(other, ModelError::Lower(_)) && other.to_string().contains("missing"), "{other}");
}
