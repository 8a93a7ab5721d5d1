//! What is made of logits.

pub mod argmax;
pub mod cross_entropy;
pub mod log_softmax;
pub mod penalize;
pub mod sample;
pub mod sampling;
pub mod top_k;
