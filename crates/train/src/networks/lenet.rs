//! LeNet-5 (LeCun et al. 1998), as it is built today: ReLU and max pooling.

use espalier_graph::{Graph, Op, UnaryFn, ValueId, Window};

use super::{Made, NetworkOptions};

pub(super) fn lenet(g: &mut Graph, x: ValueId, o: &NetworkOptions) -> Made {
    let x = stage(g, "1", x, o.scale(6), 2)?;
    let x = stage(g, "2", x, o.scale(16), 0)?;
    let x = g.flatten("flatten", x)?;
    let x = hidden(g, "3", "fc1", x, o.scale(120))?;
    let x = hidden(g, "4", "fc2", x, o.scale(84))?;
    g.linear("fc3", x, o.classes)
}

fn stage(g: &mut Graph, number: &str, x: ValueId, out: usize, pad: usize) -> Made {
    let x = g.conv2d(&format!("conv{number}"), x, out, Window::square(5, 1, pad), 1, true)?;
    let x = g.unary(&format!("relu{number}"), UnaryFn::Relu, x)?;
    g.add(&format!("pool{number}"), Op::MaxPool { window: Window::square(2, 2, 0) }, &[x])
}

fn hidden(g: &mut Graph, number: &str, name: &str, x: ValueId, out: usize) -> Made {
    let x = g.linear(name, x, out)?;
    g.unary(&format!("relu{number}"), UnaryFn::Relu, x)
}
