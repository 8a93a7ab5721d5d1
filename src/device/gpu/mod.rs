//! The GPU executor. No other file names wgpu.

mod adapter;
mod faults;
mod memory;
mod pipelines;
mod reads;
mod submissions;

pub use adapter::{Candidate, candidates};
pub use reads::{GpuReader, GpuReading};
pub use submissions::{GpuPlan, Submitted};

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::device::cut::Uncut;
use crate::device::gpu::faults::{Faults, in_words, is_shortage, out_of_memory};
use crate::device::gpu::memory::{Held, Memory, check_limit};
use crate::device::gpu::pipelines::Pipelines;
use crate::device::gpu::submissions::{PlanStep, Submissions};
use crate::device::info::DeviceInfo;
use crate::device::recording::PipelineKey;
use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::error::{Error, Result};
use crate::panics::caught;

/// Uniform buffer ranges start at multiples of this: WebGPU's default `minUniformBufferOffsetAlignment`.
const PARAMS_ALIGN: usize = 256;

/// An open WebGPU device with its buffers and pipelines.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    /// As [`Candidate::limited`] had it.
    limits: Option<(u64, u64)>,
    faults: Arc<Faults>,
    memory: Memory,
    pipelines: Pipelines,
    submissions: Submissions,
    left_out: Mutex<Option<LeftOut>>,
}

/// What a device leaves undone of a kernel's work, as a driver with a fault does. For tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// The kernel's name, or [`LeftOut::ALL`].
    pub kernel: &'static str,
    /// The second half of the workgroups only; else all.
    pub half: bool,
}

impl LeftOut {
    /// In place of a kernel's name: every kernel.
    pub const ALL: &'static str = "*";

    fn is_of(self, kernel: &str) -> bool {
        [LeftOut::ALL, kernel].contains(&self.kernel)
    }

    /// What is left of a grid.
    fn grid(self, [x, y, z]: [u32; 3]) -> [u32; 3] {
        match (self.half, x, y) {
            (true, 2.., _) => [x / 2, y, z],
            (true, _, 2..) => [x, y / 2, z],
            // Nothing is dispatched.
            _ => [0, y, z],
        }
    }
}

impl Gpu {
    /// Opens a device on an adapter, with the adapter's own limits for buffers and bindings and the portable ones
    /// for everything else.
    ///
    /// # Errors
    /// `E_ADAPTER` when the adapter refuses; `E_LIMIT` when it lacks the eight storage buffers that kernels need.
    pub async fn open(candidate: Candidate) -> Result<Gpu> {
        let Candidate { adapter, info, limits: limited } = candidate;
        let have = adapter.limits();
        let mut limits = wgpu::Limits::default();
        let need = limits.max_storage_buffers_per_shader_stage;
        if have.max_storage_buffers_per_shader_stage < need {
            return Err(Error::Limit {
                name: "maxStorageBuffersPerShaderStage".into(),
                need: need.into(),
                have: have.max_storage_buffers_per_shader_stage.into(),
            });
        }
        // Adapters that tests make small hold the engine's own buffers still.
        limits.max_buffer_size = info.max_buffer_bytes.max(submissions::STARTS_BYTES);
        limits.max_storage_buffer_binding_size = info.max_binding_bytes;
        let limits = limits.using_resolution(have);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("qllama"),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        // All work is done before there is something to await, natively, where wgpu panics when memory runs out meanwhile.
        let requested = caught(|| adapter.request_device(&descriptor)).map_err(|said| refused(&info, &said))?;
        let (device, queue) = requested.await.map_err(|e| refused(&info, &in_words(&e)))?;
        let made = caught(|| {
            let faults = Faults::of(&device);
            let memory = Memory::new(&device, &queue, &faults, &info);
            let part = Pipelines::part_layout(&device);
            let pipelines = Pipelines::new(&device, &part);
            let submissions = Submissions::new(&device, &queue, &faults, &part);
            (faults, memory, pipelines, submissions)
        });
        let (faults, memory, pipelines, submissions) = made.map_err(|said| refused(&info, &said))?;
        let left_out = Mutex::default();
        Ok(Gpu { device, queue, info, limits: limited, faults, memory, pipelines, submissions, left_out })
    }

    /// Calls wgpu, which panics where a driver has no memory for commands, as it begins with the first write.
    fn guarded<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        self.faults.guarded(call)?
    }

    pub fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    /// Destroys the device, as a fault would: every later call gives `E_DEVICE_LOST`. For tests of recovery.
    pub fn destroy(&self) {
        self.faults.lose("Destroyed: by request".into());
        self.device.destroy();
    }

    /// Has the device lost at its `moment`th submission or wait from now on, as a fault would. For tests of recovery.
    pub fn lose_at(&self, moment: u64) {
        self.faults.lose_at(moment);
    }

    /// Submissions and waits since [`Gpu::lose_at`].
    pub fn moments(&self) -> u64 {
        self.faults.moments()
    }

    /// Another adapter with the limits that this one was given by [`Candidate::limited`].
    pub(crate) fn as_limited(&self, candidate: Candidate) -> Candidate {
        match self.limits {
            Some((buffer, binding)) => candidate.limited(buffer, binding),
            None => candidate,
        }
    }

    /// Lets plans that are prepared from now on leave out work. For tests.
    pub fn leave_out(&self, what: Option<LeftOut>) {
        *self.left_out.lock().unwrap() = what;
    }

    /// What the pipelines that this device has so far were made from, in no order.
    pub fn pipelines(&self) -> Vec<PipelineKey> {
        self.pipelines.keys()
    }

    /// Why the device was lost, if it was.
    pub fn lost(&self) -> Option<String> {
        self.faults.lost()
    }

    /// Makes room for a tensor.
    pub(crate) fn alloc(&self, tensor: Tensor) -> Result<()> {
        self.guarded(|| self.memory.alloc(tensor))
    }

    pub(crate) fn free(&self, id: u32) {
        self.memory.free(id);
    }

    /// Copies bytes into a tensor's buffer or texture.
    pub(crate) fn write(&self, tensor: Tensor, offset: usize, bytes: &[u8]) -> Result<()> {
        self.guarded(|| self.memory.write(tensor, offset, bytes))
    }

    /// How submissions went so far.
    pub fn submitted(&self) -> Submitted {
        self.submissions.submitted()
    }

    /// Takes this as the multiply-adds that a submission may cost, however fast the adapter is. For tests of cutting.
    pub fn limit_submissions(&self, cost: u64) {
        self.submissions.limit(cost);
    }

    /// Waits until the device has done everything.
    pub(crate) async fn finish(&self) -> Result<()> {
        let (done, answer) = self.faults.answer();
        self.queue.on_submitted_work_done(move || done(()));
        self.submissions.wait_for_all()?;
        let _ = answer.await;
        self.faults.check(&self.device)
    }

    /// Makes pipelines and bind groups; `place` names the tensor whose memory a scratch tensor shares.
    pub(crate) fn prepare(&self, recording: &Recording, place: &HashMap<u32, u32>) -> Result<GpuPlan> {
        self.guarded(|| self.plan(recording, place))
    }

    fn plan(&self, recording: &Recording, place: &HashMap<u32, u32>) -> Result<GpuPlan> {
        let mut params_at = Vec::new();
        let mut params: Vec<u8> = Vec::new();
        for dispatch in &recording.dispatches {
            params.resize(params.len().next_multiple_of(PARAMS_ALIGN), 0);
            params_at.push(params.len() as u64);
            params.extend(&dispatch.params);
        }
        params.resize(params.len().next_multiple_of(4).max(4), 0);
        let params_buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("params"),
            size: params.len() as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.faults.check_made(&self.device, params.len() as u64)?;
        self.queue.write_buffer(&params_buffer, 0, &params);
        let count = recording.dispatches.len();
        let (mut steps, mut uncut) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let left_out = *self.left_out.lock().unwrap();
        for (dispatch, offset) in recording.dispatches.iter().zip(params_at) {
            let key = PipelineKey::of(dispatch);
            let layout = self.pipelines.layout(&key.operands);
            let pipeline = self.pipelines.pipeline(key, &layout);
            let memory = self.memory.held();
            let mut entries = Vec::with_capacity(dispatch.operands.len() + 1);
            for (binding, (tensor, _)) in dispatch.operands.iter().enumerate() {
                let id = place.get(&tensor.id).unwrap_or(&tensor.id);
                let held = memory.get(id).ok_or_else(|| Error::State {
                    reason: format!("{}: operand {binding} has no memory on this device", dispatch.kernel.name),
                })?;
                let resource = match held {
                    Held::Buffer(buffer) => {
                        let size = (tensor.size_bytes() as u64).max(4);
                        check_limit("maxStorageBufferBindingSize", size, self.info.max_binding_bytes)?;
                        let size = std::num::NonZeroU64::new(size);
                        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size })
                    }
                    Held::Texture(_, view) => wgpu::BindingResource::TextureView(view),
                };
                entries.push(wgpu::BindGroupEntry { binding: binding as u32, resource });
            }
            entries.push(wgpu::BindGroupEntry {
                binding: entries.len() as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &params_buffer,
                    offset,
                    size: std::num::NonZeroU64::new(dispatch.params.len() as u64),
                }),
            });
            let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(dispatch.kernel.name),
                layout: &layout,
                entries: &entries,
            });
            let mut left = Uncut::of(dispatch);
            if let Some(left_out) = left_out.filter(|left_out| left_out.is_of(dispatch.kernel.name)) {
                left.workgroups = left_out.grid(left.workgroups);
            }
            if left.workgroups[0] > 0 {
                steps.push(PlanStep { pipeline, group });
                uncut.push(left);
            }
        }
        self.faults.check(&self.device)?;
        Ok(GpuPlan { steps, uncut })
    }

    /// Starts a plan.
    pub(crate) fn run(&self, plan: &GpuPlan) -> Result<()> {
        self.faults.check(&self.device)?;
        self.guarded(|| self.submissions.run(plan, |_| ()))?;
        self.faults.check(&self.device)
    }

    /// Starts a plan that may take long.
    pub(crate) async fn run_long(&self, plan: &GpuPlan) -> Result<()> {
        self.faults.check(&self.device)?;
        self.submissions.run_long(plan).await?;
        self.faults.check(&self.device)
    }

    /// Starts a plan, and the way of what it leaves in some tensors back.
    pub(crate) fn run_and_read(&self, plan: &GpuPlan, reader: &GpuReader, tensors: &[Tensor]) -> Result<GpuReading> {
        self.faults.check(&self.device)?;
        let copy = |encoder: &mut wgpu::CommandEncoder| reader.copy(&self.memory, tensors, encoder);
        let submission = self.guarded(|| self.submissions.run(plan, copy))?;
        self.faults.check(&self.device)?;
        Ok(reader.start(&self.faults, tensors, submission))
    }

    /// Staging memory for reads of up to `bytes` bytes.
    pub(crate) fn reader(&self, bytes: usize) -> Result<GpuReader> {
        let reader = self.faults.guarded(|| GpuReader::new(&self.device, bytes))?;
        self.faults.check_made(&self.device, bytes as u64)?;
        Ok(reader)
    }

    /// Starts the way of some tensors back, after all work started before.
    pub(crate) fn start_read(&self, reader: &GpuReader, tensors: &[Tensor]) -> Result<GpuReading> {
        self.faults.check(&self.device)?;
        let submission = self.guarded(|| {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            reader.copy(&self.memory, tensors, &mut encoder);
            self.submissions.submit(encoder.finish(), 0)
        })?;
        Ok(reader.start(&self.faults, tensors, submission))
    }

    /// Waits for a read.
    pub(crate) async fn finish_read(&self, reading: GpuReading, out: &mut [u8]) -> Result<()> {
        reading.finish(&self.submissions, out).await
    }
}

/// An adapter that gives no device.
fn refused(info: &DeviceInfo, said: &str) -> Error {
    if is_shortage(said) {
        return out_of_memory();
    }
    if said.ends_with("is lost") {
        return Error::DeviceLost { reason: said.into() };
    }
    Error::Adapter { reason: format!("adapter {:?} gives no device: {said}", info.name) }
}
