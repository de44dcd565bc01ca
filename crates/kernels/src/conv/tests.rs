use super::*;
use crate::activation::tests::{ACTIVATIONS, exact};
use crate::blocks;
use crate::reference::{RefTensor, evaluate};
use crate::testing::{Input as In, Out, assert_close, run, values};
use espalier_graph::Op;

/// batch, channels in, channels out, groups, input, kernel, stride, pad, dilation.
type Case = (usize, usize, usize, usize, [usize; 2], [usize; 2], [usize; 2], [usize; 4], [usize; 2]);

const CASES: &[Case] = &[
    // Kernel sizes over odd channels.
    (1, 1, 1, 1, [1, 1], [1, 1], [1, 1], [0; 4], [1, 1]),
    (2, 3, 17, 1, [9, 7], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 17, 40, 1, [5, 6], [3, 3], [1, 1], [1; 4], [1, 1]),
    (2, 40, 33, 1, [7, 7], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 16, 16, 1, [30, 31], [1, 1], [1, 1], [0; 4], [1, 1]),
    (1, 20, 70, 1, [3, 4], [2, 2], [1, 1], [0; 4], [1, 1]),
    (1, 19, 18, 1, [8, 9], [5, 1], [1, 1], [2, 0, 2, 0], [1, 1]),
    (1, 19, 18, 1, [8, 9], [1, 4], [1, 1], [0, 1, 0, 2], [1, 1]),
    // Strides: also ones that skip inputs, kernels smaller than the stride, rows no window reaches.
    (2, 3, 20, 1, [15, 13], [7, 7], [2, 2], [3; 4], [1, 1]),
    (3, 18, 16, 1, [9, 8], [3, 3], [2, 2], [1; 4], [1, 1]),
    (2, 16, 35, 1, [8, 8], [1, 1], [2, 2], [0; 4], [1, 1]),
    (1, 18, 20, 1, [11, 10], [2, 3], [3, 2], [0, 1, 1, 0], [1, 1]),
    (1, 3, 24, 1, [8, 8], [4, 4], [4, 4], [0; 4], [1, 1]),
    (2, 16, 16, 1, [10, 10], [1, 1], [4, 5], [0; 4], [1, 1]),
    // Dilation, and padding larger than the kernel.
    (1, 17, 16, 1, [9, 9], [3, 3], [1, 1], [2; 4], [2, 2]),
    (1, 16, 18, 1, [10, 9], [3, 2], [2, 3], [3, 0, 1, 4], [2, 3]),
    (1, 5, 4, 1, [6, 5], [3, 3], [1, 1], [6; 4], [6, 6]),
    (1, 16, 16, 1, [2, 2], [3, 3], [1, 1], [5, 4, 5, 4], [1, 1]),
    // Groups: aligned, unaligned, with a channel multiplier.
    (2, 32, 64, 2, [5, 5], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 12, 18, 3, [6, 5], [3, 3], [2, 2], [1; 4], [1, 1]),
    (1, 40, 20, 4, [4, 5], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 20, 40, 20, [5, 4], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 48, 48, 3, [4, 4], [1, 1], [1, 1], [0; 4], [1, 1]),
    // Depthwise, which has kernels of its own.
    (2, 20, 20, 20, [6, 5], [3, 3], [2, 1], [1; 4], [1, 1]),
    // A single row or column.
    (2, 20, 18, 1, [1, 50], [1, 5], [1, 2], [0, 2, 0, 1], [1, 1]),
    (1, 3, 16, 1, [1, 70], [1, 9], [1, 4], [0, 4, 0, 4], [1, 1]),
    (1, 24, 17, 1, [1, 700], [1, 3], [1, 1], [0, 2, 0, 2], [1, 2]),
    (1, 24, 17, 1, [60, 1], [3, 1], [2, 1], [1, 0, 1, 0], [1, 1]),
    // Many images of few pixels, one image of many, channels gathered in several chunks.
    (9, 33, 65, 1, [4, 4], [3, 3], [1, 1], [1; 4], [1, 1]),
    (37, 20, 24, 1, [1, 1], [1, 1], [1, 1], [0; 4], [1, 1]),
    (5, 24, 16, 1, [2, 2], [3, 3], [1, 1], [1; 4], [1, 1]),
    (1, 130, 16, 1, [26, 27], [3, 3], [1, 1], [1; 4], [1, 1]),
    (2, 33, 20, 1, [40, 41], [3, 3], [2, 2], [1; 4], [1, 1]),
];

fn geometry(
    &(batch, channels_in, channels_out, groups, input, kernel, stride, pad, dilation): &Case,
) -> ConvGeometry {
    let window = Window { kernel, stride, pad, dilation };
    let output = window.output(input).unwrap();
    ConvGeometry { batch, channels_in, channels_out, groups, input, output, window }
}

fn tensor(shape: &[usize], data: &[f32]) -> RefTensor {
    RefTensor::new(shape, data.iter().map(|&v| f64::from(v)).collect())
}

/// Logical to blocked with garbage in the padding lanes, which must not matter.
fn to_blocked(shape: &[usize], data: &[f32]) -> Vec<f32> {
    let (c, plane) = (shape[1], shape[2] * shape[3]);
    let all = blocks(c) * LANES;
    let mut out = vec![1e30; shape[0] * all * plane];
    for (i, &v) in data.iter().enumerate() {
        let (n, channel, pixel) = (i / (c * plane), i / plane % c, i % plane);
        out[((n * all + channel / LANES * LANES) * plane) + pixel * LANES + channel % LANES] = v;
    }
    out
}

fn from_blocked(shape: &[usize], data: &[f32]) -> Vec<f32> {
    let (c, plane) = (shape[1], shape[2] * shape[3]);
    let all = blocks(c) * LANES;
    assert!(data.iter().all(|v| v.is_finite()), "finite in every lane");
    (0..shape[0] * c * plane)
        .map(|i| {
            let (n, channel, pixel) = (i / (c * plane), i / plane % c, i % plane);
            data[((n * all + channel / LANES * LANES) * plane) + pixel * LANES + channel % LANES]
        })
        .collect()
}

fn in_layout(layout: Layout, shape: &[usize], data: &[f32]) -> Vec<f32> {
    if layout == Layout::Plain { data.to_vec() } else { to_blocked(shape, data) }
}

struct Problem {
    g: ConvGeometry,
    x_shape: [usize; 4],
    y_shape: [usize; 4],
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
    /// The reference results: output without bias, gradients for the input and for the weights.
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
}

impl Problem {
    fn new(case: &Case) -> Problem {
        let g = geometry(case);
        let x_shape = [g.batch, g.channels_in, g.input[0], g.input[1]];
        let w_shape = [g.channels_out, g.channels_in / g.groups, g.window.kernel[0], g.window.kernel[1]];
        let y_shape = [g.batch, g.channels_out, g.output[0], g.output[1]];
        let make = |stream, shape: &[usize]| values(stream, shape.iter().product());
        let (x, w, dy) = (make(1, &x_shape), make(2, &w_shape), make(3, &y_shape));
        let (window, groups, input) = (g.window, g.groups, g.input);
        let [tx, tw, tdy] = [tensor(&x_shape, &x), tensor(&w_shape, &w), tensor(&y_shape, &dy)];
        let of = |op: Op, inputs: [&RefTensor; 2], shape: &[usize]| {
            evaluate(&op, &inputs, &[shape.to_vec()]).remove(0).data
        };
        Problem {
            y: of(Op::Conv { window, groups }, [&tx, &tw], &y_shape),
            dx: of(Op::ConvInputGrad { window, groups, input }, [&tdy, &tw], &x_shape),
            dw: of(Op::ConvWeightGrad { window, groups }, [&tx, &tdy], &w_shape),
            g,
            x_shape,
            y_shape,
            x,
            w,
            dy,
        }
    }

    fn y_len(&self) -> usize {
        self.g.batch * blocks(self.g.channels_out) * LANES * self.g.output[0] * self.g.output[1]
    }

    fn packed(&self, isa: Isa) -> Vec<f32> {
        let len = Out::Len(packed_len(&self.g));
        run(&*pack_weights(isa, &self.g), &[In::F32(&self.w)], &[len]).remove(0)
    }

    fn check_forward(&self, isa: Isa, layout: Layout, epilogue: Epilogue) {
        let g = &self.g;
        let packed = self.packed(isa);
        let x = in_layout(layout, &self.x_shape, &self.x);
        let bias = if epilogue.bias { values(4, g.channels_out) } else { vec![0.0; g.channels_out] };
        let residual = values(5, self.dy.len());
        let blocked = to_blocked(&self.y_shape, &residual);
        let mut inputs = vec![In::F32(&x), In::F32(&packed)];
        inputs.extend(epilogue.bias.then_some(In::F32(&bias)));
        inputs.extend(epilogue.residual.then_some(In::F32(&blocked)));
        let kernel = forward(isa, g, layout, epilogue);
        let y = run(&*kernel, &inputs, &[Out::Len(self.y_len())]).remove(0);
        let mut want = self.y.clone();
        let plane = g.output[0] * g.output[1];
        for (i, (w, r)) in want.iter_mut().zip(&residual).enumerate() {
            *w += f64::from(bias[i / plane % g.channels_out]);
            *w += if epilogue.residual { f64::from(*r) } else { 0.0 };
            *w = exact(epilogue.activation, *w);
        }
        assert_close(
            &format!("{} {layout:?} {g:?}", kernel.name()),
            &from_blocked(&self.y_shape, &y),
            &want,
            1e-4,
        );
    }

    fn check_input_grad(&self, isa: Isa) {
        let g = &self.g;
        let len = packed_len_input_grad(g);
        let packed = run(&*pack_weights_input_grad(isa, g), &[In::F32(&self.w)], &[Out::Len(len)]).remove(0);
        let dy = to_blocked(&self.y_shape, &self.dy);
        let kernel = input_grad(isa, g);
        let len = g.batch * blocks(g.channels_in) * LANES * g.input[0] * g.input[1];
        let dx = run(&*kernel, &[In::F32(&dy), In::F32(&packed)], &[Out::Len(len)]).remove(0);
        assert_close(&format!("{} {g:?}", kernel.name()), &from_blocked(&self.x_shape, &dx), &self.dx, 1e-4);
    }

    fn check_weight_grad(&self, isa: Isa, layout: Layout) {
        let g = &self.g;
        let x = in_layout(layout, &self.x_shape, &self.x);
        let dy = to_blocked(&self.y_shape, &self.dy);
        let kernel = weight_grad(isa, g, layout);
        let dw = run(&*kernel, &[In::F32(&x), In::F32(&dy)], &[Out::Len(self.w.len())]).remove(0);
        assert_close(&format!("{} {layout:?} {g:?}", kernel.name()), &dw, &self.dw, 1e-4);
    }
}

#[test]
fn agrees_with_the_reference() {
    for problem in CASES.iter().map(Problem::new) {
        for isa in Isa::available() {
            for layout in [Layout::Plain, Layout::Blocked] {
                if layout == Layout::Plain && problem.g.is_depthwise() {
                    continue;
                }
                problem.check_forward(isa, layout, Epilogue::default());
                problem.check_weight_grad(isa, layout);
            }
            for activation in ACTIVATIONS {
                let full = Epilogue { bias: true, residual: true, activation };
                problem.check_forward(isa, Layout::Blocked, full);
            }
            problem.check_forward(isa, Layout::Blocked, Epilogue { bias: true, ..Epilogue::default() });
            problem.check_input_grad(isa);
        }
    }
}

#[test]
fn scales_exactly_and_keeps_nan() {
    let problem = Problem::new(&(1, 20, 18, 1, [6, 5], [3, 3], [1, 1], [1; 4], [1, 1]));
    let activation = Activation::Clip([-f32::MAX, f32::MAX]);
    let clamp = Epilogue { activation, ..Epilogue::default() };
    for isa in Isa::available() {
        let packed = problem.packed(isa);
        let kernel = forward(isa, &problem.g, Layout::Blocked, clamp);
        let of = |x: &[f32]| {
            let x = to_blocked(&problem.x_shape, x);
            run(&*kernel, &[In::F32(&x), In::F32(&packed)], &[Out::Len(problem.y_len())]).remove(0)
        };
        let (small, scale) = (of(&problem.x), 2f32.powi(100));
        let large = of(&problem.x.iter().map(|v| v * scale).collect::<Vec<_>>());
        assert!(small.iter().zip(&large).all(|(s, l)| s * scale == *l), "{}: powers of two", kernel.name());
        let mut x = problem.x.clone();
        x[0] = f32::NAN;
        let y = of(&x);
        assert!(y[0].is_nan() && !y[LANES * 3].is_nan(), "{}: NaN stays in its windows", kernel.name());
    }
}

#[test]
fn refuses_shapes_that_do_not_fit() {
    let mut g = geometry(&CASES[1]);
    g.output[0] += 1;
    assert!(
        std::panic::catch_unwind(|| forward(Isa::SCALAR, &g, Layout::Plain, Epilogue::default())).is_err()
    );
}
