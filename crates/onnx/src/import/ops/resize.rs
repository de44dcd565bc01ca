//! Resizing of pictures, nearest and linear. Where the coordinates are those of our Resize it is one; any other mapping is
//! a gather along each axis, or two that are joined by weights.

use std::rc::Rc;

use espalier_graph::{BinaryFn, Dim, Op, ResizeMode, Role, ValueId};

use super::conv::{as_picture, from_picture, spatial};
use super::movement::picked;
use crate::import::constant::Constant;
use crate::import::fault::{Fault, malformed, unsupported};
use crate::import::importer::{Importer, Made};
use crate::import::node::Node;
use crate::import::shapes;

pub(super) fn resize(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.float(node, 0)?;
    let rank = im.ty(x).shape.rank();
    let targets = targets(im, node, x)?;
    let x = as_picture(im, x, "in")?;
    let input = spatial(im, x)?;
    let rule = Rule::read(im, node)?;
    let targets: Vec<Target> =
        if rank == 3 { vec![Target { size: 1, scale: 1.0 }, targets[2]] } else { targets[2..].to_vec() };
    if targets.iter().any(|t| t.size == 0 || t.size > crate::import::MAX_INTS) {
        return Err(malformed(format!("to {}x{}", targets[0].size, targets[1].size)));
    }
    let y = rule.apply(im, x, input, &targets, if rank == 3 { "picture" } else { "" })?;
    from_picture(im, y, rank)
}

/// The wanted size of one axis, and by what factor coordinates grow.
#[derive(Clone, Copy, Debug)]
struct Target {
    size: usize,
    scale: f32,
}

/// One for each axis of `x`; batch and channels keep their size.
fn targets(im: &Importer<'_>, node: &Node, x: ValueId) -> Result<Vec<Target>, Fault> {
    let dims = im.dims(x);
    let (scales_at, sizes_at) = match (node.op.as_str(), im.opset()) {
        ("Upsample", _) | (_, 10) => (1, usize::MAX),
        _ => (2, 3),
    };
    if node.text("keep_aspect_ratio_policy")?.unwrap_or("stretch") != "stretch" {
        return Err(unsupported("a policy that keeps the aspect ratio"));
    }
    let scales = match node.floats("scales")? {
        Some(scales) => Some(scales.to_vec()),
        None => im.known(node, scales_at)?.map(|c| c.as_floats().map(<[f32]>::to_vec)).transpose()?,
    };
    let sizes = im.known(node, sizes_at)?.filter(|c| c.elements.len() > 0);
    let named = node
        .ints("axes")?
        .map(|list| list.iter().map(|&a| shapes::axis(a, dims.len())).collect::<Result<Vec<_>, _>>());
    let axes = named.transpose()?.unwrap_or_else(|| (0..dims.len()).collect());
    let mut targets: Vec<Option<Target>> = vec![None; dims.len()];
    let count = scales
        .as_ref()
        .filter(|s| !s.is_empty())
        .map_or_else(|| sizes.as_ref().map_or(0, |c| c.elements.len()), Vec::len);
    if count != axes.len() {
        return Err(malformed(format!("gives {count} sizes for {} axes", axes.len())));
    }
    for (at, &axis) in axes.iter().enumerate() {
        let wanted = match (&scales, &sizes) {
            (_, Some(sizes)) => {
                let size = sizes.as_ints()?[at].dim().ok_or_else(|| malformed("to a size that is none"))?;
                if size == dims[axis] || (axis == 0 && im.generalised() && size == Dim::from(1)) {
                    None
                } else {
                    Some((size.known(), None))
                }
            }
            (Some(scales), None) if scales[at] == 1.0 => None,
            (Some(scales), None) => Some((None, Some(scales[at]))),
            (None, None) => return Err(malformed("gives neither scales nor sizes")),
        };
        let Some((size, scale)) = wanted else { continue };
        if axis < 2 {
            return Err(unsupported("of batch or channels"));
        }
        let have = im.known_dim(x, axis)?;
        let size = match (size, scale) {
            (Some(size), _) => size,
            (None, Some(scale)) if scale.is_finite() && scale > 0.0 => (have as f32 * scale).floor() as usize,
            _ => return Err(malformed("by a factor that is not above 0")),
        };
        targets[axis] = Some(Target { size, scale: scale.unwrap_or(size as f32 / have as f32) });
    }
    let filled = targets.iter().enumerate().map(|(axis, target)| match target {
        Some(target) => Ok(*target),
        // Batch and channels, whose size nobody asks for, may be N.
        None => Ok(Target { size: dims[axis].known().unwrap_or(1), scale: 1.0 }),
    });
    filled.collect()
}

/// How coordinates of the result become coordinates of the source.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mapping {
    HalfPixel,
    /// As HalfPixel, but a single pixel is the first.
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// Which pixel is the nearest.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nearest {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
    /// Before opset 11: ceil where the picture shrinks, else floor, as ONNX Runtime has it.
    Old,
}

struct Rule {
    mapping: Mapping,
    /// `None`: linear.
    nearest: Option<Nearest>,
}

impl Rule {
    fn read(im: &Importer<'_>, node: &Node) -> Result<Rule, Fault> {
        if node.flag("antialias", false)? {
            return Err(unsupported("with antialiasing"));
        }
        // Before opset 11 there was one mapping, and it had no name.
        let old = node.op == "Upsample" || im.opset() == 10;
        let mapping = match node.text("coordinate_transformation_mode")? {
            _ if old => Mapping::Asymmetric,
            None | Some("half_pixel") => Mapping::HalfPixel,
            Some("pytorch_half_pixel") => Mapping::PytorchHalfPixel,
            Some("align_corners") => Mapping::AlignCorners,
            Some("asymmetric") => Mapping::Asymmetric,
            Some(other) => return Err(unsupported(format!("with coordinates `{}`", shown(other)))),
        };
        let nearest = match node.text("nearest_mode")? {
            _ if old => Nearest::Old,
            None | Some("round_prefer_floor") => Nearest::RoundPreferFloor,
            Some("round_prefer_ceil") => Nearest::RoundPreferCeil,
            Some("floor") => Nearest::Floor,
            Some("ceil") => Nearest::Ceil,
            Some(other) => return Err(unsupported(format!("with the nearest by `{}`", shown(other)))),
        };
        match node.text("mode")?.unwrap_or("nearest") {
            "nearest" => Ok(Rule { mapping, nearest: Some(nearest) }),
            "linear" => Ok(Rule { mapping, nearest: None }),
            other => Err(unsupported(format!("by `{}`", shown(other)))),
        }
    }

    fn apply(
        &self,
        im: &mut Importer<'_>,
        x: ValueId,
        input: [usize; 2],
        targets: &[Target],
        part: &str,
    ) -> Result<ValueId, Fault> {
        let samples: Vec<Vec<Sample>> = (0..2).map(|a| self.samples(input[a], targets[a])).collect();
        let mode = if self.nearest.is_some() { ResizeMode::Nearest } else { ResizeMode::Linear };
        let own = (0..2).all(|a| is_own(mode, input[a], targets[a].size, &samples[a]));
        let size = [targets[0].size, targets[1].size];
        if own && size == input {
            return Ok(x);
        }
        if own {
            return im.add(part, Op::Resize { mode, size }, &[x]);
        }
        let rows = sampled(im, x, 2, &samples[0], "rows")?;
        sampled(im, rows, 3, &samples[1], "columns")
    }

    /// In f32, as ONNX Runtime computes coordinates.
    fn samples(&self, input: usize, target: Target) -> Vec<Sample> {
        let Target { size, scale } = target;
        let last = (input - 1) as f32;
        let at = |o: usize| {
            let o = o as f32;
            match self.mapping {
                Mapping::PytorchHalfPixel if size == 1 => 0.0,
                Mapping::HalfPixel | Mapping::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
                Mapping::AlignCorners if size == 1 => 0.0,
                Mapping::AlignCorners => o * last / (size - 1) as f32,
                Mapping::Asymmetric => o / scale,
            }
        };
        (0..size)
            .map(|o| match self.nearest {
                Some(nearest) => {
                    let place = match nearest {
                        Nearest::RoundPreferFloor => (at(o) - 0.5).ceil(),
                        Nearest::RoundPreferCeil => (at(o) + 0.5).floor(),
                        Nearest::Old if scale < 1.0 => at(o).ceil(),
                        Nearest::Floor | Nearest::Old => at(o).floor(),
                        Nearest::Ceil => at(o).ceil(),
                    };
                    let lo = place.clamp(0.0, last) as usize;
                    Sample { lo, hi: lo, weight: 0.0 }
                }
                None => {
                    let place = at(o).clamp(0.0, last);
                    let lo = place as usize;
                    Sample { lo, hi: (lo + 1).min(input - 1), weight: place - lo as f32 }
                }
            })
            .collect()
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `(1 - weight) x[lo] + weight x[hi]`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    lo: usize,
    hi: usize,
    weight: f32,
}

/// Whether our Resize takes the same samples along an axis.
fn is_own(mode: ResizeMode, input: usize, output: usize, samples: &[Sample]) -> bool {
    samples.iter().enumerate().all(|(o, sample)| match mode {
        ResizeMode::Nearest => sample.lo == o * input / output,
        ResizeMode::Linear => {
            let at = ((o as f64 + 0.5) * input as f64 / output as f64 - 0.5).clamp(0.0, (input - 1) as f64);
            (at - (sample.lo as f64 + f64::from(sample.weight))).abs() < 1e-4
        }
    })
}

fn sampled(
    im: &mut Importer<'_>,
    x: ValueId,
    axis: usize,
    samples: &[Sample],
    part: &str,
) -> Result<ValueId, Fault> {
    let [lo, hi] =
        [|s: &Sample| s.lo, |s: &Sample| s.hi].map(|place| samples.iter().map(place).collect::<Vec<usize>>());
    let low = picked(im, &format!("{part}.low"), x, axis, &lo)?;
    if samples.iter().all(|s| s.weight == 0.0) {
        return Ok(low);
    }
    let high = picked(im, &format!("{part}.high"), x, axis, &hi)?;
    let mut shape = vec![1; 4];
    shape[axis] = samples.len();
    let weights: Vec<f32> = samples.iter().map(|s| s.weight).collect();
    let weights =
        im.state(&Rc::new(Constant::floats(shape, weights)), &format!("{part}.weights"), Role::Statistic)?;
    let difference = im.add(&format!("{part}.difference"), Op::Binary { f: BinaryFn::Sub }, &[high, low])?;
    let moved = im.add(&format!("{part}.moved"), Op::Binary { f: BinaryFn::Mul }, &[difference, weights])?;
    im.add(&format!("{part}.joined"), Op::Binary { f: BinaryFn::Add }, &[low, moved])
}
