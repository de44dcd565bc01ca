//! The graph: values, the nodes that make them, states, inputs and outputs.

use std::collections::HashMap;

use crate::infer::infer;
use crate::op::Op;
use crate::types::TensorType;

/// A value of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Given at every run.
    Input,
    /// The value that state number `.0` has when the run begins.
    State(usize),
    /// Output `output` of node number `node`.
    Node {
        /// Position in [`Graph::nodes`].
        node: usize,
        /// Which of the node's outputs.
        output: usize,
    },
}

/// A tensor that flows through the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique in the graph.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
    /// Where it comes from.
    pub source: Source,
}

/// One operation; its name is that of its first output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// What it makes.
    pub outputs: Vec<ValueId>,
}

/// What a state is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Learned by gradient descent.
    Weight,
    /// Follows the data: running statistics.
    Statistic,
    /// Belongs to training only: momentum and the like.
    Optimizer,
}

/// A tensor that outlives a run. Its initial content is not part of the graph (see [`Weights`](crate::Weights)).
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// What it is for.
    pub role: Role,
    /// Its content when a run begins; the value's name is the state's.
    pub value: ValueId,
    /// Its content when the run has ended, if runs change it.
    pub next: Option<ValueId>,
}

/// Why a graph could not be built, parsed or verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// A node's inputs do not fit its op.
    #[error("node `{node}` ({op} of {inputs}): {reason}")]
    Node {
        /// Name of the node.
        node: String,
        /// Name of the op.
        op: &'static str,
        /// The inputs' names with types.
        inputs: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// Two values of one name, or a name that the text form could not hold.
    #[error("value name `{0}` is {1}")]
    Name(String, &'static str),
    /// The text form does not parse.
    #[error("line {line}: {reason}")]
    Text {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The graph breaks a rule of its stage.
    #[error("{0}")]
    Invalid(String),
}

/// A model: nodes in an order in which each one's inputs come first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    states: Vec<State>,
    outputs: Vec<(String, ValueId)>,
    names: HashMap<String, ValueId>,
}

/// Most outputs of a graph.
const MAX_OUTPUTS: usize = 1024;

fn check_name(name: &str) -> Result<(), GraphError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_./:-".contains(&b);
    if (1..=256).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    let rule = "not made of 1 to 256 ASCII letters, digits and _ . / : -";
    Err(GraphError::Name(name.chars().take(300).collect(), rule))
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }

    /// All values, in the order of their making.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All nodes, each after those it reads from.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The inputs in declaration order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The states in declaration order.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// The outputs with their names.
    pub fn outputs(&self) -> &[(String, ValueId)] {
        &self.outputs
    }

    /// The value `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Element type and shape of `id`.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.value(id).ty
    }

    /// The value called `name`.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// The output called `name`.
    pub fn output(&self, name: &str) -> Option<ValueId> {
        self.outputs.iter().find(|(n, _)| n == name).map(|(_, id)| *id)
    }

    /// The node that makes `id`, if a node does.
    pub fn producer(&self, id: ValueId) -> Option<&Node> {
        match self.value(id).source {
            Source::Node { node, .. } => Some(&self.nodes[node]),
            Source::Input | Source::State(_) => None,
        }
    }

    /// The name of `node`.
    pub fn node_name(&self, node: &Node) -> &str {
        &self.value(node.outputs[0]).name
    }

    /// Whether `id` is a state's value.
    pub fn is_state(&self, id: ValueId) -> bool {
        matches!(self.value(id).source, Source::State(_))
    }

    /// How many times nodes, outputs and state updates read each value.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.values.len()];
        let reads = self.nodes.iter().flat_map(|n| &n.inputs);
        let results = self.outputs.iter().map(|(_, id)| id);
        let updates = self.states.iter().filter_map(|s| s.next.as_ref());
        reads.chain(results).chain(updates).for_each(|id| uses[id.index()] += 1);
        uses
    }

    /// A name that no value has yet: `base`, or `base` with a number.
    pub fn fresh(&self, base: &str) -> String {
        if !self.names.contains_key(base) {
            return base.to_string();
        }
        (1..)
            .map(|i| format!("{base}.{i}"))
            .find(|name| !self.names.contains_key(name))
            .expect("names are endless")
    }

    fn insert(&mut self, name: &str, ty: TensorType, source: Source) -> Result<ValueId, GraphError> {
        check_name(name)?;
        if self.names.contains_key(name) {
            return Err(GraphError::Name(name.into(), "taken twice"));
        }
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { name: name.into(), ty, source });
        self.names.insert(name.into(), id);
        Ok(id)
    }

    /// Declares an input.
    ///
    /// # Errors
    /// The name is taken or malformed.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> Result<ValueId, GraphError> {
        let id = self.insert(name, ty, Source::Input)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Declares a state.
    ///
    /// # Errors
    /// The name is taken or malformed.
    pub fn add_state(&mut self, name: &str, role: Role, ty: TensorType) -> Result<ValueId, GraphError> {
        let id = self.insert(name, ty, Source::State(self.states.len()))?;
        self.states.push(State { role, value: id, next: None });
        Ok(id)
    }

    /// Says what the state with value `state` becomes at the end of a run.
    ///
    /// # Errors
    /// `state` is none, has a next value already, or the types differ.
    pub fn set_next(&mut self, state: ValueId, next: ValueId) -> Result<(), GraphError> {
        let name = self.value(state).name.clone();
        let Source::State(index) = self.value(state).source else {
            return Err(GraphError::Invalid(format!("`{name}` is not a state and cannot be updated")));
        };
        if self.ty(state) != self.ty(next) {
            let (have, want) = (self.ty(next), self.ty(state));
            return Err(GraphError::Invalid(format!("state `{name}` is {want}, its next value {have}")));
        }
        if self.states[index].next.replace(next).is_some() {
            return Err(GraphError::Invalid(format!("state `{name}` is updated twice")));
        }
        Ok(())
    }

    /// Appends a node with as many outputs as its op has; the first is called `name`, the others `name` and a number.
    ///
    /// # Errors
    /// The inputs do not fit the op; the name is taken or malformed.
    pub fn add_all(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        let types = self.infer(name, &op, inputs)?;
        let names: Vec<String> =
            (0..types.len()).map(|i| if i == 0 { name.to_string() } else { format!("{name}:{i}") }).collect();
        self.add_named(&names, op, inputs)
    }

    /// Appends a node with one output and returns that.
    ///
    /// # Errors
    /// As [`Graph::add_all`].
    pub fn add(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let outputs = self.add_all(name, op, inputs)?;
        Ok(outputs[0])
    }

    /// Appends a node whose outputs have the given names.
    ///
    /// # Errors
    /// As [`Graph::add_all`]; also where the number of names is not that of the op's outputs.
    pub fn add_named(
        &mut self,
        names: &[String],
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let node_name = names.first().map_or("?", String::as_str);
        let types = self.infer(node_name, &op, inputs)?;
        if types.len() != names.len() {
            let reason = format!("the op has {} outputs, {} are named", types.len(), names.len());
            return Err(self.node_error(node_name, &op, inputs, reason));
        }
        let node = self.nodes.len();
        let outputs = names
            .iter()
            .zip(types)
            .enumerate()
            .map(|(output, (name, ty))| self.insert(name, ty, Source::Node { node, output }))
            .collect::<Result<Vec<_>, _>>()?;
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Declares that `value` is an output called `name`. Outputs become files, so the name holds no `/` and no `..`.
    ///
    /// # Errors
    /// The name is an output's already, or malformed; or there are too many outputs.
    pub fn add_output(&mut self, name: &str, value: ValueId) -> Result<(), GraphError> {
        check_name(name)?;
        if name.contains('/') || name.contains("..") {
            return Err(GraphError::Name(name.into(), "an output's and may hold no `/` and no `..`"));
        }
        if self.outputs.len() == MAX_OUTPUTS {
            return Err(GraphError::Invalid(format!("a graph has at most {MAX_OUTPUTS} outputs")));
        }
        if self.output(name).is_some() {
            return Err(GraphError::Name(name.into(), "an output twice"));
        }
        self.outputs.push((name.into(), value));
        Ok(())
    }

    fn infer(&self, name: &str, op: &Op, inputs: &[ValueId]) -> Result<Vec<TensorType>, GraphError> {
        let types: Vec<&TensorType> = inputs.iter().map(|&id| self.ty(id)).collect();
        infer(op, &types).map_err(|reason| self.node_error(name, op, inputs, reason))
    }

    fn node_error(&self, node: &str, op: &Op, inputs: &[ValueId], reason: String) -> GraphError {
        let inputs: Vec<String> =
            inputs.iter().map(|&id| format!("{} {}", self.value(id).name, self.ty(id))).collect();
        GraphError::Node { node: node.into(), op: op.name(), inputs: inputs.join(", "), reason }
    }
}
