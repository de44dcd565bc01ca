//! Which layers suffer most from being int8.

use espalier_graph::Graph;
use espalier_passes::layer::layers;
use espalier_runtime::{Isa, Pool};

use super::calibration::Calibration;
use super::recipe::{Calibrated, Recipe};

/// Images on which layers are compared.
const IMAGES: usize = 32;

/// A layer, and how much of the error of the outputs goes away where it alone stays float.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// The layer.
    pub layer: String,
    /// Mean squared difference from the float outputs, as a share of their mean square, with the layer in float.
    pub error: f64,
    /// The same with all layers in int8.
    pub whole: f64,
}

/// Every layer, the most harmful first. `done` is told how many were tried, and says whether to go on.
///
/// # Errors
/// A graph that cannot be lowered.
pub(super) fn sensitivities(
    graph: &Graph,
    recipe: &Recipe,
    from: &Calibrated,
    images: &Calibration,
    (isa, pool): (Isa, &mut Pool),
    done: &mut dyn FnMut(usize) -> bool,
) -> anyhow::Result<Vec<Sensitivity>> {
    let want = images.outputs(graph, &from.weights, IMAGES, isa, pool)?;
    let error_of = |recipe: &Recipe, pool: &mut Pool| -> anyhow::Result<f64> {
        let (graph, weights) = recipe.make(graph, from)?;
        Ok(relative_error(&images.outputs(&graph, &weights, IMAGES, isa, pool)?, &want))
    };
    let whole = error_of(recipe, pool)?;
    let mut all = Vec::new();
    for layer in layers(graph) {
        let mut one = recipe.clone();
        one.float.insert(layer.name.clone());
        all.push(Sensitivity { layer: layer.name, error: error_of(&one, pool)?, whole });
        if !done(all.len()) {
            break;
        }
    }
    all.sort_by(|a, b| a.error.total_cmp(&b.error).then_with(|| a.layer.cmp(&b.layer)));
    Ok(all)
}

/// The mean over outputs of the squared difference, as a share of the square of what is wanted.
fn relative_error(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let share = |(got, want): (&Vec<f32>, &Vec<f32>)| {
        let mut off = got.iter().zip(want).map(|(&g, &w)| f64::from(g) - f64::from(w));
        square(&mut off) / square(&mut want.iter().map(|&w| w.into())).max(f64::MIN_POSITIVE)
    };
    got.iter().zip(want).map(share).sum::<f64>() / want.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_mean_over_outputs() {
        let want = [vec![3.0, 4.0], vec![100.0]];
        assert_eq!(relative_error(&want, &want), 0.0);
        let error = relative_error(&[vec![3.0, 3.0], vec![100.0]], &want);
        assert!((error - 0.5 / 25.0).abs() < 1e-12, "{error}");
    }
}
