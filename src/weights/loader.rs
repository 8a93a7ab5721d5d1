//! Checkpoint tensors -> device memory, one by one through a small staging buffer.
//!
//! A model's `load` makes the same [`Loader`] calls twice: once to plan (nothing is read; shapes, types and bytes are
//! collected, and everything that is missing is reported at once), once to load.

use std::ops::Range;

use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::{DeviceInfo, Pool};
use crate::error::{Error, Result};
use crate::files::checkpoint::{Checkpoint, ElementType, Requirement, StoredTensor};
use crate::files::config::QuantizationConfig;
use crate::files::gguf::BlockType;
use crate::files::safetensors::TensorType;
use crate::room::{room, zeros};
use crate::weights::gguf_blocks::{self, GroupScales};
use crate::weights::layout::{BLOCK_ROWS, Format, Layout, pack_f32, write_rows};
use crate::weights::matrix::{Matrix, Part};

/// Bytes of host memory that tensors pass through: what stays in a core's cache from the file to the device, but large
/// in a browser, where every read is a call of JavaScript.
const STAGING_BYTES: usize = if cfg!(target_arch = "wasm32") { 4 << 20 } else { 256 << 10 };

/// Called with the bytes of weights read since the last call.
pub type OnBytes<'a> = &'a mut dyn FnMut(u64);

/// Reads a model's tensors from a checkpoint, or only plans to.
pub struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    quantization: Option<&'a QuantizationConfig>,
    /// The largest buffer binding of the device, in bytes.
    max_binding_bytes: u64,
    /// What holds the words of matrices.
    storage: Storage,
    purpose: Purpose<'a>,
    /// What the calls asked for, with the bytes that it takes on the device.
    pub requirements: Vec<Requirement>,
    pub device_bytes: u64,
    /// Bytes that it takes in the checkpoint.
    pub stored_bytes: u64,
    pub largest_buffer: u64,
}

/// The layers of a part: on the device, or in the checkpoint only, to be loaded one at a time whenever they are used.
pub struct Layers<L> {
    /// `None` where they are streamed.
    pub kept: Option<Vec<L>>,
    pub count: usize,
    /// Bytes that all of them take on the device, and the largest; 0 where they are streamed.
    pub bytes: u64,
    pub largest_bytes: u64,
    /// Bytes that all of them take in the checkpoint; 0 where they are streamed.
    pub stored_bytes: u64,
}

impl<L> Layers<L> {
    /// Loads, or plans to load, each layer by `one`; with `stream`, none.
    pub async fn load(
        loader: &mut Loader<'_>,
        count: usize,
        stream: bool,
        one: impl AsyncFn(&mut Loader<'_>, usize) -> Result<L>,
    ) -> Result<Layers<L>> {
        let mut layers = Layers { kept: None, count, bytes: 0, largest_bytes: 0, stored_bytes: 0 };
        if stream {
            return Ok(layers);
        }
        let stored_before = loader.stored_bytes;
        let mut kept = Vec::with_capacity(count);
        for i in 0..count {
            let before = loader.device_bytes;
            kept.push(one(loader, i).await?);
            let bytes = loader.device_bytes - before;
            layers.bytes += bytes;
            layers.largest_bytes = layers.largest_bytes.max(bytes);
        }
        layers.kept = Some(kept);
        layers.stored_bytes = loader.stored_bytes - stored_before;
        Ok(layers)
    }
}

enum Purpose<'a> {
    Plan,
    Load { pool: &'a mut Pool, on_bytes: OnBytes<'a> },
}

/// A matrix of the checkpoint, as it is stored.
struct Stored {
    name: String,
    rows: usize,
    layout: Layout,
    /// GGUF's packed type, where it is one.
    blocks: Option<BlockType>,
}

impl<'a> Loader<'a> {
    /// A loader that reads nothing and collects what a model needs of a device.
    pub fn plan(
        checkpoint: &'a Checkpoint,
        quantization: Option<&'a QuantizationConfig>,
        device: &DeviceInfo,
    ) -> Loader<'a> {
        Loader {
            checkpoint,
            quantization,
            max_binding_bytes: device.max_binding_bytes,
            storage: device.weights,
            purpose: Purpose::Plan,
            requirements: Vec::new(),
            device_bytes: 0,
            stored_bytes: 0,
            largest_buffer: 0,
        }
    }

    /// A loader that fills `pool`.
    pub fn load(
        checkpoint: &'a Checkpoint,
        quantization: Option<&'a QuantizationConfig>,
        pool: &'a mut Pool,
        on_bytes: OnBytes<'a>,
    ) -> Loader<'a> {
        let plan = Loader::plan(checkpoint, quantization, &pool.device().info());
        Loader { purpose: Purpose::Load { pool, on_bytes }, ..plan }
    }

    /// Whether the checkpoint has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }

    /// Whether the checkpoint has the weight of a linear layer of this name, packed or not.
    pub fn has_linear(&self, name: &str) -> bool {
        self.has(&format!("{name}.weight")) || self.has(&format!("{name}.weight_packed"))
    }

    /// The second axis of a tensor, 0 when it is not there.
    pub fn second_axis(&self, name: &str) -> usize {
        self.checkpoint.tensor(name).and_then(|t| t.shape.get(1).copied()).unwrap_or(0) as usize
    }

    /// A float tensor as f32 on the host: small ones only.
    pub async fn host_f32(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.require(name, shape, &ElementType::FLOATS);
        let len: usize = shape.iter().product();
        match &mut self.purpose {
            Purpose::Plan => zeros(name, len),
            Purpose::Load { on_bytes, .. } => {
                let info = self.checkpoint.get(name)?;
                let mut bytes = zeros(name, info.bytes as usize)?;
                self.checkpoint.read(info, 0, &mut bytes).await?;
                on_bytes(info.bytes);
                info.dtype.to_f32(name, &bytes)
            }
        }
    }

    /// A vector or other small float tensor, kept in f32.
    pub async fn f32(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let values = self.host_f32(name, shape).await?;
        self.made_f32(shape, || Ok(values))
    }

    /// Values that no file holds, as a tensor of f32; planning does not make them.
    pub fn made_f32(&mut self, shape: &[usize], make: impl FnOnce() -> Result<Vec<f32>>) -> Result<Tensor> {
        let planned = Tensor::new(0, DType::F32, shape);
        self.count(planned);
        match &mut self.purpose {
            Purpose::Plan => Ok(planned),
            Purpose::Load { pool, .. } => pool.f32(shape, &make()?),
        }
    }

    /// Counts what is on the device.
    fn count(&mut self, tensor: Tensor) {
        self.device_bytes += tensor.held_bytes() as u64;
        if tensor.storage == Storage::Buffer {
            self.largest_buffer = self.largest_buffer.max(tensor.size_bytes() as u64);
        }
    }

    /// The weight matrix of a linear layer without its `.weight`, or several with as many columns, one below the
    /// other: `(name, rows)`. Packed ones have `.weight_packed` and `.weight_scale`.
    pub async fn linear(&mut self, layers: &[(&str, usize)], cols: usize) -> Result<Matrix> {
        let stored = layers.iter().map(|(name, rows)| self.stored_linear(name, *rows, cols)).collect::<Result<_>>()?;
        self.matrix(stored).await
    }

    /// A dense matrix by its tensor's name, of any shape that has `rows` rows and `rows * cols` elements.
    pub async fn table(&mut self, name: &str, shape: &[usize]) -> Result<Matrix> {
        self.require(name, shape, &ElementType::matrices());
        let stored = self.stored_dense(name.into(), shape[0], shape[1..].iter().product());
        self.matrix(vec![stored]).await
    }

    /// A float tensor [rows, cols] as the matrix [cols, rows], in the type it is stored in.
    pub async fn transposed(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let values = self.host_f32(name, &[rows, cols]).await?;
        let mut turned: Vec<f32> = room(name, rows * cols)?;
        turned.extend((0..rows * cols).map(|i| values[i % rows * cols + i / rows]));
        let format = self.dense_format(name);
        let part = self.new_part(Layout::floats(self.storage, rows, format), 0, cols)?;
        if let Purpose::Load { pool, .. } = &mut self.purpose {
            write_rows(pool.device(), part.words, 0, bytemuck::cast_slice(&pack_f32(rows, &turned, format)?))?;
        }
        Ok(Matrix { rows: cols, cols: rows, parts: vec![part] })
    }

    fn dense_format(&self, name: &str) -> Format {
        match self.checkpoint.tensor(name).map(|t| t.dtype) {
            Some(ElementType::Number(TensorType::F16)) => Format::F16,
            Some(ElementType::Number(TensorType::BF16)) => Format::BF16,
            _ => Format::F32,
        }
    }

    fn require(&mut self, name: &str, shape: &[usize], types: &[ElementType]) {
        self.stored_bytes += self.checkpoint.tensor(name).map_or(0, |t| t.bytes);
        self.requirements.push(Requirement {
            name: name.into(),
            shape: shape.iter().map(|&n| n as u64).collect(),
            types: types.to_vec(),
        });
    }

    /// A matrix that is one tensor of the checkpoint.
    fn stored_dense(&self, name: String, rows: usize, cols: usize) -> Stored {
        let storage = self.storage;
        if let Some(ElementType::Block(blocks)) = self.checkpoint.tensor(&name).map(|t| t.dtype) {
            let (format, scales, offsets) = gguf_blocks::on_device(blocks);
            let layout = Layout { storage, cols, format, scales: Some(scales), offsets };
            return Stored { name, rows, layout, blocks: Some(blocks) };
        }
        let layout = Layout::floats(storage, cols, self.dense_format(&name));
        Stored { name, rows, layout, blocks: None }
    }

    fn stored_linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Stored> {
        let packed = format!("{name}.weight_packed");
        let scheme = self.quantization.filter(|_| self.has(&packed)).and_then(|q| q.scheme_for(name, "Linear"));
        let Some(scheme) = scheme else {
            let name = format!("{name}.weight");
            self.require(&name, &[rows, cols], &ElementType::matrices());
            return Ok(self.stored_dense(name, rows, cols));
        };
        let bits = scheme.num_bits;
        let group = scheme.group_size.unwrap_or(cols);
        if !cols.is_multiple_of(group) {
            return Err(Error::Config {
                file: "config.json".into(),
                pointer: "/quantization_config".into(),
                rule: format!("the group size {group} does not divide the {cols} columns of {name}"),
            });
        }
        let groups = cols / group;
        self.require(&packed, &[rows, (cols * bits).div_ceil(32)], &[ElementType::Number(TensorType::I32)]);
        let scale = format!("{name}.weight_scale");
        self.require(&scale, &[rows, groups], &ElementType::FLOATS);
        // Says what config.json says too.
        let shape = format!("{name}.weight_shape");
        if self.has(&shape) {
            self.require(&shape, &[2], &[TensorType::I64, TensorType::I32].map(ElementType::Number));
        }
        if !scheme.symmetric {
            let zero_point = format!("{name}.weight_zero_point");
            self.require(&zero_point, &[(rows * bits).div_ceil(32), groups], &[ElementType::Number(TensorType::I32)]);
        }
        let scales = match self.checkpoint.tensor(&scale).map(|t| t.dtype) {
            Some(ElementType::Number(TensorType::F16)) => DType::F16,
            Some(ElementType::Number(TensorType::BF16)) => DType::BF16,
            _ => DType::F32,
        };
        let format = Format::Int { bits: bits as u32, group };
        let layout = Layout { storage: self.storage, cols, format, scales: Some(scales), offsets: !scheme.symmetric };
        Ok(Stored { name: name.into(), rows, layout, blocks: None })
    }

    /// The matrices `stored`, which have as many columns, one below the other.
    async fn matrix(&mut self, stored: Vec<Stored>) -> Result<Matrix> {
        let rows = stored.iter().map(|s| s.rows).sum();
        let mut parts = Vec::new();
        let mut first_row = 0;
        // Neighbours of one layout share a part, where they are whole blocks of rows.
        let alike = |a: &Stored, b: &Stored| a.layout == b.layout && a.layout.ends_a_block(a.rows);
        for alike in stored.chunk_by(alike) {
            let total: usize = alike.iter().map(|s| s.rows).sum();
            let most = alike[0].layout.rows_per_part(self.max_binding_bytes);
            for from in (0..total).step_by(most) {
                let part = self.part(alike, first_row, from..total.min(from + most)).await?;
                parts.push(part);
                first_row += part.rows;
            }
        }
        Ok(Matrix { rows, cols: stored[0].layout.cols, parts })
    }

    /// Room for rows `first_row ..` of a matrix.
    fn new_part(&mut self, layout: Layout, first_row: usize, rows: usize) -> Result<Part> {
        Part::new(layout, first_row, rows, |storage, dtype, shape| {
            let tensor = match &mut self.purpose {
                Purpose::Plan => Tensor::new(0, dtype, shape).stored(storage),
                Purpose::Load { pool, .. } => pool.alloc_in(storage, dtype, shape)?,
            };
            self.count(tensor);
            Ok(tensor)
        })
    }

    /// Rows `range` of the stacked matrices `alike`.
    async fn part(&mut self, alike: &[Stored], first_row: usize, range: Range<usize>) -> Result<Part> {
        let part = self.new_part(alike[0].layout, first_row, range.len())?;
        if let Purpose::Plan = self.purpose {
            return Ok(part);
        }
        let mut all = GroupScales::default();
        let mut above = 0;
        for matrix in alike {
            let from = range.start.max(above);
            let to = range.end.min(above + matrix.rows);
            if from < to {
                let piece = from - above..to - above;
                self.upload_words(matrix, piece.clone(), part.words, from - range.start, &mut all).await?;
                if matrix.blocks.is_none() {
                    self.read_scales(matrix, piece, &mut all).await?;
                }
            }
            above += matrix.rows;
        }
        let Purpose::Load { pool, .. } = &mut self.purpose else { unreachable!("planning returned above") };
        if let Some(scales) = part.scales {
            write_rows(pool.device(), scales, 0, &all.scales)?;
        }
        if let Some(offsets) = part.offsets {
            write_rows(pool.device(), offsets, 0, bytemuck::cast_slice(&all.offsets))?;
        }
        Ok(part)
    }

    /// Rows `rows` of a stored matrix -> rows `to_row ..` of `words`, padded to whole 16-byte groups. Appends the scales
    /// and offsets that GGUF's blocks hold.
    async fn upload_words(
        &mut self,
        matrix: &Stored,
        rows: Range<usize>,
        words: Tensor,
        to_row: usize,
        out: &mut GroupScales,
    ) -> Result<()> {
        let Purpose::Load { pool, on_bytes } = &mut self.purpose else { return Ok(()) };
        let Layout { cols, format, scales, .. } = matrix.layout;
        let bits = cols * format.bits();
        let (name, stored_row) = match (matrix.blocks, scales) {
            (Some(blocks), _) => (&matrix.name, cols / blocks.elements() * blocks.bytes()),
            (None, Some(_)) => (&format!("{}.weight_packed", matrix.name), bits.div_ceil(32) * 4),
            (None, None) => (&matrix.name, bits / 8),
        };
        let info = self.checkpoint.get(name)?;
        let row_bytes = format.row_words(cols) * 4;
        let rows_per_read = rows_per_read(info, STAGING_BYTES / stored_row);
        let mut staging: Vec<u8> = zeros(name, stored_row * rows_per_read.min(rows.len()))?;
        let (mut unpacked, mut padded) = (Vec::new(), Vec::new());
        for row in rows.clone().step_by(rows_per_read) {
            let bytes = &mut staging[..rows_per_read.min(rows.end - row) * stored_row];
            self.checkpoint.read_rows(info, row, bytes, stored_row).await?;
            on_bytes(bytes.len() as u64);
            let made: &[u8] = if let Some(blocks) = matrix.blocks {
                unpacked.clear();
                gguf_blocks::repack(blocks, bytes, &mut unpacked, out).map_err(|index| Error::NonFinite {
                    what: format!("{}: a scale of {}", self.checkpoint.file_name(info), matrix.name),
                    index: (row * cols + index) as u64,
                })?;
                bytemuck::cast_slice(&unpacked)
            } else if stored_row == row_bytes {
                bytes
            } else {
                padded.clear();
                for stored in bytes.chunks(stored_row) {
                    padded.extend_from_slice(stored);
                    padded.resize(padded.len() + row_bytes - stored_row, 0);
                }
                &padded
            };
            write_rows(pool.device(), words, to_row + row - rows.start, made)?;
        }
        Ok(())
    }

    /// Appends the scales, as stored, and the offsets of some rows.
    async fn read_scales(&mut self, matrix: &Stored, rows: Range<usize>, out: &mut GroupScales) -> Result<()> {
        let Purpose::Load { on_bytes, .. } = &mut self.purpose else { return Ok(()) };
        let Format::Int { bits, .. } = matrix.layout.format else { return Ok(()) };
        let groups = matrix.layout.format.groups(matrix.layout.cols);
        let name = format!("{}.weight_scale", matrix.name);
        let info = self.checkpoint.get(&name)?;
        let size = matrix.layout.scales.expect("integers have scales").bytes();
        let start = out.scales.len();
        out.scales.resize(start + rows.len() * groups * size, 0);
        let scales = &mut out.scales[start..];
        self.checkpoint.read(info, (rows.start * groups * size) as u64, scales).await?;
        on_bytes(scales.len() as u64);
        let values = info.dtype.to_f32(&name, scales)?;
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite { what: name, index: (rows.start * groups + index) as u64 });
        }
        if matrix.layout.offsets {
            // Packed along the rows: word r * bits / 32 of each column of groups.
            let info = self.checkpoint.get(&format!("{}.weight_zero_point", matrix.name))?;
            let per_word = 32 / bits as usize;
            let first = rows.start / per_word;
            let mut bytes = zeros(&name, (rows.end.div_ceil(per_word) - first) * groups * 4)?;
            self.checkpoint.read(info, (first * groups * 4) as u64, &mut bytes).await?;
            let words: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes);
            for (i, row) in rows.enumerate() {
                for group in 0..groups {
                    let word = words[(row / per_word - first) * groups + group];
                    let zero = (word >> (bits as usize * (row % per_word))) & ((1 << bits) - 1);
                    out.offsets.push(-values[i * groups + group] * zero as f32);
                }
            }
        }
        Ok(())
    }
}

/// As many rows, but whole blocks of a texture, and whole groups that are stored together: so none is read twice.
fn rows_per_read(info: &StoredTensor, rows: usize) -> usize {
    let mut unit = BLOCK_ROWS;
    while !unit.is_multiple_of(info.rows_together()) {
        unit += BLOCK_ROWS;
    }
    (rows / unit).max(1) * unit
}
