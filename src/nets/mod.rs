//! The networks: the formulas, and the weights that they name.

pub mod clip;
pub mod decoder;
pub mod decoder_gradient;
pub mod gradients;
pub mod intern_vit;
pub mod lora;
