//! norm
use crate::reference::RefTensor;
use espalier_graph::Op;

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, _inputs: &[&RefTensor], _outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    unreachable!("{} is not of this family", op.name())
}
