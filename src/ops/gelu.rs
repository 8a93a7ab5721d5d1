//! Exact GELU.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel =
    Kernel { name: "gelu", source: include_str!("../../shaders/gelu.wgsl"), reference, subgroups: false };

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
}

/// `0.5 x (1 + erf(x / sqrt 2))`.
pub fn gelu(r: &mut Recording, x: Tensor) -> Tensor {
    let y = r.scratch_f32(x.shape());
    let params = Params { count: x.len() as u32 };
    let groups = grid(x.len().div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[read(x), write(y)], params, groups);
    y
}

fn erf(x: f64) -> f64 {
    // series for small, continued fraction else
    let a = x.abs();
    let v = if a < 3.0 {
        let mut term = a;
        let mut sum = a;
        let mut n = 0.0;
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
            if n > 200.0 {
                break;
            }
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let mut f = 0.0;
        for k in (1..60).rev() {
            f = k as f64 / 2.0 / (a + f);
        }
        1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / (a + f)
    };
    v.copysign(x)
}

fn reference(call: &Call) {
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    y.iter_mut()
        .zip(&x[..])
        .for_each(|(y, &x)| *y = (0.5 * f64::from(x) * (1.0 + erf(f64::from(x) / 2f64.sqrt()))) as f32);
}
