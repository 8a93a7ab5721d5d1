//! What of the engine the tests use, from wherever it stands: no other file of the tests names the library's modules.
#![allow(unused_imports)]

pub use qllama::device::gpu::{Gpu, candidates};
pub use qllama::device::recording::Recording;
pub use qllama::device::tensor::DType;
pub use qllama::device::{Array, DeviceInfo};
pub use qllama::files::checkpoint::{
    Checkpoint, CheckpointWriter, NamedTensor, NewTensor, Requirement, TensorType, header_length, parse_header,
    read_tensor_file, read_tensors, tensors_to_bytes, write_tensors,
};
pub use qllama::files::config::{Config, Target};
pub use qllama::files::gguf::Gguf;
pub use qllama::files::source::{Folder, LocalFuture, Memory, Source};
pub use qllama::generate::beams::EarlyStopping;
pub use qllama::generate::prompt::PromptInputs;
pub use qllama::generate::session::GenerateOptions;
pub use qllama::image::decode as decode_image;
pub use qllama::model::forward::{Inputs, Outputs, PastKeyValues};
pub use qllama::model::parts::{ModelPlan, Residency, plan};
pub use qllama::model::{Mode, PixelValues, Vision};
pub use qllama::nets::decoder::{Observed, Pass};
pub use qllama::ops::Rows;
pub use qllama::ops::attention::{Keys, Mask};
pub use qllama::ops::cache::rope::KvCache;
pub use qllama::ops::rows::embed::embed;
pub use qllama::quantize::{Event, QuantizeOptions, Summary, quantize};
pub use qllama::text::{SUMMARIZE, Tokenizer};
pub use qllama::weights::loader::Loader;
pub use qllama::weights::matrix::{Format, unpack_row};
pub use qllama::{Device, Error, Model, Result};
