//! Reductions over axes.

use espalier_graph::{BinaryFn, Op, ReduceFn, UnaryFn};

use crate::import::fault::unsupported;
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes;

pub(super) fn reduce(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let dims = im.dims(x);
    let list = im.list(node, "axes", 1)?.unwrap_or_default();
    if list.is_empty() && node.flag("noop_with_empty_axes", false)? {
        return Ok(vec![Value::Flowing(x)]);
    }
    let axes = if list.is_empty() { (0..dims.len()).collect() } else { shapes::axes(&list, dims.len())? };
    if im.generalised() && axes.iter().any(|&a| dims[a].batch > 0) {
        return Err(unsupported("over the axis of the batch"));
    }
    let keep = node.flag("keepdims", true)?;
    let over = |f| Op::Reduce { f, axes: axes.clone(), keep };
    let unary = |f| Op::Unary { f };
    let square = Op::Binary { f: BinaryFn::Mul };
    let y = match node.op.as_str() {
        "ReduceMean" => im.add("", over(ReduceFn::Mean), &[x])?,
        "ReduceSum" => im.add("", over(ReduceFn::Sum), &[x])?,
        "ReduceMax" => im.add("", over(ReduceFn::Max), &[x])?,
        "ReduceMin" => {
            let negated = im.add("negated", unary(UnaryFn::Neg), &[x])?;
            let most = im.add("most", over(ReduceFn::Max), &[negated])?;
            im.add("", unary(UnaryFn::Neg), &[most])?
        }
        "ReduceL1" => {
            let magnitude = im.add("magnitude", unary(UnaryFn::Abs), &[x])?;
            im.add("", over(ReduceFn::Sum), &[magnitude])?
        }
        "ReduceSumSquare" => {
            let square = im.add("square", square, &[x, x])?;
            im.add("", over(ReduceFn::Sum), &[square])?
        }
        "ReduceL2" => {
            let square = im.add("square", square, &[x, x])?;
            let sum = im.add("sum", over(ReduceFn::Sum), &[square])?;
            im.add("", unary(UnaryFn::Sqrt), &[sum])?
        }
        other => unreachable!("the table sends no {other} here"),
    };
    Ok(vec![Value::Flowing(y)])
}
