//! The text form of attributes: every attribute type writes itself without spaces and reads itself back.

use crate::op::Window;
use crate::types::{DType, Dim, Quant, Shape};

/// A value that can stand as an attribute in the text form.
pub trait Attr: Sized {
    /// The text; it holds no space, and no comma outside brackets.
    fn write(&self) -> String;
    /// Reads what [`Attr::write`] wrote.
    fn read(text: &str) -> Option<Self>;
}

/// Why an op could not be built from text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttrError {
    /// The op's name is not in the vocabulary.
    #[error("unknown op `{0}`")]
    UnknownOp(String),
    /// An attribute that the op needs is absent.
    #[error("attribute `{0}` is missing")]
    Missing(String),
    /// An attribute's text does not parse.
    #[error("attribute `{name}` has the malformed value `{text}`")]
    Malformed {
        /// The attribute.
        name: String,
        /// Its text.
        text: String,
    },
    /// An attribute that the op does not have.
    #[error("attribute `{0}` is unknown to this op")]
    Unknown(String),
}

/// Attribute texts on their way into an op.
#[derive(Clone, Debug, Default)]
pub struct Attrs(Vec<(String, String)>);

impl Attrs {
    /// From `name=text` pairs.
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Attrs(pairs)
    }

    /// Takes and parses the attribute `name`.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn take<T: Attr>(&mut self, name: &str) -> Result<T, AttrError> {
        let at = self.0.iter().position(|(n, _)| n == name).ok_or(AttrError::Missing(name.into()))?;
        let (name, text) = self.0.swap_remove(at);
        T::read(&text).ok_or_else(|| AttrError::Malformed { name, text: text.chars().take(100).collect() })
    }

    /// Fails where an attribute was not taken.
    ///
    /// # Errors
    /// Names the first one left.
    pub fn finish(self) -> Result<(), AttrError> {
        self.0.into_iter().next().map_or(Ok(()), |(name, _)| Err(AttrError::Unknown(name)))
    }
}

/// Splits at commas that are outside of brackets and parentheses.
pub(crate) fn split_list(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !(parts.is_empty() && last.is_empty()) {
        parts.push(last);
    }
    parts
}

impl Attr for usize {
    fn write(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        // Sizes beyond 2^32 are always lies, and keeping them out keeps products far from overflow.
        text.parse::<u32>().ok().map(|v| v as usize)
    }
}

impl Attr for bool {
    fn write(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Attr for f32 {
    /// The shortest text that reads back to the same bits.
    fn write(&self) -> String {
        format!("{self:?}")
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|v: &f32| !v.is_nan())
    }
}

impl<T: Attr> Attr for Vec<T> {
    fn write(&self) -> String {
        format!("[{}]", self.iter().map(Attr::write).collect::<Vec<_>>().join(","))
    }
    fn read(text: &str) -> Option<Self> {
        split_list(text.strip_prefix('[')?.strip_suffix(']')?).into_iter().map(T::read).collect()
    }
}

impl<T: Attr + Copy, const L: usize> Attr for [T; L] {
    fn write(&self) -> String {
        self.to_vec().write()
    }
    fn read(text: &str) -> Option<Self> {
        Vec::read(text)?.try_into().ok()
    }
}

impl Attr for Shape {
    fn write(&self) -> String {
        self.0.write()
    }
    fn read(text: &str) -> Option<Self> {
        Some(Shape(Vec::read(text)?)).filter(|shape| shape.rank() <= Shape::MAX_RANK)
    }
}

impl Attr for Dim {
    fn write(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Attr for DType {
    fn write(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Attr for Quant {
    fn write(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Attr for u8 {
    fn write(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Attr for Window {
    /// `[kernel,stride,pad,dilation]`, each a list.
    fn write(&self) -> String {
        let Window { kernel, stride, pad, dilation } = self;
        format!("[{},{},{},{}]", kernel.write(), stride.write(), pad.write(), dilation.write())
    }
    fn read(text: &str) -> Option<Self> {
        let [kernel, stride, pad, dilation] =
            split_list(text.strip_prefix('[')?.strip_suffix(']')?).try_into().ok()?;
        Some(Window {
            kernel: Attr::read(kernel)?,
            stride: Attr::read(stride)?,
            pad: Attr::read(pad)?,
            dilation: Attr::read(dilation)?,
        })
    }
}
