//! Functions of a byte. ONNX has no table, so a known function is looked for that rounds to the same bytes; where none does,
//! the table is gathered from.

use espalier_graph::{Node, Quant, Tensor, UnaryFn};

use super::draft::int;
use super::{Exporter, Written};
use crate::proto::data;

/// Functions that networks are made of, and whether everybody computes them to the bit.
const KNOWN: [(Option<UnaryFn>, bool); 12] = [
    (None, true),
    (Some(UnaryFn::Relu), true),
    (Some(UnaryFn::Clip { lo: 0.0, hi: 6.0 }), true),
    (Some(UnaryFn::HardSwish), false),
    (Some(UnaryFn::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }), false),
    (Some(UnaryFn::HardSigmoid { alpha: 0.2, beta: 0.5 }), false),
    (Some(UnaryFn::Sigmoid), false),
    (Some(UnaryFn::Silu), false),
    (Some(UnaryFn::Tanh), false),
    (Some(UnaryFn::Gelu), false),
    (Some(UnaryFn::LeakyRelu { slope: 0.1 }), false),
    (Some(UnaryFn::LeakyRelu { slope: 0.01 }), false),
];

/// So near to a tie, in steps of the result, another library's rounding errors may fall to the other side.
const MARGIN: f64 = 1e-4;

impl Exporter<'_> {
    pub(super) fn table(&mut self, node: &Node, to: Quant) -> Written {
        let (entries, from) = (self.entries(node)?, self.quant(node.inputs[0])?);
        let y = self.result(node);
        let limits =
            [entries.iter().copied().min().unwrap_or(0), entries.iter().copied().max().unwrap_or(255)];
        let found = KNOWN.iter().find_map(|&(f, exact)| {
            let fits = |limits| is_rounded(f, exact, from, to, limits, &entries);
            [[0, 255], limits].into_iter().find(|&limits| fits(limits)).map(|limits| (f, limits))
        });
        let Some((f, limits)) = found else { return self.gathered(node, to, &entries) };
        let x = self.float(node.inputs[0]);
        let value = match f {
            None => x,
            Some(f) => {
                let value = self.draft.fresh(&format!("{y}.value"));
                self.function(f, &x, &value);
                value
            }
        };
        let clamped = self.clamped(&value, to, limits);
        self.draft.quantize(&clamped, to, &y);
        Ok(())
    }

    /// The bytes as indices of a table of floats, which round to the wanted bytes exactly.
    fn gathered(&mut self, node: &Node, to: Quant, entries: &[u8; 256]) -> Written {
        let (x, y) = (self.at(node.inputs[0]), self.result(node));
        let plain = Quant::new(1.0, 0)?;
        let number = self.draft.fresh(&format!("{y}.number"));
        self.draft.dequantize(&x, plain, &number);
        let index = self.draft.step(&y, "index", "Cast", &[&number], &[int("to", data::INT32.into())]);
        let values = entries.iter().map(|&q| to.dequantize(q)).collect();
        let table = self.draft.constant(&format!("{y}.values"), &Tensor::f32(&[256], values));
        let value = self.draft.step(&y, "value", "Gather", &[&table, &index], &[int("axis", 0)]);
        self.draft.quantize(&value, to, &y);
        Ok(())
    }
}

/// Whether `f` (or nothing) of every byte rounds to the table's, whoever computes it.
fn is_rounded(
    f: Option<UnaryFn>,
    exact: bool,
    from: Quant,
    to: Quant,
    [lo, hi]: [u8; 2],
    entries: &[u8; 256],
) -> bool {
    (0..=255u8).zip(entries).all(|(q, &want)| {
        let x = from.dequantize(q);
        let value = f.map_or(f64::from(x), |f| f.value(x.into()));
        let steps = value / f64::from(to.scale());
        let tie = (steps - steps.floor() - 0.5).abs();
        // Far outside, a step more or less is the same byte.
        let inside = (-1.0..=256.0).contains(&(steps + f64::from(to.zero())));
        let safe = exact || !inside || value == 0.0 || tie > MARGIN;
        safe && to.quantize(value as f32).clamp(lo, hi) == want
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(f: impl Fn(f32) -> f32, from: Quant, to: Quant) -> Option<Option<UnaryFn>> {
        let entries: [u8; 256] = std::array::from_fn(|q| to.quantize(f(from.dequantize(q as u8))));
        KNOWN.iter().find(|&&(f, exact)| is_rounded(f, exact, from, to, [0, 255], &entries)).map(|&(f, _)| f)
    }

    #[test]
    fn functions_are_recognised_and_others_are_not() {
        let (from, to) = (Quant::new(0.0437, 128).unwrap(), Quant::new(0.0213, 17).unwrap());
        assert_eq!(found(|x| x, from, to), Some(None));
        assert_eq!(
            found(|x| UnaryFn::HardSwish.value(x.into()) as f32, from, to),
            Some(Some(UnaryFn::HardSwish))
        );
        assert_eq!(found(|x| UnaryFn::Silu.value(x.into()) as f32, from, to), Some(Some(UnaryFn::Silu)));
        assert_eq!(found(|x| (x * 3.0).sin(), from, to), None);
    }

    /// Half a step is a tie, which nobody can be relied on to see.
    #[test]
    fn near_a_tie_the_table_stays() {
        let (from, to) = (Quant::new(1.0, 0).unwrap(), Quant::new(2.0, 0).unwrap());
        assert_eq!(found(|x| UnaryFn::LeakyRelu { slope: 0.1 }.value(x.into()) as f32, from, to), Some(None));
        let entries = std::array::from_fn(|q| to.quantize(q as f32));
        assert!(!is_rounded(Some(UnaryFn::HardSwish), false, from, to, [0, 255], &entries));
    }
}
