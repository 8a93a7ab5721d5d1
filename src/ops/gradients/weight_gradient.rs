//! `dW = layer_scale * dy^T x`: the gradient of a linear layer's weight, summed over rows.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::attention::View;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, kernel, read, write};
use crate::weights::layout::float_index;

static KERNEL: Kernel = kernel!("gradients", "weight_gradient", Params, reference);

uniform! {
    struct Params {
        rows: u32,
        outputs: u32,
        cols: u32,
        dy_width: u32,
        dy_column: u32,
        x_width: u32,
        x_column: u32,
        out_width: u32,
        out_row: u32,
        out_column: u32,
        flags: u32,
    }
}

const ADD: u32 = 1;
const LAYER_SCALE: u32 = 2;
const BLOCKS: u32 = 4;

/// A rectangle of a gradient [_, width], and whether what is there stays and is added to.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub tensor: Tensor,
    /// Whether it lies as a matrix of f32 does (`weights/layout.rs`), in blocks of rows; else row by row.
    pub blocks: bool,
    pub row: usize,
    pub column: usize,
    pub rows: usize,
    pub cols: usize,
    pub add: bool,
}

impl Place {
    /// All of a tensor, anew.
    pub fn all(tensor: Tensor) -> Place {
        Place { tensor, blocks: false, row: 0, column: 0, rows: tensor.rows(), cols: tensor.width(), add: false }
    }
}

/// Into `to`: columns `dy.column ..` of `dy` [rows, _], as many as `to.rows`, times columns `x.column ..` of `x` [rows, _],
/// as many as `to.cols`. `layer_scale` has a number for each column of `dy`.
pub fn weight_gradient(r: &mut Recording, dy: View, x: View, layer_scale: Option<Tensor>, to: Place) {
    let rows = dy.tensor.rows();
    assert_eq!(x.tensor.rows(), rows, "weight_gradient: dy {dy:?}, x {x:?}");
    assert!(dy.column + to.rows <= dy.tensor.width(), "weight_gradient: dy {dy:?} for {to:?}");
    assert!(x.column + to.cols <= x.tensor.width(), "weight_gradient: x {x:?} for {to:?}");
    let Place { tensor, blocks, row, column, rows: outputs, cols, add } = to;
    assert!(row + outputs <= tensor.rows() && column + cols <= tensor.width(), "weight_gradient: {to:?}");
    if let Some(scale) = layer_scale {
        assert_eq!(scale.len(), dy.tensor.width(), "weight_gradient: layer_scale {:?}", scale.shape());
    }
    let params = Params {
        rows: rows as u32,
        outputs: outputs as u32,
        cols: cols as u32,
        dy_width: dy.tensor.width() as u32,
        dy_column: dy.column as u32,
        x_width: x.tensor.width() as u32,
        x_column: x.column as u32,
        out_width: tensor.width() as u32,
        out_row: row as u32,
        out_column: column as u32,
        flags: if add { ADD } else { 0 }
            | if layer_scale.is_some() { LAYER_SCALE } else { 0 }
            | if blocks { BLOCKS } else { 0 },
    };
    let operands = [write(tensor), read(dy.tensor), read(x.tensor), read(layer_scale.unwrap_or(dy.tensor))];
    let workgroups = [cols.div_ceil(4).div_ceil(LANES as usize) as u32, outputs.div_ceil(4) as u32, 1];
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, workgroups);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut dw, dy, x, layer_scale) = (call.f32_mut(0), call.f32(1), call.f32(2), call.f32(3));
    for output in 0..p.outputs as usize {
        let scale = if p.flags & LAYER_SCALE == 0 { 1.0 } else { layer_scale[p.dy_column as usize + output] };
        let mut sums = vec![0.0f64; p.cols as usize];
        for row in 0..p.rows as usize {
            let g = f64::from(dy[row * p.dy_width as usize + p.dy_column as usize + output]);
            let x = &x[row * p.x_width as usize + p.x_column as usize..][..sums.len()];
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += g * f64::from(*x));
        }
        for (column, sum) in sums.into_iter().enumerate() {
            let (row, column) = (p.out_row as usize + output, p.out_column as usize + column);
            let at = match p.flags & BLOCKS {
                0 => row * p.out_width as usize + column,
                _ => float_index(row, column, p.out_width as usize),
            };
            let before = if p.flags & ADD == 0 { 0.0 } else { dw[at] };
            dw[at] = before + scale * sum as f32;
        }
    }
}

pub(crate) static OP: Op = Op { name: "weight_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (dy, x, scale, to) = (e.f32(&[70, 96]), e.f32(&[70, 200]), e.f32(&[96]), e.f32(&[96, 200]));
    weight_gradient(&mut e.recording, View::all(dy), View::all(x), Some(scale), Place::all(to));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::compare;

    #[test]
    fn gpu_equals_reference() {
        for (rows, outputs, cols, add) in
            [(1, 1, 1, false), (7, 5, 61, true), (130, 66, 33, false), (3, 331, 270, true)]
        {
            compare(&format!("{rows} {outputs} {cols} {add}"), 1e-12, |pool, r, random| {
                let mut wide =
                    |rows: usize, width: usize| pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                let (dy, x) = (wide(rows, outputs + 5), wide(rows, cols + 3));
                let (scale, tensor) = (wide(1, outputs + 5), wide(outputs + 3, cols + 4));
                let place = Place { tensor, blocks: false, row: 2, column: 1, rows: outputs, cols, add };
                let (dy, x) = (View { tensor: dy, column: 4 }, View { tensor: x, column: 2 });
                weight_gradient(r, dy, x, add.then(|| scale.reshape(&[outputs + 5])), place);
                let height = (outputs + 2).next_multiple_of(32);
                let width = (cols + 1).next_multiple_of(4);
                let blocks = pool.f32(&[height, width], &random.f32s(height * width)).unwrap();
                weight_gradient(r, dy, x, None, Place { tensor: blocks, blocks: true, ..place });
                vec![tensor, blocks]
            });
        }
    }
}
