//! Linear layers, and what stands between them.

pub mod gelu;
mod layer;
pub mod linear_gate;
pub mod silu_gate;
pub mod stage;
mod ways;

pub use layer::{Epilogue, linear, linear_into};
pub(crate) use layer::{OP, dot};
