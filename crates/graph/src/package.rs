//! The package: one file that holds a model. `docs/package-format.md` describes it for other readers.

mod container;
mod floats;
mod manifest;

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::files::{FileError, write_atomic};
use crate::graph::{Graph, GraphError, ValueId};
use crate::types::{Bindings, DType, TensorType};
use crate::verify::{Stage, verify};
use crate::weights::{Tensor, Weights};

pub use manifest::{FEATURES, Format, Lineage, MAJOR, Manifest};

/// Largest package file, in bytes.
pub const MAX_FILE: u64 = 4 << 30;

/// Largest header, in bytes.
pub const MAX_HEADER: usize = 1 << 20;

/// Most golden samples of a package.
pub const MAX_GOLDEN: usize = 64;

/// Most tensors of a package's reference statistics.
pub const MAX_REFERENCE: usize = 64;

/// Most elements of a tensor of them.
pub const MAX_REFERENCE_ELEMENTS: usize = 1 << 16;

/// Raw input with the outputs that the sender of a package measured for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// What the task takes before its pre-processing: a u8 picture `[H,W,C]`, a series, text. Without a task these are
    /// the graph's inputs, in their order, for a batch of one.
    pub inputs: Vec<Tensor>,
    /// What the graph gave, one for each of its outputs; without a task in their shapes for a batch of one.
    pub outputs: Vec<Tensor>,
}

/// A model as it is stored and sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// What the package says about itself.
    pub manifest: Manifest,
    /// The portable graph.
    pub graph: Graph,
    /// The content of each of the graph's states.
    pub weights: Weights,
    /// Samples that every device must answer alike.
    pub golden: Vec<Golden>,
    /// Statistics of what the model was validated on, by name, for devices to tell drift by; the tasks give them their
    /// meaning. Empty where nobody measured them.
    pub reference: Weights,
}

/// Why a package could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// What is wrong with the file at `path`.
    #[error("package {}: {fault}", path.display())]
    At {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: Box<PackageError>,
    },
    /// The file could not be read.
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// More bytes than are allowed.
    #[error("{what} takes {have} bytes, at most {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its bytes.
        have: u64,
        /// Bytes that are allowed.
        limit: u64,
    },
    /// The bytes are no safetensors file.
    #[error("not a valid safetensors file: {0}")]
    Container(String),
    /// A safetensors file without our metadata.
    #[error(
        "it has no metadata `espalier`, so these are plain weights; a package comes from train, compress or import"
    )]
    NoManifest,
    /// Another major format.
    #[error("it has format {0}, this espalier reads format {MAJOR}: update espalier")]
    Major(u64),
    /// A feature that is not understood.
    #[error("it requires `{0}`, which this espalier does not know: update espalier")]
    Requires(String),
    /// The manifest is malformed.
    #[error("the manifest {0}")]
    Manifest(String),
    /// The graph does not parse, or is not portable.
    #[error("the graph is malformed: {0}")]
    Graph(#[from] GraphError),
    /// A tensor is missing, superfluous or not what the graph says.
    #[error("tensor `{name}` {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl PackageError {
    fn tensor(name: &str, reason: impl Into<String>) -> Self {
        PackageError::Tensor { name: shown(name), reason: reason.into() }
    }

    fn at(self, path: &Path) -> Self {
        PackageError::At { path: path.into(), fault: Box::new(self) }
    }
}

impl Package {
    /// Reads and checks the file at `path`. Weights are not copied: nobody may write to the file in place while some of
    /// them are held; [`Package::write`] does not, it puts another file in its place.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(path: impl AsRef<Path>) -> Result<Package, PackageError> {
        let path = path.as_ref();
        let read = |file: Mmap| {
            let file = Arc::new(file);
            Package::of(&file, Some(&file))
        };
        map(path).and_then(read).map_err(|fault| fault.at(path))
    }

    /// Reads and checks the bytes of a file.
    ///
    /// # Errors
    /// The bytes are no package that this version understands; the sentence names the tensor or key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Package, PackageError> {
        Package::of(bytes, None)
    }

    fn of(bytes: &[u8], file: Option<&Arc<Mmap>>) -> Result<Package, PackageError> {
        let (text, mut weights) = container::read(bytes, file)?;
        let (manifest, graph) = Manifest::read(&text)?;
        let golden = take_golden(&mut weights)?;
        let reference = take_reference(&mut weights);
        let package = Package { manifest, graph, weights, golden, reference };
        package.check()?;
        Ok(package)
    }

    /// Writes the file at `path`: whole and durable, or not at all.
    ///
    /// # Errors
    /// The package is not valid, or the system refused; `path` is then as it was.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), PackageError> {
        let path = path.as_ref();
        let bytes = self.to_bytes().map_err(|fault| fault.at(path))?;
        Ok(write_atomic(path, |file| file.write_all(&bytes))?)
    }

    /// The bytes of the file: equal packages give equal bytes.
    ///
    /// # Errors
    /// The package is not valid, or its header would be too large.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PackageError> {
        self.check()?;
        let weights = self.weights.iter().map(|(name, tensor)| (name.clone(), tensor));
        let golden = self.golden.iter().enumerate().flat_map(|(i, sample)| {
            let parts = [("input", &sample.inputs), ("output", &sample.outputs)].into_iter();
            parts.flat_map(move |(part, list)| {
                list.iter().enumerate().map(move |(at, tensor)| (golden_name(i, part, at), tensor))
            })
        });
        let reference = self.reference.iter().map(|(name, tensor)| (reference_name(name), tensor));
        let manifest = self.manifest.write(&self.graph)?;
        container::write(manifest, weights.chain(golden).chain(reference))
    }

    /// Checks what reading and writing both guarantee: a known format, a portable graph, for each of its states one
    /// finite tensor of its type and no other tensor, golden samples that fit.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn check(&self) -> Result<(), PackageError> {
        self.manifest.check(&self.graph)?;
        verify(&self.graph, Stage::Portable)?;
        self.graph.states().iter().try_for_each(|state| {
            let value = self.graph.value(state.value);
            check_weight(&value.name, &value.ty, self.weights.get(&value.name))
        })?;
        let is_state = |name: &str| self.graph.find(name).is_some_and(|id| self.graph.is_state(id));
        if let Some(name) = self.weights.keys().find(|name| !is_state(name)) {
            return Err(PackageError::tensor(name, "is no state of the graph"));
        }
        self.check_golden()?;
        self.check_reference()
    }

    /// Few tensors, none of them large, each a row of numbers under a plain name.
    fn check_reference(&self) -> Result<(), PackageError> {
        self.manifest.check_reference(!self.reference.is_empty())?;
        if let Some(name) = self.reference.keys().nth(MAX_REFERENCE) {
            let reason = format!("is one too many, at most {MAX_REFERENCE} statistics are allowed");
            return Err(PackageError::tensor(&reference_name(name), reason));
        }
        for (name, tensor) in &self.reference {
            let fault = |reason| PackageError::tensor(&reference_name(name), reason);
            let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
                return Err(fault("should be named by up to 64 small letters, digits and -".into()));
            }
            well_formed(tensor).map_err(fault)?;
            let is_number = matches!(tensor.data.dtype(), DType::F32 | DType::I32);
            if !is_number || tensor.shape.len() != 1 || tensor.data.len() > MAX_REFERENCE_ELEMENTS {
                let reason = format!(
                    "is {}, it should be a row of at most {MAX_REFERENCE_ELEMENTS} f32 or i32",
                    tensor.ty()
                );
                return Err(fault(reason));
            }
        }
        Ok(())
    }

    fn check_golden(&self) -> Result<(), PackageError> {
        if self.golden.len() > MAX_GOLDEN {
            let reason = format!("is one too many, at most {MAX_GOLDEN} samples are allowed");
            return Err(PackageError::tensor(&golden_name(MAX_GOLDEN, "input", 0), reason));
        }
        let raw = self.manifest.task.is_none();
        let ids = |list: &[ValueId]| list.iter().map(|&id| self.graph.ty(id)).collect::<Vec<_>>();
        let inputs = ids(self.graph.inputs());
        let outputs = ids(&self.graph.outputs().iter().map(|(_, id)| *id).collect::<Vec<_>>());
        for (i, sample) in self.golden.iter().enumerate() {
            // A task takes one input, whose type is its own; so is that of what it keeps of the outputs.
            let parts = [("input", &sample.inputs, &inputs), ("output", &sample.outputs, &outputs)];
            for (part, list, types) in parts {
                let (have, want) = (list.len(), types.len());
                if (raw && have != want) || have == 0 {
                    let reason = format!("begins a list of {have}, the graph has {want} {part}s");
                    return Err(PackageError::tensor(&golden_name(i, part, 0), reason));
                }
                for (at, tensor) in list.iter().enumerate() {
                    let fault = |reason| PackageError::tensor(&golden_name(i, part, at), reason);
                    well_formed(tensor).map_err(fault)?;
                    if raw {
                        fits(tensor, types[at]).map_err(fault)?;
                    }
                    if part == "input" && tensor.data.is_empty() {
                        return Err(fault("has no elements".into()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The bytes of the file at `path`, a regular one of at most [`MAX_FILE`], which nobody may write to in place while they
/// are in use.
///
/// # Errors
/// What the file is instead, or what the system said.
pub fn open(path: &Path) -> Result<impl Deref<Target = [u8]> + use<>, PackageError> {
    map(path)
}

/// The float tensors of any safetensors file, as f32; F64, F16 and BF16 are converted, tensors of integers left out. The
/// file is held to the limits and checks of a package's container, and has no manifest.
///
/// # Errors
/// What is wrong with the container; a float that is not finite or of a type that is not known.
pub fn floats(bytes: &[u8]) -> Result<Weights, PackageError> {
    let weights = container::read_floats(bytes)?;
    for (name, tensor) in &weights {
        well_formed(tensor).map_err(|reason| PackageError::tensor(name, reason))?;
    }
    Ok(weights)
}

fn map(path: &Path) -> Result<Mmap, PackageError> {
    // Before opening: that would wait for ever on a pipe.
    regular(&path.metadata().map_err(PackageError::Read)?)?;
    let file = File::open(path).map_err(PackageError::Read)?;
    regular(&file.metadata().map_err(PackageError::Read)?)?;
    // SAFETY: the map is read-only, and our files are replaced by renaming, never written in place. Someone else's write
    // would be seen as other numbers, of which any are valid; cutting the file off meanwhile ends the process by a
    // signal.
    unsafe { Mmap::map(&file) }.map_err(PackageError::Read)
}

fn regular(metadata: &std::fs::Metadata) -> Result<(), PackageError> {
    if !metadata.is_file() {
        return Err(PackageError::Read(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    match metadata.len() {
        have if have > MAX_FILE => Err(PackageError::TooLarge { what: "the file", have, limit: MAX_FILE }),
        _ => Ok(()),
    }
}

/// Names of values cannot hold `@`, so no weight is ever called this. The first of a list has no number.
fn golden_name(index: usize, part: &str, at: usize) -> String {
    match at {
        0 => format!("@golden/{index}/{part}"),
        _ => format!("@golden/{index}/{part}/{at}"),
    }
}

/// Moves the golden samples out of the tensors; what is left should be weights.
fn take_golden(tensors: &mut Weights) -> Result<Vec<Golden>, PackageError> {
    let mut golden = Vec::new();
    loop {
        let mut take = |part| {
            let index = golden.len();
            (0..).map_while(|at| tensors.remove(&golden_name(index, part, at))).collect::<Vec<_>>()
        };
        let inputs = take("input");
        if inputs.is_empty() {
            return Ok(golden);
        }
        let outputs = take("output");
        if outputs.is_empty() {
            return Err(PackageError::tensor(&golden_name(golden.len(), "output", 0), "is missing"));
        }
        golden.push(Golden { inputs, outputs });
    }
}

const REFERENCE: &str = "@reference/";

fn reference_name(name: &str) -> String {
    format!("{REFERENCE}{name}")
}

/// Moves the reference statistics out of the tensors.
fn take_reference(tensors: &mut Weights) -> Weights {
    let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(REFERENCE)).cloned().collect();
    let taken = names
        .iter()
        .filter_map(|name| Some((name.strip_prefix(REFERENCE)?.to_owned(), tensors.remove(name)?)));
    taken.collect()
}

fn check_weight(name: &str, ty: &TensorType, tensor: Option<&Tensor>) -> Result<(), PackageError> {
    let tensor =
        tensor.ok_or_else(|| PackageError::tensor(name, format!("is missing, it should be {ty}")))?;
    if tensor.ty() != *ty {
        return Err(PackageError::tensor(name, format!("is {}, it should be {ty}", tensor.ty())));
    }
    well_formed(tensor).map_err(|reason| PackageError::tensor(name, reason))
}

/// As many elements as the shape says, and all floats finite.
fn well_formed(tensor: &Tensor) -> Result<(), String> {
    let elements = tensor.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if elements != Some(tensor.data.len()) {
        return Err(format!("has {} elements, not those of its shape {:?}", tensor.data.len(), tensor.shape));
    }
    let finite = |part: &[f32]| part.iter().fold(true, |all, v| all & v.is_finite());
    let fault = |data: &[f32]| match data.chunks(1024).all(finite) {
        true => None,
        false => data.iter().position(|v| !v.is_finite()),
    };
    match tensor.as_f32().and_then(fault) {
        Some(at) => Err(format!("holds a value that is not finite, at position {at}")),
        None => Ok(()),
    }
}

/// Whether `tensor` is of type `ty` for a batch of one and some length in time.
fn fits(tensor: &Tensor, ty: &TensorType) -> Result<(), String> {
    let dims = ty.shape.0.iter().zip(&tensor.shape);
    let sizes = dims.into_iter().all(|(dim, &size)| dim.time > 0 || dim.bind(Bindings::batch(1)) == size);
    if sizes && tensor.shape.len() == ty.shape.rank() && tensor.data.dtype() == ty.dtype {
        return Ok(());
    }
    Err(format!("is {}, it should be {ty} for a batch of one", tensor.ty()))
}

/// A name from a foreign file as a message shows it: on one line, and not endless.
pub fn shown(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}
