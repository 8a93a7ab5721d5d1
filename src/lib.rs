//! qllama: a portable WebGPU engine for InternVL-14B, whose QLLaMA decoder cross-attends to a picture's features.

pub mod device;
pub mod error;
pub mod files;
pub mod generate;
pub mod image;
pub mod model;
pub mod nets;
pub mod ops;
#[cfg(not(target_arch = "wasm32"))]
pub mod quantize;
pub mod text;
#[cfg(target_arch = "wasm32")]
pub mod web;
pub mod weights;

pub use device::Device;
pub use error::{Error, Result};
pub use model::Model;
