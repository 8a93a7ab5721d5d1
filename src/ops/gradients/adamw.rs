//! A step of AdamW (Loshchilov and Hutter, 2019), as torch takes it.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "adamw", Params, reference);

uniform! {
    struct Params {
        count: u32,
        decay: f32,
        beta1: f32,
        beta2: f32,
        eps: f32,
    }
}

/// What stays the same from step to step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamW {
    pub weight_decay: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
}

/// One trained tensor with its moments and gradient, all of as many f32.
#[derive(Clone, Copy, Debug)]
pub struct Trained {
    pub weight: Tensor,
    pub mean: Tensor,
    pub square: Tensor,
    pub gradient: Tensor,
}

/// Numbers that `step` of [`adamw`] holds: the rate, what the gradient is multiplied by, and `1 / (1 - beta^t)` of both
/// betas.
pub const STEP_LEN: usize = 4;

/// One step of one tensor; `step` is F32 [`STEP_LEN`].
pub fn adamw(r: &mut Recording, trained: Trained, settings: AdamW, step: Tensor) {
    let Trained { weight, mean, square, gradient } = trained;
    let count = weight.len();
    assert!([mean, square, gradient].iter().all(|t| t.len() == count), "adamw: {trained:?}");
    assert_eq!(step.len(), STEP_LEN, "adamw: step {step:?}");
    let AdamW { weight_decay, beta1, beta2, eps } = settings;
    let params = Params { count: count as u32, decay: weight_decay, beta1, beta2, eps };
    let operands = [write(weight), write(mean), write(square), read(gradient), read(step)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(count.div_ceil(LANES as usize)));
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut w, mut m, mut v) = (call.f32_mut(0), call.f32_mut(1), call.f32_mut(2));
    let (g, step) = (call.f32(3), call.f32(4));
    let [rate, clip, m_factor, v_factor] = step[..] else { panic!("adamw: a step of {} numbers", step.len()) };
    for i in 0..p.count as usize {
        let gradient = g[i] * clip;
        m[i] = p.beta1 * m[i] + (1.0 - p.beta1) * gradient;
        v[i] = p.beta2 * v[i] + (1.0 - p.beta2) * gradient * gradient;
        let kept = w[i] * (1.0 - rate * p.decay);
        w[i] = kept - rate * (m[i] * m_factor) / ((v[i] * v_factor).sqrt() + p.eps);
    }
}

pub(crate) static OP: Op = Op { name: "adamw", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let mut tensor = || e.f32(&[500]);
    let trained = Trained { weight: tensor(), mean: tensor(), square: tensor(), gradient: tensor() };
    let square = e.input(crate::device::tensor::DType::F32, &[500], crate::ops::examples::Fill::Value(0x3f000000));
    let step = e.input(crate::device::tensor::DType::F32, &[STEP_LEN], crate::ops::examples::Fill::Value(0x3f800000));
    let settings = AdamW { weight_decay: 0.05, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    adamw(&mut e.recording, Trained { square, ..trained }, settings, step);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::compare;

    #[test]
    fn gpu_equals_reference() {
        for count in [1, 61, 700] {
            compare(&format!("{count}"), 1e-12, |pool, r, random| {
                let mut tensor = |least: f32| {
                    let values: Vec<f32> = random.f32s(count).into_iter().map(|v| v.max(least)).collect();
                    pool.f32(&[count], &values).unwrap()
                };
                // Squares are not negative.
                let (weight, mean, square, gradient) = (tensor(-1.0), tensor(-1.0), tensor(0.001), tensor(-1.0));
                let step = pool.f32(&[STEP_LEN], &[0.01, 0.7, 1.0 / 0.19, 1.0 / 0.002]).unwrap();
                let settings = AdamW { weight_decay: 0.05, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
                adamw(r, Trained { weight, mean, square, gradient }, settings, step);
                vec![weight, mean, square]
            });
        }
    }
}
