//! Where a convolution reads and writes, one axis at a time: phases, taps, and how gathered rows are arranged.

use super::ConvGeometry;

/// One kernel position along an axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offset {
    /// Output `i` reads input `i * stride + at`.
    pub(super) at: isize,
    /// Index in the kernel.
    pub(super) index: usize,
}

/// One axis of a correlation: outputs `start + step * i` for `i < count`, each over all `taps`.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) count: usize,
    pub(super) start: usize,
    pub(super) step: usize,
    pub(super) stride: usize,
    /// Extent of the input; what lies outside reads as zero.
    pub(super) input: usize,
    pub(super) taps: Vec<Offset>,
}

impl Axis {
    /// Axis `a` (0 is vertical) of the convolution itself.
    pub(super) fn forward(g: &ConvGeometry, a: usize) -> Axis {
        let w = &g.window;
        let at = |k: usize| (k * w.dilation[a]) as isize - w.pad[a] as isize;
        Axis {
            count: g.output[a],
            start: 0,
            step: 1,
            stride: w.stride[a],
            input: g.input[a],
            taps: (0..w.kernel[a]).map(|index| Offset { at: at(index), index }).collect(),
        }
    }

    /// Axis `a` of the gradient for the input: one axis per residue of the position modulo the stride. Position
    /// `i * stride + residue` receives from output `o` through kernel index `k` where
    /// `o * stride + k * dilation - pad` is that position, so each residue has its own subset of the kernel.
    pub(super) fn input_grad(g: &ConvGeometry, a: usize) -> Vec<Axis> {
        let w = &g.window;
        let stride = w.stride[a];
        let phase = |residue: usize| Axis {
            count: g.input[a].saturating_sub(residue).div_ceil(stride),
            start: residue,
            step: stride,
            stride: 1,
            input: g.output[a],
            taps: (0..w.kernel[a])
                .map(|k| (k, (residue + w.pad[a]) as isize - (k * w.dilation[a]) as isize))
                .filter(|(_, at)| at.rem_euclid(stride as isize) == 0)
                .map(|(index, at)| Offset { at: at / stride as isize, index })
                .collect(),
        };
        (0..stride).map(phase).collect()
    }

    /// The outputs that read inside of the input at a tap `at`; all others read zero.
    pub(super) fn inside(&self, at: isize) -> std::ops::Range<usize> {
        let first = (-at).max(0) as usize;
        let end = (self.input as isize - at).max(0) as usize;
        let hi = end.div_ceil(self.stride).min(self.count);
        first.div_ceil(self.stride).min(hi)..hi
    }

    /// Whether output `i` reads input `i` and nothing else.
    fn is_identity(&self) -> bool {
        self.stride == 1 && self.count == self.input && self.taps.len() == 1 && self.taps[0].at == 0
    }
}

/// Input rows with one residue modulo the stride: they follow each other in the gathered rows, so that a step of one
/// output row is a step of one gathered row whatever the stride is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Class {
    pub(super) residue: usize,
    /// The class's first row for output row 0, in strides.
    pub(super) first: isize,
    /// Rows beyond one per output row.
    pub(super) extra: usize,
    /// Sum of `extra` over the classes before.
    before: usize,
}

/// Address of a tap in the gathered input, in units of [`Pitch`](super::gather::Pitch), and in the weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub(super) class: usize,
    pub(super) row: usize,
    pub(super) column: usize,
    pub(super) weight: usize,
}

/// A correlation at unit steps of its outputs: the whole forward pass, or one residue of the input gradient.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) y: Axis,
    pub(super) x: Axis,
    pub(super) classes: Vec<Class>,
    pub(super) taps: Vec<Tap>,
    /// Copies of the input, one per kernel column, or 1 where kernel columns are folded into channels.
    pub(super) columns: usize,
    /// Whether the gathered input would equal the input.
    pub(super) identity: bool,
}

impl Phase {
    /// Joins two axes of a kernel with `kernel_width` columns, which are folded into channels if `folded`.
    pub(super) fn new(y: Axis, x: Axis, kernel_width: usize, folded: bool) -> Phase {
        let classes = classes(&y);
        let stride = y.stride as isize;
        let mut taps = Vec::new();
        for row in &y.taps {
            let residue = row.at.rem_euclid(stride) as usize;
            let class = classes.iter().position(|c| c.residue == residue).expect("classes cover all taps");
            let c = &classes[class];
            let slot = c.before + (row.at.div_euclid(stride) - c.first) as usize;
            if folded {
                taps.push(Tap { class, row: slot, column: 0, weight: row.index });
                continue;
            }
            taps.extend(x.taps.iter().enumerate().map(|(column, k)| {
                let weight = row.index * kernel_width + k.index;
                Tap { class, row: slot, column, weight }
            }));
        }
        let identity = !folded && y.is_identity() && x.is_identity();
        let columns = if folded { 1 } else { x.taps.len() };
        Phase { y, x, classes, taps, columns, identity }
    }

    /// The forward pass.
    pub(super) fn forward(g: &ConvGeometry) -> Phase {
        Phase::new(Axis::forward(g, 0), Axis::forward(g, 1), g.window.kernel[1], g.folds_columns())
    }

    /// The gradient for the input, by residues.
    pub(super) fn input_grad(g: &ConvGeometry) -> Vec<Phase> {
        let columns = Axis::input_grad(g, 1);
        let rows = Axis::input_grad(g, 0);
        let pairs = rows.iter().flat_map(|y| columns.iter().map(move |x| (y, x)));
        pairs.map(|(y, x)| Phase::new(y.clone(), x.clone(), g.window.kernel[1], false)).collect()
    }

    /// Gathered rows that `rows` output rows need.
    pub(super) fn slots(&self, rows: usize) -> usize {
        self.classes.iter().map(|c| rows + c.extra).sum()
    }

    /// Gathered elements of one channel block.
    pub(super) fn area(&self, rows: usize, images: usize) -> usize {
        self.columns * self.slots(rows) * images * self.x.count * crate::LANES
    }
}

fn classes(y: &Axis) -> Vec<Class> {
    let stride = y.stride as isize;
    let mut classes: Vec<Class> = Vec::new();
    let mut before = 0;
    for residue in 0..stride {
        let steps =
            || y.taps.iter().filter(|t| t.at.rem_euclid(stride) == residue).map(|t| t.at.div_euclid(stride));
        if let (Some(first), Some(last)) = (steps().min(), steps().max()) {
            let extra = (last - first) as usize;
            classes.push(Class { residue: residue as usize, first, extra, before });
            before += extra;
        }
    }
    classes
}
