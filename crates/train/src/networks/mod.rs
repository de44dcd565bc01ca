//! The networks that `--model` names. Names and shapes of their states are those of PyTorch's `state_dict`
//! (torchvision's where it has the network, timm's for EfficientNet), so weights go both ways; only the counters `num_batches_tracked` have no
//! counterpart.

mod conv_norm;
mod cost;
mod efficientnet;
mod initial;
mod lenet;
mod mobilenet;
mod plain;
mod resnet;

use espalier_graph::{Graph, GraphError, Shape, Stage, TensorType, ValueId, verify};

pub use cost::{Cost, cost};
pub use initial::initial_weights;

/// The names that [`build`] takes.
pub const NAMES: &[&str] = &[
    "lenet",
    "plain6",
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_lite0",
];

/// What a network is built for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NetworkOptions {
    /// Number of logits.
    pub classes: usize,
    /// Channels of the picture.
    pub channels: usize,
    /// Height and width of the picture. Up to [`SMALL`] pixels, networks with a strided stem do without the strides
    /// and the pooling in it, which would leave too little of the picture.
    pub size: [usize; 2],
    /// Factor of the numbers of channels between input and logits, which are then rounded to multiples of 8; 1 for
    /// the network as published.
    pub width: f32,
}

/// Largest height and width for which a picture counts as small.
pub const SMALL: usize = 64;

/// Why a network could not be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// A name that no network has.
    #[error("unknown network `{0}`: there are {list}", list = NAMES.join(", "))]
    Name(String),
    /// An option that the network cannot have.
    #[error("`{name}` with {what}: {rule}")]
    Option {
        /// The network.
        name: String,
        /// The option and its value.
        what: String,
        /// What would be right.
        rule: &'static str,
    },
    /// The layers do not fit each other.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// Builds the network `name`: input `x f32[N,channels,height,width]`, output `logits f32[N,classes]`.
///
/// # Errors
/// An unknown name; no classes or channels; pictures too small for the network; a width outside of 0.01..=16.
pub fn build(name: &str, o: &NetworkOptions) -> Result<Graph, NetworkError> {
    let layers = match name {
        "lenet" => lenet::lenet,
        "plain6" => plain::plain6,
        "resnet18" => resnet::resnet18,
        "resnet34" => resnet::resnet34,
        "resnet50" => resnet::resnet50,
        "mobilenet_v2" => mobilenet::mobilenet_v2,
        "mobilenet_v3_small" => mobilenet::mobilenet_v3_small,
        "mobilenet_v3_large" => mobilenet::mobilenet_v3_large,
        "efficientnet_lite0" => efficientnet::efficientnet_lite0,
        _ => return Err(NetworkError::Name(name.into())),
    };
    check(name, o)?;
    let mut graph = Graph::new();
    let [height, width] = o.size;
    let x = graph.add_input("x", TensorType::f32(Shape::batched(&[o.channels, height, width])))?;
    let logits = layers(&mut graph, x, o)?;
    graph.add_output("logits", logits)?;
    verify(&graph, Stage::Trainable)?;
    Ok(graph)
}

type Made = Result<ValueId, GraphError>;

fn check(name: &str, o: &NetworkOptions) -> Result<(), NetworkError> {
    let smallest = if name == "lenet" { 16 } else { 8 };
    let rules = [
        (o.classes >= 1, format!("{} classes", o.classes), "at least 1 is needed"),
        ((1..=4096).contains(&o.channels), format!("{} channels", o.channels), "1 to 4096 are possible"),
        (
            o.size.iter().all(|s| (smallest..=16384).contains(s)),
            format!("pictures of {}x{} pixels", o.size[0], o.size[1]),
            if name == "lenet" { "16 to 16384 are possible" } else { "8 to 16384 are possible" },
        ),
        ((0.01..=16.0).contains(&o.width), format!("width {}", o.width), "0.01 to 16 are possible"),
    ];
    match rules.into_iter().find(|(holds, ..)| !holds) {
        Some((_, what, rule)) => Err(NetworkError::Option { name: name.into(), what, rule }),
        None => Ok(()),
    }
}

impl NetworkOptions {
    fn is_small(&self) -> bool {
        self.size.iter().all(|&s| s <= SMALL)
    }

    /// The stride of a layer that is published with `stride`; `early` are the stem, and the first strided stage of the
    /// mobile networks.
    fn stride(&self, stride: usize, early: bool) -> usize {
        if early && self.is_small() { 1 } else { stride }
    }

    /// The width as it was written: 0.35 in f32 is a little less, and 240 * 0.35 would round down where PyTorch rounds up.
    fn written_width(&self) -> f64 {
        self.width.to_string().parse().expect("a number's text is a number")
    }

    /// `channels` times the width, to the nearest multiple of 8 and at least 8; as published where the width is 1.
    fn scale(&self, channels: usize) -> usize {
        if self.width == 1.0 {
            return channels;
        }
        let eighths = self.written_width() * channels as f64 / 8.0;
        eighths.round().max(1.0) as usize * 8
    }
}
