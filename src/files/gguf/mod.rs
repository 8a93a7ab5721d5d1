//! GGUF files of the LLaMA family, versions 2 and 3: one file with the sizes, the tokenizer and the weights.
//!
//! Layout, all little-endian: `GGUF`, version u32, number of tensors u64, number of fields u64; the fields (key, type
//! u32, value); the tensors (name, number of axes u32, axes u64 from the fastest, type u32, offset u64); padding to the
//! alignment; the data, to which the offsets are relative. Texts and arrays begin with their length, u64.
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Opening reads the head in small pieces and
//! holds what the model needs of it, so its memory is bounded by the real file.

mod config;
mod cursor;
mod fields;
mod file;
mod head;
mod names;
mod tensor_type;
mod tokenizer;
mod value;

pub use file::Gguf;
pub use head::TensorInfo;
pub use tensor_type::{BlockType, TensorType};
