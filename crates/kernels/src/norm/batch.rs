//! Batch normalisation: one pass for the sums, one for the values, a channel or block of channels at a time, so that
//! the statistics never have to be joined over workers.

#[cfg(test)]
mod tests;

use super::moments::{Sums, Terms, add_moments, add_terms};
use crate::activation::Activation;
use crate::functions::{Function, Params, Visitor};
use crate::isa::{Isa, multiversion};
use crate::kernel::{Io, Kernel, Worker};
use crate::lanes::{LANES, Lanes};
use crate::layout::{Layout, blocks, load_up_to, physical_len, store_up_to};
use std::marker::PhantomData;

/// What is normalised: `x[batch, channels, spatial]`, per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormGeometry {
    /// Images.
    pub batch: usize,
    /// Channels, each with its own statistics.
    pub channels: usize,
    /// Pixels of a channel.
    pub spatial: usize,
    /// Layout of x, y and their gradients.
    pub layout: Layout,
}

/// Memory order of either layout is `[batch][groups][len]`. A group is a channel (plain; all lanes belong to it) or a
/// block of 16 channels (blocked; a lane each).
impl NormGeometry {
    fn groups(&self) -> usize {
        if self.layout == Layout::Blocked { blocks(self.channels) } else { self.channels }
    }

    fn len(&self) -> usize {
        if self.layout == Layout::Blocked { self.spatial * LANES } else { self.spatial }
    }

    fn start(&self, image: usize, group: usize) -> usize {
        (image * self.groups() + group) * self.len()
    }

    fn physical(&self) -> usize {
        physical_len(self.layout, self.batch, self.channels, self.spatial)
    }

    /// Values of one channel.
    fn count(&self) -> f64 {
        (self.batch * self.spatial) as f64
    }

    /// Channels in `group`.
    fn width(&self, group: usize) -> usize {
        if self.layout == Layout::Blocked { LANES.min(self.channels - group * LANES) } else { 1 }
    }

    /// Lanes whose values count.
    fn lanes(&self, group: usize) -> usize {
        if self.layout == Layout::Blocked { self.width(group) } else { LANES }
    }

    /// The group's elements of a per-channel vector, 0 in the lanes past C.
    #[inline(always)]
    unsafe fn load<V: Lanes>(&self, p: *const f32, group: usize) -> V {
        // SAFETY: the caller's vector has an element for every channel.
        unsafe {
            match self.layout {
                Layout::Blocked => load_up_to(p.add(group * LANES), self.width(group), V::zero()),
                Layout::Plain => V::splat(*p.add(group)),
            }
        }
    }

    /// Stores the group's elements of a per-channel vector.
    #[inline(always)]
    unsafe fn store<V: Lanes>(&self, v: V, p: *mut f32, group: usize) {
        // SAFETY: the caller's vector has an element for every channel.
        unsafe {
            match self.layout {
                Layout::Blocked => store_up_to(v, p.add(group * LANES), self.width(group)),
                Layout::Plain => *p.add(group) = v.to_array()[0],
            }
        }
    }

    /// Sums per channel from sums per lane: the sum over all lanes where they belong to one channel, and 0 past C,
    /// since what stands there must not matter.
    #[inline(always)]
    fn per_channel(&self, group: usize, mut sums: Sums) -> Sums {
        let width = self.width(group);
        for sum in &mut sums {
            match self.layout {
                Layout::Blocked => sum[width..].fill(0.0),
                Layout::Plain => *sum = [sum.iter().sum(); LANES],
            }
        }
        sums
    }
}

/// `f` of each of the first `lanes` lanes, 0 past them.
#[inline(always)]
fn each(lanes: usize, f: impl Fn(usize) -> f64) -> [f64; LANES] {
    std::array::from_fn(|i| if i < lanes { f(i) } else { 0.0 })
}

#[inline(always)]
unsafe fn narrow<V: Lanes>(a: [f64; LANES]) -> V {
    // SAFETY: inside of a function made by `multiversion!`.
    unsafe { V::from_array(a.map(|v| v as f32)) }
}

/// `y = (x - mean) * scale + offset`. The mean is taken off first: folded into the offset it would cost digits.
#[derive(Clone, Copy)]
struct Line<V> {
    mean: V,
    scale: V,
    offset: V,
}

impl<V: Lanes> Line<V> {
    #[inline(always)]
    unsafe fn at(&self, x: V) -> V {
        // SAFETY: inside of a function made by `multiversion!`.
        unsafe { x.sub(self.mean).mul_add(self.scale, self.offset) }
    }

    /// Writes the activation of the line over `len` elements.
    #[inline(always)]
    unsafe fn draw<F: Function>(&self, params: Params, x: *const f32, y: *mut f32, len: usize) {
        // SAFETY: the caller's `len` elements.
        unsafe {
            for i in 0..len / LANES {
                let v = self.at(V::load(x.add(i * LANES)));
                F::value(params, v).store(y.add(i * LANES));
            }
            let (i, rest) = (len / LANES * LANES, len % LANES);
            if rest > 0 {
                let v = self.at(load_up_to(x.add(i), rest, self.mean));
                store_up_to(F::value(params, v), y.add(i), rest);
            }
        }
    }
}

/// What all kernels of this file know.
#[derive(Clone, Copy)]
struct Norm {
    isa: Isa,
    g: NormGeometry,
    eps: f64,
    momentum: f64,
    activation: Activation,
}

impl Norm {
    fn name(&self, what: &str) -> String {
        format!("{what}{} {}", self.activation.suffix(), self.isa)
    }
}

/// The parameters are the activation's.
type Group = unsafe fn(&Norm, Params, &Io<'_>, usize);

/// What [`Activation::visit`] calls to pick the body for a function; `$pick` is made by `multiversion!`.
macro_rules! picker {
    ($name:ident, $pick:ident) => {
        struct $name(Isa);
        impl Visitor<(Group, Params)> for $name {
            fn visit<F: Function>(self, params: Params) -> (Group, Params) {
                ($pick::<F>(self.0), params)
            }
        }
    };
}

/// Normalises with given statistics, then activates.
/// in: x, gamma, beta, mean, var; out: y.
pub fn batch_norm(isa: Isa, g: NormGeometry, eps: f32, activation: Activation) -> Box<dyn Kernel> {
    let norm = Norm { isa, g, eps: eps.into(), momentum: 0.0, activation };
    Box::new(Given(norm, activation.visit(PickGiven(isa))))
}

struct Given(Norm, (Group, Params));

impl Kernel for Given {
    fn name(&self) -> String {
        self.0.name("batch norm")
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let g = &self.0.g;
        check(io, &[g.physical(), g.channels, g.channels, g.channels, g.channels], &[g.physical()]);
        let (body, params) = self.1;
        for plane in worker.share(g.batch * g.groups()) {
            // SAFETY: lengths were checked; planes are disjoint.
            unsafe { body(&self.0, params, io, plane) };
        }
    }
}

/// Fails where a buffer has not the length that the geometry says.
fn check(io: &Io<'_>, inputs: &[usize], outputs: &[usize]) {
    for (i, &len) in inputs.iter().enumerate() {
        assert_eq!(io.input::<f32>(i).len(), len, "elements of input {i}");
    }
    for (i, &len) in outputs.iter().enumerate() {
        assert_eq!(io.output::<f32>(i).len(), len, "elements of output {i}");
    }
}

multiversion! { fn pick_given<F: Function>(norm: &Norm, params: Params, io: &Io<'_>, plane: usize) = given }
picker! { PickGiven, pick_given }

#[inline(always)]
unsafe fn given<V: Lanes, F: Function>(norm: &Norm, params: Params, io: &Io<'_>, plane: usize) {
    let g = &norm.g;
    let (group, start) = (plane % g.groups(), plane * g.len());
    // SAFETY: `run` checked the lengths; this worker alone writes this plane.
    unsafe {
        let [gamma, beta, mean, var] = [1, 2, 3, 4].map(|i| io.input::<f32>(i).as_ptr());
        let (gamma, beta): (V, V) = (g.load(gamma, group), g.load(beta, group));
        let (mean, var): (V, V) = (g.load(mean, group), g.load(var, group));
        let (weight, var) = (gamma.to_array(), var.to_array());
        let lanes = g.lanes(group);
        let scale = each(lanes, |i| f64::from(weight[i]) / (f64::from(var[i]) + norm.eps).sqrt());
        let line = Line { mean, scale: narrow(scale), offset: beta };
        let (x, y) = (io.input::<f32>(0).as_ptr().add(start), io.output::<f32>(0).as_mut_ptr().add(start));
        line.draw::<F>(params, x, y, g.len());
    }
}

/// Normalises with the batch's own statistics, then activates. The biased variance normalises; the running one moves
/// towards the unbiased one, or the biased one where a channel has a single value.
/// in: x, gamma, beta; out: y, running_mean and running_var (in place), batch_mean, batch_rstd.
pub fn batch_norm_training(
    isa: Isa,
    g: NormGeometry,
    eps: f32,
    momentum: f32,
    activation: Activation,
) -> Box<dyn Kernel> {
    let norm = Norm { isa, g, eps: eps.into(), momentum: momentum.into(), activation };
    Box::new(Training(norm, activation.visit(PickTraining(isa))))
}

struct Training(Norm, (Group, Params));

impl Kernel for Training {
    fn name(&self) -> String {
        self.0.name("batch norm training")
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (g, c) = (&self.0.g, self.0.g.channels);
        check(io, &[g.physical(), c, c], &[g.physical(), c, c, c, c]);
        let (body, params) = self.1;
        for group in worker.share(g.groups()) {
            // SAFETY: lengths were checked; groups have disjoint planes and channels.
            unsafe { body(&self.0, params, io, group) };
        }
    }
}

multiversion! { fn pick_training<F: Function>(norm: &Norm, params: Params, io: &Io<'_>, group: usize) = training }
picker! { PickTraining, pick_training }

#[inline(always)]
unsafe fn training<V: Lanes, F: Function>(norm: &Norm, params: Params, io: &Io<'_>, group: usize) {
    let (g, x, y) = (&norm.g, io.input::<f32>(0).as_ptr(), io.output::<f32>(0).as_mut_ptr());
    let mut sums = Sums::default();
    // SAFETY: `run` checked the lengths; this worker alone writes this group.
    unsafe {
        for image in 0..g.batch {
            add_moments::<V>(x.add(g.start(image, group)), g.len(), &mut sums);
        }
        let line = statistics::<V>(norm, io, group, g.per_channel(group, sums));
        for image in 0..g.batch {
            let start = g.start(image, group);
            line.draw::<F>(params, x.add(start), y.add(start), g.len());
        }
    }
}

/// Writes the statistics that have these sums of x and x^2, moves the running ones, and gives the line to draw.
#[inline(always)]
unsafe fn statistics<V: Lanes>(norm: &Norm, io: &Io<'_>, group: usize, [sum, squares]: Sums) -> Line<V> {
    let (g, lanes, n) = (&norm.g, norm.g.lanes(group), norm.g.count());
    let mean = each(lanes, |i| sum[i] / n);
    // `max` drops NaN, which must show: hence the comparison.
    let spread = each(lanes, |i| squares[i] / n - mean[i] * mean[i]);
    let var = each(lanes, |i| if spread[i] < 0.0 { 0.0 } else { spread[i] });
    let rstd = each(lanes, |i| 1.0 / (var[i] + norm.eps).sqrt());
    let unbiased = if n > 1.0 { n / (n - 1.0) } else { 1.0 };
    // SAFETY: the caller's buffers have an element for every channel.
    unsafe {
        let output = |i| io.output::<f32>(i).as_mut_ptr();
        let near: V = narrow(mean);
        move_towards::<V>(norm, output(1), group, mean);
        move_towards::<V>(norm, output(2), group, each(lanes, |i| unbiased * var[i]));
        g.store(near, output(3), group);
        g.store(narrow::<V>(rstd), output(4), group);
        let [gamma, beta] = [1, 2].map(|i| io.input::<f32>(i).as_ptr());
        let (gamma, beta): (V, V) = (g.load(gamma, group), g.load(beta, group));
        let (gamma, beta) = (gamma.to_array(), beta.to_array());
        let rounded = near.to_array();
        let scale = each(lanes, |i| f64::from(gamma[i]) * rstd[i]);
        let offset = each(lanes, |i| f64::from(beta[i]) + (f64::from(rounded[i]) - mean[i]) * scale[i]);
        Line { mean: near, scale: narrow(scale), offset: narrow(offset) }
    }
}

/// `running = (1 - momentum) * running + momentum * batch`.
#[inline(always)]
unsafe fn move_towards<V: Lanes>(norm: &Norm, running: *mut f32, group: usize, batch: [f64; LANES]) {
    // SAFETY: the caller's vector has an element for every channel.
    unsafe {
        let old = norm.g.load::<V>(running, group).to_array();
        let new = each(LANES, |i| f64::from(old[i]) * (1.0 - norm.momentum) + norm.momentum * batch[i]);
        norm.g.store(narrow::<V>(new), running, group);
    }
}

/// Gradient of [`batch_norm_training`]. With an activation, `dy` is the gradient behind it; its slope is that at the
/// normalised value, which is computed again.
/// in: x, dy, gamma, beta (read only with an activation), batch_mean, batch_rstd; out: dx, dgamma, dbeta.
pub fn batch_norm_grad(isa: Isa, g: NormGeometry, activation: Activation) -> Box<dyn Kernel> {
    let norm = Norm { isa, g, eps: 0.0, momentum: 0.0, activation };
    Box::new(Gradient(norm, activation.visit(PickGradient(isa))))
}

struct Gradient(Norm, (Group, Params));

impl Kernel for Gradient {
    fn name(&self) -> String {
        self.0.name("batch norm gradient")
    }

    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (g, c) = (&self.0.g, self.0.g.channels);
        check(io, &[g.physical(), g.physical(), c, c, c, c], &[g.physical(), c, c]);
        let (body, params) = self.1;
        for group in worker.share(g.groups()) {
            // SAFETY: lengths were checked; groups have disjoint planes and channels.
            unsafe { body(&self.0, params, io, group) };
        }
    }
}

/// Gradient before the activation of one plane, with x less its mean.
struct Sloped<V, F> {
    x: *const f32,
    dy: *const f32,
    line: Line<V>,
    params: Params,
    function: PhantomData<F>,
}

impl<V: Lanes, F: Function> Terms<V> for Sloped<V, F> {
    /// `[g, g * (x - mean)]`.
    #[inline(always)]
    unsafe fn at(&self, i: usize, len: usize) -> [V; 2] {
        // SAFETY: the caller's offset and length.
        unsafe {
            let (x, g) = self.load(i, len);
            [g, g.mul(x)]
        }
    }
}

impl<V: Lanes, F: Function> Sloped<V, F> {
    /// `(x - mean, g)` of the up to 16 elements at offset `i`, 0 in the lanes past `len`.
    #[inline(always)]
    unsafe fn load(&self, i: usize, len: usize) -> (V, V) {
        // SAFETY: the caller's offset and length.
        unsafe {
            let x = load_up_to(self.x.add(i), len, self.line.mean);
            let dy = load_up_to(self.dy.add(i), len, V::zero());
            (x.sub(self.line.mean), F::derivative(self.params, self.line.at(x)).mul(dy))
        }
    }

    /// Writes `[scale, slope, offset] . [g, x - mean, 1]` over `len` elements.
    #[inline(always)]
    unsafe fn write(&self, dx: *mut f32, len: usize, factors: [V; 3]) {
        // SAFETY: the caller's `len` elements.
        unsafe {
            for i in 0..len / LANES {
                self.value(i * LANES, LANES, factors).store(dx.add(i * LANES));
            }
            let (i, rest) = (len / LANES * LANES, len % LANES);
            if rest > 0 {
                store_up_to(self.value(i, rest, factors), dx.add(i), rest);
            }
        }
    }

    #[inline(always)]
    unsafe fn value(&self, i: usize, len: usize, [scale, slope, offset]: [V; 3]) -> V {
        // SAFETY: the caller's offset and length.
        unsafe {
            let (x, g) = self.load(i, len);
            g.mul_add(scale, x.mul_add(slope, offset))
        }
    }
}

multiversion! { fn pick_gradient<F: Function>(norm: &Norm, params: Params, io: &Io<'_>, group: usize) = gradient }
picker! { PickGradient, pick_gradient }

#[inline(always)]
unsafe fn gradient<V: Lanes, F: Function>(norm: &Norm, params: Params, io: &Io<'_>, group: usize) {
    let g = &norm.g;
    // SAFETY: `run` checked the lengths; this worker alone writes this group.
    unsafe {
        let [gamma, beta, mean, rstd] = [2, 3, 4, 5].map(|i| io.input::<f32>(i).as_ptr());
        let (gamma, beta): (V, V) = (g.load(gamma, group), g.load(beta, group));
        let (mean, rstd): (V, V) = (g.load(mean, group), g.load(rstd, group));
        let line = Line { mean, scale: gamma.mul(rstd), offset: beta };
        let sloped = |start: usize| {
            let [x, dy] = [0, 1].map(|i| io.input::<f32>(i).as_ptr().add(start));
            Sloped::<V, F> { x, dy, line, params, function: PhantomData }
        };
        let mut sums = Sums::default();
        for image in 0..g.batch {
            add_terms(&sloped(g.start(image, group)), g.len(), &mut sums);
        }
        let factors = factors(norm, io, group, g.per_channel(group, sums), [gamma, rstd]);
        for image in 0..g.batch {
            let start = g.start(image, group);
            let dx = io.output::<f32>(0).as_mut_ptr().add(start);
            sloped(start).write(dx, g.len(), factors);
        }
    }
}

/// Writes dgamma and dbeta from the sums of g and `g * (x - mean)`, and gives the factors of dx:
/// `dx = gamma rstd (g - dbeta / n - (x - mean) rstd dgamma / n)`.
#[inline(always)]
unsafe fn factors<V: Lanes>(norm: &Norm, io: &Io<'_>, group: usize, sums: Sums, params: [V; 2]) -> [V; 3] {
    let (g, n) = (&norm.g, norm.g.count());
    // SAFETY: the caller's buffers have an element for every channel.
    unsafe {
        let [gamma, rstd] = params.map(|v| v.to_array());
        let dgamma = each(LANES, |i| sums[1][i] * f64::from(rstd[i]));
        g.store(narrow::<V>(dgamma), io.output::<f32>(1).as_mut_ptr(), group);
        g.store(narrow::<V>(sums[0]), io.output::<f32>(2).as_mut_ptr(), group);
        let scale = each(LANES, |i| f64::from(gamma[i]) * f64::from(rstd[i]));
        let slope = each(LANES, |i| -scale[i] * f64::from(rstd[i]) * dgamma[i] / n);
        [narrow(scale), narrow(slope), narrow(each(LANES, |i| -scale[i] * sums[0][i] / n))]
    }
}
