//! Copies rows of one tensor to rows of another, over again where there are more rows to fill.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, Rows, grid, kernel, picked_rows, read, write};

static KERNEL: Kernel = kernel!("rows", "copy_rows", Params, reference, picked_rows);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        from_count: u32,
        from_rows: u32,
        from_stride: u32,
        from_first: u32,
        to_rows: u32,
        to_stride: u32,
        to_first: u32,
    }
}

/// Compact row i of `to` [_, width] becomes compact row `i % from_rows.count()` of `from` [_, width]. The number of
/// rows of `to` is a multiple of `from`'s. Elements are 32 bits wide.
pub fn copy_rows(r: &mut Recording, from: Tensor, from_rows: Rows, to: Tensor, to_rows: Rows) {
    let shapes = || format!("copy_rows: {from_rows:?} of {:?} to {to_rows:?} of {:?}", from.shape(), to.shape());
    assert_eq!(from.width(), to.width(), "{}", shapes());
    assert_eq!(from.dtype, to.dtype, "{}", shapes());
    assert_eq!(from.dtype.bytes(), 4, "{}", shapes());
    assert!(to_rows.count().is_multiple_of(from_rows.count()), "{}", shapes());
    for (rows, tensor) in [(from_rows, from), (to_rows, to)] {
        assert!((rows.batch - 1) * rows.stride + rows.first + rows.rows <= tensor.rows(), "{}", shapes());
    }
    assert_ne!(from.id, to.id, "copy_rows: within one tensor");
    let count = to_rows.count() * to.width();
    let params = Params {
        count: count as u32,
        width: to.width() as u32,
        from_count: from_rows.count() as u32,
        from_rows: from_rows.rows as u32,
        from_stride: from_rows.stride as u32,
        from_first: from_rows.first as u32,
        to_rows: to_rows.rows as u32,
        to_stride: to_rows.stride as u32,
        to_first: to_rows.first as u32,
    };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(from), write(to)], params, grid(count.div_ceil(LANES as usize)));
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (from, mut to) = (call.u32(0), call.u32_mut(1));
    let width = p.width as usize;
    for row in 0..(p.count / p.width) as usize {
        let source = Rows::index(p.from_rows, p.from_stride, p.from_first, row % p.from_count as usize) * width;
        let destination = Rows::index(p.to_rows, p.to_stride, p.to_first, row) * width;
        to[destination..destination + width].copy_from_slice(&from[source..source + width]);
    }
}

pub(crate) static OP: Op = Op { name: "copy_rows", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let (from, to) = (e.f32(&[5, 4096]), e.f32(&[2 * 9, 4096]));
    copy_rows(&mut e.recording, from, Rows::all(from), to, Rows { batch: 2, rows: 5, stride: 9, first: 1 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::play_both;

    #[test]
    fn gpu_equals_reference() {
        let rows = |batch, rows, stride, first| Rows { batch, rows, stride, first };
        for (from_rows, to_rows, width) in [
            (rows(1, 1, 1, 0), rows(1, 1, 1, 0), 1),
            (rows(2, 3, 5, 1), rows(3, 2, 2, 0), 61),
            (rows(1, 3, 3, 0), rows(4, 3, 7, 2), 173),
            (rows(1, 1, 9, 8), rows(1, 70, 70, 0), 64),
            (rows(3, 2, 2, 0), rows(1, 12, 13, 1), 331),
        ] {
            let found = play_both(7, |pool, r, random| {
                let mut tensor = |rows: Rows| {
                    let n = rows.batch * rows.stride;
                    pool.f32(&[n, width], &random.f32s(n * width)).unwrap()
                };
                let (from, to) = (tensor(from_rows), tensor(to_rows));
                copy_rows(r, from, from_rows, to, to_rows);
                vec![to]
            });
            assert!(found[0].0 == found[0].1, "{from_rows:?} {to_rows:?} {width}");
        }
    }

    /// The mapping itself, which the reference shares with nobody else here.
    #[test]
    fn two_rows_fill_four_places() {
        let found = play_both(7, |pool, r, _| {
            let from = pool.f32(&[3, 1], &[1.0, 2.0, 3.0]).unwrap();
            let to = pool.f32(&[6, 1], &[0.0; 6]).unwrap();
            let from_rows = Rows { batch: 1, rows: 2, stride: 3, first: 1 };
            copy_rows(r, from, from_rows, to, Rows { batch: 2, rows: 2, stride: 3, first: 0 });
            vec![to]
        });
        let expected = [2.0, 3.0, 0.0, 2.0, 3.0, 0.0].map(f32::to_bits);
        assert_eq!(found, [(expected.to_vec(), expected.to_vec())]);
    }
}
