//! Rearranging elements without computing: transpose, expand, concat, slice, pad, gather and its gradient.
//!
//! Elements are 4 bytes whose bits are kept, so that f32 and i32 tensors move alike; what bytes may do too is generic.

use crate::isa::multiversion;
use crate::lanes::{LANES, Lanes};
use crate::reference::RefTensor;
use crate::strided::{Axis, Rows, broadcast, row_major};
use crate::{Element, Io, Isa, Kernel, Output, Worker};
use espalier_graph::Op;
use std::marker::PhantomData;
use std::ops::Range;

/// Reads through strides: `y[i] = x[sum of strides * index of i]`.
struct Strided<T> {
    name: String,
    rows: Rows<1>,
    tiles: Tiles<T>,
}

/// `y[r][c] = x[c * stride + r]` for `[rows, columns]`.
type Tiles<T> = unsafe fn(*const T, *mut T, [usize; 2], usize);

/// Elements that kernels move.
pub trait Moved: Element {
    /// What transposes matrices of them.
    #[doc(hidden)]
    fn tiles(isa: Isa) -> Tiles<Self>;
}

impl Moved for f32 {
    fn tiles(isa: Isa) -> Tiles<f32> {
        pick_transpose(isa)
    }
}

impl Moved for u8 {
    fn tiles(_isa: Isa) -> Tiles<u8> {
        transpose_bytes
    }
}

fn strided<T: Moved>(name: String, isa: Isa, out: &[usize], strides: &[usize]) -> Box<dyn Kernel> {
    let rows = Rows::new(out.iter().zip(strides).map(|(&size, &stride)| Axis { size, strides: [stride] }));
    Box::new(Strided { name, rows, tiles: T::tiles(isa) })
}

/// `x -> y`: axis `i` of the result is axis `perm[i]` of `x`.
///
/// # Panics
/// Where `perm` is no permutation of the axes.
pub fn transpose<T: Moved>(isa: Isa, input: &[usize], perm: &[usize]) -> Box<dyn Kernel> {
    let mut sorted = perm.to_vec();
    sorted.sort_unstable();
    assert!(sorted.into_iter().eq(0..input.len()), "{perm:?} does not permute the axes of {input:?}");
    let strides = row_major(input);
    let out: Vec<usize> = perm.iter().map(|&axis| input[axis]).collect();
    let permuted: Vec<usize> = perm.iter().map(|&axis| strides[axis]).collect();
    strided::<T>(format!("transpose {isa}"), isa, &out, &permuted)
}

/// `x -> y`: broadcast to `out`, as in NumPy.
///
/// # Panics
/// Where `input` does not broadcast to `out`.
pub fn expand(isa: Isa, input: &[usize], out: &[usize]) -> Box<dyn Kernel> {
    strided::<f32>(format!("expand {isa}"), isa, out, &broadcast(input, out))
}

impl<T: Moved> Kernel for Strided<T> {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (x, y) = (io.input::<T>(0), io.output::<T>(0));
        let share = worker.share(self.rows.count());
        let mut position = share.start;
        while position < share.end {
            let piece = self.rows.piece(position, share.end);
            let next = position + piece.rows * piece.columns;
            // SAFETY: pieces of the output are disjoint.
            let y = unsafe { y.slice_mut(position..next) };
            self.copy(&x[piece.at[0]..], y, piece.rows, piece.columns);
            position = next;
        }
    }
}

impl<T: Moved> Strided<T> {
    /// Fills `rows * columns` elements of `y`.
    fn copy(&self, x: &[T], y: &mut [T], rows: usize, columns: usize) {
        let (down, right) = (self.rows.row.strides[0], self.rows.column.strides[0]);
        if down == 1 && right != 0 && rows > 1 {
            assert!(x.len() > (columns - 1) * right + rows - 1);
            // SAFETY: the last element read is in bounds, as just checked; `y` has `rows * columns` elements.
            return unsafe { (self.tiles)(x.as_ptr(), y.as_mut_ptr(), [rows, columns], right) };
        }
        for (row, y) in y.chunks_exact_mut(columns).enumerate() {
            let x = &x[row * down..];
            match right {
                0 => y.fill(x[0]),
                1 => y.copy_from_slice(&x[..columns]),
                _ => y.iter_mut().zip(x.iter().step_by(right)).for_each(|(y, x)| *y = *x),
            }
        }
    }
}

multiversion!(fn pick_transpose(x: *const f32, y: *mut f32, size: [usize; 2], stride: usize) = transpose_body);

/// `y[r][c] = x[c * stride + r]`, in tiles of 16 x 16.
#[inline(always)]
unsafe fn transpose_body<V: Lanes>(x: *const f32, y: *mut f32, [rows, columns]: [usize; 2], stride: usize) {
    for r in (0..rows).step_by(LANES) {
        for c in (0..columns).step_by(LANES) {
            let (height, width) = ((rows - r).min(LANES), (columns - c).min(LANES));
            // SAFETY: the tile lies within `rows` and `columns`, for which the caller vouches.
            unsafe {
                let (x, y) = (x.add(c * stride + r), y.add(r * columns + c));
                if height == LANES && width == LANES {
                    let mut tile = [V::zero(); LANES];
                    for i in 0..LANES {
                        tile[i] = V::load(x.add(i * stride));
                    }
                    let tile = V::transpose(tile);
                    for i in 0..LANES {
                        tile[i].store(y.add(i * columns));
                    }
                } else {
                    for i in 0..height {
                        for j in 0..width {
                            *y.add(i * columns + j) = *x.add(j * stride + i);
                        }
                    }
                }
            }
        }
    }
}

/// As [`transpose_body`], byte by byte, in tiles whose lines stay in a level 1 cache.
unsafe fn transpose_bytes(x: *const u8, y: *mut u8, [rows, columns]: [usize; 2], stride: usize) {
    const SIDE: usize = 64;
    for r in (0..rows).step_by(SIDE) {
        for c in (0..columns).step_by(SIDE) {
            for i in r..rows.min(r + SIDE) {
                for j in c..columns.min(c + SIDE) {
                    // SAFETY: the caller vouches for `rows` and `columns`.
                    unsafe { *y.add(i * columns + j) = *x.add(j * stride + i) };
                }
            }
        }
    }
}

/// Calls `each(outer, segment, range, position)` for the pieces of `share`, where every outer index has segments of `lens`
/// one after another; `range` counts within the segment, `position` from the very start.
fn segments(lens: &[usize], share: Range<usize>, mut each: impl FnMut(usize, usize, Range<usize>, usize)) {
    let row: usize = lens.iter().sum();
    let mut position = share.start;
    while position < share.end {
        let (outer, mut at) = (position / row, position % row);
        let mut segment = 0;
        while at >= lens[segment] {
            at -= lens[segment];
            segment += 1;
        }
        let len = (lens[segment] - at).min(share.end - position);
        each(outer, segment, at..at + len, position);
        position += len;
    }
}

/// The `len` elements of `y` from `at`.
///
/// # Safety
/// As for [`Output::slice_mut`].
unsafe fn part<'a, T: Element>(y: &Output<'a, T>, at: usize, len: usize) -> &'a mut [T] {
    // SAFETY: the caller's contract.
    unsafe { y.slice_mut(at..at + len) }
}

struct Concat<T> {
    outer: usize,
    parts: Vec<usize>,
    elements: PhantomData<T>,
}

/// `x, ... -> y[outer, sum of parts]`: input `i` has `parts[i]` contiguous elements for each outer index.
pub fn concat<T: Moved>(_isa: Isa, outer: usize, parts: &[usize]) -> Box<dyn Kernel> {
    Box::new(Concat::<T> { outer, parts: parts.to_vec(), elements: PhantomData })
}

impl<T: Moved> Kernel for Concat<T> {
    fn name(&self) -> String {
        "concat".into()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.outer * self.parts.iter().sum::<usize>());
        segments(&self.parts, share, |outer, i, range, at| {
            let start = outer * self.parts[i];
            // SAFETY: the pieces of all shares are disjoint.
            let y = unsafe { part(&io.output(0), at, range.len()) };
            y.copy_from_slice(&io.input::<T>(i)[start + range.start..start + range.end]);
        });
    }
}

struct Slice<T> {
    outer: usize,
    size: usize,
    range: Range<usize>,
    elements: PhantomData<T>,
}

/// `x[outer, size] -> y[outer, end - start]`.
///
/// # Panics
/// Where `start..end` is not within `size`.
pub fn slice<T: Moved>(_isa: Isa, outer: usize, size: usize, start: usize, end: usize) -> Box<dyn Kernel> {
    assert!(start <= end && end <= size, "slice {start}..{end} of {size}");
    Box::new(Slice::<T> { outer, size, range: start..end, elements: PhantomData })
}

impl<T: Moved> Kernel for Slice<T> {
    fn name(&self) -> String {
        "slice".into()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.outer * self.range.len());
        segments(&[self.range.len()], share, |outer, _, range, at| {
            let start = outer * self.size + self.range.start;
            // SAFETY: the pieces of all shares are disjoint.
            let y = unsafe { part(&io.output(0), at, range.len()) };
            y.copy_from_slice(&io.input::<T>(0)[start + range.start..start + range.end]);
        });
    }
}

struct Pad {
    outer: usize,
    lens: [usize; 3],
    value: f32,
}

/// `x[outer, size] -> y[outer, before + size + after]`, with `value` around.
pub fn pad(_isa: Isa, outer: usize, before: usize, size: usize, after: usize, value: f32) -> Box<dyn Kernel> {
    Box::new(Pad { outer, lens: [before, size, after], value })
}

impl Kernel for Pad {
    fn name(&self) -> String {
        "pad".into()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let share = worker.share(self.outer * self.lens.iter().sum::<usize>());
        segments(&self.lens, share, |outer, segment, range, at| {
            let start = outer * self.lens[1];
            // SAFETY: the pieces of all shares are disjoint.
            let y = unsafe { part(&io.output(0), at, range.len()) };
            if segment == 1 {
                y.copy_from_slice(&io.input(0)[start + range.start..start + range.end]);
            } else {
                y.fill(self.value);
            }
        });
    }
}

/// `x[len] -> y[len]`, for a reshape that must have its own memory.
pub fn copy(isa: Isa, len: usize) -> Box<dyn Kernel> {
    strided::<f32>("copy".into(), isa, &[len], &[1])
}

struct Gather {
    outer: usize,
    size: usize,
    inner: usize,
    indices: usize,
}

/// `table[outer, size, inner], index i32[indices] -> y[outer, indices, inner]`. Where an index is not in `0..size`, its
/// slices are NaN: wrong indices show instead of reading another slice.
pub fn gather(_isa: Isa, outer: usize, size: usize, inner: usize, indices: usize) -> Box<dyn Kernel> {
    Box::new(Gather { outer, size, inner, indices })
}

/// The index as a position in `0..size`.
fn valid(index: i32, size: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|&i| i < size)
}

impl Kernel for Gather {
    fn name(&self) -> String {
        "gather".into()
    }
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let (table, index) = (io.input::<f32>(0), io.input::<i32>(1));
        let share = worker.share(self.outer * self.indices * self.inner);
        segments(&[self.inner], share, |row, _, range, at| {
            let (outer, i) = (row / self.indices, row % self.indices);
            // SAFETY: the pieces of all shares are disjoint.
            let y = unsafe { part(&io.output(0), at, range.len()) };
            match valid(index[i], self.size) {
                Some(k) => {
                    let start = (outer * self.size + k) * self.inner;
                    y.copy_from_slice(&table[start + range.start..start + range.end]);
                }
                None => y.fill(f32::NAN),
            }
        });
    }
}

struct GatherGrad(Gather);

/// `index i32[indices], dy[outer, indices, inner] -> dtable[outer, size, inner]`: repeated indices add up in their
/// order, indices out of range have no part.
pub fn gather_grad(_isa: Isa, outer: usize, size: usize, inner: usize, indices: usize) -> Box<dyn Kernel> {
    Box::new(GatherGrad(Gather { outer, size, inner, indices }))
}

impl Kernel for GatherGrad {
    fn name(&self) -> String {
        "gather gradient".into()
    }
    /// Each worker owns slices of the table and looks for them among all indices.
    fn run(&self, io: &Io<'_>, worker: Worker, _scratch: &mut [f32]) {
        let Gather { outer, size, inner, indices } = self.0;
        let (index, dy) = (io.input::<i32>(0), io.input::<f32>(1));
        let share = worker.share(outer * size);
        // SAFETY: shares are disjoint.
        let mine = unsafe { io.output::<f32>(0).slice_mut(share.start * inner..share.end * inner) };
        mine.fill(0.0);
        if share.is_empty() {
            return;
        }
        for o in share.start / size..share.end.div_ceil(size) {
            for (i, dy) in dy[o * indices * inner..][..indices * inner].chunks_exact(inner.max(1)).enumerate()
            {
                let slice = valid(index[i], size).map(|k| o * size + k).filter(|k| share.contains(k));
                if let Some(k) = slice {
                    let sums = &mut mine[(k - share.start) * inner..][..inner];
                    sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
                }
            }
        }
    }
}

/// The naive reference of this family.
pub(crate) fn reference(op: &Op, inputs: &[&RefTensor], outputs: &[Vec<usize>]) -> Vec<RefTensor> {
    let shape = &outputs[0];
    let index = |flat: usize| unravel(shape, flat);
    let x = |at: &[usize]| inputs[0].data[ravel(&inputs[0].shape, at)];
    let y: Box<dyn Fn(usize) -> f64> = match op {
        Op::Reshape { .. } => Box::new(|i| inputs[0].data[i]),
        Op::Transpose { perm } => Box::new(move |i| {
            let mut at = vec![0; perm.len()];
            perm.iter().zip(index(i)).for_each(|(&axis, k)| at[axis] = k);
            x(&at)
        }),
        Op::Expand { .. } => Box::new(move |i| {
            let own = &inputs[0].shape;
            let mut at = index(i).split_off(shape.len() - own.len());
            at.iter_mut().zip(own).filter(|(_, size)| **size == 1).for_each(|(k, _)| *k = 0);
            x(&at)
        }),
        Op::Concat { axis } => Box::new(move |i| {
            let mut at = index(i);
            let mut part = 0;
            while at[*axis] >= inputs[part].shape[*axis] {
                at[*axis] -= inputs[part].shape[*axis];
                part += 1;
            }
            inputs[part].data[ravel(&inputs[part].shape, &at)]
        }),
        Op::Slice { axis, start, .. } => Box::new(move |i| {
            let mut at = index(i);
            at[*axis] += start;
            x(&at)
        }),
        Op::Pad { axis, before, value, .. } => Box::new(move |i| {
            let mut at = index(i);
            at[*axis] = at[*axis].wrapping_sub(*before);
            if at[*axis] < inputs[0].shape[*axis] { x(&at) } else { (*value).into() }
        }),
        Op::Gather { axis } => Box::new(move |i| {
            let mut at = index(i);
            let own: Vec<usize> = at.drain(*axis..axis + inputs[1].shape.len()).collect();
            let k = inputs[1].data[ravel(&inputs[1].shape, &own)];
            at.insert(*axis, k as usize);
            if k >= 0.0 && at[*axis] < inputs[0].shape[*axis] { x(&at) } else { f64::NAN }
        }),
        Op::GatherGrad { axis, size } => return vec![gather_grad_reference(*axis, *size, inputs, shape)],
        _ => unreachable!("{} is not of this family", op.name()),
    };
    vec![RefTensor::from_fn(shape, y)]
}

fn gather_grad_reference(axis: usize, size: usize, inputs: &[&RefTensor], shape: &[usize]) -> RefTensor {
    let (index, dy) = (inputs[0], inputs[1]);
    let mut dtable = RefTensor::zeros(shape);
    for (i, term) in dy.data.iter().enumerate() {
        let mut at = unravel(&dy.shape, i);
        let own: Vec<usize> = at.drain(axis..axis + index.shape.len()).collect();
        let k = index.data[ravel(&index.shape, &own)];
        if k >= 0.0 && (k as usize) < size {
            at.insert(axis, k as usize);
            dtable.data[ravel(shape, &at)] += term;
        }
    }
    dtable
}

/// The position `flat` as an index along each axis.
fn unravel(shape: &[usize], flat: usize) -> Vec<usize> {
    row_major(shape).iter().zip(shape).map(|(stride, size)| flat / stride % size).collect()
}

fn ravel(shape: &[usize], at: &[usize]) -> usize {
    row_major(shape).iter().zip(at).map(|(stride, k)| stride * k).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Input, Out, assert_close, run, run_bytes, values};
    use espalier_graph::Shape;

    fn counting(shape: &[usize]) -> RefTensor {
        RefTensor::from_fn(shape, |i| i as f64 + 1.0)
    }

    fn floats(x: &RefTensor) -> Vec<f32> {
        x.data.iter().map(|&v| v as f32).collect()
    }

    /// Runs what `make` builds on counting numbers of the given shapes.
    fn check(op: &Op, shapes: &[&[usize]], out: &[usize], make: impl Fn(Isa) -> Box<dyn Kernel>) {
        let tensors: Vec<RefTensor> = shapes.iter().map(|shape| counting(shape)).collect();
        let data: Vec<Vec<f32>> = tensors.iter().map(floats).collect();
        let want = reference(op, &tensors.iter().collect::<Vec<_>>(), &[out.to_vec()]).remove(0);
        for isa in Isa::available() {
            let kernel = make(isa);
            let inputs: Vec<Input<'_>> = data.iter().map(|x| Input::F32(x)).collect();
            let y = run(&*kernel, &inputs, &[Out::Len(want.data.len())]);
            assert_close(&format!("{} {shapes:?} {op:?}", kernel.name()), &y[0], &want.data, 0.0);
        }
    }

    /// The same for bytes.
    fn check_bytes(op: &Op, shapes: &[&[usize]], out: &[usize], make: impl Fn(Isa) -> Box<dyn Kernel>) {
        let tensors: Vec<RefTensor> =
            shapes.iter().map(|shape| RefTensor::from_fn(shape, |i| (i % 251) as f64)).collect();
        let bytes = |x: &RefTensor| x.data.iter().map(|&v| v as u8).collect::<Vec<u8>>();
        let data: Vec<Vec<u8>> = tensors.iter().map(bytes).collect();
        let want = bytes(&reference(op, &tensors.iter().collect::<Vec<_>>(), &[out.to_vec()])[0]);
        for isa in Isa::available() {
            let kernel = make(isa);
            let inputs: Vec<Input<'_>> = data.iter().map(|x| Input::U8(x)).collect();
            let y = run_bytes(&*kernel, &inputs, &[Out::Bytes(want.len())]).remove(0);
            assert_eq!(y, want, "{} {shapes:?} {op:?}", kernel.name());
        }
    }

    #[test]
    fn transposes() {
        let cases: [(&[usize], &[usize]); 13] = [
            (&[5], &[0]),
            (&[5, 37], &[1, 0]),
            (&[64, 48], &[1, 0]),
            (&[70, 133], &[1, 0]),
            (&[33, 1], &[1, 0]),
            (&[2, 3, 5, 7], &[0, 2, 3, 1]),
            (&[2, 18, 5, 7], &[0, 3, 1, 2]),
            (&[2, 3, 5, 7], &[3, 2, 1, 0]),
            (&[2, 3, 5, 7], &[0, 2, 1, 3]),
            (&[2, 3, 5, 7], &[1, 0, 2, 3]),
            (&[2, 3, 5, 17], &[2, 0, 3, 1]),
            (&[0, 3], &[1, 0]),
            (&[], &[]),
        ];
        for (shape, perm) in cases {
            let out: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
            let op = Op::Transpose { perm: perm.to_vec() };
            check(&op, &[shape], &out, |isa| transpose::<f32>(isa, shape, perm));
            check_bytes(&op, &[shape], &out, |isa| transpose::<u8>(isa, shape, perm));
        }
    }

    #[test]
    fn expands_and_copies() {
        let cases: [(&[usize], &[usize]); 7] = [
            (&[], &[2, 3]),
            (&[37], &[3, 37]),
            (&[5, 1], &[5, 20]),
            (&[2, 1, 4, 1], &[3, 2, 5, 4, 17]),
            (&[2, 3], &[2, 3]),
            (&[1, 3, 1, 1], &[2, 3, 5, 5]),
            (&[1], &[0]),
        ];
        for (shape, out) in cases {
            let op = Op::Expand { shape: Shape::known(out) };
            check(&op, &[shape], out, |isa| expand(isa, shape, out));
        }
        let op = Op::Reshape { shape: Shape::known(&[4, 10]) };
        check(&op, &[&[5, 8]], &[4, 10], |isa| copy(isa, 40));
    }

    #[test]
    fn joins_and_cuts() {
        let join = |axis, shapes: &[&[usize]], out: &[usize], outer, parts: &[usize]| {
            let op = Op::Concat { axis };
            check(&op, shapes, out, |isa| concat::<f32>(isa, outer, parts));
            check_bytes(&op, shapes, out, |isa| concat::<u8>(isa, outer, parts));
        };
        join(0, &[&[2, 3], &[4, 3]], &[6, 3], 1, &[6, 12]);
        join(1, &[&[3, 5], &[3, 1], &[3, 0], &[3, 7]], &[3, 13], 3, &[5, 1, 0, 7]);
        join(1, &[&[2, 3, 2, 2]], &[2, 3, 2, 2], 2, &[12]);
        let cut = |axis, start, end, shape: &[usize], out: &[usize], outer: usize, inner: usize| {
            let op = Op::Slice { axis, start, end };
            let [size, start, end] = [shape[axis], start, end].map(|at| at * inner);
            check(&op, &[shape], out, |isa| slice::<f32>(isa, outer, size, start, end));
            check_bytes(&op, &[shape], out, |isa| slice::<u8>(isa, outer, size, start, end));
        };
        cut(0, 1, 3, &[5, 4], &[2, 4], 1, 4);
        cut(1, 2, 7, &[3, 9, 2], &[3, 5, 2], 3, 2);
        cut(2, 0, 1, &[3, 2, 40], &[3, 2, 1], 6, 1);
        cut(0, 2, 2, &[5], &[0], 1, 1);
        let around = |axis, before, after, shape: &[usize], out: &[usize], outer: usize, inner: usize| {
            let op = Op::Pad { axis, before, after, value: -2.5 };
            check(&op, &[shape], out, |isa| {
                pad(isa, outer, before * inner, shape[axis] * inner, after * inner, -2.5)
            });
        };
        around(0, 1, 2, &[3, 5], &[6, 5], 1, 5);
        around(2, 3, 0, &[2, 3, 17], &[2, 3, 20], 6, 1);
        around(1, 0, 1, &[2, 3, 4], &[2, 4, 4], 2, 4);
    }

    fn check_gather(axis: usize, table: &[usize], index_shape: &[usize], index: &[i32]) {
        let (size, outer) = (table[axis], table[..axis].iter().product());
        let inner: usize = table[axis + 1..].iter().product();
        let indices = RefTensor::new(index_shape, index.iter().map(|&i| f64::from(i)).collect());
        let out = [&table[..axis], index_shape, &table[axis + 1..]].concat();
        let x = counting(table);
        let want = reference(&Op::Gather { axis }, &[&x, &indices], std::slice::from_ref(&out)).remove(0);
        let dy = RefTensor::new(&out, values(1, want.data.len()).iter().map(|&v| f64::from(v)).collect());
        let want_dx =
            reference(&Op::GatherGrad { axis, size }, &[&indices, &dy], &[table.to_vec()]).remove(0);
        for isa in Isa::available() {
            let kernel = gather(isa, outer, size, inner, index.len());
            let y =
                run(&*kernel, &[Input::F32(&floats(&x)), Input::I32(index)], &[Out::Len(want.data.len())]);
            assert_close(&format!("gather {table:?} {index:?}"), &y[0], &want.data, 0.0);
            let kernel = gather_grad(isa, outer, size, inner, index.len());
            let dx = run(&*kernel, &[Input::I32(index), Input::F32(&floats(&dy))], &[Out::Len(x.data.len())]);
            assert_close(&format!("gather gradient {table:?} {index:?}"), &dx[0], &want_dx.data, 1e-6);
        }
    }

    #[test]
    fn gathers() {
        check_gather(0, &[5, 4], &[3], &[4, 0, 4]);
        check_gather(0, &[5], &[2, 3], &[0, 1, 2, 3, 4, 0]);
        check_gather(1, &[3, 7, 17], &[2, 2], &[6, 6, 6, 1]);
        check_gather(2, &[2, 3, 5], &[1], &[2]);
        check_gather(0, &[5, 4], &[], &[3]);
        check_gather(0, &[5, 4], &[4], &[5, -1, i32::MIN, 2]);
        check_gather(0, &[5, 4], &[0], &[]);
    }
}
