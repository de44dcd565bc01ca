//! Maps of a network and their gradients, and Grad-CAM.

use anyhow::{Context, ensure};
use espalier_graph::{Bindings, Graph, Node, Op, ValueId, Weights};
use espalier_passes::differentiate;
use espalier_passes::layer::layers;
use espalier_runtime::{Isa, Options, Plan, Pool, lower};

/// Maps with shorter sides say too little about places, where there are others.
const SIDE: usize = 4;

/// A layer that has no map, or is not there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LayerError(String);

/// What a layer gives for one picture: channels, each of them rows of places.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Height and width.
    pub size: [usize; 2],
    /// One channel after the other.
    pub values: Vec<f32>,
}

impl Map {
    pub(super) fn channels(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.size[0] * self.size[1])
    }
}

/// How much each place of a map speaks for a class.
#[derive(Clone, Debug, PartialEq)]
pub struct Heat {
    /// The value that is the map.
    pub layer: String,
    /// Height and width.
    pub size: [usize; 2],
    /// Rows of places: 1 where the evidence is strongest, 0 where there is none; all 0 where nothing speaks for the class.
    pub values: Vec<f32>,
}

/// Grad-CAM (Selvaraju et al. 2017): every channel of the map counts by the mean of its gradient, and of the sum only what
/// speaks for the class remains. The map is scaled by its maximum.
pub fn heat(layer: &str, map: &Map, gradient: &Map) -> Heat {
    let places = map.size[0] * map.size[1];
    let mut sums = vec![0.0; places];
    for (values, slopes) in map.channels().zip(gradient.channels()) {
        let weight = slopes.iter().map(|&v| f64::from(v)).sum::<f64>() / places as f64;
        sums.iter_mut().zip(values).for_each(|(sum, &v)| *sum += weight * f64::from(v));
    }
    let most = sums.iter().copied().fold(0.0, f64::max);
    let share = |sum: f64| if most > 0.0 { (sum.max(0.0) / most) as f32 } else { 0.0 };
    Heat { layer: layer.into(), size: map.size, values: sums.into_iter().map(share).collect() }
}

impl Heat {
    /// Whether anything speaks for the class.
    pub fn is_found(&self) -> bool {
        self.values.iter().any(|&v| v > 0.0)
    }

    /// The heat at a point of the network's input (across, down; 0 to 1), bilinear between the middles of places; 0 outside.
    pub fn at(&self, point: [f64; 2]) -> f32 {
        if point.iter().any(|v| !(0.0..=1.0).contains(v)) {
            return 0.0;
        }
        let [height, width] = self.size;
        let between = |share: f64, count: usize| {
            let place = (share * count as f64 - 0.5).clamp(0.0, (count - 1) as f64);
            (place as usize, (place as usize + 1).min(count - 1), place.fract() as f32)
        };
        let (left, right, x) = between(point[0], width);
        let (top, bottom, y) = between(point[1], height);
        let row =
            |row: usize| self.values[row * width + left] * (1.0 - x) + self.values[row * width + right] * x;
        row(top) * (1.0 - y) + row(bottom) * y
    }
}

/// Height and width of a value that is a map of more than one place.
fn sides(graph: &Graph, id: ValueId) -> Option<[usize; 2]> {
    let shape = graph.ty(id).shape.bind(Bindings::batch(1));
    match shape[..] {
        [1, _, height, width] if height.max(width) > 1 => Some([height, width]),
        _ => None,
    }
}

/// The convolutions, each with the map that it gives once its activation is done.
pub(super) fn layer_maps(graph: &Graph) -> Vec<(String, ValueId)> {
    let convolutions = layers(graph).into_iter().filter(|layer| layer.conv.is_some());
    let maps = convolutions.map(|layer| (layer.name, activated(graph, layer.result)));
    maps.filter(|(_, id)| sides(graph, *id).is_some()).collect()
}

fn activated(graph: &Graph, id: ValueId) -> ValueId {
    let mut readers = graph.nodes().iter().filter(|node| node.inputs.contains(&id));
    match (readers.next(), readers.next()) {
        (Some(Node { op: Op::Unary { .. }, outputs, .. }), None) => outputs[0],
        _ => id,
    }
}

/// The last map that is computed, and not only sampled from another; of those with sides of at least 4, if there are any.
pub(super) fn last_map(graph: &Graph) -> Option<ValueId> {
    use Op::{AvgPool, MaxPool, Reduce, Reshape, Resize};
    let is_sampled = |op: &Op| {
        matches!(op, MaxPool { .. } | AvgPool { .. } | Reduce { .. } | Reshape { .. } | Resize { .. })
    };
    let mut computed = vec![false; graph.values().len()];
    let mut maps = Vec::new();
    for node in graph.nodes() {
        let is_after =
            matches!(node.op, Op::Conv { .. }) || node.inputs.iter().any(|id| computed[id.index()]);
        node.outputs.iter().for_each(|id| computed[id.index()] = is_after);
        let id = node.outputs[0];
        if is_after
            && !is_sampled(&node.op)
            && let Some([height, width]) = sides(graph, id)
        {
            maps.push((height.min(width) >= SIDE, id));
        }
    }
    let large = maps.iter().rev().find(|(is_large, _)| *is_large);
    large.or(maps.last()).map(|(_, id)| *id)
}

/// The map of the layer or value called `name`.
pub(super) fn named_map(graph: &Graph, name: &str) -> Result<ValueId, LayerError> {
    let all = layer_maps(graph);
    if let Some((_, id)) = all.iter().find(|(layer, _)| layer == name) {
        return Ok(*id);
    }
    match graph.find(name) {
        Some(id) if sides(graph, id).is_some() && !graph.inputs().contains(&id) && !graph.is_state(id) => {
            Ok(id)
        }
        found => {
            let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
            let what = found.map_or("there is no such layer", |_| "it has no map of places");
            Err(LayerError(format!("layer `{name}`: {what}; layers with maps are {}", names.join(", "))))
        }
    }
}

/// A network whose inside can be looked at, with the gradient of a class for one of its maps.
pub(super) struct Watched {
    graph: Graph,
    /// Name of the input that chooses the class.
    class: String,
    logits: ValueId,
    /// The map, its gradient, and others.
    watched: Vec<(String, ValueId)>,
}

/// What was seen.
pub(super) struct Seen {
    pub(super) logits: Vec<f32>,
    pub(super) map: Map,
    pub(super) gradient: Map,
    pub(super) others: Vec<Map>,
}

impl Watched {
    pub(super) fn new(graph: &Graph, logits: ValueId, map: ValueId) -> anyhow::Result<Watched> {
        let mut graph = graph.clone();
        let class = graph.fresh("class");
        // The gradient of one logit is that of all with a weight of 1 for it and 0 for the others.
        let seed = graph.add_input(&class, graph.ty(logits).clone())?;
        let name = graph.value(map).name.clone();
        let gradients = differentiate(&mut graph, &[(logits, seed)], &[map])?;
        let gradient = gradients[0].with_context(|| format!("the answer does not depend on `{name}`"))?;
        let mut watched = Watched { graph, class, logits, watched: Vec::new() };
        for id in [logits, map, gradient] {
            watched.add(id)?;
        }
        Ok(watched)
    }

    /// Looks at another map too.
    pub(super) fn add(&mut self, id: ValueId) -> anyhow::Result<()> {
        let names = (0..).map(|number| format!("watched.{number}"));
        let name = names.into_iter().find(|name| self.graph.output(name).is_none()).expect("numbers go on");
        self.graph.add_output(&name, id)?;
        self.watched.push((name, id));
        Ok(())
    }

    /// Runs the network on one input tensor.
    pub(super) fn run(
        &self,
        weights: &Weights,
        input: &[f32],
        class: usize,
        (isa, threads): (Isa, usize),
    ) -> anyhow::Result<Seen> {
        let options = Options { isa, threads, bindings: Bindings::batch(1) };
        let mut plan = lower(&self.graph, weights, options)?;
        plan.input(&self.graph.value(self.graph.inputs()[0]).name).copy_from_slice(input);
        let seed = plan.input(&self.class);
        ensure!(class < seed.len(), "class {class} is beyond the {} logits", seed.len());
        seed.fill(0.0);
        seed[class] = 1.0;
        plan.run(&mut Pool::new(threads));
        let mut maps = self.watched[1..].iter().map(|(name, id)| self.map(&plan, name, *id));
        let (map, gradient) = (maps.next().expect("the map"), maps.next().expect("its gradient"));
        let others = maps.collect();
        debug_assert_eq!(self.watched[0].1, self.logits);
        Ok(Seen { logits: plan.output(&self.watched[0].0).to_vec(), map, gradient, others })
    }

    fn map(&self, plan: &Plan, name: &str, id: ValueId) -> Map {
        let size = sides(&self.graph, id).expect("only maps are watched");
        Map { size, values: plan.output(name).to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use espalier_graph::random::Random;
    use espalier_graph::{DType, Shape, Tensor, TensorType, UnaryFn, Window};

    const SIZE: usize = 5;

    fn weights(graph: &Graph) -> Weights {
        let states = graph.states().iter().enumerate();
        let fill = |(stream, state): (usize, &espalier_graph::State)| {
            let (value, mut random) = (graph.value(state.value), Random::new(5, stream as u64));
            assert_eq!(value.ty.dtype, DType::F32);
            let shape = value.ty.shape.bind(Bindings::batch(1));
            let content = (0..shape.iter().product()).map(|_| random.range(-1.0, 1.0)).collect();
            (value.name.clone(), Tensor::f32(&shape, content))
        };
        states.map(fill).collect()
    }

    /// From a map of 3 channels to two logits, not linearly.
    fn tail(graph: &mut Graph, map: ValueId) -> ValueId {
        let x = graph.conv2d("tail", map, 4, Window::square(3, 1, 1), 1, true).unwrap();
        let x = graph.unary("smooth", UnaryFn::Tanh, x).unwrap();
        let x = graph.global_avg_pool("mean", x).unwrap();
        graph.linear("head", x, 2).unwrap()
    }

    fn picture(channels: usize) -> Vec<f32> {
        let mut random = Random::new(9, 0);
        (0..channels * SIZE * SIZE).map(|_| random.range(0.0, 1.0)).collect()
    }

    /// A convolution with a map of 3 channels, then the tail.
    fn network() -> Graph {
        let mut graph = Graph::new();
        let x = graph.add_input("x", TensorType::f32(Shape::batched(&[1, SIZE, SIZE]))).unwrap();
        let map = graph.conv2d("first", x, 3, Window::square(3, 1, 1), 1, true).unwrap();
        let logits = tail(&mut graph, map);
        graph.add_output("logits", logits).unwrap();
        graph
    }

    /// The logits of the tail alone, for a map.
    fn tail_logits(weights: &Weights, map: &[f32]) -> Vec<f32> {
        let mut graph = Graph::new();
        let x = graph.add_input("map", TensorType::f32(Shape::batched(&[3, SIZE, SIZE]))).unwrap();
        let logits = tail(&mut graph, x);
        graph.add_output("logits", logits).unwrap();
        let options = Options { isa: Isa::best(), threads: 1, bindings: Bindings::batch(1) };
        let mut plan = lower(&graph, weights, options).unwrap();
        plan.input("map").copy_from_slice(map);
        plan.run(&mut Pool::new(1));
        plan.output("logits").to_vec()
    }

    #[test]
    fn weights_of_channels_are_slopes_of_the_logit() {
        let graph = network();
        let (weights, logits) = (weights(&graph), graph.outputs()[0].1);
        let map = named_map(&graph, "first").unwrap();
        let watched = Watched::new(&graph, logits, map).unwrap();
        for class in 0..2 {
            let seen = watched.run(&weights, &picture(1), class, (Isa::best(), 1)).unwrap();
            let same = tail_logits(&weights, &seen.map.values);
            assert!(same.iter().zip(&seen.logits).all(|(a, b)| (a - b).abs() < 1e-5), "{same:?}");
            let places = SIZE * SIZE;
            let mut want = vec![0.0; places];
            for c in 0..3 {
                // All places of a channel moved together: the sum of their gradients.
                let moved = |by: f32| {
                    let mut map = seen.map.values.clone();
                    map[c * places..(c + 1) * places].iter_mut().for_each(|v| *v += by);
                    f64::from(tail_logits(&weights, &map)[class])
                };
                let slope = (moved(0.01) - moved(-0.01)) / 0.02 / places as f64;
                let channel = &seen.map.values[c * places..(c + 1) * places];
                want.iter_mut().zip(channel).for_each(|(sum, &v)| *sum += slope * f64::from(v));
            }
            let most = want.iter().copied().fold(0.0, f64::max);
            let got = heat("first", &seen.map, &seen.gradient);
            assert!(most > 0.0 && got.is_found(), "class {class} has evidence somewhere");
            for (got, want) in got.values.iter().zip(want) {
                let want = want.max(0.0) / most;
                assert!((f64::from(*got) - want).abs() < 2e-3, "{got}, by finite differences {want}");
            }
        }
    }

    #[test]
    fn heat_by_hand() {
        let map = Map { size: [1, 2], values: vec![1.0, 2.0, 3.0, 0.0] };
        let gradient = |a: f32, b: f32| Map { size: [1, 2], values: vec![a, a, 2.0 * b, 0.0] };
        // 2 * [1, 2] - 1 * [3, 0] = [-1, 4].
        assert_eq!(heat("map", &map, &gradient(2.0, -1.0)).values, [0.0, 1.0]);
        // 1 * [1, 2] + 1 * [3, 0] = [4, 2].
        assert_eq!(heat("map", &map, &gradient(1.0, 1.0)).values, [1.0, 0.5]);
        let nothing = heat("map", &map, &gradient(-1.0, -1.0));
        assert!(nothing.values == [0.0, 0.0] && !nothing.is_found());
    }

    #[test]
    fn heat_between_places() {
        let heat = Heat { layer: "map".into(), size: [2, 2], values: vec![0.0, 1.0, 0.0, 0.5] };
        for (point, want) in [
            ([0.25, 0.25], 0.0),
            ([0.75, 0.25], 1.0),
            ([0.5, 0.25], 0.5),
            ([0.75, 0.5], 0.75),
            ([1.0, 0.0], 1.0),
            ([1.01, 0.25], 0.0),
            ([0.75, -0.1], 0.0),
        ] {
            assert_eq!(heat.at(point), want, "{point:?}");
        }
    }

    #[test]
    fn the_last_map_is_neither_pooled_nor_tiny() {
        let check = |sides: [usize; 2], want: &str| {
            let mut graph = Graph::new();
            let ty = TensorType::f32(Shape::batched(&[3, sides[0], sides[1]]));
            let x = graph.add_input("x", ty).unwrap();
            let x = graph.conv2d("one", x, 4, Window::square(3, 1, 1), 1, true).unwrap();
            let x = graph.unary("one.relu", UnaryFn::Relu, x).unwrap();
            let x = graph.add("pool", Op::MaxPool { window: Window::square(2, 2, 0) }, &[x]).unwrap();
            let x = graph.conv2d("two", x, 4, Window::square(3, 1, 1), 1, true).unwrap();
            let x = graph.unary("two.relu", UnaryFn::Relu, x).unwrap();
            let x = graph.add("pool2", Op::MaxPool { window: Window::square(2, 2, 1) }, &[x]).unwrap();
            let x = graph.global_avg_pool("mean", x).unwrap();
            let logits = graph.linear("head", x, 2).unwrap();
            graph.add_output("logits", logits).unwrap();
            let name = last_map(&graph).map(|id| graph.value(id).name.clone());
            assert_eq!(name.as_deref(), Some(want), "{sides:?}");
            assert_eq!(graph.value(named_map(&graph, "one").unwrap()).name, "one.relu");
            let error = named_map(&graph, "three").unwrap_err().to_string();
            assert!(error.contains("no such layer") && error.contains("one, two"), "{error}");
            assert!(named_map(&graph, "head").unwrap_err().to_string().contains("no map of places"));
        };
        check([16, 16], "two.relu");
        check([6, 6], "one.relu");
        check([4, 2], "two.relu");
    }
}
