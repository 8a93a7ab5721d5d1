//! qllama: a portable WebGPU engine for InternVL-14B, whose QLLaMA decoder cross-attends to a picture's features.
//!
//! ```text
//! error, config, tensor <- recording <- ops <- qllama, vit, clip <- parts <- model <- forward, generate <- prompt <- main, web
//!                              ^                                      |
//!                         gpu, host (play recordings) <---------- executor
//! ```
//!
//! A model's file writes down a [`recording::Recording`]: a plain list of dispatches. The [`executor`] plays it on a GPU
//! ([`gpu`], the only file that names wgpu) or on the CPU ([`host`]). [`checkpoint`] reads files and [`weights`] brings
//! their tensors to the device. To add an op, write `shaders/foo.wgsl`, `src/ops/foo.rs` with its shape checks, its CPU
//! reference and a test that compares the two, and one `mod` line in `src/ops/mod.rs`.

pub mod beams;
pub mod checkpoint;
pub mod clip;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod error;
pub mod executor;
pub mod forward;
pub mod generate;
pub mod gguf;
pub mod gpu;
pub mod host;
pub mod image;
pub mod matrix;
pub mod model;
pub mod ops;
pub mod parts;
pub mod prompt;
pub mod qllama;
#[cfg(not(target_arch = "wasm32"))]
pub mod quantize;
pub mod recording;
pub mod source;
pub mod tensor;
pub mod text;
pub mod vit;
#[cfg(target_arch = "wasm32")]
pub mod web;
pub mod weights;

pub use error::{Error, Result};
pub use executor::Device;
pub use model::Model;
