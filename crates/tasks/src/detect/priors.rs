//! Prior boxes of single-shot detectors (Liu et al. 2016), as UltraFace lays them out.

use serde::{Deserialize, Serialize};

use crate::{TaskError, ensure};

/// Squares around the cells of several grids, and how a network's offsets change them: the centre moves by
/// `variance[0] * offset` sides, a side grows by `exp(variance[1] * offset)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Priors {
    /// The grids, in the order of the outputs.
    pub levels: Vec<Level>,
    /// Of centres and of sides.
    pub variance: [f32; 2],
}

/// One grid of cells, row by row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Pixels of the input for one cell; the last cell may be cut.
    pub stride: usize,
    /// Sides in pixels of the squares at each cell.
    pub sides: Vec<f32>,
}

/// A prior box in shares of the input.
struct Prior {
    centre: [f32; 2],
    sides: [f32; 2],
}

impl Priors {
    /// Those of UltraFace, slim and RFB.
    pub fn ultraface() -> Self {
        let sides: [&[f32]; 4] = [&[10.0, 16.0, 24.0], &[32.0, 48.0], &[64.0, 96.0], &[128.0, 192.0, 256.0]];
        let level = |(stride, sides): (usize, &[f32])| Level { stride, sides: sides.to_vec() };
        Priors { levels: [8, 16, 32, 64].into_iter().zip(sides).map(level).collect(), variance: [0.1, 0.2] }
    }

    pub(super) fn validate(&self, kind: &'static str) -> Result<(), TaskError> {
        let fine = |level: &Level| {
            (1..=4096).contains(&level.stride)
                && (1..=64).contains(&level.sides.len())
                && level.sides.iter().all(|&side| side > 0.0 && side.is_finite())
        };
        let levels = (1..=16).contains(&self.levels.len()) && self.levels.iter().all(fine);
        ensure(kind, levels, || {
            "priors need 1 to 16 levels with strides of 1 to 4096 and 1 to 64 sides above 0".into()
        })?;
        let finite = self.variance.iter().all(|v| v.is_finite());
        ensure(kind, finite, || format!("the priors' variance is {:?}, must be finite", self.variance))
    }

    /// How many there are for an input of `size` (height, width).
    pub fn count(&self, size: [usize; 2]) -> usize {
        self.levels.iter().map(|level| level.count(size)).sum()
    }

    /// The box of an anchor, centre and sides in shares of the input, from its offsets.
    pub(super) fn decode(&self, offsets: [f32; 4], anchor: usize, size: [usize; 2]) -> [f32; 4] {
        let Prior { centre, sides } = self.prior(anchor, size);
        let at = |i: usize| centre[i] + offsets[i] * self.variance[0] * sides[i];
        let side = |i: usize| sides[i] * (offsets[2 + i] * self.variance[1]).exp();
        [at(0), at(1), side(0), side(1)]
    }

    fn prior(&self, mut anchor: usize, size: [usize; 2]) -> Prior {
        let mut levels = self.levels.iter();
        let level = loop {
            let level = levels.next().expect("an anchor's number is below the count");
            match anchor.checked_sub(level.count(size)) {
                Some(rest) => anchor = rest,
                None => break level,
            }
        };
        let (cell, side) = (anchor / level.sides.len(), level.sides[anchor % level.sides.len()]);
        let columns = size[1].div_ceil(level.stride);
        let (size, stride) = ([size[1] as f32, size[0] as f32], level.stride as f32);
        let centre = |at: usize, size: f32| ((at as f32 + 0.5) * stride / size).min(1.0);
        Prior {
            centre: [centre(cell % columns, size[0]), centre(cell / columns, size[1])],
            sides: size.map(|size| (side / size).min(1.0)),
        }
    }
}

impl Level {
    fn count(&self, size: [usize; 2]) -> usize {
        size.iter().map(|side| side.div_ceil(self.stride)).product::<usize>() * self.sides.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ultraface_has_its_priors() {
        let priors = Priors::ultraface();
        assert_eq!(priors.count([240, 320]), 4420);
        let check = |anchor, want: [f32; 4]| {
            let got = priors.decode([0.0; 4], anchor, [240, 320]);
            let close = got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-6);
            assert!(close, "prior {anchor}: {got:?}, not {want:?}");
        };
        check(0, [4.0 / 320.0, 4.0 / 240.0, 10.0 / 320.0, 10.0 / 240.0]);
        check(4, [12.0 / 320.0, 4.0 / 240.0, 16.0 / 320.0, 16.0 / 240.0]);
        check(3600, [8.0 / 320.0, 8.0 / 240.0, 32.0 / 320.0, 32.0 / 240.0]);
        // The last row of cells reaches beyond the picture, and so would the largest square.
        check(4419, [288.0 / 320.0, 224.0 / 240.0, 256.0 / 320.0, 1.0]);
        let moved = priors.decode([1.0, -1.0, 5.0, 0.0], 0, [240, 320]);
        assert!((moved[0] - 5.0 / 320.0).abs() < 1e-6 && (moved[1] - 3.0 / 240.0).abs() < 1e-6, "{moved:?}");
        assert!((moved[2] - 10.0 / 320.0 * 1f32.exp()).abs() < 1e-6, "{moved:?}");
    }

    #[test]
    fn contradictions_are_named() {
        let check = |edit: fn(&mut Priors), words: &str| {
            let mut priors = Priors::ultraface();
            edit(&mut priors);
            let error = priors.validate("detect").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        assert_eq!(Priors::ultraface().validate("detect"), Ok(()));
        check(|p| p.levels.clear(), "1 to 16 levels");
        check(|p| p.levels[0].stride = 0, "strides");
        check(|p| p.levels[1].sides[0] = f32::NAN, "sides above 0");
        check(|p| p.variance[0] = f32::INFINITY, "variance");
    }
}
