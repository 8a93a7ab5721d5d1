//! Which rows of an activation an op takes.

use crate::device::tensor::Tensor;

/// Rows of an activation [batch * stride, width] that an op takes: the first `rows` of each of `batch` sequences
/// of `stride` rows. Compact row `r` is row `r / rows * stride + first + r % rows` of the tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rows {
    pub batch: usize,
    pub rows: usize,
    pub stride: usize,
    pub first: usize,
}

impl Rows {
    /// All rows of a tensor, in order.
    pub fn all(tensor: Tensor) -> Rows {
        let rows = tensor.rows();
        Rows { batch: 1, rows, stride: rows, first: 0 }
    }

    /// Number of rows.
    pub fn count(self) -> usize {
        self.batch * self.rows
    }

    /// Index in the tensor of compact row `r`.
    pub fn index(rows: u32, stride: u32, first: u32, r: usize) -> usize {
        r / rows as usize * stride as usize + first as usize + r % rows as usize
    }
}
