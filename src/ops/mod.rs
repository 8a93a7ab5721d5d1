//! The ops: one file each, with its parameters, shape checks, CPU reference and tests, beside one shader.

pub mod attention;
pub mod cache;
#[cfg(test)]
mod checks;
pub mod examples;
mod fill;
pub mod gradients;
mod imports;
mod kernel;
pub mod linear;
pub mod logits;
pub mod norms;
pub mod roof;
pub mod rows;
pub mod trial;
pub mod vision;

pub use rows::selection::Rows;

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::device::recording::Dispatch;
use crate::ops::examples::Op;
use crate::ops::trial::Trial;

pub(crate) use kernel::{LANES, grid, kernel, once_over, picked_rows, read, unpack_row_of, write};

/// Every kernel, under the op that chooses it: what tests walk, and whatever else needs all of them.
pub static KERNELS: &[&Op] = &[
    &attention::OP,
    &cache::advance::OP,
    &cache::reorder::OP,
    &cache::rope::OP,
    &gradients::adamw::OP,
    &gradients::attention_gradient::OP,
    &gradients::column_sums::OP,
    &gradients::cross_entropy_gradient::OP,
    &gradients::gelu_gradient::OP,
    &gradients::layer_norm_gradient::OP,
    &gradients::linear_gradient::OP,
    &gradients::put_columns::OP,
    &gradients::rms_norm_gradient::OP,
    &gradients::rope_gradient::OP,
    &gradients::silu_gate_gradient::OP,
    &gradients::squares::OP,
    &gradients::sum_rows::OP,
    &gradients::weight_gradient::OP,
    &linear::OP,
    &linear::gelu::OP,
    &linear::linear_gate::OP,
    &linear::silu_gate::OP,
    &linear::stage::OP,
    &logits::argmax::OP,
    &logits::cross_entropy::OP,
    &logits::log_softmax::OP,
    &logits::penalize::OP,
    &logits::remember::OP,
    &logits::sample::OP,
    &logits::top_k::OP,
    &norms::layer_norm::OP,
    &norms::normalize::OP,
    &norms::rms_norm::OP,
    &roof::OP,
    &rows::add_rows::OP,
    &rows::copy_rows::OP,
    &rows::embed::OP,
    &rows::gather_rows::OP,
    &rows::mean_rows::OP,
    &vision::patches::OP,
    &vision::vision_embed::OP,
];

/// A number that changes with any kernel.
pub fn shaders_hash() -> u64 {
    let mut hasher = DefaultHasher::new();
    for kernel in KERNELS.iter().flat_map(|op| op.kernels) {
        (kernel.name, kernel.source).hash(&mut hasher);
        kernel.imports.iter().for_each(|import| import.source.hash(&mut hasher));
    }
    hasher.finish()
}

/// A trial of a call.
pub fn trial_of(call: &Dispatch) -> Trial {
    let op = KERNELS.iter().find(|op| op.kernels.contains(&call.kernel));
    op.unwrap_or_else(|| panic!("{:?} is not in KERNELS", call.kernel)).trial_of(call)
}

/// Playing one recording on the CPU executor and on a GPU, and comparing what comes out.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::OnceLock;

    use crate::device::gpu;
    use crate::device::recording::Recording;
    use crate::device::tensor::{DType, Storage, Tensor};
    use crate::device::{Device, Pool};
    use crate::ops::linear::stage::StagedRows;
    use crate::ops::linear::{Epilogue, linear};
    pub use crate::shared::{Random, nmse};
    use crate::weights::layout::{Format, Layout, pack_f32, write_rows};
    use crate::weights::matrix::{Matrix, Part};

    /// The GPU device that all tests share.
    pub fn gpu_device() -> &'static Device {
        static DEVICE: OnceLock<Device> = OnceLock::new();
        DEVICE.get_or_init(open_gpu)
    }

    /// A device of a test's own, on the first adapter.
    pub fn open_gpu() -> Device {
        pollster::block_on(async {
            let first = gpu::candidates().await.into_iter().next();
            let first =
                first.expect("no WebGPU adapter: install a Vulkan driver, for example Debian's mesa-vulkan-drivers");
            Device::gpu(gpu::Gpu::open(first).await.unwrap())
        })
    }

    /// What [`random_matrix`] makes.
    #[derive(Clone, Copy)]
    pub struct Shape {
        pub rows: usize,
        pub cols: usize,
        pub format: Format,
        /// The type of integers' scales.
        pub scales: DType,
        pub offsets: bool,
        /// Rows of a part, at most.
        pub part_rows: usize,
        pub storage: Storage,
    }

    /// A matrix of random words; of random values where they are floats.
    pub fn random_matrix(pool: &mut Pool, random: &mut Random, shape: Shape) -> Matrix {
        let Shape { rows, cols, format, scales, offsets, part_rows, storage } = shape;
        let is_integer = matches!(format, Format::Int { .. });
        let scales = is_integer.then_some(scales);
        let layout = Layout { storage, cols, format, scales, offsets: is_integer && offsets };
        let mut parts = Vec::new();
        for first_row in (0..rows).step_by(part_rows) {
            let rows = part_rows.min(rows - first_row);
            let make = |storage, dtype, shape: &[usize]| pool.alloc_in(storage, dtype, shape);
            let part = Part::new(layout, first_row, rows, make).unwrap();
            let device = pool.device();
            let words = match format {
                Format::Int { .. } => (0..rows * format.row_words(cols)).map(|_| random.next_u32()).collect(),
                _ => pack_f32(cols, &random.f32s(rows * cols), format).unwrap(),
            };
            write_rows(device, part.words, 0, bytemuck::cast_slice(&words)).unwrap();
            for tensor in [part.scales, part.offsets].into_iter().flatten() {
                let values = random.f32s(rows * format.groups(cols));
                let bytes: Vec<u8> = match tensor.dtype {
                    DType::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                    DType::BF16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
                    _ => bytemuck::cast_slice(&values).to_vec(),
                };
                write_rows(device, tensor, 0, &bytes).unwrap();
            }
            parts.push(part);
        }
        Matrix { rows, cols, parts }
    }

    /// Rows as a linear layer sees them: textures cannot be read back.
    pub fn seen(pool: &mut Pool, r: &mut Recording, random: &mut Random, rows: StagedRows) -> Tensor {
        let (format, scales, storage, cols) = (Format::F32, DType::F32, rows.storage(), rows.cols());
        let shape = Shape { rows: 5, cols, format, scales, offsets: false, part_rows: 5, storage };
        let weight = random_matrix(pool, random, shape);
        linear(r, rows, &weight, Epilogue::default())
    }

    /// Keeps a scratch tensor's memory after the recording, so that it can be read.
    pub fn keep(pool: &mut Pool, recording: &mut Recording, tensor: Tensor) -> Tensor {
        recording.scratch.retain(|t| t.id != tensor.id);
        pool.add(tensor).unwrap();
        tensor
    }

    /// Records with `build` for the CPU executor and for the GPU, from the same random numbers; returns the outputs
    /// of both: for each tensor that `build` returns, (expected, found) as 32-bit words.
    pub fn play_both(
        seed: u64,
        build: impl Fn(&mut Pool, &mut Recording, &mut Random) -> Vec<Tensor>,
    ) -> Vec<(Vec<u32>, Vec<u32>)> {
        let run = |device: &Device| {
            let mut pool = device.pool();
            let mut recording = Recording::new();
            let outputs = build(&mut pool, &mut recording, &mut Random::new(seed));
            device.play(&recording).unwrap();
            let read = |t: &Tensor| pollster::block_on(device.read_u32(*t)).unwrap();
            outputs.iter().map(read).collect::<Vec<_>>()
        };
        run(&Device::cpu()).into_iter().zip(run(gpu_device())).collect()
    }

    /// As [`play_both`], for outputs of f32: fails when any normalised mean squared error is above `limit`.
    pub fn compare(case: &str, limit: f64, build: impl Fn(&mut Pool, &mut Recording, &mut Random) -> Vec<Tensor>) {
        for (i, (expected, found)) in play_both(7, build).into_iter().enumerate() {
            let error = nmse(bytemuck::cast_slice(&expected), bytemuck::cast_slice(&found));
            assert!(error <= limit, "{case}: output {i}: normalised mean squared error {error:e} above {limit:e}");
        }
    }
}
