//! Where recordings run: a GPU by wgpu, or the CPU.
//!
//! A [`recording::Recording`] is a plain list of dispatches over [`tensor::Tensor`]s. A [`Device`] prepares it once and
//! plays it as often as is wanted: [`gpu`] by wgpu, [`cpu`] by each kernel's Rust reference.

mod adapter;
pub mod array;
pub mod choices;
pub mod count;
pub mod cpu;
mod cut;
mod executor;
pub mod gpu;
mod info;
mod maker;
mod pause;
pub mod recording;
mod scratch;
mod successor;
pub mod tensor;
pub mod wgsl;
pub mod work;

pub use adapter::{Adapter, adapters};
pub use array::Array;
pub use executor::{Device, Plan, Pool, Reader, Reading};
pub use info::DeviceInfo;
pub use maker::Maker;
