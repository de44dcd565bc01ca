//! Training state: the norm of all gradients, and the optimizers that update weights in place.

use crate::isa::multiversion;
use crate::lanes::{LANES, Lanes};
use crate::reference::RefTensor;
use crate::{Io, Isa, Kernel, Worker};
use espalier_graph::Op;

multiversion!(fn pick_squares(x: &[f32], sum: &mut f64) = squares_body);

/// Adds the squares of all elements to `sum`. In f64, where squares of f32 are exact and cannot overflow.
#[inline(always)]
unsafe fn squares_body<V: Lanes>(x: &[f32], sum: &mut f64) {
    const WIDE: usize = 2 * LANES;
    let mut sums = [0.0; WIDE];
    let (whole, rest) = x.as_chunks::<WIDE>();
    for x in whole {
        for i in 0..WIDE {
            sums[i] += f64::from(x[i]) * f64::from(x[i]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    *sum += sums.iter().sum::<f64>();
}

struct GlobalNorm {
    isa: Isa,
    lens: Vec<usize>,
}

/// `g[lens[0]], g[lens[1]], ... -> norm[1]`: Euclidean norm over all inputs together, accumulated in f64 by one worker.
pub fn global_norm(isa: Isa, lens: &[usize]) -> Box<dyn Kernel> {
    Box::new(GlobalNorm { isa, lens: lens.to_vec() })
}

impl Kernel for GlobalNorm {
    fn name(&self) -> String {
        format!("global norm {}", self.isa)
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        if worker.index != 0 {
            return;
        }
        let mut sum = 0.0;
        for (i, &len) in self.lens.iter().enumerate() {
            // SAFETY: the body asks for nothing but its instruction set.
            unsafe { pick_squares(self.isa)(&io.input::<f32>(i)[..len], &mut sum) };
        }
        // SAFETY: only this worker writes.
        let norm = unsafe { io.output::<f32>(0).slice_mut(0..1) };
        norm[0] = sum.sqrt() as f32;
    }
}

/// Loads `width` of 16 elements.
#[inline(always)]
unsafe fn load<V: Lanes>(p: *const f32, width: usize) -> V {
    // SAFETY: the caller gives `width` elements.
    unsafe { if width == LANES { V::load(p) } else { V::load_first(p, width, V::zero()) } }
}

#[inline(always)]
unsafe fn store<V: Lanes>(v: V, p: *mut f32, width: usize) {
    // SAFETY: the caller gives `width` elements.
    unsafe { if width == LANES { v.store(p) } else { v.store_first(p, width) } }
}

/// Constants of one step of SGD.
#[derive(Clone, Copy)]
struct SgdStep {
    lr: f32,
    scale: f32,
    decay: f32,
    momentum: f32,
    /// Factors of `g'` and `m'` in the update.
    of_g: f32,
    of_m: f32,
}

multiversion!(fn pick_sgd(g: &[f32], w: *mut f32, m: *mut f32, step: SgdStep) = sgd_body);

#[inline(always)]
unsafe fn sgd_body<V: Lanes>(g: &[f32], w: *mut f32, m: *mut f32, step: SgdStep) {
    for i in (0..g.len()).step_by(LANES) {
        let width = (g.len() - i).min(LANES);
        // SAFETY: the caller gives as many weights and momenta as gradients.
        unsafe {
            let (w, m) = (w.add(i), m.add(i));
            let weight: V = load(w, width);
            let gradient = load::<V>(g.as_ptr().add(i), width).mul(V::splat(step.scale));
            let gradient = weight.mul_add(V::splat(step.decay), gradient);
            let moment = load::<V>(m, width).mul_add(V::splat(step.momentum), gradient);
            let update = gradient.mul(V::splat(step.of_g)).add(moment.mul(V::splat(step.of_m)));
            store(moment, m, width);
            store(weight.sub(update.mul(V::splat(step.lr))), w, width);
        }
    }
}

struct Sgd {
    isa: Isa,
    momentum: f32,
    nesterov: bool,
    decay: f32,
    len: usize,
}

/// `g[len], lr[1], scale[1] -> w[len], m[len]` in place: with `g' = scale g + decay w`, `m' = momentum m + g'`, the
/// update is `w' = w - lr (g' + momentum m')` if `nesterov`, else `w - lr m'` (PyTorch's form).
pub fn sgd(isa: Isa, momentum: f32, nesterov: bool, decay: f32, len: usize) -> Box<dyn Kernel> {
    Box::new(Sgd { isa, momentum, nesterov, decay, len })
}

impl Kernel for Sgd {
    fn name(&self) -> String {
        format!("sgd {}", self.isa)
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.len);
        let (of_g, of_m) = if self.nesterov { (1.0, self.momentum) } else { (0.0, 1.0) };
        let (lr, scale) = (io.input::<f32>(1)[0], io.input::<f32>(2)[0]);
        let step = SgdStep { lr, scale, decay: self.decay, momentum: self.momentum, of_g, of_m };
        // SAFETY: shares are disjoint and of one length.
        unsafe {
            let [w, m] = [0, 1].map(|i| io.output::<f32>(i).slice_mut(share.clone()).as_mut_ptr());
            pick_sgd(self.isa)(&io.input::<f32>(0)[share], w, m, step);
        }
    }
}

/// Constants of one step of AdamW.
#[derive(Clone, Copy)]
struct AdamStep {
    scale: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    /// `1 - lr decay`.
    keep: f32,
    /// `lr / (1 - beta1^step)`.
    rate: f32,
    /// `1 / sqrt(1 - beta2^step)`.
    unbias: f32,
}

multiversion!(fn pick_adamw(g: &[f32], w: *mut f32, m: *mut f32, v: *mut f32, step: AdamStep) = adamw_body);

#[inline(always)]
unsafe fn adamw_body<V: Lanes>(g: &[f32], w: *mut f32, m: *mut f32, v: *mut f32, step: AdamStep) {
    for i in (0..g.len()).step_by(LANES) {
        let width = (g.len() - i).min(LANES);
        // SAFETY: the caller gives as many elements of state as gradients.
        unsafe {
            let (w, m, v) = (w.add(i), m.add(i), v.add(i));
            let gradient = load::<V>(g.as_ptr().add(i), width).mul(V::splat(step.scale));
            let first = mix(load::<V>(m, width), gradient, step.beta1);
            let second = mix(load::<V>(v, width), gradient.mul(gradient), step.beta2);
            let divisor = second.sqrt().mul_add(V::splat(step.unbias), V::splat(step.eps));
            let update = first.mul(V::splat(step.rate)).div(divisor);
            store(first, m, width);
            store(second, v, width);
            store(load::<V>(w, width).mul(V::splat(step.keep)).sub(update), w, width);
        }
    }
}

/// `beta old + (1 - beta) new`.
#[inline(always)]
unsafe fn mix<V: Lanes>(old: V, new: V, beta: f32) -> V {
    // SAFETY: the contract of `Lanes`.
    unsafe { old.mul_add(V::splat(beta), new.mul(V::splat(1.0 - beta))) }
}

struct AdamW {
    isa: Isa,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    len: usize,
}

/// `g[len], lr[1], scale[1], step[1] -> w[len], m[len], v[len]` in place, for the gradient `scale g`: Adam with decoupled
/// weight decay (Loshchilov and Hutter 2019). `step` counts from 1.
pub fn adamw(isa: Isa, beta1: f32, beta2: f32, eps: f32, decay: f32, len: usize) -> Box<dyn Kernel> {
    Box::new(AdamW { isa, beta1, beta2, eps, decay, len })
}

impl AdamW {
    /// What is constant over the elements, in f64 since `1 - beta^step` cancels.
    fn step(&self, lr: f32, scale: f32, step: f32) -> AdamStep {
        let left = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(step));
        AdamStep {
            scale,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            keep: (1.0 - f64::from(lr) * f64::from(self.decay)) as f32,
            rate: (f64::from(lr) / left(self.beta1)) as f32,
            unbias: left(self.beta2).sqrt().recip() as f32,
        }
    }
}

impl Kernel for AdamW {
    fn name(&self) -> String {
        format!("adamw {}", self.isa)
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.len);
        let [lr, scale, step] = [1, 2, 3].map(|i| io.input::<f32>(i)[0]);
        // SAFETY: shares are disjoint and of one length.
        unsafe {
            let [w, m, v] = [0, 1, 2].map(|i| io.output::<f32>(i).slice_mut(share.clone()).as_mut_ptr());
            pick_adamw(self.isa)(&io.input::<f32>(0)[share], w, m, v, self.step(lr, scale, step));
        }
    }
}

multiversion!(fn pick_ema(value: &[f32], average: *mut f32, decay: f32) = ema_body);

#[inline(always)]
unsafe fn ema_body<V: Lanes>(value: &[f32], average: *mut f32, decay: f32) {
    for i in (0..value.len()).step_by(LANES) {
        let width = (value.len() - i).min(LANES);
        // SAFETY: the caller gives as many averages as values.
        unsafe {
            let average = average.add(i);
            let mixed = mix(load::<V>(average, width), load(value.as_ptr().add(i), width), decay);
            store(mixed, average, width);
        }
    }
}

struct Ema {
    isa: Isa,
    len: usize,
}

/// `value[len], decay[1] -> average[len]` in place: `decay average + (1 - decay) value`.
pub fn ema(isa: Isa, len: usize) -> Box<dyn Kernel> {
    Box::new(Ema { isa, len })
}

impl Kernel for Ema {
    fn name(&self) -> String {
        format!("moving average {}", self.isa)
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.len);
        let decay = io.input::<f32>(1)[0];
        // SAFETY: shares are disjoint and of one length.
        unsafe {
            let average = io.output::<f32>(0).slice_mut(share.clone()).as_mut_ptr();
            pick_ema(self.isa)(&io.input::<f32>(0)[share], average, decay);
        }
    }
}

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let scalar = |i: usize| inputs[i].data[0];
    match *op {
        Op::GlobalNorm => {
            let squares: f64 = inputs.iter().flat_map(|g| &g.data).map(|g| g * g).sum();
            vec![RefTensor::new(&outputs[0], vec![squares.sqrt()])]
        }
        Op::Sgd { momentum, nesterov, decay } => {
            let [momentum, decay] = [momentum, decay].map(f64::from);
            let (lr, scale) = (scalar(3), scalar(4));
            per_element(&inputs[..3], |[w, g, m]| {
                let g = scale * g + decay * w;
                let m = momentum * m + g;
                [w - lr * if nesterov { g + momentum * m } else { m }, m]
            })
        }
        Op::AdamW { beta1, beta2, eps, decay } => {
            let [beta1, beta2, eps, decay] = [beta1, beta2, eps, decay].map(f64::from);
            let (lr, scale, step) = (scalar(4), scalar(5), scalar(6));
            per_element(&inputs[..4], |[w, g, m, v]| {
                let g = scale * g;
                let (m, v) = (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g);
                let (m_hat, v_hat) = (m / (1.0 - beta1.powf(step)), v / (1.0 - beta2.powf(step)));
                [w - lr * decay * w - lr * m_hat / (v_hat.sqrt() + eps), m, v]
            })
        }
        Op::Ema => {
            let decay = scalar(2);
            per_element(&inputs[..2], |[average, value]| [decay * average + (1.0 - decay) * value])
        }
        _ => unreachable!("{} is not of this family", op.name()),
    }
}

fn per_element<const I: usize, const O: usize>(
    inputs: &[&RefTensor],
    f: impl Fn([f64; I]) -> [f64; O],
) -> Vec<RefTensor> {
    let result = |i: usize| f(std::array::from_fn(|k| inputs[k].data[i]));
    (0..O).map(|o| RefTensor::from_fn(&inputs[0].shape, |i| result(i)[o])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Input, Out, assert_close, run, values};

    fn tensor(data: &[f32]) -> RefTensor {
        RefTensor::new(&[data.len()], data.iter().map(|&v| f64::from(v)).collect())
    }

    fn check_norm(inputs: &[Vec<f32>]) {
        let tensors: Vec<RefTensor> = inputs.iter().map(|g| tensor(g)).collect();
        let want = reference(&Op::GlobalNorm, &tensors.iter().collect::<Vec<_>>(), &[vec![]]).remove(0).data;
        let lens: Vec<usize> = inputs.iter().map(Vec::len).collect();
        for isa in Isa::available() {
            let g: Vec<Input<'_>> = inputs.iter().map(|g| Input::F32(g)).collect();
            let norm = run(&*global_norm(isa, &lens), &g, &[Out::Len(1)]);
            assert_close(&format!("norm {lens:?} {isa}"), &norm[0], &want, 1e-7);
        }
    }

    #[test]
    fn norms_match_reference() {
        check_norm(&[values(1, 1)]);
        check_norm(&[values(1, 100), values(2, 33), vec![], values(3, 64)]);
        check_norm(&[vec![1e30; 50]]);
        check_norm(&[vec![1e-30; 50], vec![-1e-30]]);
        check_norm(&[values(1, 100_000)]);
        check_norm(&[vec![1.0, f32::INFINITY]]);
        check_norm(&[vec![1.0, f32::NAN]]);
    }

    /// Several steps, each from the state of the one before.
    fn check_sgd(momentum: f32, nesterov: bool, decay: f32, len: usize) {
        let op = Op::Sgd { momentum, nesterov, decay };
        for isa in Isa::available() {
            let (mut w, mut m) = (values(1, len), vec![0.0; len]);
            for step in 0..3 {
                let (g, lr, scale) = (values(10 + step, len), [0.1], [0.5]);
                let inputs = [&w[..], &g, &m, &lr, &scale].map(tensor);
                let want = reference(&op, &inputs.each_ref(), &[]);
                let kernel = sgd(isa, momentum, nesterov, decay, len);
                let state = [Out::InPlace(&w), Out::InPlace(&m)];
                let got = run(&*kernel, &[&g[..], &lr, &scale].map(Input::F32), &state);
                for (got, want) in got.iter().zip(&want) {
                    assert_close(&kernel.name(), got, &want.data, 1e-6);
                }
                [w, m] = got.try_into().unwrap();
            }
        }
    }

    #[test]
    fn sgd_matches_reference() {
        for len in [0, 1, 16, 77] {
            check_sgd(0.9, false, 0.0, len);
            check_sgd(0.9, true, 1e-2, len);
            check_sgd(0.0, false, 1e-4, len);
        }
    }

    fn check_adamw(decay: f32, scale: f32, first_step: f32, len: usize) {
        let (beta1, beta2, eps) = (0.9, 0.999, 1e-8);
        let op = Op::AdamW { beta1, beta2, eps, decay };
        for isa in Isa::available() {
            let (mut w, mut m, mut v) = (values(1, len), vec![0.0; len], vec![0.0; len]);
            for k in 0..3 {
                let (g, lr, scale, step) = (values(10 + k, len), [0.01], [scale], [first_step + k as f32]);
                let inputs = [&w[..], &g, &m, &v, &lr, &scale, &step].map(tensor);
                let want = reference(&op, &inputs.each_ref(), &[]);
                let kernel = adamw(isa, beta1, beta2, eps, decay, len);
                let state = [Out::InPlace(&w), Out::InPlace(&m), Out::InPlace(&v)];
                let got = run(&*kernel, &[&g[..], &lr, &scale, &step].map(Input::F32), &state);
                for (got, want) in got.iter().zip(&want) {
                    assert_close(&kernel.name(), got, &want.data, 1e-6);
                }
                [w, m, v] = got.try_into().unwrap();
            }
        }
    }

    fn check_ema(decay: f32, len: usize) {
        let (average, value, decay) = (values(1, len), values(2, len), [decay]);
        let inputs = [&average[..], &value, &decay].map(tensor);
        let want = reference(&Op::Ema, &inputs.each_ref(), &[]).remove(0).data;
        for isa in Isa::available() {
            let kernel = ema(isa, len);
            let got = run(&*kernel, &[&value[..], &decay].map(Input::F32), &[Out::InPlace(&average)]);
            assert_close(&kernel.name(), &got[0], &want, 1e-6);
            assert!(decay != [0.0] || got[0] == value, "{}: a decay of 0", kernel.name());
        }
    }

    #[test]
    fn moving_averages_match_reference() {
        for len in [0, 1, 16, 77, 1000] {
            [0.0, 0.5, 0.999, 1.0].into_iter().for_each(|decay| check_ema(decay, len));
        }
    }

    #[test]
    fn adamw_matches_reference() {
        for len in [0, 1, 16, 77] {
            check_adamw(0.0, 1.0, 1.0, len);
            check_adamw(0.05, 0.25, 1.0, len);
            check_adamw(0.05, 1e-9, 1000.0, len);
        }
    }
}
