//! What each op tells of its kernels: which there are, and calls of them as the nets make them.

use std::collections::HashSet;

use crate::device::recording::{Dispatch, Kernel, PipelineKey, Recording, fresh_id};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::ops::trial::Trial;
use crate::weights::layout::{Format, Layout};
use crate::weights::matrix::{Matrix, Part};

pub use crate::ops::fill::Fill;

/// An op as [`KERNELS`](crate::ops::KERNELS) lists it.
pub struct Op {
    pub name: &'static str,
    /// Those that it chooses from.
    pub kernels: &'static [&'static Kernel],
    /// Records calls that together make each pipeline which a model may ask for, as far as it differs by more than
    /// sizes: every kernel with every set of constants, access and storage.
    pub examples: fn(&mut Examples),
    /// Makes a call small, and tells what its operands hold where floats would not do. None: training's, which is not tried.
    pub trial: Option<fn(&mut Trial)>,
}

impl Op {
    /// The calls of [`Op::examples`].
    pub fn record(&self) -> Examples {
        let mut examples = Examples { recording: Recording::of_every_way(), inputs: Vec::new() };
        (self.examples)(&mut examples);
        examples
    }

    /// A trial of a call of one of the kernels.
    pub fn trial_of(&self, call: &Dispatch) -> Trial {
        let mut trial = Trial::whole(call);
        let cut = self.trial.unwrap_or_else(|| panic!("{}: calls are not tried", self.name));
        cut(&mut trial);
        trial
    }

    /// The pipelines of the examples.
    pub fn pipelines(&self) -> HashSet<PipelineKey> {
        self.record().recording.dispatches.iter().map(PipelineKey::of).collect()
    }
}

/// Calls of ops on inputs that have no memory yet, each in every way that its op has.
pub struct Examples {
    pub recording: Recording,
    /// Every tensor that is not scratch.
    pub inputs: Vec<Input>,
}

/// A tensor that a call takes, or changes.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    pub tensor: Tensor,
    pub fill: Fill,
}

impl Examples {
    /// An input in a buffer.
    pub fn input(&mut self, dtype: DType, shape: &[usize], fill: Fill) -> Tensor {
        self.input_in(Storage::Buffer, dtype, shape, fill)
    }

    /// An input in a buffer or a texture.
    pub fn input_in(&mut self, storage: Storage, dtype: DType, shape: &[usize], fill: Fill) -> Tensor {
        let tensor = Tensor::new(fresh_id(), dtype, shape).stored(storage);
        self.inputs.push(Input { tensor, fill });
        tensor
    }

    /// Floats in a buffer.
    pub fn f32(&mut self, shape: &[usize]) -> Tensor {
        self.input(DType::F32, shape, Fill::Floats(DType::F32))
    }

    /// Integers in a buffer.
    pub fn u32(&mut self, shape: &[usize], fill: Fill) -> Tensor {
        self.input(DType::U32, shape, fill)
    }

    /// A matrix in one part; integers have scales of type `scales` and, where `offsets` says so, offsets.
    pub fn matrix(
        &mut self,
        [rows, cols]: [usize; 2],
        format: Format,
        scales: DType,
        offsets: bool,
        storage: Storage,
    ) -> Matrix {
        let is_integer = matches!(format, Format::Int { .. });
        let words = match format {
            Format::F32 => Fill::Floats(DType::F32),
            Format::F16 => Fill::Floats(DType::F16),
            Format::BF16 => Fill::Floats(DType::BF16),
            Format::Int { .. } => Fill::Words,
        };
        let scales = is_integer.then_some(scales);
        let layout = Layout { storage, cols, format, scales, offsets: is_integer && offsets };
        // The words come first.
        let mut first = true;
        let part = Part::new(layout, 0, rows, |storage, dtype, shape| {
            let fill = if std::mem::take(&mut first) { words } else { Fill::Floats(dtype) };
            Ok(self.input_in(storage, dtype, shape, fill))
        });
        let part = part.expect("examples need no memory");
        Matrix { rows, cols, parts: vec![part] }
    }

    /// A matrix of each format and type of scales that there are: what kernels that read weights are made for.
    pub fn matrices(&mut self, storage: Storage, shape: [usize; 2]) -> Vec<Matrix> {
        let floats = [Format::F32, Format::F16, Format::BF16].map(|format| (format, DType::F32, false));
        let integers = [4, 8].into_iter().flat_map(|bits| {
            let format = Format::Int { bits, group: 32 };
            [DType::F32, DType::F16, DType::BF16].map(|scales| [(format, scales, false), (format, scales, true)])
        });
        let all = floats.into_iter().chain(integers.flatten());
        all.map(|(format, scales, offsets)| self.matrix(shape, format, scales, offsets, storage)).collect()
    }
}
