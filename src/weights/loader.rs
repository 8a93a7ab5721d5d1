//! Checkpoint tensors -> device memory, one by one through a small staging buffer.
//!
//! A model's `load` runs twice over the same [`Loader`] calls: once to plan (nothing is read; shapes, types and bytes
//! are collected, and everything that is missing is reported at once), once to load.

use crate::device::tensor::{BLOCK_ROWS, DType, MAX_TEXELS, Storage, Tensor};
use crate::device::{DeviceInfo, Pool};
use crate::error::{Error, Result};
use crate::files::checkpoint::{Checkpoint, Requirement, TensorInfo, TensorType};
use crate::files::config::QuantizationConfig;
use crate::ops::cache::rope::RopeTables;
use crate::weights::gguf_blocks::{self, GroupScales};
use crate::weights::matrix::{Format, Matrix, Part};

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
    mode: Mode<'a>,
    /// What the calls asked for, with the bytes that it takes on the device.
    pub requirements: Vec<Requirement>,
    pub device_bytes: u64,
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
}

impl<L> Layers<L> {
    /// Loads, or plans to load, each layer by `one`; with `stream`, none.
    pub async fn load(
        loader: &mut Loader<'_>,
        count: usize,
        stream: bool,
        one: impl AsyncFn(&mut Loader<'_>, usize) -> Result<L>,
    ) -> Result<Layers<L>> {
        let mut layers = Layers { kept: None, count, bytes: 0, largest_bytes: 0 };
        if stream {
            return Ok(layers);
        }
        let mut kept = Vec::with_capacity(count);
        for i in 0..count {
            let before = loader.device_bytes;
            kept.push(one(loader, i).await?);
            let bytes = loader.device_bytes - before;
            layers.bytes += bytes;
            layers.largest_bytes = layers.largest_bytes.max(bytes);
        }
        layers.kept = Some(kept);
        Ok(layers)
    }
}

enum Mode<'a> {
    Plan,
    Load { pool: &'a mut Pool, on_bytes: OnBytes<'a> },
}

/// A matrix of the checkpoint, as it is stored.
struct Stored {
    name: String,
    rows: usize,
    format: Format,
    scales: Option<DType>,
    offsets: bool,
    /// GGUF's packed type, where it is one.
    blocks: Option<TensorType>,
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
            mode: Mode::Plan,
            requirements: Vec::new(),
            device_bytes: 0,
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
        Loader { mode: Mode::Load { pool, on_bytes }, ..plan }
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
        self.require(name, shape, &TensorType::FLOATS);
        let len: usize = shape.iter().product();
        match &mut self.mode {
            Mode::Plan => Ok(vec![0.0; len]),
            Mode::Load { on_bytes, .. } => {
                let info = self.checkpoint.get(name)?;
                let mut bytes = vec![0; info.bytes as usize];
                self.checkpoint.read(info, 0, &mut bytes).await?;
                on_bytes(info.bytes);
                Ok(info.dtype.to_f32(&bytes))
            }
        }
    }

    /// A vector or other small float tensor, kept in f32.
    pub async fn f32(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let values = self.host_f32(name, shape).await?;
        self.upload_f32(shape, &values)
    }

    /// Values that the host made, as a tensor of the loader's pool.
    pub fn upload_f32(&mut self, shape: &[usize], values: &[f32]) -> Result<Tensor> {
        self.count(Tensor::new(0, DType::F32, shape));
        match &mut self.mode {
            Mode::Plan => Ok(Tensor::new(0, DType::F32, shape)),
            Mode::Load { pool, .. } => pool.f32(shape, values),
        }
    }

    /// Counts what is on the device.
    fn count(&mut self, tensor: Tensor) {
        self.device_bytes += tensor.held_bytes() as u64;
        if tensor.storage == Storage::Buffer {
            self.largest_buffer = self.largest_buffer.max(tensor.size_bytes() as u64);
        }
    }

    /// The tables of the rotary embedding, which no file holds.
    pub fn rope_tables(&mut self, base: f32, head_dim: usize, positions: usize) -> Result<RopeTables> {
        let table = Tensor::new(0, DType::F32, &[positions, head_dim / 2]);
        self.count(table);
        self.count(table);
        match &mut self.mode {
            Mode::Plan => Ok(RopeTables { cos: table, sin: table }),
            Mode::Load { pool, .. } => RopeTables::new(pool, base, head_dim, positions),
        }
    }

    /// The weight matrix of a linear layer without its `.weight`, or several with as many columns, one below the
    /// other: `(name, rows)`. Packed ones have `.weight_packed` and `.weight_scale`.
    pub async fn linear(&mut self, layers: &[(&str, usize)], cols: usize) -> Result<Matrix> {
        let stored = layers.iter().map(|(name, rows)| self.stored_linear(name, *rows, cols)).collect::<Result<_>>()?;
        self.matrix(stored, cols).await
    }

    /// A dense matrix by its tensor's name, of any shape that has `rows` rows and `rows * cols` elements.
    pub async fn table(&mut self, name: &str, shape: &[usize]) -> Result<Matrix> {
        self.require(name, shape, &TensorType::MATRICES);
        let cols = shape[1..].iter().product();
        let stored = self.stored_dense(name.into(), shape[0]);
        self.matrix(vec![stored], cols).await
    }

    /// A float tensor [rows, cols] as the matrix [cols, rows], in the type it is stored in.
    pub async fn transposed(&mut self, name: &str, rows: usize, cols: usize) -> Result<Matrix> {
        let values = self.host_f32(name, &[rows, cols]).await?;
        let turned: Vec<f32> = (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect();
        let format = self.dense_format(name);
        self.count(Tensor::new(0, DType::U32, &[self.storage.rows(cols), format.row_words(rows)]).stored(self.storage));
        match &mut self.mode {
            Mode::Plan => Ok(Matrix { rows: cols, cols: rows, parts: Vec::new() }),
            Mode::Load { pool, .. } => Matrix::from_f32(pool, cols, rows, &turned, format),
        }
    }

    fn dense_format(&self, name: &str) -> Format {
        match self.checkpoint.tensor(name).map(|t| t.dtype) {
            Some(TensorType::F16) => Format::F16,
            Some(TensorType::BF16) => Format::BF16,
            _ => Format::F32,
        }
    }

    fn require(&mut self, name: &str, shape: &[usize], types: &[TensorType]) {
        self.requirements.push(Requirement {
            name: name.into(),
            shape: shape.iter().map(|&n| n as u64).collect(),
            types: types.to_vec(),
        });
    }

    /// A matrix that is one tensor of the checkpoint.
    fn stored_dense(&self, name: String, rows: usize) -> Stored {
        let dtype = self.checkpoint.tensor(&name).map(|t| t.dtype).filter(|t| t.is_packed());
        match dtype.map(|dtype| (dtype, gguf_blocks::on_device(dtype))) {
            Some((dtype, (format, scales, offsets))) => {
                Stored { name, rows, format, scales: Some(scales), offsets, blocks: Some(dtype) }
            }
            None => {
                let format = self.dense_format(&name);
                Stored { name, rows, format, scales: None, offsets: false, blocks: None }
            }
        }
    }

    fn stored_linear(&mut self, name: &str, rows: usize, cols: usize) -> Result<Stored> {
        let packed = format!("{name}.weight_packed");
        let scheme = self.quantization.filter(|_| self.has(&packed)).and_then(|q| q.scheme_for(name, "Linear"));
        let Some(scheme) = scheme else {
            let name = format!("{name}.weight");
            self.require(&name, &[rows, cols], &TensorType::MATRICES);
            return Ok(self.stored_dense(name, rows));
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
        self.require(&packed, &[rows, (cols * bits).div_ceil(32)], &[TensorType::I32]);
        let scale = format!("{name}.weight_scale");
        self.require(&scale, &[rows, groups], &TensorType::FLOATS);
        // Says what config.json says too.
        let shape = format!("{name}.weight_shape");
        if self.has(&shape) {
            self.require(&shape, &[2], &[TensorType::I64, TensorType::I32]);
        }
        if !scheme.symmetric {
            let zero_point = format!("{name}.weight_zero_point");
            self.require(&zero_point, &[(rows * bits).div_ceil(32), groups], &[TensorType::I32]);
        }
        let scales = match self.checkpoint.tensor(&scale).map(|t| t.dtype) {
            Some(TensorType::F16) => DType::F16,
            Some(TensorType::BF16) => DType::BF16,
            _ => DType::F32,
        };
        Ok(Stored {
            name: name.into(),
            rows,
            format: Format::Int { bits: bits as u32, group },
            scales: Some(scales),
            offsets: !scheme.symmetric,
            blocks: None,
        })
    }

    async fn matrix(&mut self, stored: Vec<Stored>, cols: usize) -> Result<Matrix> {
        let rows = stored.iter().map(|s| s.rows).sum();
        let mut parts = Vec::new();
        let mut first_row = 0;
        // Neighbours of one format share a part, where they are whole blocks of rows.
        let storage = self.storage;
        let alike = |a: &Stored, b: &Stored| {
            (a.format, a.scales, a.offsets) == (b.format, b.scales, b.offsets) && storage.rows(a.rows) == a.rows
        };
        for alike in stored.chunk_by(alike) {
            let total: usize = alike.iter().map(|s| s.rows).sum();
            let most = self.most_rows(alike[0].format, cols);
            for from in (0..total).step_by(most) {
                let part = self.part(alike, cols, first_row, from..total.min(from + most)).await?;
                parts.push(part);
                first_row += part.rows;
            }
        }
        Ok(Matrix { rows, cols, parts })
    }

    /// Rows of `cols` elements that one part can hold.
    fn most_rows(&self, format: Format, cols: usize) -> usize {
        let row_words = format.row_words(cols);
        let most = match self.storage {
            Storage::Buffer => (self.max_binding_bytes / (row_words as u64 * 4)) as usize,
            _ => MAX_TEXELS / (row_words / 4).max(format.groups(cols)) / BLOCK_ROWS * BLOCK_ROWS,
        };
        most.max(self.storage.rows(1))
    }

    /// Rows `range` of the stacked matrices `alike`.
    async fn part(
        &mut self,
        alike: &[Stored],
        cols: usize,
        first_row: usize,
        range: std::ops::Range<usize>,
    ) -> Result<Part> {
        let Stored { format, scales, offsets, .. } = alike[0];
        let rows = range.len();
        let (row_words, groups) = (format.row_words(cols), format.groups(cols));
        let tensors = [
            Some((self.storage, DType::U32, row_words)),
            scales.map(|dtype| (self.storage.of_words(), dtype, groups)),
            offsets.then_some((self.storage.of_words(), DType::F32, groups)),
        ];
        let mut made = [None; 3];
        for (slot, wanted) in made.iter_mut().zip(tensors) {
            let Some((storage, dtype, width)) = wanted else { continue };
            let tensor = match &mut self.mode {
                Mode::Plan => Tensor::new(0, dtype, &[storage.rows(rows), width]).stored(storage),
                Mode::Load { pool, .. } => pool.alloc_in(storage, dtype, &[storage.rows(rows), width])?,
            };
            self.count(tensor);
            *slot = Some(tensor);
        }
        let part = Part {
            first_row,
            rows,
            format,
            words: made[0].expect("every part has words"),
            scales: made[1],
            offsets: made[2],
        };
        if let Mode::Plan = self.mode {
            return Ok(part);
        }
        let mut all = GroupScales::default();
        let mut above = 0;
        for matrix in alike {
            let from = range.start.max(above);
            let to = range.end.min(above + matrix.rows);
            if from < to {
                let piece = from - above..to - above;
                self.upload_words(matrix, cols, piece.clone(), part.words, from - range.start, &mut all).await?;
                if matrix.blocks.is_none() {
                    self.read_scales(matrix, groups, piece, &mut all).await?;
                }
            }
            above += matrix.rows;
        }
        let Mode::Load { pool, .. } = &mut self.mode else { unreachable!("planning returned above") };
        if let Some(scales) = part.scales {
            pool.device().write_rows(scales, 0, &all.scales)?;
        }
        if let Some(offsets) = part.offsets {
            pool.device().write_rows(offsets, 0, bytemuck::cast_slice(&all.offsets))?;
        }
        Ok(part)
    }

    /// Rows `rows` of a stored matrix -> rows `to_row ..` of `words`, padded to whole 16-byte groups. Appends the scales
    /// and offsets that GGUF's blocks hold.
    async fn upload_words(
        &mut self,
        matrix: &Stored,
        cols: usize,
        rows: std::ops::Range<usize>,
        words: Tensor,
        to_row: usize,
        out: &mut GroupScales,
    ) -> Result<()> {
        let Mode::Load { pool, on_bytes } = &mut self.mode else { return Ok(()) };
        let bits = cols * matrix.format.bits();
        let (name, stored_row) = match (matrix.blocks, matrix.scales) {
            (Some(blocks), _) => (&matrix.name, cols / blocks.block_len() * blocks.bytes()),
            (None, Some(_)) => (&format!("{}.weight_packed", matrix.name), bits.div_ceil(32) * 4),
            (None, None) => (&matrix.name, bits / 8),
        };
        let info = self.checkpoint.get(name)?;
        let row_bytes = matrix.format.row_words(cols) * 4;
        let rows_a_time = rows_a_time(self.checkpoint, info, STAGING_BYTES / stored_row);
        let mut staging = vec![0u8; stored_row * rows_a_time.min(rows.len())];
        let (mut unpacked, mut padded) = (Vec::new(), Vec::new());
        for row in rows.clone().step_by(rows_a_time) {
            let bytes = &mut staging[..rows_a_time.min(rows.end - row) * stored_row];
            read_rows(self.checkpoint, info, row, bytes, stored_row).await?;
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
            pool.device().write_rows(words, to_row + row - rows.start, made)?;
        }
        Ok(())
    }

    /// Appends the scales, as stored, and the offsets of some rows.
    async fn read_scales(
        &mut self,
        matrix: &Stored,
        groups: usize,
        rows: std::ops::Range<usize>,
        out: &mut GroupScales,
    ) -> Result<()> {
        let Mode::Load { on_bytes, .. } = &mut self.mode else { return Ok(()) };
        let Format::Int { bits, .. } = matrix.format else { return Ok(()) };
        let name = format!("{}.weight_scale", matrix.name);
        let info = self.checkpoint.get(&name)?;
        let size = info.dtype.bytes();
        let start = out.scales.len();
        out.scales.resize(start + rows.len() * groups * size, 0);
        let scales = &mut out.scales[start..];
        self.checkpoint.read(info, (rows.start * groups * size) as u64, scales).await?;
        on_bytes(scales.len() as u64);
        let values = info.dtype.to_f32(scales);
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite { what: name, index: (rows.start * groups + index) as u64 });
        }
        if matrix.offsets {
            // Packed along the rows: word r * bits / 32 of each column of groups.
            let info = self.checkpoint.get(&format!("{}.weight_zero_point", matrix.name))?;
            let per_word = 32 / bits as usize;
            let first = rows.start / per_word;
            let mut bytes = vec![0; (rows.end.div_ceil(per_word) - first) * groups * 4];
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

/// As many rows, but whole blocks of a texture, and whole heads where rows are interleaved in them: so none is read
/// twice.
fn rows_a_time(checkpoint: &Checkpoint, info: &TensorInfo, rows: usize) -> usize {
    let mut unit = BLOCK_ROWS;
    while checkpoint.interleaved_rows(&info.name).is_some_and(|head| !unit.is_multiple_of(head)) {
        unit += BLOCK_ROWS;
    }
    (rows / unit).max(1) * unit
}

/// Rows from `first` on, `row_bytes` each, in the order of the safetensors layout.
async fn read_rows(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    first: usize,
    out: &mut [u8],
    row_bytes: usize,
) -> Result<()> {
    let Some(head) = checkpoint.interleaved_rows(&info.name) else {
        return checkpoint.read(info, (first * row_bytes) as u64, out).await;
    };
    let last = first + out.len() / row_bytes;
    let (from, to) = (first / head * head, last.next_multiple_of(head));
    let mut stored = vec![0; (to - from) * row_bytes];
    checkpoint.read(info, (from * row_bytes) as u64, &mut stored).await?;
    for (row, out) in (first..last).zip(out.chunks_mut(row_bytes)) {
        let (half, i) = (row % head / (head / 2), row % (head / 2));
        let at = row / head * head - from + 2 * i + half;
        out.copy_from_slice(&stored[at * row_bytes..][..row_bytes]);
    }
    Ok(())
}
