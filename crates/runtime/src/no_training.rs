//! Stands for `training` in builds that only predict: their programs hold no kernel that no package can ask for.

use espalier_graph::Op;
use espalier_kernels::Activation;

use crate::fuse::Group;
use crate::lower::{LowerError, Lowering};
use crate::select::Emitted;

impl Lowering<'_> {
    pub(crate) fn training(&mut self, group: &Group, op: &Op, _activation: Activation) -> Emitted {
        let node = self.graph.value(group.outputs[0]).name.clone();
        Err(LowerError::Training { node, op: op.name() })
    }
}
