//! Networks that begin by rounding take pictures as bytes: the same bits as by floats, on every instruction set.

use espalier_graph::random::Random;
use espalier_graph::{Bindings, DType, Data, Graph, Tensor, Weights};
use espalier_runtime::{Isa, Options, Pool, lower, lower_for_bytes};
use espalier_tasks::{ClassifyImage, Fit, Image, Input, Model, PictureInput, Task};

/// Rounds, convolves, averages; the scale is such that some pixels are beyond the bytes.
fn network(channels: usize, [h, w]: [usize; 2]) -> Graph {
    let text = format!(
        "\
input x: f32[N,{channels},{h},{w}]
weight w: s8[5,{channels},3,3]
statistic s: f32[5]
statistic b: i32[5]
q: q8(0.0137,117)[N,{channels},{h},{w}] = Quantize(x) to=q8(0.0137,117)
c: q8(0.05,9)[N,5,{h},{w}] = QConv(q, w, s, b) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1 to=q8(0.05,9) limits=[9,255]
p: q8(0.04,0)[N,5,1,1] = QAvgPool(c) window=[[{h},{w}],[1,1],[0,0,0,0],[1,1]] count_pad=false to=q8(0.04,0)
f: q8(0.04,0)[N,5] = Reshape(p) shape=[N,5]
y: f32[N,5] = Dequantize(f)
output y = y
"
    );
    text.parse().unwrap()
}

fn weights(graph: &Graph) -> Weights {
    let mut random = Random::new(3, 0);
    let mut tensor = |dtype: DType, shape: &[usize]| {
        let len: usize = shape.iter().product();
        let data = match dtype {
            DType::S8 => Data::S8((0..len).map(|_| random.below(255) as u8 as i8).collect::<Vec<_>>().into()),
            DType::I32 => {
                Data::I32((0..len).map(|_| random.below(2000) as i32 - 1000).collect::<Vec<_>>().into())
            }
            _ => Data::F32((0..len).map(|_| random.range(0.001, 0.01)).collect::<Vec<_>>().into()),
        };
        Tensor::new(shape, data)
    };
    let states = graph.states().iter().map(|state| {
        let (value, ty) = (graph.value(state.value), graph.ty(state.value));
        (value.name.clone(), tensor(ty.dtype, &ty.shape.bind(Bindings::batch(1))))
    });
    states.collect()
}

fn image(seed: u64, [width, height]: [usize; 2], channels: usize) -> Image {
    let mut random = Random::new(seed, 1);
    let pixels = (0..width * height * channels).map(|_| random.below(256) as u8).collect();
    Image::new(width, height, channels, pixels).unwrap()
}

fn task(input: &PictureInput) -> Task {
    let labels = (0..5).map(|i| format!("class{i}")).collect();
    let plain = ClassifyImage::new(input.size, input.mean.clone(), input.std.clone(), labels);
    Task::ClassifyImage(ClassifyImage { input: input.clone(), ..plain })
}

/// Pictures through the model against the tensors of the task through the plan of floats.
fn check(input: &PictureInput) {
    let (graph, task) = (network(input.channels, input.size), task(input));
    let weights = weights(&graph);
    let images = [[9, 7], [7, 9], [40, 3]].map(|size| [1, 3].map(|channels| image(7, size, channels)));
    for isa in Isa::available() {
        let options = Options { isa, threads: 2, bindings: Bindings::batch(1) };
        let (mut plan, mut pool) = (lower(&graph, &weights, options).unwrap(), Pool::new(2));
        let mut model = Model::new(graph.clone(), weights.clone(), task.clone(), isa, 2).unwrap();
        let (mut tensors, mut answers) = (Vec::new(), Vec::new());
        for image in images.as_flattened() {
            task.preprocess(Input::Image(image), plan.input("x")).unwrap();
            tensors.extend_from_slice(plan.input("x"));
            plan.run(&mut pool);
            let want = plan.output("y").to_vec();
            assert!(want.iter().any(|&y| y > 0.0 && y < 10.0), "{want:?} says something");
            assert_eq!(model.outputs(image).unwrap(), [&want[..]], "{isa} {input:?}");
            answers.extend(want);
        }
        assert_eq!(model.infer(&tensors, 6).unwrap(), [answers], "{isa} {input:?} as tensors");
    }
}

#[test]
fn pictures_as_bytes_give_the_same_bits() {
    let colour = PictureInput::new([7, 9], vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
    for fit in [Fit::Stretch, Fit::Crop, Fit::Letterbox] {
        check(&PictureInput { fit, ..colour.clone() });
        check(&PictureInput { fit, bgr: true, ..colour.clone() });
        check(&PictureInput { fit, ..PictureInput::new([8, 5], vec![0.5], vec![0.3]) });
    }
}

#[test]
fn only_what_is_rounded_alone_is_taken_as_bytes() {
    let takes_bytes = |text: &str| {
        let graph: Graph = text.parse().unwrap();
        let options = Options { isa: Isa::best(), threads: 1, bindings: Bindings::batch(1) };
        let mut plan = lower_for_bytes(&graph, &weights(&graph), options).unwrap();
        let bytes = plan.input_bytes("x").map(|(quant, bytes)| (quant.zero(), bytes.len()));
        assert_eq!(plan.steps().filter(|step| step.op == "Quantize").count(), usize::from(bytes.is_none()));
        bytes
    };
    let alone = network(3, [4, 5]).to_string();
    assert_eq!(takes_bytes(&alone), Some((117, 80)));
    assert_eq!(takes_bytes(&format!("{alone}output x = x\n")), None);
}
