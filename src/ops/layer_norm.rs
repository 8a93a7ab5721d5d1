//! LayerNorm.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "layer_norm", source: include_str!("../../shaders/layer_norm.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    width: u32,
    eps: f32,
}

/// `weight * (x - mean) / sqrt(variance + eps) + bias` over each row of `x` [rows, width].
pub fn layer_norm(r: &mut Recording, x: Tensor, weight: Tensor, bias: Tensor, eps: f32) -> Tensor {
    let y = r.scratch_f32(&[x.rows(), x.width()]);
    let params = Params { rows: x.rows() as u32, width: x.width() as u32, eps };
    let operands = [read(x), read(weight), read(bias), write(y)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(x.rows()));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, weight, bias, mut y) = (call.f32(0), call.f32(1), call.f32(2), call.f32_mut(3));
    let width = p.width as usize;
    for (x, y) in x.chunks(width).zip(y.chunks_mut(width)) {
        let mean = x.iter().sum::<f32>() / width as f32;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / width as f32;
        let scale = 1.0 / (variance + p.eps).sqrt();
        for i in 0..width {
            y[i] = weight[i] * ((x[i] - mean) * scale) + bias[i];
        }
    }
}
