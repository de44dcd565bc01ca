//! Elements of a tensor, in memory of their own or where they lie in a file.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::Mmap;

/// Numbers: any bits are a value, none are padding.
///
/// # Safety
/// Any bit pattern must be valid, and every byte part of the value.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: plain numbers.
unsafe impl Plain for i32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u8 {}
// SAFETY: plain numbers.
unsafe impl Plain for i8 {}

/// A slice of elements: a vector, or part of a file that stays mapped as long as somebody looks at it. Writing to what is
/// part of a file makes a vector of it first.
#[derive(Clone)]
pub struct Values<T>(Held<T>);

#[derive(Clone)]
enum Held<T> {
    Vector(Vec<T>),
    Mapped { file: Arc<Mmap>, first: usize, len: usize },
}

impl<T: Plain> Values<T> {
    /// `bytes`, which lie in `file`, as elements; `None` where their order of bytes or their alignment is another, or they
    /// lie elsewhere.
    pub(crate) fn mapped(file: &Arc<Mmap>, bytes: &[u8]) -> Option<Values<T>> {
        let first = (bytes.as_ptr() as usize).checked_sub(file.as_ptr() as usize)?;
        let inside = first.checked_add(bytes.len()).is_some_and(|end| end <= file.len());
        let aligned = bytes.as_ptr().cast::<T>().is_aligned() && bytes.len().is_multiple_of(size_of::<T>());
        let fits = cfg!(target_endian = "little") && inside && aligned;
        let len = bytes.len() / size_of::<T>();
        fits.then(|| Values(Held::Mapped { file: Arc::clone(file), first, len }))
    }
}

impl<T: Plain> Deref for Values<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Held::Vector(v) => v,
            // SAFETY: `mapped` checked that so many elements lie there, aligned; any bits are a T, and the map lives as
            // long as `self`. That nobody writes to the file in place is the contract of `Package::read`.
            Held::Mapped { file, first, len } => unsafe {
                std::slice::from_raw_parts(file.as_ptr().add(*first).cast(), *len)
            },
        }
    }
}

impl<T: Plain> DerefMut for Values<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if let Held::Mapped { .. } = self.0 {
            self.0 = Held::Vector(self.to_vec());
        }
        match &mut self.0 {
            Held::Vector(v) => v,
            Held::Mapped { .. } => unreachable!("it was made a vector"),
        }
    }
}

impl<T> From<Vec<T>> for Values<T> {
    fn from(v: Vec<T>) -> Values<T> {
        Values(Held::Vector(v))
    }
}

impl<T> FromIterator<T> for Values<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Values<T> {
        Vec::from_iter(elements).into()
    }
}

impl<T: Plain + PartialEq> PartialEq for Values<T> {
    fn eq(&self, other: &Values<T>) -> bool {
        **self == **other
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for Values<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_file_is_copied_only_when_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        std::fs::write(&path, [1u8, 0, 0, 0, 2, 0, 0, 0, 3]).unwrap();
        // SAFETY: nobody writes to the file.
        let file = Arc::new(unsafe { Mmap::map(&std::fs::File::open(&path).unwrap()) }.unwrap());
        let of = |range: std::ops::Range<usize>| Values::<i32>::mapped(&file, &file[range]);
        let mut values = of(0..8).unwrap();
        assert_eq!((&values[..], values.as_ptr().cast()), (&[1, 2][..], file.as_ptr()));
        assert!(of(1..9).is_none(), "not aligned");
        assert!(of(4..9).is_none(), "not whole");
        assert!(Values::<u8>::mapped(&file, &[1, 2, 3]).is_none(), "not of the file");
        let before = values.clone();
        values[1] = 7;
        assert_eq!((&values[..], &before[..], file[4]), (&[1, 7][..], &[1, 2][..], 2));
        assert_eq!(before, Values::from(vec![1, 2]));
    }
}
