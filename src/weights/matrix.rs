//! Weight matrices on a device, in one part or several; [`layout`](crate::weights::layout) tells how a part lies in memory.

use crate::device::Pool;
use crate::device::tensor::{DType, Storage, Tensor};
use crate::error::Result;
use crate::weights::layout::{Format, Layout, dtype_code, pack_f32, write_rows};

/// Some neighbouring rows of a matrix, in buffers or textures of their own.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Rows of the matrix above this part.
    pub first_row: usize,
    pub rows: usize,
    pub format: Format,
    /// U32 [rows, row_words]; rows are whole blocks, here and below.
    pub words: Tensor,
    /// Floats [rows, groups]; integers only.
    pub scales: Option<Tensor>,
    /// F32 [rows, groups]; integers whose zero is not in the middle only.
    pub offsets: Option<Tensor>,
}

impl Part {
    /// A part of `rows` rows, whose tensors `make` makes of storage, type and shape.
    pub fn new(
        layout: Layout,
        first_row: usize,
        rows: usize,
        mut make: impl FnMut(Storage, DType, &[usize]) -> Result<Tensor>,
    ) -> Result<Part> {
        let [words, scales, offsets] = layout.tensors(rows);
        let mut make = |(storage, dtype, shape): (Storage, DType, [usize; 2])| make(storage, dtype, &shape);
        Ok(Part {
            first_row,
            rows,
            format: layout.format,
            words: make(words.expect("every part has words"))?,
            scales: scales.map(&mut make).transpose()?,
            offsets: offsets.map(&mut make).transpose()?,
        })
    }

    /// What shaders need to know of the format.
    pub fn constants(&self) -> [(&'static str, f64); 3] {
        let flag = |value: bool| f64::from(u8::from(value));
        let scales = self.scales.map_or(DType::F32, |scales| scales.dtype);
        [("FORMAT", self.format.code()), ("SCALES", dtype_code(scales)), ("OFFSETS", flag(self.offsets.is_some()))]
    }

    /// Words, scales and offsets. What is not there is never read: the words stand in for it.
    pub fn tensors(&self) -> [Tensor; 3] {
        [self.words, self.scales.unwrap_or(self.words), self.offsets.unwrap_or(self.words)]
    }

    /// Elements of a row of `cols` that share a scale.
    pub fn group(&self, cols: usize) -> usize {
        match self.format {
            Format::Int { group, .. } => group,
            _ => cols,
        }
    }
}

/// A weight matrix [rows, cols]; a linear layer's has a row an output.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub parts: Vec<Part>,
}

impl Matrix {
    /// A matrix of f32 values stored as `format`, one of the float formats.
    pub fn from_f32(pool: &mut Pool, rows: usize, cols: usize, values: &[f32], format: Format) -> Result<Matrix> {
        let storage = pool.device().info().weights;
        Matrix::from_f32_in(storage, pool, rows, cols, values, format)
    }

    /// As [`Matrix::from_f32`], in a buffer or a texture. What is trained lies in buffers, as it is written on the device.
    pub fn from_f32_in(
        storage: Storage,
        pool: &mut Pool,
        rows: usize,
        cols: usize,
        values: &[f32],
        format: Format,
    ) -> Result<Matrix> {
        assert_eq!(values.len(), rows * cols);
        let part = Part::new(Layout::floats(storage, cols, format), 0, rows, |storage, dtype, shape| {
            pool.alloc_in(storage, dtype, shape)
        })?;
        write_rows(pool.device(), part.words, 0, bytemuck::cast_slice(&pack_f32(cols, values, format)?))?;
        Ok(Matrix { rows, cols, parts: vec![part] })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let tensors = self.parts.iter().flat_map(|p| [Some(p.words), p.scales, p.offsets]).flatten();
        tensors.map(|t| t.held_bytes() as u64).sum()
    }
}
