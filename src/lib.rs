//! qllama: a portable WebGPU engine for InternVL-14B's QLLaMA.

pub mod beams;
pub mod error;
pub mod executor;
pub mod gpu;
pub mod host;
pub mod matrix;
pub mod ops;
pub mod recording;
pub mod tensor;

pub use error::{Error, Result};
pub use executor::Device;
