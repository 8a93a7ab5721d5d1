//! Checkpoint tensors -> device memory: the loader, the formats, and how a matrix lies in memory.

pub(crate) mod gguf_blocks;
pub mod layout;
pub mod loader;
pub mod matrix;
