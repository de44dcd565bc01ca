//! What a classifier of images looks at: where the evidence for a class lies, what the first layer responds to, and which
//! channels a picture excites.

mod draw;
mod look;
mod page;

use anyhow::{Context, bail, ensure};
use espalier_graph::{Bindings, Graph, Package, Weights};
use espalier_passes::fold_batch_norm;
use espalier_passes::layer::layers;
use espalier_runtime::Isa;
use espalier_tasks::{ClassifyImage, Image, classification};

pub use draw::{activation_sheet, blended, filter_sheet};
pub use look::{Heat, LayerError, Map, heat};
pub use page::{Shown, page};

use look::Watched;

/// So many layers are shown, and of each so many channels.
const LAYERS: usize = 4;
const CHANNELS: usize = 8;
/// Most filters that are shown.
const FILTERS: usize = 64;

/// What is to be explained.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// A package of floats.
    pub package: &'a Package,
    /// Its task.
    pub task: &'a ClassifyImage,
    /// The picture, of any size.
    pub image: &'a Image,
    /// The class whose evidence is looked for.
    pub class: usize,
    /// The layer or value whose map is taken, in place of the last one.
    pub layer: Option<&'a str>,
    /// Instructions to run with.
    pub isa: Isa,
    /// Worker threads.
    pub threads: usize,
}

/// What a network looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Where the evidence for the class lies, over the network's input.
    pub heat: Heat,
    /// The softmax probability of every class, by the network that was looked at.
    pub scores: Vec<f32>,
    /// The filters of the first layer; `None` where it is no convolution of the picture.
    pub filters: Option<Filters>,
    /// A few layers from early to late.
    pub layers: Vec<Active>,
}

/// The filters of the first layer, as pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Filters {
    /// The layer.
    pub name: String,
    /// How many it has; at most 64 are shown.
    pub count: usize,
    /// Each scaled by its largest weight: grey is zero.
    pub pictures: Vec<Image>,
}

/// The channels of a layer that a picture excites most.
#[derive(Clone, Debug, PartialEq)]
pub struct Active {
    /// The layer.
    pub name: String,
    /// Height and width of its maps.
    pub size: [usize; 2],
    /// Channels that it has.
    pub count: usize,
    /// The most active first.
    pub channels: Vec<Channel>,
}

/// One channel of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Its number.
    pub number: usize,
    /// Its mean over all places.
    pub mean: f32,
    /// Its values, row by row.
    pub values: Vec<f32>,
}

/// Looks at a picture through a network.
///
/// # Errors
/// A package of integers; a network that has no maps, or no gradients between a map and its answer; for a layer that is not
/// there, a [`LayerError`].
pub fn explain(question: &Question<'_>) -> anyhow::Result<Explanation> {
    let Question { package, task, image, class, layer, .. } = *question;
    let mut weights = package.weights.clone();
    let graph = fold_batch_norm(&package.graph, &mut weights)?;
    ensure!(!is_quantized(&graph), "it computes with integers, which have no gradients");
    let [(_, logits)] = graph.outputs() else { bail!("it should have one output, the logits") };
    let map = match layer {
        Some(name) => look::named_map(&graph, name)?,
        None => look::last_map(&graph)
            .context("none of its layers has a map of places, so that nothing can be said of places")?,
    };
    let mut watched = Watched::new(&graph, *logits, map)?;
    let shown = spread(look::layer_maps(&graph));
    shown.iter().try_for_each(|(_, id)| watched.add(*id))?;
    let mut input = vec![0.0; task.input.shape().iter().product()];
    task.input.preprocess(image, &mut input)?;
    let seen = watched.run(&weights, &input, class, (question.isa, question.threads))?;
    let active = shown.into_iter().zip(&seen.others).map(|((name, _), map)| most_active(name, map));
    Ok(Explanation {
        heat: heat(&graph.value(map).name, &seen.map, &seen.gradient),
        scores: classification::softmax(&seen.logits),
        filters: filters(&graph, &weights, task),
        layers: active.collect(),
    })
}

/// Whether a graph computes with integers.
pub fn is_quantized(graph: &Graph) -> bool {
    graph.values().iter().any(|value| value.ty.dtype.quant().is_some())
}

/// A few of `all`, the first and the last among them.
fn spread<T>(mut all: Vec<T>) -> Vec<T> {
    let last = all.len().saturating_sub(1);
    let chosen: Vec<usize> = (0..LAYERS).map(|i| i * last / (LAYERS - 1)).collect();
    let mut number = 0..;
    all.retain(|_| chosen.contains(&number.next().expect("numbers go on")));
    all
}

fn most_active(name: String, map: &Map) -> Active {
    let channel = |(number, values): (usize, &[f32])| {
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        Channel { number, mean: mean as f32, values: values.to_vec() }
    };
    let mut channels: Vec<Channel> = map.channels().enumerate().map(channel).collect();
    channels.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    let count = channels.len();
    channels.truncate(CHANNELS);
    Active { name, size: map.size, count, channels }
}

/// The weights of the first convolution, where it looks at the picture itself.
fn filters(graph: &Graph, weights: &Weights, task: &ClassifyImage) -> Option<Filters> {
    let channels = task.input.channels;
    let first = layers(graph).into_iter().next()?;
    let shape = graph.ty(first.weight).shape.bind(Bindings::batch(1));
    let [count, inputs, height, width] = shape[..] else { return None };
    if inputs != channels || graph.ty(first.x) != graph.ty(graph.inputs()[0]) {
        return None;
    }
    let values = weights.get(&graph.value(first.weight).name)?.as_f32()?;
    let picture = |filter: &[f32]| {
        let most = filter.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
        let shade = |v: f32| (127.5 + 127.5 * v / most).round() as u8;
        let place = |at: usize| if task.input.bgr { channels - 1 - at } else { at };
        let plane = height * width;
        let pixel = |at: usize| (0..channels).map(move |c| shade(filter[place(c) * plane + at]));
        Image { width, height, channels, pixels: (0..plane).flat_map(pixel).collect() }
    };
    let pictures = values.chunks_exact(channels * height * width).take(FILTERS).map(picture).collect();
    Some(Filters { name: first.name, count, pictures })
}
