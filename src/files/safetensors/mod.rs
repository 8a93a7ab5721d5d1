//! safetensors files: a header of names, types and shapes, then the data (<https://github.com/huggingface/safetensors>).

mod header;
mod shards;
mod tensor_type;
mod tensors;
#[cfg(not(target_arch = "wasm32"))]
mod writer;

pub use header::{TensorInfo, header_length, parse_header};
pub use shards::Shards;
pub use tensor_type::TensorType;
pub use tensors::{NamedTensor, read_tensors, tensors_to_bytes};
#[cfg(not(target_arch = "wasm32"))]
pub use tensors::{read_tensor_file, write_tensors};
#[cfg(not(target_arch = "wasm32"))]
pub use writer::{CheckpointWriter, NewTensor, file_header};
