//! A plain list of dispatches with no device in it. The models write one; an executor plays it, on a GPU or on the CPU.

use std::cell::{Ref, RefCell, RefMut};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::Pod;

use crate::device::choices::Choices;
use crate::device::maker::Maker;
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::wgsl::{Access, Binding, Field, Import, Uniform, compose};
use crate::device::work::Work;

/// One op's code, or one of several that an op chooses from: WGSL and the same meaning in Rust.
///
/// WGSL binds group 0: the operands in order, then the parameters as a uniform buffer. Group 1 is `shared/part`'s, where
/// a kernel imports that. A kernel is a static and equal to itself alone.
pub struct Kernel {
    /// The name of its file in `shaders`, without folder and ending; no other kernel has it.
    pub name: &'static str,
    /// The file's text. Its `#import` lines name parts: see `compose`.
    pub source: &'static str,
    /// What it may import.
    pub imports: &'static [Import],
    /// The fields of its parameters.
    pub params: &'static [Field],
    /// Computes what the shader computes, on host memory.
    pub reference: fn(&Call),
    /// What a call takes, from its shapes.
    pub work: fn(&Dispatch) -> Work,
}

impl Kernel {
    /// Whether a part of its grid can be dispatched: it asks where its workgroups stand.
    pub fn divides(&self) -> bool {
        self.source.lines().any(|line| line == "#import shared/part")
    }

    /// The whole shader for operands that are bound so.
    ///
    /// # Panics
    /// Where an import is wrong: that is an error of the kernel.
    pub fn wgsl(&self, operands: &[Binding]) -> String {
        compose(self.name, self.source, self.imports, operands).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Kernel {}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self, state);
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One call of a kernel.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub kernel: &'static Kernel,
    /// Values of the shader's `override` constants.
    pub constants: Vec<(&'static str, f64)>,
    pub operands: Vec<(Tensor, Access)>,
    /// The bytes of the uniform parameters; their number is a multiple of 4.
    pub params: Vec<u8>,
    pub workgroups: [u32; 3],
}

impl Dispatch {
    /// The parameters, as the struct that was recorded.
    pub fn params<P: Pod>(&self) -> P {
        bytemuck::pod_read_unaligned(&self.params)
    }

    /// An `override` constant's value. It must have been recorded.
    pub fn constant(&self, name: &str) -> u32 {
        let found = self.constants.iter().find(|(n, _)| *n == name);
        found.unwrap_or_else(|| panic!("{}: no constant {name}", self.kernel.name)).1 as u32
    }

    /// What it writes, by one operand or several: elements, and bytes.
    pub fn written(&self) -> (u64, u64) {
        let tensors = self.operands.iter().filter(|(_, access)| *access == Access::Write).map(|(tensor, _)| tensor);
        tensors.fold((0, 0), |sum, t| (sum.0 + t.len() as u64, sum.1 + t.size_bytes() as u64))
    }

    /// Bytes of all operands; a tensor that stands in for one that is not there counts once.
    pub fn operand_bytes(&self) -> u64 {
        let before = |i: usize| self.operands[..i].iter().map(|(tensor, _)| tensor);
        let new = self.operands.iter().enumerate().filter(|(i, (tensor, _))| !before(*i).any(|t| t == tensor));
        new.map(|(_, (tensor, _))| tensor.size_bytes() as u64).sum()
    }

    /// What it takes.
    pub fn work(&self) -> Work {
        (self.kernel.work)(self)
    }
}

/// What a pipeline is made from: a kernel, the values of its `override` constants, and how its operands are bound.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PipelineKey {
    pub kernel: &'static Kernel,
    /// Names and the bits of their f64.
    constants: Vec<(&'static str, u64)>,
    pub operands: Vec<Binding>,
}

impl PipelineKey {
    pub fn of(dispatch: &Dispatch) -> PipelineKey {
        PipelineKey {
            kernel: dispatch.kernel,
            constants: dispatch.constants.iter().map(|&(name, value)| (name, value.to_bits())).collect(),
            operands: dispatch.operands.iter().map(|&(tensor, access)| Binding::of(tensor, access)).collect(),
        }
    }

    /// Names and values of the constants, in the order in which they were recorded.
    pub fn constants(&self) -> Vec<(&'static str, f64)> {
        self.constants.iter().map(|&(name, bits)| (name, f64::from_bits(bits))).collect()
    }
}

/// In words: the kernel, its constants, and its operands, `=` for those that it writes and `t` for textures.
impl fmt::Display for PipelineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kernel.name)?;
        for (name, value) in self.constants() {
            write!(f, " {name}={value}")?;
        }
        let operand = |binding: &Binding| match binding {
            Binding::Buffer(Access::Read) => "b",
            Binding::Buffer(Access::Write) => "b=",
            Binding::Texture => "t",
            Binding::WrittenTexture(Storage::Words) => "t1=",
            Binding::WrittenTexture(_) => "t=",
        };
        write!(f, " ({})", self.operands.iter().map(operand).collect::<Vec<_>>().join(" "))
    }
}

/// Dispatches in the order in which they run, and the scratch tensors that live only while they do.
#[derive(Default, Debug)]
pub struct Recording {
    pub dispatches: Vec<Dispatch>,
    pub scratch: Vec<Tensor>,
    choices: Arc<Choices>,
    every_way: bool,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A tensor id that no other tensor of this process has.
pub(crate) fn fresh_id() -> u32 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl Recording {
    /// A recording in which every op takes its first way. [`Device::recording`](crate::device::Device::recording) knows
    /// the device's.
    pub fn new() -> Recording {
        Recording::default()
    }

    /// A recording in which ops take the ways of `choices`.
    pub fn choosing(choices: Arc<Choices>) -> Recording {
        Recording { choices, ..Recording::default() }
    }

    /// A recording in which every op records each of its ways, one behind the other: for lists of all kernels.
    pub fn of_every_way() -> Recording {
        Recording { every_way: true, ..Recording::default() }
    }

    /// Records a call in one of its op's `ways`, by `record`, and returns what that returns.
    ///
    /// Ways stand in the order in which they are preferred: fast first, and the plain one, which needs the least of a
    /// driver, last. The one that was measured to be the fastest for this `call` is taken, else the first, unless a
    /// pipeline that it records computes wrongly on the device: then the first whose pipelines all stand. Where there is
    /// none, it is the last.
    ///
    /// `call` tells calls apart between which the fastest way may differ: the op, formats, sizes.
    pub(crate) fn choose<W: fmt::Debug, T>(
        &mut self,
        call: fmt::Arguments<'_>,
        ways: &[W],
        mut record: impl FnMut(&mut Recording, &W) -> T,
    ) -> T {
        let (last, others) = ways.split_last().unwrap_or_else(|| panic!("{call}: no way to compute it"));
        if self.every_way {
            others.iter().for_each(|way| drop(record(self, way)));
            return record(self, last);
        }
        let preferred = self.choices.preferred(call, ways).map(|i| &ways[i]);
        for way in preferred.into_iter().chain(others) {
            let (dispatches, scratch) = (self.dispatches.len(), self.scratch.len());
            let made = record(self, way);
            let stands = |dispatch| !self.choices.is_struck(PipelineKey::of(dispatch));
            if self.choices.all_stand() || self.dispatches[dispatches..].iter().all(stands) {
                return made;
            }
            self.dispatches.truncate(dispatches);
            self.scratch.truncate(scratch);
        }
        record(self, last)
    }

    /// Who made the device that it is for.
    pub(crate) fn maker(&self) -> Maker {
        self.choices.maker()
    }

    /// A tensor that holds values between dispatches of this recording only. Executors let scratch tensors whose
    /// lives do not overlap share memory, so its first use must write all of it.
    pub fn scratch(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        self.scratch_in(Storage::Buffer, dtype, shape)
    }

    /// As [`Recording::scratch`], in a buffer or a texture.
    pub fn scratch_in(&mut self, storage: Storage, dtype: DType, shape: &[usize]) -> Tensor {
        let tensor = Tensor::new(fresh_id(), dtype, shape).stored(storage);
        self.scratch.push(tensor);
        tensor
    }

    /// Scratch of f32.
    pub fn scratch_f32(&mut self, shape: &[usize]) -> Tensor {
        self.scratch(DType::F32, shape)
    }

    /// Appends a dispatch. `params` is the uniform struct of the shader.
    ///
    /// # Panics
    /// When the grid is beyond the portable 65535 workgroups a dimension or has a third one, or the parameters are another
    /// kernel's: those are errors of the op.
    pub fn dispatch<P: Uniform>(
        &mut self,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
        operands: &[(Tensor, Access)],
        params: P,
        workgroups: [u32; 3],
    ) {
        assert!(
            workgroups.iter().all(|&n| n > 0 && n <= 65535) && workgroups[2] == 1,
            "{}: a grid of {workgroups:?} workgroups with operands {operands:?}",
            kernel.name
        );
        assert_eq!(P::FIELDS, kernel.params, "{}: parameters", kernel.name);
        self.dispatches.push(Dispatch {
            kernel,
            constants: constants.to_vec(),
            operands: operands.to_vec(),
            params: bytemuck::bytes_of(&params).to_vec(),
            workgroups,
        });
    }
}

/// Host memory of one tensor: 32-bit words.
pub type HostBuffer = RefCell<Vec<u32>>;

/// What a CPU reference is given: the very operands and parameters that the shader gets.
pub struct Call<'a> {
    pub dispatch: &'a Dispatch,
    pub memory: Vec<&'a HostBuffer>,
}

impl Call<'_> {
    /// The parameters, as the struct that was recorded.
    pub fn params<P: Pod>(&self) -> P {
        self.dispatch.params()
    }

    /// An `override` constant's value. It must have been recorded.
    pub fn constant(&self, name: &str) -> u32 {
        self.dispatch.constant(name)
    }

    pub fn tensor(&self, operand: usize) -> Tensor {
        self.dispatch.operands[operand].0
    }

    pub fn u32(&self, operand: usize) -> Ref<'_, [u32]> {
        Ref::map(self.memory[operand].borrow(), |m| &m[..])
    }

    pub fn u32_mut(&self, operand: usize) -> RefMut<'_, [u32]> {
        RefMut::map(self.memory[operand].borrow_mut(), |m| &mut m[..])
    }

    pub fn f32(&self, operand: usize) -> Ref<'_, [f32]> {
        Ref::map(self.memory[operand].borrow(), |m| bytemuck::cast_slice(m))
    }

    pub fn f32_mut(&self, operand: usize) -> RefMut<'_, [f32]> {
        RefMut::map(self.memory[operand].borrow_mut(), |m| bytemuck::cast_slice_mut(m))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::wgsl::uniform;

    uniform! {
        struct Nothing {
            nothing: u32,
        }
    }

    static KERNEL: Kernel = Kernel {
        name: "k",
        source: "",
        imports: &[],
        params: Nothing::FIELDS,
        reference: |_| unreachable!(),
        work: |_| Work::default(),
    };

    /// Records a pipeline for each of the numbers of a way, with scratch; returns the way.
    fn record(r: &mut Recording, way: &Vec<u32>) -> Vec<u32> {
        for &number in way {
            let out = (r.scratch_f32(&[4]), Access::Write);
            r.dispatch(&KERNEL, &[("N", number.into())], &[out], Nothing { nothing: 0 }, [1; 3]);
        }
        way.clone()
    }

    /// What is taken of three ways, with these pipelines struck off and this way preferred for the call "sum 4".
    fn chosen(struck: &[u32], preferred: Option<&[u32]>) -> Vec<u32> {
        let mut choices = Choices::default();
        struck.iter().for_each(|n| choices.strike(format_args!("k N={n} (b=)")));
        preferred.iter().for_each(|way| choices.prefer("sum 4", way));
        let mut r = Recording::choosing(Arc::new(choices));
        let way = r.choose(format_args!("sum {}", 4), &[vec![1, 2], vec![3], vec![0]], record);
        let recorded: Vec<u32> = r.dispatches.iter().map(|d| d.constants[0].1 as u32).collect();
        assert_eq!((&recorded, r.scratch.len()), (&way, way.len()), "what other ways recorded is left");
        way
    }

    #[test]
    fn the_first_way_that_stands_is_taken() {
        assert_eq!(chosen(&[], None), [1, 2]);
        assert_eq!(chosen(&[7], None), [1, 2]);
        assert_eq!(chosen(&[2], None), [3]);
        assert_eq!(chosen(&[1, 3], None), [0]);
        assert_eq!(chosen(&[0, 1, 2, 3], None), [0]);
    }

    #[test]
    fn a_measured_way_goes_first() {
        assert_eq!(chosen(&[], Some(&[0])), [0]);
        assert_eq!(chosen(&[0], Some(&[0])), [1, 2]);
        assert_eq!(chosen(&[3, 2], Some(&[3])), [0]);
        // A way that there is no longer.
        assert_eq!(chosen(&[], Some(&[5])), [1, 2]);
    }

    #[test]
    fn every_way_is_recorded_for_lists() {
        let mut r = Recording::of_every_way();
        assert_eq!(r.choose(format_args!("sum"), &[vec![1, 2], vec![3], vec![0]], record), [0]);
        assert_eq!(r.dispatches.len(), 4);
    }
}
