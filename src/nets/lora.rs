//! Low-rank adapters beside linear layers: `y = x W^T + s (x A^T) B^T` (LoRA, Hu et al., 2021), and their gradients.

use crate::device::Pool;
use crate::device::recording::Recording;
use crate::device::tensor::{DType, Storage, Tensor};
use crate::error::{Error, Result};
use crate::files::peft::{AdapterWeights, LowRank};
use crate::ops::attention::View;
use crate::ops::gradients::linear_gradient::{add_linear_gradient, linear_gradient};
use crate::ops::gradients::weight_gradient::{Place, weight_gradient};
use crate::ops::linear::stage::StagedRows;
use crate::ops::linear::{Epilogue, linear};
use crate::weights::layout::Format;
use crate::weights::matrix::Matrix;

/// The adapters of one weight matrix, which may be several modules' below each other (q, k and v).
pub struct Lora {
    /// The modules' A below each other: [sum of ranks, cols].
    pub a: Matrix,
    /// The modules' B as blocks, zeros elsewhere: [rows, sum of ranks].
    pub b: Matrix,
    /// What each output of B is multiplied by, `[rows]`: `s`, and LayerScale where the layer has that.
    pub scale: Tensor,
    pub blocks: Vec<Block>,
}

/// A module's place in a [`Lora`].
#[derive(Clone, Debug)]
pub struct Block {
    /// The name of the module in the checkpoint, such as `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// Its rows of the weight matrix.
    pub first_row: usize,
    pub rows: usize,
    /// Its rows of `a`, and columns of `b`.
    pub first_rank: usize,
    pub rank: usize,
}

/// Where adapters are brought to: into `pool`, in `storage`, with every scale times `strength`. Takes the modules that it
/// places out of `weights`, so that what is left at the end belongs to no matrix of the model.
pub struct Placing<'a> {
    pub pool: &'a mut Pool,
    pub storage: Storage,
    pub strength: f32,
    pub weights: &'a mut AdapterWeights,
}

impl Placing<'_> {
    /// The adapters of a matrix of `cols` columns that has the rows of several modules, `(name, rows)`, below each other;
    /// none where no module of them has one.
    ///
    /// # Errors
    /// `E_SHAPE` naming a tensor that does not fit its module; those of [`Pool::alloc`].
    pub fn lora(&mut self, modules: &[(&str, usize)], cols: usize) -> Result<Option<Lora>> {
        let (mut blocks, mut low_ranks) = (Vec::new(), Vec::new());
        let (mut first_row, mut first_rank) = (0, 0);
        for &(name, rows) in modules {
            if let Some(low_rank) = self.weights.modules.remove(name) {
                check_shapes(&low_rank, rows, cols)?;
                let rank = low_rank.a.shape[0];
                blocks.push(Block { module: name.into(), first_row, rows, first_rank, rank });
                low_ranks.push(low_rank);
                first_rank += rank;
            }
            first_row += rows;
        }
        if blocks.is_empty() {
            return Ok(None);
        }
        let (rows, ranks) = (first_row, first_rank);
        let a: Vec<f32> = low_ranks.iter().flat_map(|low_rank| low_rank.a.values.iter().copied()).collect();
        let (mut b, mut scale) = (vec![0.0; rows * ranks], vec![0.0; rows]);
        for (block, low_rank) in blocks.iter().zip(&low_ranks) {
            for (row, values) in low_rank.b.values.chunks(block.rank).enumerate() {
                let at = (block.first_row + row) * ranks + block.first_rank;
                b[at..at + block.rank].copy_from_slice(values);
                scale[block.first_row + row] = self.strength * low_rank.scale;
            }
        }
        Ok(Some(Lora {
            a: Matrix::from_f32_in(self.storage, self.pool, ranks, cols, &a, Format::F32)?,
            b: Matrix::from_f32_in(self.storage, self.pool, rows, ranks, &b, Format::F32)?,
            scale: self.pool.f32(&[rows], &scale)?,
            blocks,
        }))
    }

    /// A whole matrix [rows, cols] that was trained, if `weights` have one of this name.
    ///
    /// # Errors
    /// `E_SHAPE` where it is of another shape; those of [`Pool::alloc`].
    pub fn saved(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<Matrix>> {
        let Some(array) = self.weights.saved.remove(name) else { return Ok(None) };
        if array.shape != [rows, cols] {
            let (expected, found) = (format!("[{rows}, {cols}]"), format!("{:?}", array.shape));
            return Err(Error::Shape { what: name.into(), expected, found });
        }
        Matrix::from_f32_in(self.storage, self.pool, rows, cols, &array.values, Format::F32).map(Some)
    }
}

fn check_shapes(low_rank: &LowRank, rows: usize, cols: usize) -> Result<()> {
    let rank = low_rank.a.shape[0];
    for (array, half, expected) in [(&low_rank.a, "A", [rank, cols]), (&low_rank.b, "B", [rows, rank])] {
        if array.shape != expected {
            let what = format!("{}.lora_{half}.weight", low_rank.stored_name);
            let (expected, found) = (format!("{expected:?}"), format!("{:?}", array.shape));
            return Err(Error::Shape { what, expected, found });
        }
    }
    Ok(())
}

/// Memory for the gradients of one [`Lora`], laid out as its `a` and `b` are.
#[derive(Clone, Copy, Debug)]
pub struct LoraGradient {
    pub a: Tensor,
    pub b: Tensor,
}

/// The words of a matrix of f32 in one part, as f32 [rows rounded up to whole blocks, cols rounded up to whole pieces], in
/// the order of `weights/layout.rs`.
pub fn values_of(matrix: &Matrix) -> Tensor {
    let [part] = &matrix.parts[..] else { panic!("a trained matrix in {} parts", matrix.parts.len()) };
    let words = part.words;
    Tensor::new(words.id, DType::F32, words.shape())
}

/// `residual + layer_scale * (x W^T + bias)`, and what the adapters add to it.
pub fn adapted(
    r: &mut Recording,
    x: impl Into<StagedRows>,
    weight: &Matrix,
    lora: Option<&Lora>,
    epilogue: Epilogue,
) -> Tensor {
    let x = x.into();
    let y = linear(r, x, weight, epilogue);
    let Some(lora) = lora else { return y };
    let low = linear(r, x, &lora.a, Epilogue::default());
    linear(r, low, &lora.b, Epilogue { layer_scale: Some(lora.scale), residual: Some(y), ..Default::default() })
}

/// The gradient of [`adapted`] with respect to `x` [rows, cols], from that of what it returned, `dy` [rows, outputs]; those
/// of the adapters go to where `lora` says, and with `add` are added to what is there.
pub fn adapted_gradient(
    r: &mut Recording,
    dy: Tensor,
    x: Tensor,
    weight: &Matrix,
    lora: Option<(&Lora, Option<LoraGradient>)>,
    add: bool,
) -> Tensor {
    let dx = linear_gradient(r, dy, weight, None);
    let Some((lora, to)) = lora else { return dx };
    let d_low = linear_gradient(r, dy, &lora.b, Some(lora.scale));
    if let Some(to) = to {
        let low = linear(r, x, &lora.a, Epilogue::default());
        for block in &lora.blocks {
            let dy = View { tensor: dy, column: block.first_row };
            let low = View { tensor: low, column: block.first_rank };
            let place = Place {
                tensor: to.b,
                blocks: true,
                row: block.first_row,
                column: block.first_rank,
                rows: block.rows,
                cols: block.rank,
                add,
            };
            weight_gradient(r, dy, low, Some(lora.scale), place);
        }
        let (rows, cols) = (lora.a.rows, lora.a.cols);
        let place = Place { tensor: to.a, blocks: true, row: 0, column: 0, rows, cols, add };
        weight_gradient(r, View::all(d_low), View::all(x), None, place);
    }
    add_linear_gradient(r, d_low, &lora.a, None, dx);
    dx
}
