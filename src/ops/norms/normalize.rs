//! `y = x / ||x||_2` over each row, as CLIP's embeddings are before they are compared.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("norms", "normalize", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
    }
}

/// Scales each row of `x` [rows, width] to length 1; rows of zeros stay zero. Returns [rows, width].
pub fn normalize(r: &mut Recording, x: Tensor) -> Tensor {
    let (rows, width) = (x.rows(), x.width());
    let y = r.scratch_f32(&[rows, width]);
    let params = Params { count: rows as u32, width: width as u32 };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(x), write(y)], params, grid(rows));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut y) = (call.f32(0), call.f32_mut(1));
    let width = p.width as usize;
    for (y, x) in y.chunks_mut(width).zip(x.chunks(width)) {
        let norm = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        y.iter_mut().zip(x).for_each(|(y, x)| *y = (f64::from(*x) * scale) as f32);
    }
}

pub(crate) static OP: Op = Op { name: "normalize", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let x = e.f32(&[5, 768]);
    normalize(&mut e.recording, x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{compare, keep, play_both};

    #[test]
    fn gpu_equals_reference() {
        for (rows, width) in [(1, 1), (2, 3), (7, 60), (3, 173), (1, 64), (5, 768)] {
            compare(&format!("{rows} {width}"), 1e-12, |pool, r, random| {
                let x = pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                let y = normalize(r, x);
                vec![keep(pool, r, y)]
            });
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        let found = play_both(7, |pool, r, _| {
            let x = pool.f32(&[2, 2], &[0.0, 0.0, 0.0, -5.0]).unwrap();
            let y = normalize(r, x);
            vec![keep(pool, r, y)]
        });
        for words in [&found[0].0, &found[0].1] {
            let y: &[f32] = bytemuck::cast_slice(words);
            assert!(y[..3] == [0.0; 3] && (y[3] + 1.0).abs() < 1e-6, "{y:?}");
        }
    }
}
