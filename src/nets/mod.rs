//! The networks: the formulas, and the weights that they name.

pub mod clip;
pub mod decoder;
pub mod intern_vit;
