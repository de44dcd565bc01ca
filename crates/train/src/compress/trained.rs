//! Networks that were trained on the way, kept beside the report, so that a search that was stopped goes on.

use std::path::PathBuf;

use espalier_graph::{Graph, Lineage, Manifest, Package, Weights};

use crate::digest;

/// A folder of networks that were trained for one compression: packages without a task.
pub(super) struct Trained {
    folder: PathBuf,
    /// Of everything that their weights depend on.
    key: String,
    /// Whether those that are there are taken.
    resume: bool,
}

impl Trained {
    /// In `folder`, for a compression of which `key` says what is compressed with which data and settings.
    pub(super) fn new(folder: PathBuf, key: impl AsRef<[u8]>, resume: bool) -> Trained {
        Trained { folder, key: digest::of(key), resume }
    }

    /// The network called `name`; of another compression, or damaged, it counts as absent.
    pub(super) fn load(&self, name: &str) -> Option<(Graph, Weights)> {
        let path = self.path(name);
        let package = (self.resume && path.exists()).then(|| Package::read(path).ok())??;
        let is_ours =
            package.manifest.name == name && package.manifest.lineage.settings == Some(self.key.clone());
        is_ours.then_some((package.graph, package.weights))
    }

    /// Keeps a network; it is whole under its name, or not there.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn keep(&self, name: &str, graph: &Graph, weights: &Weights) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let lineage = Lineage { settings: Some(self.key.clone()), ..Lineage::default() };
        let manifest = Manifest { name: name.into(), lineage, ..Manifest::default() };
        let (graph, weights) = (graph.clone(), weights.clone());
        Ok(Package { manifest, graph, weights, golden: Vec::new(), reference: Weights::new() }
            .write(self.path(name))?)
    }

    fn path(&self, name: &str) -> PathBuf {
        let file: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        self.folder.join(format!("{file}.espalier"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_graph::{Dim, Role, Shape, Tensor, TensorType};

    fn network() -> (Graph, Weights) {
        let mut graph = Graph::new();
        let ty = TensorType::f32(Shape(vec![Dim::from(2)]));
        let x = graph.add_input("x", ty.clone()).unwrap();
        let w = graph.add_state("w", Role::Weight, ty).unwrap();
        let y = graph.sum("y", x, w).unwrap();
        graph.add_output("y", y).unwrap();
        (graph, Weights::from([("w".into(), Tensor::f32(&[2], vec![1.0, 2.0]))]))
    }

    #[test]
    fn only_what_belongs_to_it_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let of = |key: &str, resume| Trained::new(folder.path().join("trained"), key, resume);
        let (graph, weights) = network();
        assert!(of("a", true).load("50 % pruned").is_none());
        of("a", false).keep("50 % pruned", &graph, &weights).unwrap();
        assert_eq!(of("a", true).load("50 % pruned"), Some((graph, weights)));
        assert!(of("b", true).load("50 % pruned").is_none(), "other settings");
        assert!(of("a", true).load("50 - pruned").is_none(), "another network with the same file");
        assert!(of("a", false).load("50 % pruned").is_none(), "nobody asked to go on");
        let path = of("a", true).path("50 % pruned");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(of("a", true).load("50 % pruned").is_none(), "half a file");
    }
}
