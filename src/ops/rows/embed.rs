//! Rows of an embedding table, picked by id: `out[i] = table[ids[i]]`.

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{LANES, Rows, grid, kernel, picked_rows, read, unpack_row_of, write};
use crate::weights::layout::BLOCK_ROWS;
use crate::weights::matrix::Matrix;

static KERNEL: Kernel = kernel!("rows", "embed", Params, reference, picked_rows);

uniform! {
    struct Params {
        count: u32,
        rows: u32,
        stride: u32,
        first: u32,
        cols: u32,
        first_row: u32,
        part_rows: u32,
        row_words: u32,
        group: u32,
        groups: u32,
    }
}

/// Writes row `ids[i]` of `table` [vocabulary, hidden] to compact row `i` of `out` [_, hidden], in the rows that `rows`
/// names; `ids` is U32 [rows.count()]. An id outside the table leaves its row as it was. A table in several parts
/// takes a dispatch a part.
pub fn embed(r: &mut Recording, table: &Matrix, ids: Tensor, out: Tensor, rows: Rows) {
    assert_eq!(ids.dtype, DType::U32, "embed: ids {ids:?}");
    assert_eq!(ids.len(), rows.count(), "embed: ids {:?}, {rows:?}", ids.shape());
    assert_eq!(out.width(), table.cols, "embed: out {:?}, table [{}, {}]", out.shape(), table.rows, table.cols);
    assert!(
        (rows.batch - 1) * rows.stride + rows.first + rows.rows <= out.rows(),
        "embed: {rows:?} of {:?}",
        out.shape()
    );
    for part in &table.parts {
        let params = Params {
            count: rows.count() as u32,
            rows: rows.rows as u32,
            stride: rows.stride as u32,
            first: rows.first as u32,
            cols: table.cols as u32,
            first_row: part.first_row as u32,
            part_rows: part.rows as u32,
            row_words: part.format.row_words(table.cols) as u32,
            group: part.group(table.cols) as u32,
            groups: part.format.groups(table.cols) as u32,
        };
        let [words, scales, offsets] = part.tensors().map(read);
        let operands = [write(out), read(ids), words, scales, offsets];
        let constants = [&part.constants()[..], &[("LANES", LANES as f64)]].concat();
        r.dispatch(&KERNEL, &constants, &operands, params, grid(rows.count()));
    }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (mut out, ids) = (call.f32_mut(0), call.u32(1));
    let cols = p.cols as usize;
    for i in 0..p.count as usize {
        let row = ids[i].wrapping_sub(p.first_row);
        if row < p.part_rows {
            let to = Rows::index(p.rows, p.stride, p.first, i) * cols;
            unpack_row_of(call, p.group, row as usize, &mut out[to..to + cols]);
        }
    }
}

pub(crate) static OP: Op = Op { name: "embed", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    let part_rows = t.param("part_rows").min(Trial::shown(t.param("row_words")));
    t.set("part_rows", part_rows);
    t.set("first_row", t.param("first_row").min(1));
    (2..5).for_each(|operand| t.keep_rows(operand, part_rows, BLOCK_ROWS));
    t.fill(1, Fill::Below(part_rows as u32));
    t.fill_matrix(2);
}

fn examples(e: &mut Examples) {
    for table in [Storage::Buffer, Storage::Pieces].map(|storage| e.matrices(storage, [30, 4096])).concat() {
        let ids = e.u32(&[7], Fill::Below(30));
        let out = e.f32(&[9, 4096]);
        embed(&mut e.recording, &table, ids, out, Rows { batch: 1, rows: 7, stride: 9, first: 2 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Shape, compare, play_both, random_matrix};
    use crate::weights::layout::Format;

    #[test]
    fn gpu_equals_reference() {
        let formats = [
            (Format::F32, DType::F32, false),
            (Format::F16, DType::F32, false),
            (Format::BF16, DType::F32, false),
            (Format::Int { bits: 4, group: 32 }, DType::F32, false),
            (Format::Int { bits: 4, group: 32 }, DType::F16, true),
            (Format::Int { bits: 8, group: 4096 }, DType::F32, true),
            (Format::Int { bits: 8, group: 16 }, DType::F16, false),
        ];
        for (format, scales, offsets) in formats {
            for (rows, cols, part_rows, storage) in [
                (1, 1, 1, Storage::Buffer),
                (331, 60, 331, Storage::Pieces),
                (331, 60, 331, Storage::Buffer),
                (67, 173, 20, Storage::Pieces),
                (67, 173, 20, Storage::Buffer),
                (12, 4096, 5, Storage::Pieces),
            ] {
                let shape = Shape { rows, cols, format, scales, offsets, part_rows, storage };
                let vocab = rows;
                for (batch, rows, stride, first) in [(1, 1, 1, 0), (1, 7, 7, 0), (3, 5, 11, 4)] {
                    let case = format!("{format:?} {scales:?} {vocab} {cols} {part_rows} {storage:?} {batch} {rows}");
                    compare(&case, 1e-13, |pool, r, random| {
                        let table = random_matrix(pool, random, shape);
                        let mut ids: Vec<u32> = (0..batch * rows).map(|_| random.below(vocab as u32)).collect();
                        ids[0] = vocab as u32 - 1;
                        let ids = pool.u32(&[batch * rows], &ids).unwrap();
                        // One row more than `rows` reaches: what is not written keeps its value.
                        let all = batch * stride + 1;
                        let out = pool.f32(&[all, cols], &random.f32s(all * cols)).unwrap();
                        embed(r, &table, ids, out, Rows { batch, rows, stride, first });
                        vec![out]
                    });
                }
            }
        }
    }

    #[test]
    fn an_id_outside_the_table_leaves_its_row() {
        let outputs = play_both(1, |pool, r, random| {
            let (format, scales, storage) = (Format::F32, DType::F32, Storage::Buffer);
            let shape = Shape { rows: 9, cols: 5, format, scales, offsets: false, part_rows: 4, storage };
            let table = random_matrix(pool, random, shape);
            let ids = pool.u32(&[3], &[9, u32::MAX, 8]).unwrap();
            let out = pool.f32(&[3, 5], &[7.5; 15]).unwrap();
            embed(r, &table, ids, out, Rows::all(out));
            vec![out]
        });
        let (expected, found) = &outputs[0];
        assert_eq!(expected, found);
        assert!(found[..10].iter().all(|w| *w == 7.5f32.to_bits()));
        assert!(found[10..].iter().all(|w| *w != 7.5f32.to_bits()));
    }
}
