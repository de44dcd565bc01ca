//! Convolutions with everything around them, and the definition that kernels are compared with.

use std::collections::BTreeMap;

use super::*;
use crate::blocks;
use crate::int8::quads_len;
use crate::int8::testing::{bytes, from_blocks, from_quads, run, to_quads};
use espalier_graph::random::Random;

/// One convolution with everything around it.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) g: ConvGeometry,
    pub(crate) zero: u8,
    /// Logical NCHW.
    pub(crate) x: Vec<u8>,
    pub(crate) w: Vec<i8>,
    pub(crate) scale: Vec<f32>,
    pub(crate) bias: Vec<i32>,
    /// Logical.
    pub(crate) residual: Vec<u8>,
    pub(crate) e: Epilogue,
}

impl Problem {
    /// Random content, with the extremes among it; scales such that results fill the byte and go beyond.
    pub(crate) fn new(g: ConvGeometry, seed: u64) -> Problem {
        let terms = g.channels_in / g.groups * g.window.kernel[0] * g.window.kernel[1];
        let pixels = g.output[0] * g.output[1];
        let mut random = Random::new(5, seed);
        let spread = 0.02 / (terms as f32).sqrt();
        Problem {
            x: bytes(3 * seed, g.batch * g.channels_in * g.input[0] * g.input[1]),
            w: bytes(3 * seed + 1, g.channels_out * terms).into_iter().map(|b| b as i8).collect(),
            residual: bytes(3 * seed + 2, g.batch * g.channels_out * pixels),
            scale: (0..g.channels_out).map(|_| spread * random.range(-1.0, 2.0)).collect(),
            bias: (0..g.channels_out).map(|_| (random.range(-20.0, 160.0) / spread) as i32).collect(),
            zero: 128,
            e: Epilogue::default(),
            g,
        }
    }

    pub(crate) fn zero(self, zero: u8) -> Problem {
        Problem { zero, ..self }
    }

    pub(crate) fn residual(self, zero: u8, scale: f32) -> Problem {
        let e = Epilogue { residual: Some(Operand { zero, scale }), ..self.e };
        Problem { e, ..self }
    }

    pub(crate) fn result(self, result: Output) -> Problem {
        Problem { e: Epilogue { result, ..self.e }, ..self }
    }

    /// The definition, with nothing in common with the kernels: `v` of every output in logical order.
    fn values(&self) -> Vec<f32> {
        let g = &self.g;
        let w = &g.window;
        let (inputs, outputs) = (g.channels_in / g.groups, g.channels_out / g.groups);
        let ([ih, iw], [oh, ow], [kh, kw]) = (g.input, g.output, w.kernel);
        let x = |image: usize, channel: usize, row: isize, column: isize| {
            if row < 0 || row >= ih as isize || column < 0 || column >= iw as isize {
                return 0;
            }
            let (row, column) = (row as usize, column as usize);
            let at = ((image * g.channels_in + channel) * ih + row) * iw + column;
            i64::from(self.x[at]) - i64::from(self.zero)
        };
        let value = |i: usize| {
            let (image, output, row, column) =
                (i / (ow * oh * g.channels_out), i / (ow * oh) % g.channels_out, i / ow % oh, i % ow);
            let mut sum = i64::from(self.bias[output]);
            for channel in 0..inputs {
                for ky in 0..kh {
                    for kx in 0..kw {
                        let at = |o: usize, k: usize, axis: usize| {
                            (o * w.stride[axis] + k * w.dilation[axis]) as isize - w.pad[axis] as isize
                        };
                        let x =
                            x(image, output / outputs * inputs + channel, at(row, ky, 0), at(column, kx, 1));
                        sum += x * i64::from(self.w[((output * inputs + channel) * kh + ky) * kw + kx]);
                    }
                }
            }
            let v = sum as i32 as f32 * self.scale[output];
            match self.e.residual {
                Some(Operand { zero, scale }) => {
                    ((i32::from(self.residual[i]) - i32::from(zero)) as f32).mul_add(scale, v)
                }
                None => v,
            }
        };
        (0..g.batch * g.channels_out * oh * ow).map(value).collect()
    }

    pub(crate) fn weights(&self) -> Weights<'_> {
        Weights { values: &self.w, scale: (&self.scale[..]).into(), bias: &self.bias }
    }

    pub(crate) fn prepare(&self, form: Form, method: Method) -> Prepared<'_> {
        with_form(form, method, &self.g, self.zero, &self.weights(), &self.e)
    }

    pub(crate) fn check(&self) {
        self.check_by(Method::Dense);
    }

    /// Every form gives the reference's bits; those of one offset with the same packed weights.
    pub(crate) fn check_by(&self, method: Method) {
        let g = &self.g;
        let (n, c, pixels) = (g.batch, g.channels_out, g.output[0] * g.output[1]);
        let x = to_quads(&self.x, g.channels_in, g.input[0] * g.input[1]);
        let residual = to_quads(&self.residual, c, pixels);
        let values = self.values();
        let mut packed: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for form in Form::available() {
            let prepared = self.prepare(form, method);
            let what = format!("{} {g:?} {:?} {:?}", prepared.kernel.name(), self.zero, self.e);
            let weights = prepared.packed.to_vec();
            let before = packed.entry(form.offset()).or_insert_with(|| weights.clone());
            assert!(*before == weights, "{what}: packed weights differ");
            let mut inputs: Vec<&[u8]> = vec![&x, &weights];
            inputs.extend(self.e.residual.map(|_| &residual[..]));
            match &self.e.result {
                Output::Float => {
                    let y = run(&*prepared.kernel, &inputs, 64 * n * blocks(c) * pixels);
                    let y = from_blocks(&y, n, c, pixels);
                    let same = y.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && y.len() == values.len(), "{what}:\n{y:?}\n{values:?}");
                }
                Output::Quads { zero, lo, hi, table } => {
                    let y = run(&*prepared.kernel, &inputs, quads_len(n, c, pixels));
                    let y = from_quads(&y, n, c, pixels);
                    let byte = |v: &f32| {
                        let y = v.round_ties_even() + f32::from(*zero);
                        let y = y.clamp(f32::from(*lo), f32::from(*hi)) as u8;
                        table.as_ref().map_or(y, |table| table.get(y))
                    };
                    let want: Vec<u8> = values.iter().map(byte).collect();
                    let wrong = y.iter().zip(&want).position(|(a, b)| a != b);
                    assert!(wrong.is_none(), "{what}: element {wrong:?}\n{y:?}\n{want:?}");
                }
            }
        }
    }
}
