//! Rows of f32 made whole 16-byte pieces of a matrix, in a buffer or a texture: what the fast linear kernel reads.

use std::ops::Range;

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, MAX_TEXELS, Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::ops::examples::{Examples, Op};
use crate::ops::{LANES, grid, kernel, read, write};
use crate::weights::layout::MAX_PIECE_LEN;
use crate::weights::matrix::{Matrix, Part};

static KERNEL: Kernel = kernel!("linear", "stage", Params, reference);

uniform! {
    struct Params {
        first: u32,
        cols: u32,
        width: u32,
        count: u32,
    }
}

/// Rows of f32 [rows, cols] that a linear layer takes: plain ones in a buffer, or staged ones, which it need not copy.
/// Staged rows have `cols` rounded up to whole pieces of any matrix, zeros behind the last column, and lie where the
/// layer's matrix does.
#[derive(Clone, Copy, Debug)]
pub struct StagedRows {
    /// [rows, cols] or [rows, cols rounded up].
    tensor: Tensor,
    cols: usize,
}

impl From<Tensor> for StagedRows {
    /// Plain rows.
    fn from(tensor: Tensor) -> StagedRows {
        assert_eq!(tensor.storage, Storage::Buffer, "rows of {tensor:?}: which columns are zeros is not known");
        StagedRows { tensor, cols: tensor.width() }
    }
}

impl StagedRows {
    /// Scratch for `rows` rows of `cols` elements: staged ones in a texture, plain ones in a buffer.
    pub(crate) fn scratch(r: &mut Recording, storage: Storage, rows: usize, cols: usize) -> StagedRows {
        let tensor = match storage {
            Storage::Buffer => r.scratch_f32(&[rows, cols]),
            _ => r.scratch_in(storage, DType::F32, &[rows, staged_width(cols)]),
        };
        StagedRows { tensor, cols }
    }

    /// What holds them, for operands.
    pub(crate) fn tensor(self) -> Tensor {
        self.tensor
    }

    pub fn rows(self) -> usize {
        self.tensor.rows()
    }

    pub fn cols(self) -> usize {
        self.cols
    }

    pub fn storage(self) -> Storage {
        self.tensor.storage
    }

    /// Whether rows are whole pieces.
    pub(crate) fn is_staged(self) -> bool {
        self.tensor.width() == staged_width(self.cols)
    }
}

/// Elements of a staged row of `cols` columns.
pub(crate) fn staged_width(cols: usize) -> usize {
    cols.next_multiple_of(MAX_PIECE_LEN)
}

/// Rows of `cols` elements that can be staged at a time.
pub(super) fn most_rows(cols: usize) -> usize {
    MAX_TEXELS / (staged_width(cols) / 4)
}

/// The storage in which the linear layer of `weight` takes `rows` rows without copying them first.
pub(crate) fn storage_for(weight: &Matrix, rows: usize) -> Storage {
    let fast = |part: &Part| part.words.storage != Storage::Buffer && part.format.has_whole_pieces(weight.cols);
    if weight.parts.iter().all(fast) && rows <= most_rows(weight.cols) { Storage::Pieces } else { Storage::Buffer }
}

/// Rows `rows` of `x`, staged in `storage`. Records nothing where `x` is that already. Textures cannot be read back: the
/// tests of the linear layer, which reads them, cover this op.
pub(crate) fn stage(r: &mut Recording, x: StagedRows, rows: Range<usize>, storage: Storage) -> StagedRows {
    let StagedRows { tensor, cols } = x;
    assert!(tensor.dtype == DType::F32 && rows.end <= x.rows(), "stage: rows {rows:?} of {x:?}");
    if x.is_staged() && (x.storage(), x.rows()) == (storage, rows.len()) {
        return x;
    }
    assert!(tensor.width() == cols, "stage: {x:?} is staged already, in another storage or with more rows");
    let width = staged_width(cols);
    let out = r.scratch_in(storage, DType::F32, &[rows.len(), width]);
    let words = match storage {
        Storage::Buffer => 1,
        _ => 4,
    };
    let count = rows.len() * width / words;
    let params =
        Params { first: (rows.start * cols) as u32, cols: cols as u32, width: width as u32, count: count as u32 };
    let constants = [("LANES", LANES as f64)];
    r.dispatch(&KERNEL, &constants, &[read(tensor), write(out)], params, grid(count.div_ceil(LANES as usize)));
    StagedRows { tensor: out, cols }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (x, mut out) = (call.u32(0), call.u32_mut(1));
    let cols = p.cols as usize;
    let rows = x[p.first as usize..].chunks(cols);
    let size = call.tensor(1).len();
    for (out, x) in out[..size].chunks_mut(p.width as usize).zip(rows) {
        out[..cols].copy_from_slice(x);
        out[cols..].fill(0);
    }
}

pub(crate) static OP: Op = Op { name: "stage", kernels: &[&KERNEL], examples, trial: Some(|_| {}) };

fn examples(e: &mut Examples) {
    let x = e.f32(&[5, 173]);
    for storage in [Storage::Buffer, Storage::Pieces] {
        stage(&mut e.recording, x.into(), 1..4, storage);
    }
}
