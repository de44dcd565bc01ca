//! Ops of integers, as floats between DequantizeLinear and QuantizeLinear.

use espalier_graph::{DType, Data, Node, Quant, Tensor, ValueId, Window};

use super::draft::int;
use super::products::conv_attributes;
use super::{Exporter, Written};

impl Exporter<'_> {
    pub(super) fn dequantize(&mut self, node: &Node) -> Written {
        let (x, y) = (self.at(node.inputs[0]), self.result(node));
        let quant = self.quant(node.inputs[0])?;
        self.draft.dequantize(&x, quant, &y);
        Ok(())
    }

    pub(super) fn quant(&self, id: ValueId) -> Result<Quant, String> {
        let ty = self.graph.ty(id);
        ty.dtype.quant().ok_or_else(|| format!("reads {ty}, bytes are needed"))
    }

    /// Weights with a scale for each output, biases in units of the sums, which runtimes take as the integers that they are.
    pub(super) fn qconv(
        &mut self,
        node: &Node,
        window: &Window,
        groups: usize,
        to: DType,
        limits: [u8; 2],
    ) -> Written {
        let y = self.result(node);
        let [x, w, scale, bias] = [0, 1, 2, 3].map(|i| node.inputs[i]);
        let step = self.quant(x)?.scale();
        let scales = self.floats(scale)?;
        let units: Vec<f32> = scales.iter().map(|scale| scale * step).collect();
        let outputs = units.len();
        let x = self.float(x);
        let (w_bytes, scale, bias) = (self.at(w), self.at(scale), self.at(bias));
        let zeros = Tensor::new(&[outputs], Data::S8(vec![0; outputs].into()));
        let zeros = self.draft.constant(&format!("{w_bytes}.zero"), &zeros);
        let first = [int("axis", 0)];
        let w = self.draft.step(&w_bytes, "float", "DequantizeLinear", &[&w_bytes, &scale, &zeros], &first);
        let units = self.draft.constant(&format!("{bias}.scale"), &Tensor::f32(&[outputs], units));
        let zeros = Tensor::new(&[outputs], Data::I32(vec![0; outputs].into()));
        let zeros = self.draft.constant(&format!("{bias}.zero"), &zeros);
        let bias = self.draft.step(&bias, "float", "DequantizeLinear", &[&bias, &units, &zeros], &first);
        let attributes = conv_attributes(window, groups);
        let residual = node.inputs.get(4).map(|&id| self.float(id));
        let write = |e: &mut Self, y: &str| match &residual {
            None => e.draft.node("Conv", &[&x, &w, &bias], &attributes, y),
            Some(residual) => {
                let product = e.draft.step(y, "product", "Conv", &[&x, &w, &bias], &attributes);
                e.draft.node("Add", &[&product, residual], &[], y);
            }
        };
        match to {
            DType::Q8(to) => self.rounded(&y, to, limits, write),
            _ => write(self, &y),
        }
        Ok(())
    }

    fn floats(&self, id: ValueId) -> Result<&[f32], String> {
        let name = &self.graph.value(id).name;
        let found = self.weights.get(name).and_then(Tensor::as_f32);
        found.ok_or_else(|| format!("has computed scales `{name}`, constant ones are needed"))
    }

    /// Rounds the float that `write` makes to the bytes `y` within limits.
    fn rounded(&mut self, y: &str, to: Quant, limits: [u8; 2], write: impl FnOnce(&mut Self, &str)) {
        let float = self.draft.fresh(&format!("{y}.unrounded"));
        write(self, &float);
        let clamped = self.clamped(&float, to, limits);
        self.draft.quantize(&clamped, to, y);
    }

    /// Limits of bytes as a clamp of floats; what bytes can hold is none.
    pub(super) fn clamped(&mut self, x: &str, to: Quant, [lo, hi]: [u8; 2]) -> String {
        if [lo, hi] == [0, 255] {
            return x.into();
        }
        let y = self.draft.fresh(&format!("{x}.clamped"));
        if lo == to.zero() && hi == 255 {
            self.draft.node("Relu", &[x], &[], &y);
        } else {
            let bound = |byte, open, infinite| if byte == open { infinite } else { to.dequantize(byte) };
            let bounds = [bound(lo, 0, f32::NEG_INFINITY), bound(hi, 255, f32::INFINITY)];
            self.clip(x, bounds, &y);
        }
        y
    }

    /// A sum or product of two tensors of bytes.
    pub(super) fn joined(&mut self, node: &Node, op: &str, to: Quant, limits: [u8; 2]) -> Written {
        let [a, b] = [0, 1].map(|i| self.float(node.inputs[i]));
        let y = self.result(node);
        self.rounded(&y, to, limits, |e, y| e.draft.node(op, &[&a, &b], &[], y));
        Ok(())
    }

    pub(super) fn qavg_pool(&mut self, node: &Node, window: &Window, count_pad: bool, to: Quant) -> Written {
        let whole = self.known(&self.dims(node.inputs[0])[2..])? == window.kernel && window.pad == [0; 4];
        let (x, y) = (self.float(node.inputs[0]), self.result(node));
        let float = self.draft.fresh(&format!("{y}.unrounded"));
        if whole {
            self.draft.node("GlobalAveragePool", &[&x], &[], &float);
        } else {
            self.avg_pool(window, count_pad, &x, &float);
        }
        self.draft.quantize(&float, to, &y);
        Ok(())
    }

    /// The table's bytes, if they are constant.
    pub(super) fn entries(&self, node: &Node) -> Result<[u8; 256], String> {
        let name = &self.graph.value(node.inputs[1]).name;
        let entries = self.weights.get(name).and_then(Tensor::as_u8).and_then(|bytes| bytes.try_into().ok());
        entries.ok_or_else(|| format!("has the computed table `{name}`, a constant one is needed"))
    }
}
