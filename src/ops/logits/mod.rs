//! What is made of logits.

pub mod argmax;
pub mod cross_entropy;
pub mod log_softmax;
pub mod penalize;
pub mod remember;
pub mod sample;
pub mod sampling;
pub mod top_k;

/// `exp(l) / sum of exp(l)` of logits, on the host.
pub fn softmax(mut logits: Vec<f32>) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    logits.iter_mut().for_each(|l| *l = (*l - largest).exp());
    let sum = logits.iter().map(|l| f64::from(*l)).sum::<f64>() as f32;
    logits.iter_mut().for_each(|l| *l /= sum);
    logits
}
