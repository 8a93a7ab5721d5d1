//! A call of a kernel, made small and given inputs, so that what a device computes is compared with the reference.

use fastrand::Rng;

use crate::device::recording::{Dispatch, Recording, fresh_id};
use crate::device::tensor::{DType, Tensor};
use crate::device::wgsl::Access;
use crate::device::{Device, Plan, Pool, Reading};
use crate::error::{Error, Result};
use crate::ops::fill::Fill;
use crate::weights::layout::BLOCK_ROWS;

/// The seed of all inputs: a device is asked the same questions every time.
const SEED: u64 = 20;
/// The most that one element may be off, in root mean squares of what is expected; and the normalised mean squared error.
/// Rounding alone comes to 1e-6 and 1e-12; a sum of 4096 products that lacks one is off by 1e-2.
const ELEMENT_LIMIT: f64 = 1e-4;
const ERROR_LIMIT: f64 = 1e-9;
/// An operand with fewer elements would not show an index of 16 bits.
const SHOWN: usize = 1 << 16;

/// A call that is small enough to be tried: a few tiles of each kind, and the ragged end.
pub struct Trial {
    pub dispatch: Dispatch,
    /// One an operand: also those that are written hold something before.
    fills: Vec<Option<Fill>>,
}

/// A trial that a device computes.
pub struct Started {
    pub trial: Trial,
    asked: Result<Asked>,
}

/// What a device was asked, and the way of its answers back.
struct Asked {
    readings: Vec<Reading>,
    _plan: Plan,
    _pool: Pool,
}

impl Asked {
    async fn answers(self, trial: &Trial) -> Result<Vec<Vec<u32>>> {
        let mut answers = Vec::new();
        for (tensor, reading) in trial.written().zip(self.readings) {
            let mut words = vec![0; tensor.size_bytes().div_ceil(4)];
            reading.finish(&mut bytemuck::cast_slice_mut(&mut words)[..tensor.size_bytes()]).await?;
            answers.push(words);
        }
        Ok(answers)
    }
}

impl Started {
    /// Compares what the device computes with what the reference does meanwhile.
    ///
    /// # Errors
    /// Where the device cannot go on: `E_DEVICE_LOST`, `E_OOM`; and `E_LIMIT`. Whatever else it says is a wrong outcome.
    pub async fn outcome(self) -> Result<Outcome> {
        let Started { trial, asked } = self;
        let found = async {
            let asked = asked?;
            let expected = trial.answers(&Device::cpu()).await?;
            Ok(trial.compare(&expected, &asked.answers(&trial).await?))
        };
        match found.await {
            Ok(outcome) => Ok(outcome),
            Err(error @ (Error::DeviceLost { .. } | Error::OutOfMemory { .. } | Error::Limit { .. })) => Err(error),
            Err(error) => Ok(Outcome::Wrong(error.to_string())),
        }
    }
}

/// How a device did.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Right, with this normalised mean squared error.
    Right(f64),
    Wrong(String),
}

impl Trial {
    /// The call as it stands, with random floats where operands are floats.
    pub(crate) fn whole(call: &Dispatch) -> Trial {
        let mut dispatch = call.clone();
        let fill = |(tensor, access): &(Tensor, Access)| match (tensor.dtype, access) {
            (DType::U32, Access::Read) => None,
            (DType::U32, Access::Write) => Some(Fill::Words),
            (dtype, _) => Some(Fill::Floats(dtype)),
        };
        let fills = dispatch.operands.iter().map(fill).collect();
        for (tensor, _) in &mut dispatch.operands {
            *tensor = Tensor::new(fresh_id(), tensor.dtype, tensor.shape()).stored(tensor.storage);
        }
        Trial { dispatch, fills }
    }

    /// Gives an operand what it holds: all that are U32 and read need it.
    pub(crate) fn fill(&mut self, operand: usize, fill: Fill) {
        self.fills[operand] = Some(fill);
    }

    /// Gives operand `operand` what weights hold, in the format that the constant `FORMAT` tells, and the two behind it, its
    /// scales and offsets.
    pub(crate) fn fill_matrix(&mut self, operand: usize) {
        let format = self.dispatch.constants.iter().find(|(name, _)| *name == "FORMAT");
        self.fill(
            operand,
            match format.map(|(_, value)| *value as u32) {
                Some(0) => Fill::Floats(DType::F32),
                Some(1) => Fill::Floats(DType::F16),
                Some(2) => Fill::Floats(DType::BF16),
                _ => Fill::Words,
            },
        );
        for beside in [operand + 1, operand + 2] {
            // The words stand in for scales and offsets that there are not.
            let tensor = self.tensor(beside);
            self.fill(beside, if tensor.dtype == DType::U32 { Fill::Value(0) } else { Fill::Floats(tensor.dtype) });
        }
    }

    /// The shapes of the operands, in words.
    pub fn shapes(&self) -> String {
        let shapes = self.dispatch.operands.iter().map(|(tensor, _)| format!("{:?}", tensor.shape()));
        shapes.collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn tensor(&self, operand: usize) -> Tensor {
        self.dispatch.operands[operand].0
    }

    /// A parameter by its name.
    pub(crate) fn param(&self, name: &str) -> usize {
        let at = self.offset(name);
        let bytes = self.dispatch.params[at..at + 4].try_into().expect("four bytes");
        u32::from_ne_bytes(bytes) as usize
    }

    pub(crate) fn set(&mut self, name: &str, value: usize) {
        let at = self.offset(name);
        self.dispatch.params[at..at + 4].copy_from_slice(&(value as u32).to_ne_bytes());
    }

    fn offset(&self, name: &str) -> usize {
        let field = self.dispatch.kernel.params.iter().find(|field| field.name == name);
        field.unwrap_or_else(|| panic!("{}: no parameter {name}", self.dispatch.kernel.name)).offset_bytes
    }

    /// Gives an operand another shape, of at least one element.
    pub(crate) fn reshape(&mut self, operand: usize, shape: &[usize]) {
        let tensor = &mut self.dispatch.operands[operand].0;
        *tensor = Tensor::new(tensor.id, tensor.dtype, shape).stored(tensor.storage);
    }

    /// Leaves an operand its first `rows` rows, in whole blocks of `block` rows.
    pub(crate) fn keep_rows(&mut self, operand: usize, rows: usize, block: usize) {
        let tensor = self.tensor(operand);
        self.reshape(operand, &[rows.next_multiple_of(block).min(tensor.rows()), tensor.width()]);
    }

    /// Makes `count` things, of which the grid's axis `axis` has a workgroup for every few, fewer: enough for a whole
    /// workgroup and the beginning of another, and for `shown` at least; as many beyond whole workgroups as there were.
    /// Returns how many are left.
    pub(crate) fn fewer(&mut self, axis: usize, count: usize, shown: usize) -> usize {
        let groups = &mut self.dispatch.workgroups[axis];
        let each = count.div_ceil(*groups as usize);
        let enough = shown.max(each + 1);
        if count <= enough {
            return count;
        }
        let left = enough + (count - enough) % each;
        // As many workgroups for each as before; some take rows here and there of a whole block.
        let share = |left: usize, of: usize| (*groups as usize * left).div_ceil(of);
        let blocks = [left, count].map(|n| n.next_multiple_of(BLOCK_ROWS));
        *groups = share(left, count).max(share(blocks[0], blocks[1])) as u32;
        left
    }

    /// Rows of `width` elements in which an index of 16 bits would not do.
    pub(crate) fn shown(width: usize) -> usize {
        SHOWN / width.max(1) + 1
    }

    /// Lets `device` and the reference compute it, and compares.
    ///
    /// # Errors
    /// As [`Started::outcome`].
    pub async fn run(self, device: &Device) -> Result<Outcome> {
        self.start(device).outcome().await
    }

    /// Has `device` begin to compute it.
    pub fn start(self, device: &Device) -> Started {
        let asked = self.ask(device);
        Started { trial: self, asked }
    }

    fn ask(&self, device: &Device) -> Result<Asked> {
        let (mut pool, mut random) = (device.uncounted_pool(), Rng::with_seed(SEED));
        for (i, ((tensor, _), fill)) in self.dispatch.operands.iter().zip(&self.fills).enumerate() {
            let name = self.dispatch.kernel.name;
            let fill = fill.unwrap_or_else(|| panic!("{name}: nothing tells what operand {i}, {tensor:?}, holds"));
            pool.add(*tensor)?;
            device.write_all(*tensor, &fill.words(*tensor, &mut random))?;
        }
        let mut recording = Recording::new();
        recording.dispatches.push(self.dispatch.clone());
        let plan = device.prepare(&recording)?;
        device.run(&plan)?;
        let read = |tensor: Tensor| device.reader(tensor.held_bytes())?.start(&[tensor]);
        let readings = self.written().map(read).collect::<Result<_>>()?;
        Ok(Asked { readings, _plan: plan, _pool: pool })
    }

    /// The words of each operand that is written, as a device computes them.
    pub(crate) async fn answers(&self, device: &Device) -> Result<Vec<Vec<u32>>> {
        self.ask(device)?.answers(self).await
    }

    fn written(&self) -> impl Iterator<Item = Tensor> {
        self.dispatch.operands.iter().filter(|(_, access)| *access == Access::Write).map(|(tensor, _)| *tensor)
    }

    /// Compares what two devices answered.
    pub(crate) fn compare(&self, expected: &[Vec<u32>], found: &[Vec<u32>]) -> Outcome {
        let mut worst: f64 = 0.0;
        for (tensor, (expected, found)) in self.written().zip(expected.iter().zip(found)) {
            match compare(tensor, expected, found) {
                Outcome::Right(error) => worst = worst.max(error),
                wrong => return wrong,
            }
        }
        Outcome::Right(worst)
    }
}

/// Compares the words of a tensor.
fn compare(tensor: Tensor, expected: &[u32], found: &[u32]) -> Outcome {
    let floats: fn(u32) -> [f32; 2] = match tensor.dtype {
        DType::F32 => |word| [f32::from_bits(word), 0.0],
        DType::F16 => |word| [word as u16, (word >> 16) as u16].map(|half| half::f16::from_bits(half).to_f32()),
        DType::BF16 => |word| [word << 16, word & 0xffff_0000].map(f32::from_bits),
        DType::U32 => {
            let wrong = expected.iter().zip(found).position(|(e, f)| e != f);
            return wrong.map_or(Outcome::Right(0.0), |i| {
                Outcome::Wrong(format!("element {i} is {}, not {}", found[i], expected[i]))
            });
        }
    };
    let square = |v: f32| f64::from(v) * f64::from(v);
    let elements = || expected.iter().flat_map(|w| floats(*w)).zip(found.iter().flat_map(|w| floats(*w)));
    let (mut sum, mut off, mut most) = (0.0, 0.0, (0.0, 0, (0.0, 0.0)));
    for (i, (e, f)) in elements().enumerate().filter(|(_, (e, f))| e.to_bits() != f.to_bits()) {
        let difference = square(e - f);
        off += difference;
        if difference > most.0 || difference.is_nan() {
            most = (difference, i, (e, f));
        }
    }
    sum += elements().map(|(e, _)| square(e)).filter(|v| v.is_finite()).sum::<f64>();
    let count = tensor.len().max(1) as f64;
    let (error, element) = (off / sum.max(1e-30), (most.0 / (sum / count).max(1e-30)).sqrt());
    if error <= ERROR_LIMIT && element <= ELEMENT_LIMIT {
        return Outcome::Right(error);
    }
    let (_, i, (e, f)) = most;
    let i = if tensor.dtype == DType::F32 { i / 2 } else { i };
    Outcome::Wrong(format!("element {i} is {f}, not {e}"))
}
