//! Where recordings run: a GPU by wgpu, or the CPU. Memory belongs to [`Pool`]s and goes when they are dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::device::array::check_finite;
use crate::device::choices::Choices;
use crate::device::cpu::{Host, HostPlan};
use crate::device::gpu::{Gpu, GpuPlan, GpuReader, GpuReading};
use crate::device::info::DeviceInfo;
use crate::device::maker::Maker;
use crate::device::recording::{Recording, fresh_id};
use crate::device::scratch::share_scratch;
use crate::device::tensor::{DType, Storage, Tensor};
use crate::error::{Error, Result};
use crate::panics::caught;
use crate::room::zeros;

/// What needs memory, for messages.
const READ: &str = "what was computed";
const HOST_HINT: &str = "close other programs, or take a checkpoint with weights of 4 or 8 bits";

/// A place that runs recordings. Cloning it is cheap and names the same place.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    place: Place,
    held_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    budget: AtomicU64,
    choices: Mutex<Arc<Choices>>,
    /// What took its place when it was lost.
    successor: async_lock::Mutex<Option<Device>>,
}

enum Place {
    Gpu(Box<Gpu>),
    Host(Host),
}

impl Drop for Inner {
    /// wgpu panics where a driver that runs out of memory is waited for at a device's end.
    fn drop(&mut self) {
        if let Place::Gpu(gpu) = std::mem::replace(&mut self.place, Place::Host(Host::default())) {
            let _ = caught(move || drop(gpu));
        }
    }
}

impl Device {
    /// The CPU executor.
    pub fn cpu() -> Device {
        Device::new(Place::Host(Host::default()))
    }

    /// A GPU device that [`Gpu::open`] made.
    pub fn gpu(gpu: Gpu) -> Device {
        Device::new(Place::Gpu(Box::new(gpu)))
    }

    fn new(place: Place) -> Device {
        let (held_bytes, peak_bytes, budget) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let successor = async_lock::Mutex::new(None);
        let maker = match &place {
            Place::Gpu(gpu) => gpu.info().maker,
            Place::Host(_) => Maker::Other,
        };
        let choices = Mutex::new(Arc::new(Choices::of(maker)));
        Device(Arc::new(Inner { place, held_bytes, peak_bytes, budget, choices, successor }))
    }

    /// Whether both name the same place.
    pub fn is(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// An empty recording whose ops take the ways that this device computes rightly, and fast.
    pub fn recording(&self) -> Recording {
        Recording::choosing(self.choices())
    }

    /// Which ways the ops of new recordings take.
    pub fn choices(&self) -> Arc<Choices> {
        self.0.choices.lock().unwrap().clone()
    }

    /// Sets [`Device::choices`], for recordings that are begun from now on.
    pub fn set_choices(&self, choices: Choices) {
        *self.0.choices.lock().unwrap() = Arc::new(choices);
    }

    pub fn info(&self) -> DeviceInfo {
        match &self.0.place {
            Place::Gpu(gpu) => gpu.info(),
            Place::Host(_) => DeviceInfo {
                name: "CPU executor".into(),
                backend: "CPU".into(),
                driver: String::new(),
                maker: Maker::Other,
                software: true,
                weights: Storage::Buffer,
                max_binding_bytes: u64::MAX,
                max_buffer_bytes: u64::MAX,
                shares_scratch: false,
            },
        }
    }

    /// The GPU behind this device, if it is one.
    pub fn as_gpu(&self) -> Option<&Gpu> {
        match &self.0.place {
            Place::Gpu(gpu) => Some(gpu),
            Place::Host(_) => None,
        }
    }

    /// Why the device was lost, if it was.
    pub fn lost(&self) -> Option<String> {
        self.as_gpu().and_then(Gpu::lost)
    }

    /// Where its [`successor`](Device::successor) is kept.
    pub(super) fn successor_place(&self) -> &async_lock::Mutex<Option<Device>> {
        &self.0.successor
    }

    /// Bytes of all pools and plans now, and the most there ever were.
    pub fn memory(&self) -> (u64, u64) {
        (self.0.held_bytes.load(Ordering::Relaxed), self.0.peak_bytes.load(Ordering::Relaxed))
    }

    /// An error with the bytes that are held, where memory ran out.
    fn with_held(&self, error: Error) -> Error {
        match error {
            Error::OutOfMemory { asked, hint, .. } => Error::OutOfMemory { asked, held: self.memory().0, hint },
            Error::HostMemory { asked, .. } => {
                Error::OutOfMemory { asked, held: self.memory().0, hint: HOST_HINT.into() }
            }
            other => other,
        }
    }

    /// Lets all pools and plans together hold at most `bytes`, from now on; what is beyond fails with
    /// [`Error::Budget`]. Models loaded afterwards keep as many of their weights on the device as fit and read the
    /// others again for every picture.
    pub fn set_memory_budget(&self, bytes: u64) {
        self.0.budget.store(bytes, Ordering::Relaxed);
    }

    /// The most bytes that pools and plans may hold; `u64::MAX` where no budget was set.
    pub fn memory_budget(&self) -> u64 {
        self.0.budget.load(Ordering::Relaxed)
    }

    /// An empty pool.
    pub fn pool(&self) -> Pool {
        Pool { device: self.clone(), tensors: Vec::new(), counted: true }
    }

    /// As [`Device::pool`], outside the memory budget and [`Device::memory`]: for what is there before a model is.
    pub fn uncounted_pool(&self) -> Pool {
        let mut pool = self.pool();
        pool.counted = false;
        pool
    }

    /// Copies bytes into a tensor, at a byte offset that is a multiple of 4; in a texture, whole texels.
    ///
    /// # Errors
    /// `E_DEVICE_LOST` and `E_GPU` from the GPU.
    pub fn write(&self, tensor: Tensor, offset: usize, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() <= tensor.size_bytes(), "write past the end of {tensor:?}");
        match &self.0.place {
            Place::Gpu(gpu) => gpu.write(tensor, offset, bytes).map_err(|e| self.with_held(e)),
            Place::Host(host) => {
                host.write(tensor, offset, bytes);
                Ok(())
            }
        }
    }

    /// Copies f32 or u32 values into a tensor, from its start.
    pub fn write_all<T: bytemuck::Pod>(&self, tensor: Tensor, values: &[T]) -> Result<()> {
        self.write(tensor, 0, bytemuck::cast_slice(values))
    }

    /// Makes pipelines, bind groups, parameters and scratch memory for a recording, once.
    ///
    /// # Errors
    /// `E_OOM`, `E_LIMIT`, `E_DEVICE_LOST` and `E_GPU` from the GPU.
    pub fn prepare(&self, recording: &Recording) -> Result<Plan> {
        let mut pool = self.pool();
        let kind = match &self.0.place {
            Place::Gpu(gpu) => {
                let shared = share_scratch(recording);
                for &(tensor, _) in &shared.buffers {
                    pool.add(tensor)?;
                }
                PlanKind::Gpu(gpu.prepare(recording, &shared.place).map_err(|e| self.with_held(e))?)
            }
            Place::Host(host) => {
                for &tensor in &recording.scratch {
                    pool.add(tensor)?;
                }
                PlanKind::Host(host.prepare(recording))
            }
        };
        Ok(Plan { kind, _pool: pool, dispatches: recording.dispatches.len() })
    }

    /// Starts a plan. On a GPU this returns before the work is done; [`Reader::read`] waits for it.
    pub fn run(&self, plan: &Plan) -> Result<()> {
        match (&self.0.place, &plan.kind) {
            (Place::Gpu(gpu), PlanKind::Gpu(plan)) => gpu.run(plan).map_err(|e| self.with_held(e)),
            (Place::Host(host), PlanKind::Host(plan)) => host.run(plan),
            _ => panic!("a plan runs on the device that prepared it"),
        }
    }

    /// Starts a plan, and the way of what it leaves in `tensors` back to the host: one submission where the plan is one.
    /// The reader is free again when the reading has ended.
    pub fn run_and_read(&self, plan: &Plan, reader: &Reader, tensors: &[Tensor]) -> Result<Reading> {
        match (&self.0.place, &plan.kind, &reader.kind) {
            (Place::Gpu(gpu), PlanKind::Gpu(plan), Some(reader)) => {
                let reading = gpu.run_and_read(plan, reader, tensors)?;
                Ok(Reading { device: self.clone(), kind: ReadingKind::Gpu(reading) })
            }
            _ => {
                self.run(plan)?;
                reader.start(tensors)
            }
        }
    }

    /// Prepares and runs a recording once.
    pub fn play(&self, recording: &Recording) -> Result<()> {
        if recording.dispatches.is_empty() {
            return Ok(());
        }
        self.run(&self.prepare(recording)?)
    }

    /// As [`Device::play`], of what may take long: its submissions are cut by the speed that the first ones show, in a browser
    /// too.
    pub async fn play_long(&self, recording: &Recording) -> Result<()> {
        if recording.dispatches.is_empty() {
            return Ok(());
        }
        let plan = self.prepare(recording)?;
        match (&self.0.place, &plan.kind) {
            (Place::Gpu(gpu), PlanKind::Gpu(plan)) => gpu.run_long(plan).await.map_err(|e| self.with_held(e)),
            _ => self.run(&plan),
        }
    }

    /// Waits until all work started before is done, and memory freed meanwhile is really free.
    ///
    /// # Errors
    /// `E_DEVICE_LOST`, and whatever went wrong on the GPU since the last read.
    pub async fn finish(&self) -> Result<()> {
        match &self.0.place {
            Place::Gpu(gpu) => gpu.finish().await.map_err(|e| self.with_held(e)),
            Place::Host(_) => Ok(()),
        }
    }

    /// A reader for up to `bytes` bytes at a time, which keeps its staging memory between reads.
    pub fn reader(&self, bytes: usize) -> Result<Reader> {
        let kind = match &self.0.place {
            Place::Gpu(gpu) => Some(gpu.reader(bytes).map_err(|e| self.with_held(e))?),
            Place::Host(_) => None,
        };
        Ok(Reader { device: self.clone(), kind })
    }

    /// The bytes of a whole tensor, in a buffer or a texture, after all work started before.
    pub async fn read_bytes(&self, tensor: Tensor) -> Result<Vec<u8>> {
        let mut out = zeros(READ, tensor.size_bytes())?;
        self.reader(tensor.held_bytes())?.read(&[tensor], &mut out).await?;
        Ok(out)
    }

    /// The values of an f32 tensor, after all work started before.
    pub async fn read_f32(&self, tensor: Tensor) -> Result<Vec<f32>> {
        assert_eq!(tensor.dtype, DType::F32, "read_f32 of {tensor:?}");
        self.read_words(tensor).await
    }

    /// As [`Device::read_f32`], of what is told to somebody: `what`, in words.
    ///
    /// # Errors
    /// `E_NONFINITE` where a value is no number.
    pub async fn read_numbers(&self, what: &str, tensor: Tensor) -> Result<Vec<f32>> {
        let values = self.read_f32(tensor).await?;
        check_finite(what, &values)?;
        Ok(values)
    }

    /// The values of a u32 tensor, after all work started before.
    pub async fn read_u32(&self, tensor: Tensor) -> Result<Vec<u32>> {
        self.read_words(tensor).await
    }

    async fn read_words<T: bytemuck::Pod + Default>(&self, tensor: Tensor) -> Result<Vec<T>> {
        let mut out = zeros(READ, tensor.size_bytes() / size_of::<T>())?;
        self.reader(tensor.held_bytes())?.read(&[tensor], bytemuck::cast_slice_mut(&mut out)).await?;
        Ok(out)
    }
}

/// Owns tensors' memory; dropping it frees them all.
pub struct Pool {
    device: Device,
    tensors: Vec<Tensor>,
    /// Whether its bytes count as the device's.
    counted: bool,
}

impl Pool {
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Allocates a zeroed tensor in a buffer.
    ///
    /// # Errors
    /// `E_LIMIT` beyond the memory budget; `E_OOM`, `E_LIMIT` and `E_DEVICE_LOST` from the GPU.
    pub fn alloc(&mut self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        self.alloc_in(Storage::Buffer, dtype, shape)
    }

    /// As [`Pool::alloc`], in a buffer or a texture.
    pub fn alloc_in(&mut self, storage: Storage, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let tensor = Tensor::new(fresh_id(), dtype, shape).stored(storage);
        self.add(tensor)?;
        Ok(tensor)
    }

    /// Allocates a tensor of f32 and fills it.
    pub fn f32(&mut self, shape: &[usize], values: &[f32]) -> Result<Tensor> {
        let tensor = self.alloc(DType::F32, shape)?;
        self.device.write_all(tensor, values)?;
        Ok(tensor)
    }

    /// Allocates a tensor of u32 and fills it.
    pub fn u32(&mut self, shape: &[usize], values: &[u32]) -> Result<Tensor> {
        let tensor = self.alloc(DType::U32, shape)?;
        self.device.write_all(tensor, values)?;
        Ok(tensor)
    }

    /// Keeps a recording's scratch tensor in this pool, so that it can be read after the recording was played.
    pub fn keep(&mut self, recording: &mut Recording, tensor: Tensor) -> Result<Tensor> {
        recording.scratch.retain(|t| t.id != tensor.id);
        self.add(tensor)?;
        Ok(tensor)
    }

    /// Bytes of this pool's tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.held_bytes() as u64).sum()
    }

    pub(crate) fn add(&mut self, tensor: Tensor) -> Result<()> {
        let inner = &self.device.0;
        let bytes = if self.counted { tensor.held_bytes() as u64 } else { 0 };
        let (need, have) = (inner.held_bytes.load(Ordering::Relaxed) + bytes, self.device.memory_budget());
        if need > have {
            return Err(Error::Budget { what: " for this input".into(), need, have });
        }
        match &inner.place {
            Place::Gpu(gpu) => gpu.alloc(tensor).map_err(|e| self.device.with_held(e))?,
            Place::Host(host) => host.alloc(tensor).map_err(|e| self.device.with_held(e))?,
        }
        let held = inner.held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        inner.peak_bytes.fetch_max(held, Ordering::Relaxed);
        self.tensors.push(tensor);
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for tensor in &self.tensors {
            match &self.device.0.place {
                Place::Gpu(gpu) => gpu.free(tensor.id),
                Place::Host(host) => host.free(tensor.id),
            }
        }
        if self.counted {
            self.device.0.held_bytes.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }
}

/// A recording made ready to run again and again on one device.
pub struct Plan {
    kind: PlanKind,
    _pool: Pool,
    /// Dispatches a run.
    pub dispatches: usize,
}

enum PlanKind {
    Gpu(GpuPlan),
    Host(HostPlan),
}

/// Brings bytes back from a device.
pub struct Reader {
    device: Device,
    kind: Option<GpuReader>,
}

/// Bytes on their way back from a device.
pub struct Reading {
    device: Device,
    kind: ReadingKind,
}

enum ReadingKind {
    Gpu(GpuReading),
    /// The bytes.
    Host(Vec<u8>),
}

impl Reader {
    /// Fills `out` with whole tensors, one behind the other, after all work started before.
    ///
    /// # Errors
    /// `E_DEVICE_LOST`, and whatever went wrong on the GPU since the last read.
    pub async fn read(&self, tensors: &[Tensor], out: &mut [u8]) -> Result<()> {
        self.start(tensors)?.finish(out).await
    }

    /// Starts a read of whole tensors, after all work started before.
    pub(crate) fn start(&self, tensors: &[Tensor]) -> Result<Reading> {
        let kind = match (&self.device.0.place, &self.kind) {
            (Place::Gpu(gpu), Some(reader)) => {
                ReadingKind::Gpu(gpu.start_read(reader, tensors).map_err(|e| self.device.with_held(e))?)
            }
            (Place::Host(host), _) => {
                let mut bytes = Vec::new();
                for tensor in tensors {
                    let at = bytes.len();
                    bytes.resize(at + tensor.size_bytes(), 0);
                    host.read(*tensor, &mut bytes[at..]);
                }
                ReadingKind::Host(bytes)
            }
            _ => unreachable!("a GPU's reader has staging memory"),
        };
        Ok(Reading { device: self.device.clone(), kind })
    }
}

impl Reading {
    /// Waits, and fills `out` with the tensors, one behind the other.
    ///
    /// # Errors
    /// `E_DEVICE_LOST`, and whatever went wrong on the GPU since the last read.
    pub async fn finish(self, out: &mut [u8]) -> Result<()> {
        match (&self.device.0.place, self.kind) {
            (Place::Gpu(gpu), ReadingKind::Gpu(reading)) => {
                gpu.finish_read(reading, out).await.map_err(|e| self.device.with_held(e))
            }
            (_, ReadingKind::Host(bytes)) => {
                out.copy_from_slice(&bytes);
                Ok(())
            }
            _ => unreachable!("what a GPU reads is on its way from one"),
        }
    }
}
