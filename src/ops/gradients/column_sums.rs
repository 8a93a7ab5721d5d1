//! `y[c] = sum over rows of a[row, c] * b[row, c] * s[row]`: the gradients of vectors that every row uses (biases,
//! LayerScale, weights of norms), and of tensors that are repeated for every sequence.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::attention::View;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "column_sums", Params, reference);

uniform! {
    struct Params {
        rows: u32,
        width: u32,
        b_width: u32,
        b_column: u32,
        scaled: u32,
        add: u32,
    }
}

/// What the rows of `a` are multiplied by before they are added up.
#[derive(Clone, Copy, Default, Debug)]
pub struct Factors {
    /// [rows, _], from a column on.
    pub elements: Option<View>,
    /// `[rows]`
    pub rows: Option<Tensor>,
}

/// The sums of the columns of `a` [rows, width], into `y` `[width]`, or added to it.
pub fn column_sums(r: &mut Recording, a: Tensor, factors: Factors, y: Tensor, add: bool) {
    let (rows, width) = (a.rows(), a.width());
    assert_eq!(y.len(), width, "column_sums: {:?} of {:?}", y.shape(), a.shape());
    if let Some(b) = factors.elements {
        assert!(b.tensor.rows() == rows && b.column + width <= b.tensor.width(), "column_sums: {b:?}, {a:?}");
    }
    if let Some(s) = factors.rows {
        assert_eq!(s.len(), rows, "column_sums: {s:?}, {a:?}");
    }
    let params = Params {
        rows: rows as u32,
        width: width as u32,
        b_width: factors.elements.map_or(0, |b| b.tensor.width() as u32),
        b_column: factors.elements.map_or(0, |b| b.column as u32),
        scaled: u32::from(factors.rows.is_some()),
        add: u32::from(add),
    };
    let (b, s) = (factors.elements.map_or(a, |b| b.tensor), factors.rows.unwrap_or(a));
    let workgroups = grid(width.div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[write(y), read(a), read(b), read(s)], params, workgroups);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut y, a, b, s) = (call.f32_mut(0), call.f32(1), call.f32(2), call.f32(3));
    for column in 0..p.width as usize {
        let of_row = |row: usize| {
            let mut value = f64::from(a[row * p.width as usize + column]);
            if p.b_width > 0 {
                value *= f64::from(b[row * p.b_width as usize + p.b_column as usize + column]);
            }
            if p.scaled == 1 { value * f64::from(s[row]) } else { value }
        };
        let sum = (0..p.rows as usize).map(of_row).sum::<f64>() as f32;
        y[column] = if p.add == 1 { y[column] + sum } else { sum };
    }
}

pub(crate) static OP: Op = Op { name: "column_sums", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (a, b, s, y) = (e.f32(&[70, 96]), e.f32(&[70, 96]), e.f32(&[70]), e.f32(&[96]));
    let factors = Factors { elements: Some(View::all(b)), rows: Some(s) };
    column_sums(&mut e.recording, a, factors, y, false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::compare;

    #[test]
    fn gpu_equals_reference() {
        for (rows, width, add) in [(1, 1, false), (7, 61, true), (130, 64, false), (3, 331, true)] {
            compare(&format!("{rows} {width} {add}"), 1e-12, |pool, r, random| {
                let mut wide = |shape: &[usize]| pool.f32(shape, &random.f32s(shape.iter().product())).unwrap();
                let (a, b, s) = (wide(&[rows, width]), wide(&[rows, width + 3]), wide(&[rows]));
                let sums: Vec<Tensor> = (0..4).map(|_| wide(&[width])).collect();
                let elements = Some(View { tensor: b, column: 2 });
                column_sums(r, a, Factors::default(), sums[0], add);
                column_sums(r, a, Factors { elements, rows: None }, sums[1], add);
                column_sums(r, a, Factors { elements, rows: Some(s) }, sums[2], add);
                column_sums(r, a, Factors { elements: None, rows: Some(s) }, sums[3], add);
                sums
            });
        }
    }
}
