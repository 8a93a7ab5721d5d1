//! The gradient of RMSNorm: with `r = rsqrt(mean(x^2) + eps)` and `g = weight * dy`, `dx = r g - x r^3 mean(g x)`, and the
//! weight's is the sum over rows of `dy * x * r`.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::attention::View;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, Rows, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "rms_norm_gradient", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        rows: u32,
        stride: u32,
        first: u32,
        x_width: u32,
        x_column: u32,
        dy_width: u32,
        dy_column: u32,
        dx_width: u32,
        dx_column: u32,
        add: u32,
        eps: f32,
    }
}

/// What the norm was taken of: as many columns as `weight` has, of the rows that `rows` names.
#[derive(Clone, Copy, Debug)]
pub struct Normed {
    pub x: View,
    pub rows: Rows,
    /// `[width]`
    pub weight: Tensor,
    pub eps: f32,
}

/// The gradient of the rows `normed.rows` of `dx`, whose rows are those of `normed.x`, from `dy` [rows.count(), _]; with
/// `add`, added to what is there. Returns `rsqrt(mean(x^2) + eps)` of each row.
pub fn rms_norm_gradient(r: &mut Recording, dy: View, normed: Normed, dx: View, add: bool) -> Tensor {
    let Normed { x, rows, weight, eps } = normed;
    let (count, width) = (rows.count(), weight.len());
    let last = (rows.batch - 1) * rows.stride + rows.first + rows.rows;
    for (view, least) in [(dy, count), (x, last), (dx, last)] {
        let fits = view.tensor.rows() >= least && view.column + width <= view.tensor.width();
        assert!(fits, "rms_norm_gradient: {view:?} for {rows:?} of width {width}");
    }
    let inverses = r.scratch_f32(&[count]);
    let params = Params {
        count: count as u32,
        width: width as u32,
        rows: rows.rows as u32,
        stride: rows.stride as u32,
        first: rows.first as u32,
        x_width: x.tensor.width() as u32,
        x_column: x.column as u32,
        dy_width: dy.tensor.width() as u32,
        dy_column: dy.column as u32,
        dx_width: dx.tensor.width() as u32,
        dx_column: dx.column as u32,
        add: u32::from(add),
        eps,
    };
    let operands = [write(dx.tensor), write(inverses), read(dy.tensor), read(x.tensor), read(weight)];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, grid(count));
    inverses
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut dx, mut inverses) = (call.f32_mut(0), call.f32_mut(1));
    let (dy, x, weight) = (call.f32(2), call.f32(3), call.f32(4));
    let width = p.width as usize;
    for row in 0..p.count as usize {
        let row_of_x = Rows::index(p.rows, p.stride, p.first, row);
        let x = &x[row_of_x * p.x_width as usize + p.x_column as usize..][..width];
        let dy = &dy[row * p.dy_width as usize + p.dy_column as usize..][..width];
        let dx = &mut dx[row_of_x * p.dx_width as usize + p.dx_column as usize..][..width];
        let mean_square = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
        let inverse = 1.0 / (mean_square + f64::from(p.eps)).sqrt();
        let product = |i: usize| f64::from(weight[i]) * f64::from(dy[i]);
        let mean = (0..width).map(|i| product(i) * f64::from(x[i])).sum::<f64>() / width as f64;
        for i in 0..width {
            let value = (inverse * product(i) - f64::from(x[i]) * inverse.powi(3) * mean) as f32;
            dx[i] = if p.add == 1 { dx[i] + value } else { value };
        }
        inverses[row] = inverse as f32;
    }
}

pub(crate) static OP: Op = Op { name: "rms_norm_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (dy, x, weight) = (e.f32(&[2 * 3, 3200]), e.f32(&[2 * 5, 3 * 3200]), e.f32(&[3200]));
    let dx = e.f32(&[2 * 5, 3 * 3200]);
    let rows = Rows { batch: 2, rows: 3, stride: 5, first: 1 };
    let normed = Normed { x: View { tensor: x, column: 3200 }, rows, weight, eps: 1e-6 };
    rms_norm_gradient(&mut e.recording, View::all(dy), normed, View { tensor: dx, column: 0 }, true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::differences::agree;
    use crate::ops::norms::rms_norm::rms_norm;
    use crate::ops::testing::{compare, keep};

    #[test]
    fn gpu_equals_reference() {
        for (batch, rows, stride, first, width, add) in
            [(1, 1, 1, 0, 1, false), (2, 3, 5, 1, 60, true), (3, 7, 7, 0, 173, false), (2, 1, 9, 8, 3200, true)]
        {
            compare(&format!("{batch} {rows} {stride} {first} {width} {add}"), 1e-11, |pool, r, random| {
                let rows = Rows { batch, rows, stride, first };
                let mut wide =
                    |rows: usize, width: usize| pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                let (dy, x) = (wide(rows.count(), width + 1), wide(batch * stride, width + 4));
                let (weight, dx) = (wide(1, width).reshape(&[width]), wide(batch * stride, width + 5));
                let normed = Normed { x: View { tensor: x, column: 3 }, rows, weight, eps: 1e-6 };
                let (dy, to) = (View { tensor: dy, column: 1 }, View { tensor: dx, column: 2 });
                let inverses = rms_norm_gradient(r, dy, normed, to, add);
                vec![dx, keep(pool, r, inverses)]
            });
        }
    }

    #[test]
    fn is_the_derivative() {
        agree(
            "rms_norm",
            &[(&[3, 17], 1.0), (&[17], 1.0)],
            |r, inputs| rms_norm(r, inputs[0], Rows::all(inputs[0]), 0, inputs[1], 1e-3),
            |r, inputs, dy| {
                use crate::ops::gradients::column_sums::{Factors, column_sums};
                let (x, rows) = (View::all(inputs[0]), Rows::all(inputs[0]));
                let (dx, dw) = (r.scratch_f32(&[3, 17]), r.scratch_f32(&[17]));
                let normed = Normed { x, rows, weight: inputs[1], eps: 1e-3 };
                let inverses = rms_norm_gradient(r, View::all(dy), normed, View::all(dx), false);
                column_sums(r, dy, Factors { elements: Some(x), rows: Some(inverses) }, dw, false);
                vec![dx, dw]
            },
        );
    }
}
