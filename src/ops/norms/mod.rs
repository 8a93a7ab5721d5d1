//! Norms of rows.

pub mod layer_norm;
pub mod normalize;
pub mod rms_norm;
