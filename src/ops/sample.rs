//! placeholder
use crate::recording::Recording;
use crate::tensor::Tensor;
#[derive(Clone, Debug)]
pub struct Sampling {
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub seed: u64,
}
pub fn sample(_: &mut Recording, _: Tensor, _: Tensor, _: Sampling, _: Tensor) {
    unimplemented!()
}
