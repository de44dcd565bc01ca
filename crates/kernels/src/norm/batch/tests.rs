use super::super::reference;
use super::*;
use crate::activation::tests::{ACTIVATIONS, exact, exact_slope};
use crate::layout::{blocked, plain};
use crate::reference::RefTensor;
use crate::testing::{Input, Out, assert_close, run, values};
use espalier_graph::Op;

const SHAPES: [[usize; 3]; 9] = [
    [1, 1, 1],
    [2, 3, 1],
    [3, 17, 5],
    [2, 40, 49],
    [1, 16, 16],
    [4, 5, 67],
    [1, 3, 5000],
    [2, 33, 64],
    [3, 1, 257],
];
const EPS: f32 = 1e-5;

/// One case: all its data in the logical order.
struct Case {
    g: NormGeometry,
    isa: Isa,
    activation: Activation,
    x: Vec<f32>,
}

fn tensor(shape: &[usize], data: &[f32]) -> RefTensor {
    RefTensor::new(shape, data.iter().map(|&v| v.into()).collect())
}

impl Case {
    fn each(check: impl Fn(&Case)) {
        for [batch, channels, spatial] in SHAPES {
            for layout in [Layout::Plain, Layout::Blocked] {
                let g = NormGeometry { batch, channels, spatial, layout };
                let pairs = Isa::available().into_iter().flat_map(|isa| ACTIVATIONS.map(|a| (isa, a)));
                for (isa, activation) in pairs {
                    check(&Case { g, isa, activation, x: values(1, batch * channels * spatial) });
                }
            }
        }
    }

    fn shape(&self) -> [usize; 3] {
        [self.g.batch, self.g.channels, self.g.spatial]
    }

    fn tensor(&self, data: &[f32]) -> RefTensor {
        tensor(&self.shape(), data)
    }

    fn vector(&self, stream: u64, offset: f32) -> Vec<f32> {
        values(stream, self.g.channels).iter().map(|v| v + offset).collect()
    }

    fn physical(&self, data: &[f32]) -> Vec<f32> {
        match self.g.layout {
            Layout::Plain => data.to_vec(),
            Layout::Blocked => blocked(data, self.g.channels, self.g.spatial, 1e30),
        }
    }

    fn logical(&self, data: &[f32]) -> Vec<f32> {
        match self.g.layout {
            Layout::Plain => data.to_vec(),
            Layout::Blocked => plain(data, self.g.channels, self.g.spatial),
        }
    }

    fn what(&self, output: &str) -> String {
        format!("{output} {:?} {} {:?}", self.g, self.isa, self.activation)
    }
}

#[test]
fn normalises_with_given_statistics() {
    Case::each(|case| {
        let vectors = [case.vector(2, 0.0), case.vector(3, 0.0), case.vector(4, 0.0), case.vector(5, 1.5)];
        let kernel = batch_norm(case.isa, case.g, EPS, case.activation);
        let x = case.physical(&case.x);
        let mut inputs = vec![Input::F32(&x)];
        inputs.extend(vectors.iter().map(|v| Input::F32(v)));
        let y = run(&*kernel, &inputs, &[Out::Len(case.g.physical())]).remove(0);
        let mut tensors = vec![case.tensor(&case.x)];
        tensors.extend(vectors.iter().map(|v| tensor(&[v.len()], v)));
        let op = Op::BatchNorm { eps: EPS, momentum: 0.1 };
        let want = reference(&op, &tensors.iter().collect::<Vec<_>>(), &[]).remove(0);
        let want: Vec<f64> = want.data.iter().map(|&v| exact(case.activation, v)).collect();
        assert_close(&case.what("y"), &case.logical(&y), &want, 1e-6);
    });
}

#[test]
fn trains() {
    Case::each(|case| check_training(case, 2e-6));
}

#[test]
fn statistics_of_a_far_mean_are_accurate() {
    Case::each(|case| {
        let x: Vec<f32> = case.x.iter().map(|v| 1000.0 + 0.01 * v).collect();
        check_training(&Case { x, ..*case }, 2e-5);
    });
}

/// The first pixel is far from all others, as a padded border may be.
#[test]
fn statistics_with_outliers_are_accurate() {
    Case::each(|case| {
        let outlier = |(i, v): (usize, &f32)| if i % case.g.spatial == 0 { -500.0 } else { 100.0 + v };
        let x: Vec<f32> = case.x.iter().enumerate().map(outlier).collect();
        check_training(&Case { x, ..*case }, 1e-5);
    });
}

fn check_training(case: &Case, tolerance: f64) {
    let c = case.g.channels;
    let vectors = [case.vector(2, 0.0), case.vector(3, 0.0), case.vector(4, 0.0), case.vector(5, 1.5)];
    let kernel = batch_norm_training(case.isa, case.g, EPS, 0.1, case.activation);
    let x = case.physical(&case.x);
    let got = run(
        &*kernel,
        &[Input::F32(&x), Input::F32(&vectors[0]), Input::F32(&vectors[1])],
        &[
            Out::Len(case.g.physical()),
            Out::InPlace(&vectors[2]),
            Out::InPlace(&vectors[3]),
            Out::Len(c),
            Out::Len(c),
        ],
    );
    let mut tensors = vec![case.tensor(&case.x)];
    tensors.extend(vectors.iter().map(|v| tensor(&[c], v)));
    let op = Op::BatchNormTraining { eps: EPS, momentum: 0.1 };
    let want = reference(&op, &tensors.iter().collect::<Vec<_>>(), &[]);
    let y: Vec<f64> = want[0].data.iter().map(|&v| exact(case.activation, v)).collect();
    assert_close(&case.what("y"), &case.logical(&got[0]), &y, tolerance);
    for (i, name) in [(1, "running mean"), (2, "running var"), (3, "batch mean"), (4, "batch rstd")] {
        assert_close(&case.what(name), &got[i], &want[i].data, tolerance);
    }
}

#[test]
fn gradients() {
    Case::each(check_gradient);
}

fn check_gradient(case: &Case) {
    let c = case.g.channels;
    let (gamma, beta) = (case.vector(2, 0.0), case.vector(3, 0.0));
    let (mean, rstd) = (case.vector(4, 0.0), case.vector(5, 1.5));
    let dy = values(6, case.x.len());
    let (x, dy_physical) = (case.physical(&case.x), case.physical(&dy));
    let inputs = [&x, &dy_physical, &gamma, &beta, &mean, &rstd].map(|v| Input::F32(v));
    let kernel = batch_norm_grad(case.isa, case.g, case.activation);
    let got = run(&*kernel, &inputs, &[Out::Len(case.g.physical()), Out::Len(c), Out::Len(c)]);
    let slope = |i: usize| {
        let ch = i / case.g.spatial % c;
        let value = (case.x[i] - mean[ch]).mul_add(gamma[ch] * rstd[ch], beta[ch]);
        exact_slope(case.activation, value.into()) as f32
    };
    let dy: Vec<f32> = dy.iter().enumerate().map(|(i, &g)| g * slope(i)).collect();
    let vectors = [gamma.clone(), mean.clone(), rstd.clone()].map(|v| tensor(&[c], &v));
    let (x, dy) = (case.tensor(&case.x), case.tensor(&dy));
    let want = reference(&Op::BatchNormGrad, &[&x, &dy, &vectors[0], &vectors[1], &vectors[2]], &[]);
    assert_close(&case.what("dx"), &case.logical(&got[0]), &want[0].data, 5e-6);
    assert_close(&case.what("dgamma"), &got[1], &want[1].data, 2e-5);
    assert_close(&case.what("dbeta"), &got[2], &want[2].data, 2e-5);
}

#[test]
fn nan_shows() {
    for isa in Isa::available() {
        let g = NormGeometry { batch: 1, channels: 2, spatial: 4, layout: Layout::Plain };
        let x = [f32::NAN, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0];
        let kernel = batch_norm_training(isa, g, EPS, 0.1, Activation::Clip([0.0, f32::INFINITY]));
        let ones = [1.0; 2];
        let inputs = [Input::F32(&x), Input::F32(&ones), Input::F32(&ones)];
        let state = || Out::InPlace(&ones);
        let got = run(&*kernel, &inputs, &[Out::Len(8), state(), state(), Out::Len(2), Out::Len(2)]);
        assert!(got[0][..4].iter().all(|v| v.is_nan()) && got[0][4..].iter().all(|v| v.is_finite()));
        assert!(got[1][0].is_nan() && got[2][0].is_nan() && got[1][1].is_finite());
    }
}
