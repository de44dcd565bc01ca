//! The same elements in other shapes and orders. Sizes that depend on the batch are computed from an input's.

use espalier_graph::{Data, Dim, Node, ResizeMode, Shape, Tensor};

use super::draft::{int, text, value};
use super::{Exporter, Written};

impl Exporter<'_> {
    /// The shape that Reshape takes: what depends on the batch is what is left over, or, where that is more than one axis,
    /// computed.
    pub(super) fn reshaped(&mut self, node: &Node, shape: &Shape) -> Result<String, String> {
        let base = format!("{}.shape", self.result(node));
        let open = shape.0.iter().filter(|d| d.known().is_none()).count();
        if open > 1 || shape.0.iter().any(|d| d.known() == Some(0)) {
            return self.sizes(&base, &shape.0);
        }
        let sizes: Vec<i64> = shape.0.iter().map(|d| d.known().map_or(-1, |size| size as i64)).collect();
        Ok(self.draft.list(&base, &sizes))
    }

    /// A list of sizes at run time.
    fn sizes(&mut self, base: &str, dims: &[Dim]) -> Result<String, String> {
        if let Ok(known) = self.known(dims) {
            let known: Vec<i64> = known.iter().map(|&size| size as i64).collect();
            return Ok(self.draft.list(base, &known));
        }
        let batch = self.batch(base)?;
        let mut parts = Vec::new();
        for (axis, dim) in dims.iter().enumerate() {
            let (part, factor) = (format!("{base}.{axis}"), [dim.factor as i64]);
            parts.push(match dim.batch {
                _ if dim.time > 0 => {
                    return Err(format!("has the size {dim}, lengths in time are not exported"));
                }
                0 => self.draft.list(&part, &factor),
                1 if dim.factor == 1 => batch.clone(),
                1 => {
                    let factor = self.draft.list(&part, &factor);
                    self.draft.step(base, "size", "Mul", &[&batch, &factor], &[])
                }
                _ => return Err(format!("has the size {dim}, powers of the batch are not exported")),
            });
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(self.draft.step(base, "sizes", "Concat", &parts, &[int("axis", 0)]))
    }

    /// The number of samples, a list of one: the size of an input's axis that is N.
    fn batch(&mut self, base: &str) -> Result<String, String> {
        let graph = self.graph;
        let found = graph.inputs().iter().find_map(|&id| {
            let axis = graph.ty(id).shape.0.iter().position(|&d| d == Dim::N)?;
            Some((id, axis))
        });
        let (id, axis) = found.ok_or("needs the size of the batch, which no input has as an axis")?;
        let x = self.at(id);
        let shape = self.draft.step(base, "of", "Shape", &[&x], &[]);
        let axis = self.draft.list(&format!("{base}.axis"), &[axis as i64]);
        Ok(self.draft.step(base, "batch", "Gather", &[&shape, &axis], &[int("axis", 0)]))
    }

    /// Broadcasting goes both ways, so axes that have their size already may be 1.
    pub(super) fn expand(&mut self, node: &Node, shape: &Shape) -> Written {
        let (x, y) = (self.at(node.inputs[0]), self.result(node));
        let have = self.dims(node.inputs[0]);
        let front = shape.rank() - have.len();
        let kept = |(axis, dim): (usize, &Dim)| match axis.checked_sub(front) {
            Some(at) if have[at] == *dim => Dim::from(1),
            _ => *dim,
        };
        let wanted: Vec<Dim> = shape.0.iter().enumerate().map(kept).collect();
        let sizes = self.sizes(&format!("{y}.shape"), &wanted)?;
        self.draft.node("Expand", &[&x, &sizes], &[], &y);
        Ok(())
    }

    pub(super) fn fill(&mut self, node: &Node, shape: &Shape, fill: f32) -> Written {
        let y = self.result(node);
        let sizes = self.sizes(&format!("{y}.shape"), &shape.0)?;
        self.draft.node("ConstantOfShape", &[&sizes], &[value("value", fill)], &y);
        Ok(())
    }

    pub(super) fn concat(&mut self, node: &Node, axis: usize) -> Written {
        let inputs: Vec<String> = node.inputs.iter().map(|&id| self.float(id)).collect();
        let y = self.result(node);
        self.ending(node, &y, |e, y| {
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            e.draft.node("Concat", &inputs, &[int("axis", axis as i64)], y);
            Ok(())
        })
    }

    pub(super) fn slice(&mut self, node: &Node, axis: usize, start: usize, end: usize) -> Written {
        let y = self.result(node);
        let [start, end, axis] = [("start", start), ("end", end), ("axis", axis)]
            .map(|(part, at)| self.draft.list(&format!("{y}.{part}"), &[at as i64]));
        self.moved(node, |e, x, y| {
            e.draft.node("Slice", &[x, &start, &end, &axis], &[], y);
            Ok(())
        })
    }

    pub(super) fn pad(&mut self, node: &Node, axis: usize, around: [usize; 2], value: f32) -> Written {
        let (y, rank) = (self.result(node), self.dims(node.inputs[0]).len());
        let mut pads = vec![0; 2 * rank];
        (pads[axis], pads[rank + axis]) = (around[0] as i64, around[1] as i64);
        let pads = self.draft.list(&format!("{y}.pads"), &pads);
        let value = self.draft.number(&format!("{y}.value"), value);
        self.moved(node, |e, x, y| {
            e.draft.node("Pad", &[x, &pads, &value], &[text("mode", "constant")], y);
            Ok(())
        })
    }

    pub(super) fn gather(&mut self, node: &Node, axis: usize) -> Written {
        let [table, index] = [0, 1].map(|i| self.at(node.inputs[i]));
        let attributes = [int("axis", axis as i64)];
        self.draft.node("Gather", &[&table, &index], &attributes, &self.result(node));
        Ok(())
    }

    /// Resize, whose factors leave no doubt about a coordinate; else, for nearest pixels, a gather along each axis.
    pub(super) fn resize(
        &mut self,
        mode: ResizeMode,
        size: [usize; 2],
        dims: &[Dim],
        x: &str,
        y: &str,
    ) -> Written {
        let input = self.known(&dims[2..])?;
        let whole = |axis: usize| size[axis].is_multiple_of(input[axis]);
        let (mapping, mode) = match mode {
            ResizeMode::Nearest if !(whole(0) && whole(1)) => return self.picked(&input, size, x, y),
            ResizeMode::Nearest => ("asymmetric", "nearest"),
            ResizeMode::Linear => ("half_pixel", "linear"),
        };
        let mut attributes = vec![text("coordinate_transformation_mode", mapping), text("mode", mode)];
        if mode == "nearest" {
            attributes.push(text("nearest_mode", "floor"));
        }
        let factor = |axis: usize| size[axis] as f32 / input[axis] as f32;
        // Some multiply as f32, others as f64.
        let exact = |axis: usize| {
            let (have, factor) = (input[axis], factor(axis));
            let products = [f64::from(have as f32 * factor), have as f64 * f64::from(factor)];
            products.iter().all(|product| product.floor() as usize == size[axis])
        };
        if exact(0) && exact(1) {
            let scales = Tensor::f32(&[4], vec![1.0, 1.0, factor(0), factor(1)]);
            let scales = self.draft.constant(&format!("{y}.scales"), &scales);
            self.draft.node("Resize", &[x, "", &scales], &attributes, y);
        } else {
            let wanted = [dims[0], dims[1], size[0].into(), size[1].into()];
            let sizes = self.sizes(&format!("{y}.sizes"), &wanted)?;
            self.draft.node("Resize", &[x, "", "", &sizes], &attributes, y);
        }
        Ok(())
    }

    fn picked(&mut self, input: &[usize], size: [usize; 2], x: &str, y: &str) -> Written {
        let index = |axis: usize| {
            (0..size[axis]).map(|at| (at * input[axis] / size[axis]) as i32).collect::<Vec<i32>>()
        };
        let [rows, columns] = [0, 1].map(|axis| {
            let list = Tensor::new(&[size[axis]], Data::I32(index(axis).into()));
            self.draft.constant(&format!("{y}.index"), &list)
        });
        let tall = self.draft.step(y, "rows", "Gather", &[x, &rows], &[int("axis", 2)]);
        self.draft.node("Gather", &[&tall, &columns], &[int("axis", 3)], y);
        Ok(())
    }
}
