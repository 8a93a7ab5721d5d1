//! Bytes in, checked structures out: where files come from, and the formats that checkpoints are made of.

pub mod checkpoint;
pub mod config;
pub mod gguf;
pub(crate) mod json;
pub mod location;
pub mod source;
