//! The task classify-image: one label for one image.

use serde::{Deserialize, Serialize};

use crate::classification::{self, Prediction};
use crate::picture_input::PictureInput;
use crate::{TaskError, check_labels};

pub(crate) const KIND: &str = "classify-image";

/// How an image becomes the input tensor, and which class each logit stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifyImage {
    /// From image to tensor.
    #[serde(flatten)]
    pub input: PictureInput,
    /// The class names, in the order of the logits.
    pub labels: Vec<String>,
}

impl ClassifyImage {
    /// Settings with the default fit; there are as many channels as means.
    pub fn new(size: [usize; 2], mean: Vec<f32>, std: Vec<f32>, labels: Vec<String>) -> Self {
        ClassifyImage { input: PictureInput::new(size, mean, std), labels }
    }

    /// The same for an input of another size.
    pub fn with_size(&self, size: [usize; 2]) -> Self {
        ClassifyImage { input: PictureInput { size, ..self.input.clone() }, labels: self.labels.clone() }
    }

    /// Refuses settings that contradict themselves, saying which and why.
    pub fn validate(&self) -> Result<(), TaskError> {
        self.input.validate(KIND)?;
        check_labels(KIND, &self.labels, 2)
    }

    /// Writes the soft target of class `label`; `out` has one element a label.
    pub fn target(&self, label: usize, smoothing: f32, out: &mut [f32]) -> Result<(), TaskError> {
        classification::target(label, self.labels.len(), smoothing, out)
    }

    /// The answer that one row of logits gives.
    pub fn postprocess(&self, logits: &[f32]) -> Result<Prediction, TaskError> {
        Prediction::new(logits, &self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> ClassifyImage {
        let labels = ["cat", "dog"].map(String::from).to_vec();
        ClassifyImage::new([1, 2], vec![0.0, 0.5, 1.0], vec![1.0, 0.5, 0.25], labels)
    }

    #[test]
    fn contradictions_are_named() {
        type Edit = fn(&mut ClassifyImage);
        let check = |edit: Edit, words: &str| {
            let mut task = task();
            edit(&mut task);
            let error = task.validate().unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} should say {words:?}");
        };
        assert_eq!(task().validate(), Ok(()));
        check(|t| t.input.channels = 2, "task classify-image: channels is 2");
        check(|t| t.labels = vec!["a".into()], "at least 2");
        check(|t| t.labels[1] = "cat".into(), "\"cat\" occurs twice");
        check(|t| t.labels[1].clear(), "empty");
    }
}
