//! Cuts pictures into patches, so that a convolution whose stride is its kernel size is a linear layer.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("vision", "patches", Params, reference);

uniform! {
    struct Params {
        count: u32,
        channels: u32,
        height: u32,
        width: u32,
        patch_size: u32,
    }
}

/// `pixel_values` is [batch, 3, height, width], its sides multiples of `patch_size`. Returns
/// [batch * (height / patch_size) * (width / patch_size), 3 * patch_size^2]: rows in row-major order of the patches,
/// columns in the order of a convolution's weight [out, 3, patch_size, patch_size].
pub fn patches(r: &mut Recording, pixel_values: Tensor, patch_size: usize) -> Tensor {
    let &[batch, channels, height, width] = pixel_values.shape() else {
        panic!("patches: pixel_values {:?}", pixel_values.shape())
    };
    assert!(
        height.is_multiple_of(patch_size) && width.is_multiple_of(patch_size),
        "patches: pixel_values {:?}, patches of {patch_size}",
        pixel_values.shape()
    );
    let rows = batch * (height / patch_size) * (width / patch_size);
    let y = r.scratch_f32(&[rows, channels * patch_size * patch_size]);
    let params = Params {
        count: y.len() as u32,
        channels: channels as u32,
        height: height as u32,
        width: width as u32,
        patch_size: patch_size as u32,
    };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(pixel_values), write(y)], params, grid(y.len().div_ceil(LANES as usize)));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (pixel_values, mut y) = (call.f32(0), call.f32_mut(1));
    let [channels, height, width, size] = [p.channels, p.height, p.width, p.patch_size].map(|n| n as usize);
    let mut out = y.iter_mut();
    for picture in pixel_values.chunks(channels * height * width) {
        for top in (0..height).step_by(size) {
            for left in (0..width).step_by(size) {
                for plane in picture.chunks(height * width) {
                    for line in plane.chunks(width).skip(top).take(size) {
                        out.by_ref().zip(&line[left..left + size]).for_each(|(y, x)| *y = *x);
                    }
                }
            }
        }
    }
}

pub(crate) static OP: Op = Op { name: "patches", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let pixel_values = e.f32(&[2, 3, 28, 42]);
    patches(&mut e.recording, pixel_values, 14);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::linear::{Epilogue, linear};
    use crate::ops::testing::{keep, play_both};
    use crate::weights::layout::Format;
    use crate::weights::matrix::Matrix;

    #[test]
    fn gpu_equals_reference() {
        for (batch, height, width, size) in [(1, 1, 1, 1), (2, 6, 9, 3), (1, 14, 42, 14), (3, 20, 8, 4), (1, 5, 7, 1)] {
            let found = play_both(7, |pool, r, random| {
                let values = random.f32s(batch * 3 * height * width);
                let pixel_values = pool.f32(&[batch, 3, height, width], &values).unwrap();
                let y = patches(r, pixel_values, size);
                vec![keep(pool, r, y)]
            });
            assert!(found[0].0 == found[0].1, "{batch} {height} {width} {size}");
        }
    }

    /// Patches and a linear layer against the convolution's definition.
    #[test]
    fn linear_of_patches_is_the_convolution() {
        let (height, width, size) = (4, 6, 2);
        let pixels: Vec<f32> = (0..3 * height * width).map(|i| (i * i % 31) as f32).collect();
        let weights: Vec<f32> = (0..2 * 3 * size * size).map(|i| (i * i % 17) as f32).collect();
        let found = play_both(7, |pool, r, _| {
            let pixel_values = pool.f32(&[1, 3, height, width], &pixels).unwrap();
            let weight = Matrix::from_f32(pool, 2, 3 * size * size, &weights, Format::F32).unwrap();
            let rows = patches(r, pixel_values, size);
            let y = linear(r, rows, &weight, Epilogue::default());
            vec![keep(pool, r, y)]
        });
        let mut expected = Vec::new();
        for (i, j) in (0..height / size).flat_map(|i| (0..width / size).map(move |j| (i, j))) {
            for out in 0..2 {
                let mut sum = 0.0;
                for c in 0..3 {
                    for (y, x) in (0..size).flat_map(|y| (0..size).map(move |x| (y, x))) {
                        sum += weights[((out * 3 + c) * size + y) * size + x]
                            * pixels[(c * height + i * size + y) * width + j * size + x];
                    }
                }
                expected.push(sum.to_bits());
            }
        }
        assert_eq!(found, [(expected.clone(), expected)]);
    }
}
