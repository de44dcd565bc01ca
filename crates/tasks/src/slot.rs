//! Where one input of a network goes: floats, or bytes where the network begins by rounding to them.

use espalier_graph::Quant;
use espalier_runtime::Plan;

use crate::picture_input::ByteTables;
use crate::{Image, Input, PictureInput, Task, TaskError, check_length};

/// How a network takes its input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// As the tensor that the task says.
    Floats,
    /// As bytes, four channels of a pixel side by side, which tables make of a picture's.
    Bytes(Box<ByteTables>),
}

/// The place of one input.
#[derive(Debug)]
pub enum Slot<'a> {
    /// Its elements.
    Floats(&'a mut [f32]),
    /// Its elements in quads.
    Bytes(Bytes<'a>),
}

/// The place of a picture's bytes.
#[derive(Debug)]
pub struct Bytes<'a> {
    quads: &'a mut [u8],
    quant: Quant,
    tables: &'a ByteTables,
}

impl Form {
    /// The places of the `batch` inputs of `plan`, whose input is called `name`.
    pub(crate) fn slots<'a>(&'a self, plan: &'a mut Plan, name: &str, batch: usize) -> Vec<Slot<'a>> {
        match self {
            Form::Floats => {
                let floats = plan.input(name);
                floats.chunks_exact_mut(floats.len() / batch).map(Slot::Floats).collect()
            }
            Form::Bytes(tables) => {
                let (quant, quads) = plan.input_bytes(name).expect("the form is the plan's");
                let len = quads.len() / batch;
                let slot = |quads| Slot::Bytes(Bytes { quads, quant, tables });
                quads.chunks_exact_mut(len).map(slot).collect()
            }
        }
    }
}

impl Slot<'_> {
    /// Brings a raw input into the form that the network takes.
    ///
    /// # Errors
    /// Those of [`Task::preprocess`].
    pub fn fill(&mut self, task: &Task, input: Input<'_>) -> Result<(), TaskError> {
        match self {
            Slot::Floats(to) => task.preprocess(input, to),
            Slot::Bytes(_) => {
                let (Input::Image(image), Some(way)) = (input, task.picture_input()) else {
                    return Err(task.wants_other());
                };
                self.fill_picture(way, &way.fit(image))
            }
        }
    }

    /// As [`Slot::fill`], of a picture that `way` brought to the network's size.
    ///
    /// # Errors
    /// Those of [`Task::preprocess`].
    pub(crate) fn fill_picture(&mut self, way: &PictureInput, fitted: &Image) -> Result<(), TaskError> {
        match self {
            Slot::Floats(to) => way.normalize(&fitted.pixels, to),
            Slot::Bytes(Bytes { quads, tables, .. }) => tables.apply(&fitted.pixels, quads),
        }
    }

    /// Takes an input that is a tensor already.
    ///
    /// # Errors
    /// It has another number of elements.
    pub fn fill_with(&mut self, tensor: &[f32]) -> Result<(), TaskError> {
        match self {
            Slot::Floats(to) => {
                check_length("the input", tensor.len(), to.len())?;
                to.copy_from_slice(tensor);
            }
            Slot::Bytes(Bytes { quads, quant, tables }) => {
                let (pixels, _) = quads.as_chunks_mut::<4>();
                check_length("the input", tensor.len(), tables.channels() * pixels.len())?;
                for (channel, plane) in tensor.chunks_exact(pixels.len()).enumerate() {
                    pixels.iter_mut().zip(plane).for_each(|(q, &v)| q[channel] = quant.quantize(v));
                }
            }
        }
        Ok(())
    }

    /// Takes nothing: all elements are the same.
    pub fn clear(&mut self) {
        match self {
            Slot::Floats(to) => to.fill(0.0),
            Slot::Bytes(Bytes { quads, quant, .. }) => quads.fill(quant.zero()),
        }
    }
}
