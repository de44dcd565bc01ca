//! Walking several tensors at once by strides: broadcasting, permuting and reducing are all strides.

/// One axis of an iteration over `K` tensors; stride 0 repeats an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis<const K: usize> {
    pub(crate) size: usize,
    pub(crate) strides: [usize; K],
}

/// Strides of a row-major tensor.
pub(crate) fn row_major(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

/// Strides that read `shape` as broadcast to `out`, as in NumPy.
pub(crate) fn broadcast(shape: &[usize], out: &[usize]) -> Vec<usize> {
    let missing = out
        .len()
        .checked_sub(shape.len())
        .unwrap_or_else(|| panic!("{shape:?} does not broadcast to {out:?}"));
    let strides = row_major(shape);
    let stride = |axis: usize| match axis.checked_sub(missing) {
        None => 0,
        Some(own) if shape[own] == 1 => 0,
        Some(own) => {
            assert_eq!(shape[own], out[axis], "{shape:?} does not broadcast to {out:?}");
            strides[own]
        }
    };
    (0..out.len()).map(stride).collect()
}

/// The same iteration with the fewest axes: axes of size 1 go, and neighbours join where one stride steps both.
pub(crate) fn merge<const K: usize>(axes: impl IntoIterator<Item = Axis<K>>) -> Vec<Axis<K>> {
    let mut merged: Vec<Axis<K>> = Vec::new();
    for axis in axes.into_iter().filter(|axis| axis.size != 1) {
        match merged.last_mut() {
            Some(last) if last.strides == axis.strides.map(|s| s * axis.size) => {
                *last = Axis { size: last.size * axis.size, strides: axis.strides };
            }
            _ => merged.push(axis),
        }
    }
    merged
}

/// Offsets into the tensors at position `index` of the row-major iteration over `axes`.
#[inline(always)]
pub(crate) fn offsets<const K: usize>(axes: &[Axis<K>], mut index: usize) -> [usize; K] {
    let mut at = [0; K];
    for axis in axes.iter().rev() {
        let i = index % axis.size;
        index /= axis.size;
        for k in 0..K {
            at[k] += i * axis.strides[k];
        }
    }
    at
}

/// Number of positions.
pub(crate) fn count<const K: usize>(axes: &[Axis<K>]) -> usize {
    axes.iter().map(|axis| axis.size).product()
}

/// A row-major iteration whose two innermost axes are named apart, for loops over whole rows.
#[derive(Clone, Debug)]
pub(crate) struct Rows<const K: usize> {
    outer: Vec<Axis<K>>,
    pub(crate) row: Axis<K>,
    pub(crate) column: Axis<K>,
}

/// Part of one axis of rows: `rows` whole rows, or a piece of one.
pub(crate) struct Piece<const K: usize> {
    pub(crate) at: [usize; K],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl<const K: usize> Rows<K> {
    pub(crate) fn new(axes: impl IntoIterator<Item = Axis<K>>) -> Self {
        let mut outer = merge(axes);
        let single = Axis { size: 1, strides: [1; K] };
        let column = outer.pop().unwrap_or(single);
        let row = outer.pop().unwrap_or(single);
        Rows { outer, row, column }
    }

    pub(crate) fn count(&self) -> usize {
        count(&self.outer) * self.row.size * self.column.size
    }

    /// The largest piece that starts at `position` and ends at or before `end`.
    pub(crate) fn piece(&self, position: usize, end: usize) -> Piece<K> {
        let (index, column) = (position / self.column.size, position % self.column.size);
        let row = index % self.row.size;
        let mut at = offsets(&self.outer, index / self.row.size);
        for k in 0..K {
            at[k] += row * self.row.strides[k] + column * self.column.strides[k];
        }
        let whole = (end - position) / self.column.size;
        if column == 0 && whole > 0 {
            Piece { at, rows: whole.min(self.row.size - row), columns: self.column.size }
        } else {
            Piece { at, rows: 1, columns: (self.column.size - column).min(end - position) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges() {
        let check = |shapes: [&[usize]; 2], out: &[usize], want: &[(usize, [usize; 2])]| {
            let strides = shapes.map(|shape| broadcast(shape, out));
            let axes = (0..out.len()).map(|i| Axis { size: out[i], strides: [strides[0][i], strides[1][i]] });
            let got: Vec<_> = merge(axes).iter().map(|axis| (axis.size, axis.strides)).collect();
            assert_eq!(got, want, "{shapes:?} to {out:?}");
        };
        check([&[2, 3, 4], &[2, 3, 4]], &[2, 3, 4], &[(24, [1, 1])]);
        check([&[2, 3, 4], &[4]], &[2, 3, 4], &[(6, [4, 0]), (4, [1, 1])]);
        check(
            [&[2, 3, 5, 7, 16], &[2, 3, 1, 1, 16]],
            &[2, 3, 5, 7, 16],
            &[(6, [560, 16]), (35, [16, 0]), (16, [1, 1])],
        );
        check([&[3, 1], &[1, 4]], &[3, 4], &[(3, [1, 0]), (4, [0, 1])]);
        check([&[1], &[]], &[1, 1], &[]);
    }
}
