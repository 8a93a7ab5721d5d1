//! The gradient of the exact GELU: `dx = dy (Phi(x) + x phi(x))`, with the distribution and density of the normal
//! distribution.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::linear::gelu::erfc;
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "gelu_gradient", Params, reference);

uniform! {
    struct Params {
        count: u32,
    }
}

/// From what GELU took and the gradient of what it returned, of one shape. Returns that shape.
pub fn gelu_gradient(r: &mut Recording, x: Tensor, dy: Tensor) -> Tensor {
    assert_eq!(x.len(), dy.len(), "gelu_gradient: {x:?}, {dy:?}");
    let dx = r.scratch_f32(x.shape());
    let workgroups = grid(x.len().div_ceil(LANES as usize));
    let params = Params { count: x.len() as u32 };
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[write(dx), read(x), read(dy)], params, workgroups);
    dx
}

fn reference(call: &Call) {
    let (mut dx, x, dy) = (call.f32_mut(0), call.f32(1), call.f32(2));
    for ((dx, x), dy) in dx.iter_mut().zip(&x[..]).zip(&dy[..]) {
        let x = f64::from(*x);
        let tail = 0.5 * erfc(x.abs() * std::f64::consts::FRAC_1_SQRT_2);
        let below = if x > 0.0 { 1.0 - tail } else { tail };
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        *dx = (f64::from(*dy) * (below + x * density)) as f32;
    }
}

pub(crate) static OP: Op = Op { name: "gelu_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (x, dy) = (e.f32(&[5, 12800]), e.f32(&[5, 12800]));
    gelu_gradient(&mut e.recording, x, dy);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::differences::agree;
    use crate::ops::linear::gelu::gelu;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (rows, width, size) in [(1, 1, 1.0), (3, 61, 5.0), (7, 331, 40.0)] {
            compare(&format!("{rows} {width} {size}"), 1e-12, |pool, r, random| {
                let values: Vec<f32> = random.f32s(rows * width).into_iter().map(|v| v * size).collect();
                let x = pool.f32(&[rows, width], &values).unwrap();
                let dy = pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                let dx = gelu_gradient(r, x, dy);
                vec![keep(pool, r, dx)]
            });
        }
    }

    #[test]
    fn is_the_derivative() {
        agree(
            "gelu",
            &[(&[3, 22], 2.0)],
            |r, inputs| gelu(r, inputs[0]),
            |r, inputs, dy| vec![gelu_gradient(r, inputs[0], dy)],
        );
    }
}
