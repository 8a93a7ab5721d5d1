//! The gradient of LayerNorm: with `h = (x - mean) / deviation` and `g = weight * dy`,
//! `dx = (g - mean g - h mean(g h)) / deviation`; the weight's is the sum over rows of `dy * h`, the bias's that of `dy`.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "layer_norm_gradient", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        add: u32,
        eps: f32,
    }
}

/// From `dy`, and the `x` and `weight` `[width]` that LayerNorm took, into `dx`, all [rows, width]; with `add`, added to
/// what is there. Returns `h`.
pub fn layer_norm_gradient(
    r: &mut Recording,
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    eps: f32,
    dx: Tensor,
    add: bool,
) -> Tensor {
    let (count, width) = (x.rows(), x.width());
    assert!([dy, dx].iter().all(|t| (t.rows(), t.width()) == (count, width)), "layer_norm_gradient: {dy:?}, {dx:?}");
    assert_eq!(weight.len(), width, "layer_norm_gradient: weight {weight:?}");
    let h = r.scratch_f32(&[count, width]);
    let params = Params { count: count as u32, width: width as u32, add: u32::from(add), eps };
    let operands = [write(dx), write(h), read(dy), read(x), read(weight)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(count));
    h
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut dx, mut h) = (call.f32_mut(0), call.f32_mut(1));
    let (dy, x, weight) = (call.f32(2), call.f32(3), call.f32(4));
    let width = p.width as usize;
    for row in 0..p.count as usize {
        let at = row * width..(row + 1) * width;
        let (dx, h, dy, x) = (&mut dx[at.clone()], &mut h[at.clone()], &dy[at.clone()], &x[at]);
        let mean_of = |value: &dyn Fn(usize) -> f64| (0..width).map(value).sum::<f64>() / width as f64;
        let mean = mean_of(&|i| f64::from(x[i]));
        let inverse = 1.0 / (mean_of(&|i| (f64::from(x[i]) - mean).powi(2)) + f64::from(p.eps)).sqrt();
        let normed = |i: usize| (f64::from(x[i]) - mean) * inverse;
        let g = |i: usize| f64::from(weight[i]) * f64::from(dy[i]);
        let (mean_of_g, mean_of_gh) = (mean_of(&g), mean_of(&|i| g(i) * normed(i)));
        for i in 0..width {
            let value = (inverse * (g(i) - mean_of_g - normed(i) * mean_of_gh)) as f32;
            dx[i] = if p.add == 1 { dx[i] + value } else { value };
            h[i] = normed(i) as f32;
        }
    }
}

pub(crate) static OP: Op = Op { name: "layer_norm_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (dy, x, weight, dx) = (e.f32(&[5, 3200]), e.f32(&[5, 3200]), e.f32(&[3200]), e.f32(&[5, 3200]));
    layer_norm_gradient(&mut e.recording, dy, x, weight, 1e-5, dx, true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::differences::agree;
    use crate::ops::norms::layer_norm::layer_norm;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (rows, width, add) in [(1, 5, false), (3, 61, true), (7, 331, false), (2, 3200, true)] {
            compare(&format!("{rows} {width} {add}"), 1e-11, |pool, r, random| {
                let mut wide = |rows: usize| pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                let (dy, x, weight, dx) = (wide(rows), wide(rows), wide(1).reshape(&[width]), wide(rows));
                let h = layer_norm_gradient(r, dy, x, weight, 1e-5, dx, add);
                vec![dx, keep(pool, r, h)]
            });
        }
    }

    #[test]
    fn is_the_derivative() {
        agree(
            "layer_norm",
            &[(&[3, 17], 1.0), (&[17], 1.0), (&[17], 1.0)],
            |r, inputs| layer_norm(r, inputs[0], inputs[1], inputs[2], 1e-3),
            |r, inputs, dy| {
                use crate::ops::attention::View;
                use crate::ops::gradients::column_sums::{Factors, column_sums};
                let (dx, dw, db) = (r.scratch_f32(&[3, 17]), r.scratch_f32(&[17]), r.scratch_f32(&[17]));
                let h = layer_norm_gradient(r, dy, inputs[0], inputs[1], 1e-3, dx, false);
                column_sums(r, dy, Factors { elements: Some(View::all(h)), rows: None }, dw, false);
                column_sums(r, dy, Factors::default(), db, false);
                vec![dx, dw, db]
            },
        );
    }
}
