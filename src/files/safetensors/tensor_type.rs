//! The element types of safetensors.

use std::fmt;

use crate::error::Result;
use crate::room::room;

macro_rules! tensor_types {
    ($($name:ident $bytes:literal),*) => {
        /// How elements are stored: one by one. Types narrower than a byte are not read.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum TensorType { $($name),* }

        impl TensorType {
            /// The type of this name, as the header of a file spells it.
            pub fn from_name(name: &str) -> Option<TensorType> {
                match name { $(stringify!($name) => Some(TensorType::$name),)* _ => None }
            }

            /// The name that the header has for it.
            pub fn name(self) -> &'static str {
                match self { $(TensorType::$name => stringify!($name)),* }
            }

            /// Bytes per element.
            pub fn bytes(self) -> usize {
                match self { $(TensorType::$name => $bytes),* }
            }
        }
    };
}

tensor_types! {
    BOOL 1, U8 1, I8 1, F8_E5M2 1, F8_E4M3 1, F8_E8M0 1, F8_E4M3FNUZ 1, F8_E5M2FNUZ 1, I16 2, U16 2, F16 2, BF16 2,
    I32 4, U32 4, F32 4, C64 8, F64 8, I64 8, U64 8
}

impl TensorType {
    /// The types that weights may have where they are not packed.
    pub const FLOATS: [TensorType; 3] = [TensorType::F32, TensorType::F16, TensorType::BF16];

    /// Stored elements as f32; `what` is what they are, for the message.
    ///
    /// # Errors
    /// `E_OOM`.
    ///
    /// # Panics
    /// When the type is none of [`TensorType::FLOATS`].
    pub fn to_f32(self, what: &str, bytes: &[u8]) -> Result<Vec<f32>> {
        match self {
            TensorType::F32 => elements(what, bytes, f32::from_le_bytes),
            TensorType::F16 => elements(what, bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            TensorType::BF16 => elements(what, bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
            _ => panic!("{self} is not a float type that weights have"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Elements of `N` bytes each, converted one by one.
pub(super) fn elements<const N: usize, T>(what: &str, bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
    let mut elements = room(what, bytes.len() / N)?;
    elements.extend(bytes.as_chunks().0.iter().map(|element| read(*element)));
    Ok(elements)
}
