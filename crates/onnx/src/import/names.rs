//! Names of a file in the form that graphs allow, each once; and PyTorch's names for weights that lost theirs.

use std::collections::{HashMap, HashSet};

/// Longest name that is made; graphs allow 256 bytes, and a number or a part may follow.
const LONGEST: usize = 200;

/// The names that are taken.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
    /// The last number given to each base, so that many equal names stay cheap.
    numbers: HashMap<String, usize>,
}

impl Names {
    /// A name that nobody has yet: `wanted` in the allowed letters, with a number where it is taken.
    pub(crate) fn fresh(&mut self, wanted: &str) -> String {
        let base = allowed(wanted);
        let mut name = base.clone();
        while !self.taken.insert(name.clone()) {
            let number = self.numbers.entry(base.clone()).or_default();
            *number += 1;
            name = format!("{base}.{number}");
        }
        name
    }
}

/// `name` with `_` for every letter that graphs do not allow.
pub(crate) fn allowed(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || "_./:-".contains(c);
    let name: String = name.chars().take(LONGEST).map(|c| if good(c) { c } else { '_' }).collect();
    if name.is_empty() { "value".into() } else { name }
}

/// An output's name, which becomes a file's: no `/` and no `..`.
pub(crate) fn output(name: &str) -> String {
    let name = allowed(name).replace('/', "_").replace("..", "_");
    let name = name.trim_start_matches('_');
    if name.is_empty() { "output".into() } else { name.into() }
}

/// The name of a weight: its own, or, where an exporter invented that (`onnx::Conv_495`), the one of the module that its
/// node stands for: `/layer1/layer1.0/conv1/Conv` gives `layer1.0.conv1.weight`.
pub(crate) fn weight(own: &str, node: &str, part: &str) -> String {
    let invented = own.is_empty() || own.contains("::") || own.bytes().all(|b| b.is_ascii_digit());
    match module(node) {
        Some(module) if invented => format!("{module}.{part}"),
        None if own.is_empty() => format!("{node}.{part}"),
        _ => own.to_string(),
    }
}

/// The module's path in a node's name as PyTorch's exporter writes it; a scope repeats that of its container.
fn module(node: &str) -> Option<String> {
    let scopes: Vec<&str> = node.strip_prefix('/')?.split('/').collect();
    let (_, scopes) = scopes.split_last()?;
    let mut path: Vec<&str> = Vec::new();
    for scope in scopes {
        match path.last() {
            Some(last) if scope.strip_prefix(last).is_some_and(|rest| rest.starts_with('.')) => {
                path.pop();
            }
            _ => {}
        }
        path.push(scope);
    }
    (!path.is_empty()).then(|| path.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit_and_unique() {
        let mut names = Names::default();
        let got: Vec<String> = ["a b", "a_b", "a?b", "", "\u{e9}"].map(|n| names.fresh(n)).into();
        assert_eq!(got, ["a_b", "a_b.1", "a_b.2", "value", "_"]);
        assert_eq!(output("/head/Add_output_0"), "head_Add_output_0");
        assert_eq!(output("../x"), "x");
        assert_eq!(output("//"), "output");
    }

    #[test]
    fn weights_without_a_name_get_their_modules() {
        let check = |own, node, want: &str| assert_eq!(weight(own, node, "weight"), want);
        check("conv1.weight", "/conv1/Conv", "conv1.weight");
        check("onnx::Conv_495", "/layer1/layer1.0/conv1/Conv", "layer1.0.conv1.weight");
        check("onnx::Conv_1", "/features/features.0/features.0.0/Conv", "features.0.0.weight");
        check("321", "/fc/MatMul", "fc.weight");
        check("", "n5", "n5.weight");
        check("onnx::Conv_7", "Conv_3", "onnx::Conv_7");
    }
}
