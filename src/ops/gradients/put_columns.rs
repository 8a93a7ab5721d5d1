//! Copies some columns of rows to some columns of other rows.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::wgsl::uniform;
use crate::ops::attention::View;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("gradients", "put_columns", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        from_width: u32,
        from_column: u32,
        to_width: u32,
        to_column: u32,
    }
}

/// Copies `width` columns from `from.column` on of each row to those from `to.column` on.
pub fn put_columns(r: &mut Recording, from: View, width: usize, to: View) {
    let rows = from.tensor.rows();
    assert_eq!(to.tensor.rows(), rows, "put_columns: {from:?} to {to:?}");
    for view in [from, to] {
        assert!(view.column + width <= view.tensor.width(), "put_columns: {width} columns of {view:?}");
    }
    let params = Params {
        count: (rows * width) as u32,
        width: width as u32,
        from_width: from.tensor.width() as u32,
        from_column: from.column as u32,
        to_width: to.tensor.width() as u32,
        to_column: to.column as u32,
    };
    let workgroups = grid((rows * width).div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &[write(to.tensor), read(from.tensor)], params, workgroups);
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut to, from) = (call.f32_mut(0), call.f32(1));
    let width = p.width as usize;
    for row in 0..p.count as usize / width {
        let from = &from[row * p.from_width as usize + p.from_column as usize..][..width];
        to[row * p.to_width as usize + p.to_column as usize..][..width].copy_from_slice(from);
    }
}

pub(crate) static OP: Op = Op { name: "put_columns", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let (from, to) = (e.f32(&[5, 300]), e.f32(&[5, 400]));
    put_columns(&mut e.recording, View::all(from), 200, View { tensor: to, column: 100 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    #[test]
    fn gpu_equals_reference() {
        for (rows, width) in [(1, 1), (7, 61), (3, 331)] {
            let found = play_both(7, |pool, r, random| {
                let from = pool.f32(&[rows, width + 3], &random.f32s(rows * (width + 3))).unwrap();
                let to = pool.f32(&[rows, width + 5], &random.f32s(rows * (width + 5))).unwrap();
                put_columns(r, View { tensor: from, column: 2 }, width, View { tensor: to, column: 4 });
                vec![to]
            });
            assert!(found[0].0 == found[0].1, "{rows} {width}");
        }
    }
}
