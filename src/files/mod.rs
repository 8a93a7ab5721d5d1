//! Bytes in, checked structures out: where files come from, and the formats that checkpoints are made of.

pub mod checkpoint;
pub mod config;
pub mod gguf;
pub(crate) mod json;
pub mod location;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod new_folder;
pub mod notes;
pub mod peft;
#[cfg(not(target_arch = "wasm32"))]
pub mod random;
pub mod safetensors;
pub mod source;
