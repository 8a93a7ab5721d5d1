//! What is made of logits.

pub mod argmax;
pub mod cross_entropy;
pub mod log_softmax;
pub mod penalize;
pub mod sample;
pub mod sampling;
pub mod top_k;

/// `exp(l) / sum of exp(l)` of a few logits, on the host.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let powers: Vec<f32> = logits.iter().map(|l| (l - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}
