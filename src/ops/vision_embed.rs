//! The class embedding in front of the patches, plus the position embedding.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel = Kernel {
    name: "vision_embed",
    source: include_str!("../../shaders/vision_embed.wgsl"),
    reference,
    subgroups: false,
};

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    rows: u32,
    width: u32,
}

/// `patches` [batch * P, width] -> [batch * (1 + P), width].
pub fn vision_embed(
    r: &mut Recording,
    patches: Tensor,
    class_embedding: Tensor,
    position_embedding: Tensor,
    batch: usize,
) -> Tensor {
    let (rows, width) = (1 + patches.rows() / batch, patches.width());
    let y = r.scratch_f32(&[batch * rows, width]);
    let params = Params { count: y.len() as u32, rows: rows as u32, width: width as u32 };
    let operands = [read(patches), read(class_embedding), read(position_embedding), write(y)];
    let groups = grid(y.len().div_ceil(LANES as usize));
    r.dispatch(&KERNEL, &[("LANES", LANES as f64)], &operands, params, groups);
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, class, position, mut y) = (call.f32(0), call.f32(1), call.f32(2), call.f32_mut(3));
    let (rows, width) = (p.rows as usize, p.width as usize);
    for (id, y) in y.iter_mut().enumerate() {
        let (column, row, b) = (id % width, id / width % rows, id / width / rows);
        let value = if row == 0 { class[column] } else { x[(b * (rows - 1) + row - 1) * width + column] };
        *y = value + position[row * width + column];
    }
}

/// Bicubic resize (PyTorch `interpolate`, a = -0.75, align_corners false, no antialias) of the patch rows.
pub fn resize_position_embedding(values: &[f32], width: usize, grid_h: usize, grid_w: usize) -> Vec<f32> {
    let n = (values.len() / width - 1).isqrt();
    if (grid_h, grid_w) == (n, n) {
        return values.to_vec();
    }
    let taps = |out: usize, size: usize| {
        let scale = n as f32 / size as f32;
        let real = scale * (out as f32 + 0.5) - 0.5;
        let floor = real.floor();
        let t = real - floor;
        let a = -0.75f32;
        let near = |x: f32| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
        let far = |x: f32| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
        let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        let at = |i: i64| (floor as i64 + i).clamp(0, n as i64 - 1) as usize;
        [(at(-1), weights[0]), (at(0), weights[1]), (at(1), weights[2]), (at(2), weights[3])]
    };
    let mut out = values[..width].to_vec();
    for y in 0..grid_h {
        for x in 0..grid_w {
            for c in 0..width {
                let mut sum = 0.0;
                for (ty, wy) in taps(y, grid_h) {
                    let row: f32 =
                        taps(x, grid_w).iter().map(|(tx, wx)| wx * values[(1 + ty * n + tx) * width + c]).sum();
                    sum += wy * row;
                }
                out.push(sum);
            }
        }
    }
    out
}
