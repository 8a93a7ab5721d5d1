//! Fine-tuning: losses, their gradients, and the steps that weights take.

pub(crate) mod gradients;
pub(crate) mod wanted;

pub use gradients::{Gradients, Objective, Of};
