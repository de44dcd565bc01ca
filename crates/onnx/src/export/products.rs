//! Convolutions, matrix products, pooling and normalisation.

use espalier_graph::{Node, Window};

use super::draft::{float, int, ints};
use super::{Exporter, Written};
use crate::proto::AttributeProto;

/// Kernel, strides and padding.
fn window_of(window: &Window) -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &window.kernel), ints("strides", &window.stride), ints("pads", &window.pad)]
}

/// Those of a convolution.
pub(super) fn conv_attributes(window: &Window, groups: usize) -> Vec<AttributeProto> {
    let mut attributes = window_of(window);
    attributes.extend([ints("dilations", &window.dilation), int("group", groups as i64)]);
    attributes
}

impl Exporter<'_> {
    pub(super) fn conv(&mut self, node: &Node, window: &Window, groups: usize) -> Written {
        let inputs: Vec<String> = node.inputs.iter().map(|&id| self.at(id)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.draft.node("Conv", &inputs, &conv_attributes(window, groups), &self.result(node));
        Ok(())
    }

    /// The transposed convolution, whose weights ONNX has in the same order.
    pub(super) fn transposed(
        &mut self,
        node: &Node,
        window: &Window,
        groups: usize,
        input: [usize; 2],
    ) -> Written {
        let (dy, w) = (self.at(node.inputs[0]), self.at(node.inputs[1]));
        let small = self.known(&self.dims(node.inputs[0])[2..])?;
        // Rows and columns of the result that no window reaches.
        let beyond = |axis: usize| {
            let reached = window.stride[axis] * (small[axis] - 1)
                + window.dilation[axis] * (window.kernel[axis] - 1)
                + 1;
            (input[axis] + window.pad[axis] + window.pad[axis + 2]).checked_sub(reached)
        };
        let (Some(down), Some(across)) = (beyond(0), beyond(1)) else {
            return Err(format!("gives {input:?} pixels, less than its windows reach"));
        };
        let mut attributes = conv_attributes(window, groups);
        attributes.push(ints("output_padding", &[down, across]));
        self.draft.node("ConvTranspose", &[&dy, &w], &attributes, &self.result(node));
        Ok(())
    }

    /// Gemm where both are matrices, else MatMul of transposed operands.
    pub(super) fn matmul(&mut self, node: &Node, trans_a: bool, trans_b: bool) -> Written {
        let y = self.result(node);
        let [a, b] = [0, 1].map(|i| self.at(node.inputs[i]));
        let rank = |i: usize| self.dims(node.inputs[i]).len();
        if (trans_a || trans_b) && rank(0) == 2 && rank(1) == 2 {
            let flags = [int("transA", trans_a.into()), int("transB", trans_b.into())];
            self.draft.node("Gemm", &[&a, &b], &flags, &y);
            return Ok(());
        }
        let ranks = [rank(0), rank(1)];
        let mut swapped = |x: String, part: &str, trans: bool, rank: usize| {
            if !trans {
                return x;
            }
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 2, rank - 1);
            self.draft.step(&y, part, "Transpose", &[&x], &[ints("perm", &perm)])
        };
        let a = swapped(a, "a", trans_a, ranks[0]);
        let b = swapped(b, "b", trans_b, ranks[1]);
        self.draft.node("MatMul", &[&a, &b], &[], &y);
        Ok(())
    }

    pub(super) fn max_pool(&mut self, window: &Window, x: &str, y: &str) -> Written {
        let mut attributes = window_of(window);
        attributes.push(ints("dilations", &window.dilation));
        self.draft.node("MaxPool", &[x], &attributes, y);
        Ok(())
    }

    pub(super) fn avg_pool(&mut self, window: &Window, count_pad: bool, x: &str, y: &str) {
        let mut attributes = window_of(window);
        attributes.push(int("count_include_pad", count_pad.into()));
        self.draft.node("AveragePool", &[x], &attributes, y);
    }

    pub(super) fn batch_norm(&mut self, node: &Node, eps: f32) -> Written {
        let inputs: Vec<String> = node.inputs.iter().map(|&id| self.at(id)).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.draft.node("BatchNormalization", &inputs, &[float("epsilon", eps)], &self.result(node));
        Ok(())
    }

    pub(super) fn layer_norm(&mut self, node: &Node, eps: f32) -> Written {
        let [x, gamma, beta] = [0, 1, 2].map(|i| self.at(node.inputs[i]));
        let attributes = [int("axis", -1), float("epsilon", eps)];
        self.draft.node("LayerNormalization", &[&x, &gamma, &beta], &attributes, &self.result(node));
        Ok(())
    }
}
