//! InternViT's embeddings: a class row in front of each picture's patches, plus positions.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::Tensor;
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};

static KERNEL: Kernel = kernel!("vision", "vision_embed", Params, reference);

uniform! {
    struct Params {
        count: u32,
        width: u32,
        rows: u32,
    }
}

/// Puts `class_embedding` `[width]` in front of the P rows that each picture has in `patches` [batch * P, width] and
/// adds `position_embedding` [1 + P, width]. Returns [batch * (1 + P), width].
pub fn vision_embed(
    r: &mut Recording,
    patches: Tensor,
    class_embedding: Tensor,
    position_embedding: Tensor,
    batch: usize,
) -> Tensor {
    let (rows, width) = (position_embedding.rows(), position_embedding.width());
    assert_eq!(
        (patches.rows(), patches.width(), class_embedding.len()),
        (batch * (rows - 1), width, width),
        "vision_embed: {batch} pictures of patches {:?}, class {:?}, positions {:?}",
        patches.shape(),
        class_embedding.shape(),
        position_embedding.shape()
    );
    let y = r.scratch_f32(&[batch * rows, width]);
    let params = Params { count: y.len() as u32, width: width as u32, rows: rows as u32 };
    let constants = [("LANES", LANES as f64)];
    let operands = [read(patches), read(class_embedding), read(position_embedding), write(y)];
    r.dispatch(&KERNEL, &constants, &operands, params, grid(y.len().div_ceil(LANES as usize)));
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (patches, class, positions, mut y) = (call.f32(0), call.f32(1), call.f32(2), call.f32_mut(3));
    let (width, rows) = (p.width as usize, p.rows as usize);
    for (y, patches) in y.chunks_mut(rows * width).zip(patches.chunks((rows - 1) * width)) {
        let embeddings = class.iter().chain(patches);
        y.iter_mut().zip(embeddings).zip(&positions[..]).for_each(|((y, x), position)| *y = x + position);
    }
}

/// Position embeddings [1 + g * g, width] of a trained g x g grid, resized to another grid: [1 + grid_h * grid_w, width].
/// The class row stays. This is PyTorch's `interpolate(mode="bicubic", align_corners=False, antialias=False)`, in f32
/// like there: Keys' cubic convolution (1981) with a = -0.75, the border repeated.
pub fn resize_position_embedding(values: &[f32], width: usize, grid_h: usize, grid_w: usize) -> Vec<f32> {
    let trained = (values.len() / width - 1).isqrt();
    assert_eq!(values.len(), (1 + trained * trained) * width, "resize_position_embedding: rows of width {width}");
    let (class, patches) = values.split_at(width);
    let mut out = class.to_vec();
    out.reserve(grid_h * grid_w * width);
    let columns: Vec<_> = (0..grid_w).map(|x| cubic_taps(x, trained, grid_w)).collect();
    for y in 0..grid_h {
        let down = cubic_taps(y, trained, grid_h);
        for across in &columns {
            for i in 0..width {
                let at = |row: usize, column: usize| patches[(row * trained + column) * width + i];
                let line = |row: usize| across.iter().map(|&(column, w)| w * at(row, column)).sum::<f32>();
                out.push(down.iter().map(|&(row, w)| w * line(row)).sum());
            }
        }
    }
    out
}

/// The four places of `from` that place `to` of `to_len` is made of, with their weights.
fn cubic_taps(to: usize, from_len: usize, to_len: usize) -> [(usize, f32); 4] {
    const A: f32 = -0.75;
    // Up to 1 and from 1 to 2 places away.
    let near = |d: f32| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f32| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    let place = from_len as f32 / to_len as f32 * (to as f32 + 0.5) - 0.5;
    let t = place - place.floor();
    let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
    let first = place.floor() as i64 - 1;
    std::array::from_fn(|i| ((first + i as i64).clamp(0, from_len as i64 - 1) as usize, weights[i]))
}

pub(crate) static OP: Op = Op { name: "vision_embed", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let (class_embedding, positions) = (e.f32(&[3200]), e.f32(&[7, 3200]));
    let patches = e.f32(&[2 * 6, 3200]);
    vision_embed(&mut e.recording, patches, class_embedding, positions, 2);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{keep, play_both};

    #[test]
    fn gpu_equals_reference() {
        for (batch, patches, width) in [(1, 1, 1), (2, 5, 61), (3, 1, 64), (1, 7, 331), (2, 16, 173)] {
            let found = play_both(7, |pool, r, random| {
                let values = random.f32s(batch * patches * width);
                let patch_rows = pool.f32(&[batch * patches, width], &values).unwrap();
                let class = pool.f32(&[width], &random.f32s(width)).unwrap();
                let positions = pool.f32(&[1 + patches, width], &random.f32s((1 + patches) * width)).unwrap();
                let y = vision_embed(r, patch_rows, class, positions, batch);
                vec![keep(pool, r, y)]
            });
            assert!(found[0].0 == found[0].1, "{batch} {patches} {width}");
        }
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        let close = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1e-6);
        assert!(close, "{found:?} is not {expected:?}");
    }

    #[test]
    fn the_trained_grid_stays_as_it_is() {
        let values: Vec<f32> = (0..10 * 3).map(|i| (i as f32).sin()).collect();
        assert_eq!(resize_position_embedding(&values, 3, 3, 3), values);
    }

    /// Places 0 to 3 of a doubled pair lie at -0.25, 0.25, 0.75 and 1.25. A quarter from a place the weights are
    /// far(1.25) = -0.10546875, near(0.25) = 0.87890625, near(0.75) = 0.26171875 and far(1.75) = -0.03515625.
    #[test]
    fn doubling_a_pair_gives_the_hand_computed_weights() {
        // -0.25: taps -2, -1, 0, 1 are places 0, 0, 0, 1, at distances 1.75, 0.75, 0.25, 1.25.
        // 0.25: taps -1, 0, 1, 2 are places 0, 0, 1, 1, at distances 1.25, 0.25, 0.75, 1.75.
        let (outer, inner) = (-0.10546875, 0.26171875 - 0.03515625);
        // A 2 x 2 grid that is 0 in its left column and 1 in its right; the class row is 9.
        let found = resize_position_embedding(&[9.0, 0.0, 1.0, 0.0, 1.0], 1, 1, 4);
        assert_close(&found, &[9.0, outer, inner, 1.0 - inner, 1.0 - outer]);
        // The same turned: 0 in the upper row, 1 in the lower, which go down the result.
        let found = resize_position_embedding(&[9.0, 0.0, 0.0, 1.0, 1.0], 1, 4, 2);
        let expected = [outer, outer, inner, inner, 1.0 - inner, 1.0 - inner, 1.0 - outer, 1.0 - outer];
        assert_close(&found[1..], &expected);
    }

    /// Without antialiasing, a third of a row of three is the middle one; columns of an element stay their own.
    #[test]
    fn shrinking_does_not_average() {
        let values: Vec<f32> = (0..10).flat_map(|i| [i as f32, -10.0 * i as f32]).collect();
        assert_close(&resize_position_embedding(&values, 2, 1, 1), &[0.0, 0.0, 5.0, -50.0]);
    }
}
