//! `dx = (layer_scale * dy) W`: the gradient of the rows that a linear layer takes, through the very weights that its
//! forward pass used.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, kernel, read, unpack_row_of, write};
use crate::weights::layout::Format;
use crate::weights::matrix::{Matrix, Part};

static KERNEL: Kernel = kernel!("gradients", "linear_gradient", Params, reference);

/// Rows of `dx` that an invocation makes.
const ROWS: usize = 8;

uniform! {
    struct Params {
        rows: u32,
        cols: u32,
        outputs: u32,
        first_output: u32,
        dy_width: u32,
        row_words: u32,
        group: u32,
        groups: u32,
        flags: u32,
    }
}

const ADD: u32 = 1;
const LAYER_SCALE: u32 = 2;

/// `dy` [rows, outputs] times `weight` [outputs, cols], with `layer_scale` `[outputs]` multiplied into `dy` first. Returns
/// [rows, cols].
pub fn linear_gradient(r: &mut Recording, dy: Tensor, weight: &Matrix, layer_scale: Option<Tensor>) -> Tensor {
    let dx = r.scratch_f32(&[dy.rows(), weight.cols]);
    record(r, dy, weight, layer_scale, dx, false);
    dx
}

/// As [`linear_gradient`], added to `dx` [rows, cols].
pub fn add_linear_gradient(r: &mut Recording, dy: Tensor, weight: &Matrix, layer_scale: Option<Tensor>, dx: Tensor) {
    record(r, dy, weight, layer_scale, dx, true);
}

fn record(r: &mut Recording, dy: Tensor, weight: &Matrix, layer_scale: Option<Tensor>, dx: Tensor, add: bool) {
    let (rows, cols) = (dy.rows(), weight.cols);
    assert_eq!(dy.width(), weight.rows, "linear_gradient: dy {:?}, weight [{}, {cols}]", dy.shape(), weight.rows);
    assert_eq!((dx.rows(), dx.width()), (rows, cols), "linear_gradient: dx {:?}", dx.shape());
    if let Some(scale) = layer_scale {
        assert_eq!(scale.len(), weight.rows, "linear_gradient: layer_scale {:?}", scale.shape());
    }
    for (i, part) in weight.parts.iter().enumerate() {
        // The parts' products are added up.
        let add = add || i > 0;
        let columns = columns(part.format);
        let params = Params {
            rows: rows as u32,
            cols: cols as u32,
            outputs: part.rows as u32,
            first_output: part.first_row as u32,
            dy_width: dy.width() as u32,
            row_words: part.format.row_words(cols) as u32,
            group: part.group(cols) as u32,
            groups: part.format.groups(cols) as u32,
            flags: if add { ADD } else { 0 } | if layer_scale.is_some() { LAYER_SCALE } else { 0 },
        };
        let [words, scales, offsets] = part.tensors().map(read);
        let operands = [write(dx), read(dy), words, scales, offsets, read(layer_scale.unwrap_or(dy))];
        let mut constants = part.constants().to_vec();
        constants.push(("LANES", LANES as f64));
        constants.push(("COLUMNS", columns as f64));
        constants.push(("WHOLE", f64::from(u8::from(has_whole_runs(part, cols)))));
        let workgroups = [cols.div_ceil(columns).div_ceil(LANES as usize) as u32, rows.div_ceil(ROWS) as u32, 1];
        r.dispatch(&KERNEL, &constants, &operands, params, workgroups);
    }
}

/// Columns that an invocation makes: of f32 a piece, else as many as are whole words of every format.
fn columns(format: Format) -> usize {
    if format == Format::F32 { 4 } else { 8 }
}

/// Whether the columns of an invocation share a scale.
fn has_whole_runs(part: &Part, cols: usize) -> bool {
    match part.format {
        Format::Int { group, .. } => group.is_multiple_of(8) || group >= cols,
        _ => true,
    }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut dx, dy, layer_scale) = (call.f32_mut(0), call.f32(1), call.f32(5));
    let (cols, width) = (p.cols as usize, p.dy_width as usize);
    if p.flags & ADD == 0 {
        dx[..p.rows as usize * cols].fill(0.0);
    }
    let mut weights = vec![0.0; cols];
    for output in 0..p.outputs as usize {
        unpack_row_of(call, p.group, output, &mut weights);
        let at = p.first_output as usize + output;
        let scale = if p.flags & LAYER_SCALE == 0 { 1.0 } else { layer_scale[at] };
        for (dx, dy) in dx.chunks_mut(cols).zip(dy.chunks(width)) {
            let g = scale * dy[at];
            dx.iter_mut().zip(&weights).for_each(|(dx, w)| *dx += g * w);
        }
    }
}

pub(crate) static OP: Op = Op { name: "linear_gradient", kernels: &[&KERNEL], examples, trial: None };

fn examples(e: &mut Examples) {
    let odd = Format::Int { bits: 4, group: 12 };
    for storage in [Storage::Buffer, Storage::Pieces] {
        let mut weights = e.matrices(storage, [70, 192]);
        weights.push(e.matrix([70, 192], odd, DType::F32, true, storage));
        for weight in weights {
            let (dy, layer_scale) = (e.f32(&[3, 70]), e.f32(&[70]));
            linear_gradient(&mut e.recording, dy, &weight, Some(layer_scale));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Shape, compare, keep, random_matrix};

    #[test]
    fn gpu_equals_reference() {
        let formats = [
            (Format::F32, DType::F32),
            (Format::F16, DType::F32),
            (Format::BF16, DType::F32),
            (Format::Int { bits: 4, group: 32 }, DType::F16),
            (Format::Int { bits: 4, group: 4096 }, DType::F32),
            (Format::Int { bits: 4, group: 12 }, DType::BF16),
            (Format::Int { bits: 8, group: 16 }, DType::F32),
        ];
        for (format, scales) in formats {
            for (rows, cols, outputs) in [(1, 1, 1), (1, 173, 331), (9, 60, 67), (17, 96, 33), (3, 1056, 5)] {
                for (all, storage) in [(false, Storage::Buffer), (true, Storage::Pieces)] {
                    let case = format!("{format:?} {rows} {cols} {outputs} {storage:?}");
                    let part_rows = if all { 32 } else { outputs };
                    let shape = Shape { rows: outputs, cols, format, scales, offsets: all, part_rows, storage };
                    compare(&case, 1e-11, |pool, r, random| {
                        let dy = pool.f32(&[rows, outputs], &random.f32s(rows * outputs)).unwrap();
                        let weight = random_matrix(pool, random, shape);
                        let scale = all.then(|| pool.f32(&[outputs], &random.f32s(outputs)).unwrap());
                        let dx = linear_gradient(r, dy, &weight, scale);
                        let more = pool.f32(&[rows, cols], &random.f32s(rows * cols)).unwrap();
                        add_linear_gradient(r, dy, &weight, None, more);
                        vec![keep(pool, r, dx), more]
                    });
                }
            }
        }
    }
}
