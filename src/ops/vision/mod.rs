//! What pictures pass before the layers.

pub mod patches;
pub mod vision_embed;
