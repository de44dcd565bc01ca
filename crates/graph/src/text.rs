//! The text form of a graph: one line for each input, state, node, update and output. It parses back to an equal
//! graph, and packages store it.
//!
//! ```text
//! input x: f32[N,3,8,8]
//! weight conv.weight: f32[4,3,3,3]
//! conv: f32[N,4,8,8] = Conv(x, conv.weight) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1
//! output y = conv
//! ```

use std::fmt;

use crate::attr::{Attrs, split_list};
use crate::graph::{Graph, GraphError, Node, Role, Source, ValueId};
use crate::op::Op;
use crate::types::{DType, Shape, TensorType};

/// Longest text that is parsed, in bytes; a package's header may hold no more either.
pub const MAX_TEXT: usize = 1 << 20;

impl Role {
    const ALL: [Role; 3] = [Role::Weight, Role::Statistic, Role::Optimizer];

    fn keyword(self) -> &'static str {
        match self {
            Role::Weight => "weight",
            Role::Statistic => "statistic",
            Role::Optimizer => "optimizer",
        }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in self.values() {
            match value.source {
                Source::Input => writeln!(f, "input {}: {}", value.name, value.ty)?,
                Source::State(i) => {
                    writeln!(f, "{} {}: {}", self.states()[i].role.keyword(), value.name, value.ty)?;
                }
                Source::Node { node, output: 0 } => write_node(self, &self.nodes()[node], f)?,
                Source::Node { .. } => {}
            }
        }
        for state in self.states() {
            if let Some(next) = state.next {
                writeln!(f, "update {} = {}", self.value(state.value).name, self.value(next).name)?;
            }
        }
        for (name, id) in self.outputs() {
            writeln!(f, "output {name} = {}", self.value(*id).name)?;
        }
        Ok(())
    }
}

fn write_node(graph: &Graph, node: &Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let list = |ids: &[ValueId], show: &dyn Fn(ValueId) -> String| {
        ids.iter().map(|&id| show(id)).collect::<Vec<_>>().join(", ")
    };
    let outputs = list(&node.outputs, &|id| format!("{}: {}", graph.value(id).name, graph.ty(id)));
    let inputs = list(&node.inputs, &|id| graph.value(id).name.clone());
    write!(f, "{outputs} = {}({inputs})", node.op.name())?;
    for (name, text) in node.op.attrs() {
        write!(f, " {name}={text}")?;
    }
    writeln!(f)
}

impl std::str::FromStr for Graph {
    type Err = GraphError;

    /// Reads the text form; empty lines and lines that begin with `#` are skipped.
    fn from_str(text: &str) -> Result<Self, GraphError> {
        if text.len() > MAX_TEXT {
            return Err(GraphError::Invalid(format!(
                "a graph of {} bytes; at most {MAX_TEXT} are read",
                text.len()
            )));
        }
        let mut graph = Graph::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                let reason = |e: Problem| match e {
                    Problem::Text(reason) => GraphError::Text { line: number + 1, reason },
                    Problem::Graph(error) => GraphError::Text { line: number + 1, reason: error.to_string() },
                };
                parse_line(&mut graph, line).map_err(reason)?;
            }
        }
        Ok(graph)
    }
}

enum Problem {
    Text(String),
    Graph(GraphError),
}

impl From<GraphError> for Problem {
    fn from(error: GraphError) -> Self {
        Problem::Graph(error)
    }
}

impl From<String> for Problem {
    fn from(reason: String) -> Self {
        Problem::Text(reason)
    }
}

fn parse_line(graph: &mut Graph, line: &str) -> Result<(), Problem> {
    let (keyword, rest) = line.split_once(' ').unwrap_or((line, ""));
    if keyword == "input" {
        let (name, ty) = typed(rest)?;
        graph.add_input(name, ty)?;
    } else if let Some(role) = Role::ALL.into_iter().find(|r| r.keyword() == keyword) {
        let (name, ty) = typed(rest)?;
        graph.add_state(name, role, ty)?;
    } else if keyword == "update" {
        let (state, next) = assignment(rest)?;
        graph.set_next(find(graph, state)?, find(graph, next)?)?;
    } else if keyword == "output" {
        let (name, value) = assignment(rest)?;
        graph.add_output(name, find(graph, value)?)?;
    } else {
        parse_node(graph, line)?;
    }
    Ok(())
}

fn parse_node(graph: &mut Graph, line: &str) -> Result<(), Problem> {
    let (outputs, call) = assignment(line)?;
    let (op, rest) =
        call.split_once('(').ok_or_else(|| format!("`{}` is not `Op(inputs) attributes`", shown(call)))?;
    let (inputs, attrs) =
        rest.split_once(')').ok_or_else(|| format!("`{}` lacks the closing parenthesis", shown(call)))?;
    let outputs = split_list(outputs).into_iter().map(typed).collect::<Result<Vec<_>, _>>()?;
    let inputs =
        split_list(inputs).into_iter().map(|name| find(graph, name)).collect::<Result<Vec<_>, _>>()?;
    let op = parse_op(op, attrs)?;
    let names: Vec<String> = outputs.iter().map(|(name, _)| (*name).to_string()).collect();
    let made = graph.add_named(&names, op, &inputs)?;
    for ((name, ty), id) in outputs.iter().zip(made) {
        if graph.ty(id) != ty {
            return Err(format!("`{name}` is written as {ty}, it is {}", graph.ty(id)).into());
        }
    }
    Ok(())
}

fn parse_op(name: &str, attrs: &str) -> Result<Op, String> {
    let pairs = attrs.split_whitespace().map(|pair| {
        let (name, text) =
            pair.split_once('=').ok_or_else(|| format!("`{}` is not `attribute=value`", shown(pair)))?;
        Ok((name.to_string(), text.to_string()))
    });
    let mut attrs = Attrs::new(pairs.collect::<Result<_, String>>()?);
    let op = Op::parse(name, &mut attrs).map_err(|e| e.to_string())?;
    attrs.finish().map_err(|e| e.to_string())?;
    Ok(op)
}

fn assignment(text: &str) -> Result<(&str, &str), String> {
    text.split_once(" = ").ok_or_else(|| format!("`{}` is not `name = value`", shown(text)))
}

/// `name: f32[N,3]`.
fn typed(text: &str) -> Result<(&str, TensorType), String> {
    let (name, ty) = text.split_once(": ").ok_or_else(|| format!("`{}` is not `name: type`", shown(text)))?;
    let at = ty.find('[').ok_or_else(|| format!("`{}` is not a type like f32[N,3]", shown(ty)))?;
    let dtype: DType = ty[..at].parse()?;
    let shape: Shape =
        crate::attr::Attr::read(&ty[at..]).ok_or_else(|| format!("`{}` is not a shape", shown(&ty[at..])))?;
    Ok((name, TensorType { dtype, shape }))
}

fn find(graph: &Graph, name: &str) -> Result<ValueId, String> {
    graph.find(name).ok_or_else(|| format!("`{}` is not defined above", shown(name)))
}

/// The beginning of a text that may be long.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}
