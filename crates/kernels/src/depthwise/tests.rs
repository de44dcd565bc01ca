use super::*;
use crate::activation::tests::{ACTIVATIONS, exact};
use crate::layout::{blocked, physical_len, plain};
use crate::reference::RefTensor;
use crate::testing::{Input, Out, assert_close, run, values};
use espalier_graph::{Op, Window};

fn windows() -> Vec<Window> {
    let odd = |kernel, stride, pad, dilation| Window { kernel, stride, pad, dilation };
    vec![
        Window::square(3, 1, 1),
        Window::square(3, 2, 1),
        Window::square(5, 1, 2),
        Window::square(5, 2, 2),
        Window::square(1, 1, 0),
        Window::square(1, 2, 0),
        Window::square(7, 1, 3),
        Window::square(3, 1, 0),
        Window::square(3, 1, 3),
        Window::square(2, 3, 1),
        odd([3, 3], [2, 2], [0, 0, 1, 1], [1, 1]),
        odd([5, 3], [1, 2], [2, 1, 0, 0], [1, 1]),
        odd([3, 5], [2, 1], [1, 0, 1, 3], [2, 1]),
        odd([3, 3], [1, 1], [2, 2, 2, 2], [2, 2]),
        odd([3, 4], [2, 4], [3, 1, 0, 2], [3, 2]),
    ]
}

#[test]
fn match_the_reference() {
    for (batch, channels, input) in [
        (1, 1, [7, 7]),
        (2, 3, [5, 9]),
        (1, 17, [14, 14]),
        (2, 40, [8, 23]),
        (1, 16, [11, 30]),
        (1, 5, [33, 2]),
    ] {
        for window in windows() {
            let Some(output) = window.output(input) else { continue };
            let g = ConvGeometry {
                batch,
                channels_in: channels,
                channels_out: channels,
                groups: channels,
                input,
                output,
                window,
            };
            Isa::available().into_iter().for_each(|isa| check_all(isa, &g));
        }
    }
}

/// The sums of the weight gradient run over many pixels with a mean.
#[test]
fn long_sums_are_accurate() {
    let (input, window) = ([70, 71], Window::square(3, 1, 1));
    let g =
        ConvGeometry { batch: 3, channels_in: 2, channels_out: 2, groups: 2, input, output: input, window };
    let x: Vec<f32> = values(1, 6 * 70 * 71).iter().map(|v| v + 3.0).collect();
    for isa in Isa::available() {
        check_weight_grad(isa, &g, &x, &x, 1e-6);
    }
}

#[test]
#[should_panic(expected = "blocked")]
fn plain_input_is_refused() {
    let window = Window::square(3, 1, 1);
    let (input, output) = ([4, 4], [4, 4]);
    let g = ConvGeometry { batch: 1, channels_in: 2, channels_out: 2, groups: 2, input, output, window };
    let _ = forward(Isa::best(), &g, Layout::Plain, Epilogue::default());
}

fn check_all(isa: Isa, g: &ConvGeometry) {
    let planes = g.batch * g.channels_in;
    let x = values(1, planes * g.input[0] * g.input[1]);
    let dy = values(2, planes * g.output[0] * g.output[1]);
    for (activation, [bias, residual]) in
        ACTIVATIONS.into_iter().zip([[false, false], [true, true], [true, false], [false, true]])
    {
        check_forward(isa, g, &x, Epilogue { bias, residual, activation });
    }
    check_input_grad(isa, g, &dy);
    check_weight_grad(isa, g, &x, &dy, 5e-6);
}

fn weights(g: &ConvGeometry) -> Vec<f32> {
    values(3, g.channels_in * g.window.kernel[0] * g.window.kernel[1])
}

fn physical(g: &ConvGeometry, data: &[f32], [h, w]: [usize; 2]) -> Vec<f32> {
    blocked(data, g.channels_in, h * w, 1e30)
}

fn shape(g: &ConvGeometry, [h, w]: [usize; 2]) -> Vec<usize> {
    vec![g.batch, g.channels_in, h, w]
}

fn tensor(shape: &[usize], data: &[f32]) -> RefTensor {
    RefTensor::new(shape, data.iter().map(|&v| v.into()).collect())
}

fn weight_shape(g: &ConvGeometry) -> Vec<usize> {
    vec![g.channels_in, 1, g.window.kernel[0], g.window.kernel[1]]
}

/// A kernel's output of size `size`, in logical order.
fn logical(g: &ConvGeometry, kernel: &dyn Kernel, inputs: &[Input<'_>], size: [usize; 2]) -> Vec<f32> {
    let spatial = size[0] * size[1];
    let len = physical_len(Layout::Blocked, g.batch, g.channels_in, spatial);
    plain(&run(kernel, inputs, &[Out::Len(len)])[0], g.channels_in, spatial)
}

fn check_forward(isa: Isa, g: &ConvGeometry, x: &[f32], e: Epilogue) {
    let w = weights(g);
    let packed = run(&*pack_weights(isa, g), &[Input::F32(&w)], &[Out::Len(packed_len(g))]).remove(0);
    let bias = if e.bias { values(4, g.channels_in) } else { vec![0.0; g.channels_in] };
    let added = values(5, g.batch * g.channels_in * g.output[0] * g.output[1]);
    let (x_physical, added_physical) = (physical(g, x, g.input), physical(g, &added, g.output));
    let mut inputs = vec![Input::F32(&x_physical), Input::F32(&packed)];
    if e.bias {
        inputs.push(Input::F32(&bias));
    }
    if e.residual {
        inputs.push(Input::F32(&added_physical));
    }
    let kernel = forward(isa, g, Layout::Blocked, e);
    let y = logical(g, &*kernel, &inputs, g.output);
    let op = Op::Conv { window: g.window, groups: g.groups };
    let tensors =
        [tensor(&shape(g, g.input), x), tensor(&weight_shape(g), &w), tensor(&[g.channels_in], &bias)];
    let want = crate::conv::reference(&op, &tensors.each_ref(), &[shape(g, g.output)]).remove(0);
    let sum = |(v, r): (&f64, &f32)| v + if e.residual { f64::from(*r) } else { 0.0 };
    let finish = |pair| exact(e.activation, sum(pair));
    let want: Vec<f64> = want.data.iter().zip(&added).map(finish).collect();
    assert_close(&format!("{} {g:?} {e:?}", kernel.name()), &y, &want, 2e-6);
}

fn check_input_grad(isa: Isa, g: &ConvGeometry, dy: &[f32]) {
    let w = weights(g);
    let len = packed_len_input_grad(g);
    let packed = run(&*pack_weights_input_grad(isa, g), &[Input::F32(&w)], &[Out::Len(len)]).remove(0);
    let kernel = input_grad(isa, g);
    let dy_physical = physical(g, dy, g.output);
    let dx = logical(g, &*kernel, &[Input::F32(&dy_physical), Input::F32(&packed)], g.input);
    let op = Op::ConvInputGrad { window: g.window, groups: g.groups, input: g.input };
    let tensors = [tensor(&shape(g, g.output), dy), tensor(&weight_shape(g), &w)];
    let want = crate::conv::reference(&op, &tensors.each_ref(), &[shape(g, g.input)]).remove(0);
    assert_close(&format!("{} {g:?}", kernel.name()), &dx, &want.data, 2e-6);
}

fn check_weight_grad(isa: Isa, g: &ConvGeometry, x: &[f32], dy: &[f32], tolerance: f64) {
    let kernel = weight_grad(isa, g, Layout::Blocked);
    let (x_physical, dy_physical) = (physical(g, x, g.input), physical(g, dy, g.output));
    let inputs = [Input::F32(&x_physical), Input::F32(&dy_physical)];
    let dw = run(&*kernel, &inputs, &[Out::Len(weights(g).len())]).remove(0);
    let op = Op::ConvWeightGrad { window: g.window, groups: g.groups };
    let tensors = [tensor(&shape(g, g.input), x), tensor(&shape(g, g.output), dy)];
    let want = crate::conv::reference(&op, &tensors.each_ref(), &[weight_shape(g)]).remove(0);
    assert_close(&format!("{} {g:?}", kernel.name()), &dw, &want.data, tolerance);
}
