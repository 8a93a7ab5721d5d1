//! The element types of GGUF.

use std::fmt;

/// How elements are stored: the types that are read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    /// Packed integers.
    Block(BlockType),
}

macro_rules! block_types {
    ($($name:ident $len:literal $bytes:literal),*) => {
        /// Packed types: some neighbours of a row in a block, with what they share.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum BlockType { $($name),* }

        impl BlockType {
            /// All of them.
            pub const ALL: [BlockType; 6] = [$(BlockType::$name),*];

            /// The name that ggml has for it.
            pub fn name(self) -> &'static str {
                match self { $(BlockType::$name => stringify!($name)),* }
            }

            /// Elements per block.
            pub fn elements(self) -> usize {
                match self { $(BlockType::$name => $len),* }
            }

            /// Bytes per block.
            pub fn bytes(self) -> usize {
                match self { $(BlockType::$name => $bytes),* }
            }
        }
    };
}

block_types! { Q4_0 32 18, Q4_1 32 20, Q8_0 32 34, Q4_K 256 144, Q5_K 256 176, Q6_K 256 210 }

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TensorType {
    /// What messages list as the types that are read.
    pub(super) const READ: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K or Q6_K";

    /// The type of this number.
    ///
    /// # Errors
    /// What to call a type that is not read.
    pub(super) fn from_number(number: u32) -> Result<TensorType, String> {
        const OTHERS: [(u32, &str); 9] = [
            (6, "Q5_0"),
            (7, "Q5_1"),
            (10, "Q2_K"),
            (11, "Q3_K"),
            (20, "IQ4_NL"),
            (23, "IQ4_XS"),
            (24, "I8"),
            (26, "I32"),
            (28, "F64"),
        ];
        Ok(match number {
            0 => TensorType::F32,
            1 => TensorType::F16,
            2 => TensorType::Block(BlockType::Q4_0),
            3 => TensorType::Block(BlockType::Q4_1),
            8 => TensorType::Block(BlockType::Q8_0),
            12 => TensorType::Block(BlockType::Q4_K),
            13 => TensorType::Block(BlockType::Q5_K),
            14 => TensorType::Block(BlockType::Q6_K),
            30 => TensorType::BF16,
            other => {
                let name = OTHERS.iter().find(|(n, _)| *n == other).map(|(_, name)| *name);
                return Err(name.map_or_else(|| format!("number {other}"), String::from));
            }
        })
    }

    /// Neighbours of a row that are stored together, and the bytes that they take.
    pub(super) fn unit(self) -> (u64, u64) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::BF16 => (1, 2),
            TensorType::Block(block) => (block.elements() as u64, block.bytes() as u64),
        }
    }
}
