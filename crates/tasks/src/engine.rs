//! The seam for engines beside our own runtime: they compute a network's outputs, the task's meaning stays here.

use crate::slot::Slot;

/// What computes a network's outputs in the place of our own runtime.
pub trait Engine: Send {
    /// Which one it is and what it computes on, for people: `onnxruntime (cpu)`.
    fn name(&self) -> String;

    /// Outputs may differ from a golden sample's by this share of their range: engines round where they like.
    fn tolerance(&self) -> f32;

    /// What it warned of when it opened the network.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Computes one sample: `inputs` are the elements of each of the graph's inputs, and the elements of each output are
    /// appended to `outputs`, both in the graph's order.
    ///
    /// # Errors
    /// The engine failed; it says why.
    fn run(&mut self, inputs: &[&[f32]], outputs: &mut [Vec<f32>]) -> Result<(), EngineError>;
}

/// An engine did not compute.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{engine}: {reason}")]
pub struct EngineError {
    /// Its name.
    pub engine: String,
    /// What it says.
    pub reason: String,
}

/// An engine, and the places of its inputs and outputs.
pub(crate) struct Hosted {
    pub(crate) engine: Box<dyn Engine>,
    inputs: Vec<f32>,
    outputs: Vec<Vec<f32>>,
}

impl Hosted {
    /// For a network that gives `outputs` outputs.
    pub(crate) fn new(engine: Box<dyn Engine>, outputs: usize) -> Hosted {
        Hosted { engine, inputs: Vec::new(), outputs: vec![Vec::new(); outputs] }
    }

    /// The places of `batch` inputs of `len` elements each.
    pub(crate) fn slots(&mut self, batch: usize, len: usize) -> Vec<Slot<'_>> {
        self.inputs.resize(batch * len, 0.0);
        self.inputs.chunks_exact_mut(len).map(Slot::Floats).collect()
    }

    /// Computes what is in the places, one input of `len` elements after the other.
    pub(crate) fn run(&mut self, len: usize) -> Result<Vec<&[f32]>, EngineError> {
        self.outputs.iter_mut().for_each(Vec::clear);
        for input in self.inputs.chunks_exact(len) {
            self.engine.run(&[input], &mut self.outputs)?;
        }
        Ok(self.outputs.iter().map(Vec::as_slice).collect())
    }
}
