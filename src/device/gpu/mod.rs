//! The GPU executor. No other file names wgpu.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use crate::device::recording::{Access, Dispatch, Kernel, Recording};
use crate::device::tensor::{DType, MAX_TEXELS, Storage, TEXELS_A_ROW, Tensor, in_blocks};
use crate::device::{DeviceInfo, Pool};
use crate::error::{Error, Result};

/// Uniform buffer ranges start at multiples of this: WebGPU's default `minUniformBufferOffsetAlignment`.
const PARAMS_ALIGN: usize = 256;
/// Bytes that are uploaded at a time, so that staging memory stays small, and in the processor's cache.
/// With 16 MiB, it and what its allocator kept came to 80 MiB on Mesa's software adapter for a file of 1.2 GiB.
const UPLOAD_WINDOW: usize = 2 << 20;
/// Dispatches a submission: keeps one submission short enough for watchdogs and lets encoding overlap with work.
const DISPATCHES_A_SUBMISSION: usize = 512;

const COMMON: &str = include_str!("../../../shaders/shared/common.wgsl");

/// An open WebGPU device with its buffers and pipelines.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: DeviceInfo,
    memory: Mutex<HashMap<u32, Memory>>,
    layouts: Mutex<HashMap<Vec<(Access, Storage)>, wgpu::BindGroupLayout>>,
    pipelines: Mutex<HashMap<String, wgpu::ComputePipeline>>,
    /// The first error that the device reported and nobody has been told of.
    fault: Arc<Mutex<Option<Error>>>,
    /// Why the device was lost.
    lost: Arc<Mutex<Option<String>>>,
    uploads: Mutex<Uploads>,
}

/// Uploads on their way.
#[derive(Default)]
struct Uploads {
    /// Bytes since the last submission.
    bytes: usize,
    submitted: Option<wgpu::SubmissionIndex>,
}

/// What holds a tensor.
enum Memory {
    Buffer(wgpu::Buffer),
    Texture(wgpu::Texture, wgpu::TextureView),
}

impl Memory {
    fn buffer(&self) -> &wgpu::Buffer {
        match self {
            Memory::Buffer(buffer) => buffer,
            Memory::Texture(..) => panic!("no buffer, but a texture: those are written by rows and not read"),
        }
    }
}

/// A recording's pipelines, bind groups and grid sizes.
pub struct GpuPlan {
    steps: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>,
}

/// Staging memory for reads.
pub struct GpuReader {
    buffer: wgpu::Buffer,
}

/// An adapter that could be opened.
pub struct Candidate {
    adapter: wgpu::Adapter,
    info: DeviceInfo,
}

impl Candidate {
    fn new(adapter: wgpu::Adapter) -> Candidate {
        Candidate { info: device_info(&adapter), adapter }
    }

    /// The adapter as if its largest buffer and binding, in bytes, were at most these and, as on a GPU, weights lay in
    /// buffers. For tests of small adapters.
    pub fn limited(mut self, max_buffer_bytes: u64, max_binding_bytes: u64) -> Candidate {
        self.info.weights = Storage::Buffer;
        self.info.max_buffer_bytes = self.info.max_buffer_bytes.min(max_buffer_bytes);
        self.info.max_binding_bytes = self.info.max_binding_bytes.min(max_binding_bytes);
        self
    }

    pub fn name(&self) -> String {
        self.info.name.clone()
    }

    pub fn info(&self) -> DeviceInfo {
        self.info.clone()
    }
}

fn device_info(adapter: &wgpu::Adapter) -> DeviceInfo {
    let info = adapter.get_info();
    let limits = adapter.limits();
    // Browsers do not say which adapters are software; theirs is SwiftShader.
    let software = info.device_type == wgpu::DeviceType::Cpu || info.name.contains("SwiftShader");
    DeviceInfo {
        name: info.name,
        backend: format!("{:?}", info.backend),
        software,
        subgroups: adapter.features().contains(wgpu::Features::SUBGROUP),
        weights: if software { Storage::Pieces } else { Storage::Buffer },
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        shares_scratch: true,
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // GL has no bounds checks.
    descriptor.backends =
        wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12 | wgpu::Backends::BROWSER_WEBGPU;
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// The adapters of this machine, the ones with a GPU of their own first and software adapters last.
pub async fn candidates() -> Vec<Candidate> {
    let instance = instance();
    #[cfg(not(target_arch = "wasm32"))]
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    #[cfg(target_arch = "wasm32")]
    let mut adapters: Vec<_> = instance
        .request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        })
        .await
        .into_iter()
        .collect();
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters.into_iter().map(Candidate::new).collect()
}

impl Gpu {
    /// Opens a device on an adapter, with the adapter's own limits for buffers and bindings and the portable ones
    /// for everything else.
    ///
    /// # Errors
    /// `E_ADAPTER` when the adapter refuses; `E_LIMIT` when it lacks the eight storage buffers that kernels need.
    pub async fn open(candidate: Candidate) -> Result<Gpu> {
        let Candidate { adapter, info } = candidate;
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
        limits.max_buffer_size = info.max_buffer_bytes;
        limits.max_storage_buffer_binding_size = info.max_binding_bytes;
        let limits = limits.using_resolution(have);
        let mut descriptor = wgpu::DeviceDescriptor {
            label: Some("qllama"),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        if info.subgroups {
            descriptor.required_features |= wgpu::Features::SUBGROUP;
        }
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Adapter { reason: format!("adapter {:?} gives no device: {e}", info.name) })?;
        let fault = Arc::new(Mutex::new(None));
        let lost = Arc::new(Mutex::new(None));
        device.on_uncaptured_error(Arc::new({
            let fault = fault.clone();
            move |error: wgpu::Error| {
                let error = match error {
                    wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { asked: 0, held: 0, hint: OOM_HINT.into() },
                    other => Error::Gpu { reason: other.to_string() },
                };
                fault.lock().unwrap().get_or_insert(error);
            }
        }));
        device.set_device_lost_callback({
            let lost = lost.clone();
            move |reason, message| {
                lost.lock().unwrap().get_or_insert(format!("{reason:?}: {message}"));
            }
        });
        Ok(Gpu {
            device,
            queue,
            info,
            memory: Mutex::default(),
            layouts: Mutex::default(),
            pipelines: Mutex::default(),
            fault,
            lost,
            uploads: Mutex::default(),
        })
    }

    pub fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    /// Destroys the device, as a fault would: every later call gives `E_DEVICE_LOST`. For tests of recovery.
    pub fn destroy(&self) {
        self.lost.lock().unwrap().get_or_insert("Destroyed: by request".into());
        self.device.destroy();
    }

    /// Why the device was lost, if it was.
    pub fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap().clone()
    }

    /// The error that the device reported since the last call, if any.
    fn check(&self) -> Result<()> {
        if let Some(reason) = self.lost.lock().unwrap().clone() {
            return Err(Error::DeviceLost { reason });
        }
        self.fault.lock().unwrap().take().map_or(Ok(()), Err)
    }

    pub(crate) fn alloc(&self, tensor: Tensor, held: u64) -> Result<()> {
        let memory = match tensor.storage {
            Storage::Buffer => {
                let size = (tensor.size_bytes() as u64).max(4);
                check_limit("maxBufferSize", size, self.info.max_buffer_bytes)?;
                Memory::Buffer(self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }))
            }
            Storage::Words | Storage::Pieces => {
                let rows = tensor.held_bytes() / tensor.storage.texel_bytes() / TEXELS_A_ROW;
                check_limit("maxTextureDimension2D", rows as u64, (MAX_TEXELS / TEXELS_A_ROW) as u64)?;
                let texture = self.device.create_texture(&wgpu::TextureDescriptor {
                    label: None,
                    size: texels(TEXELS_A_ROW, rows.max(1)),
                    mip_level_count: 1,
                    sample_count: 1,
                    dimension: wgpu::TextureDimension::D2,
                    format: texture_format(tensor.storage),
                    usage: wgpu::TextureUsages::TEXTURE_BINDING
                        | wgpu::TextureUsages::STORAGE_BINDING
                        | wgpu::TextureUsages::COPY_DST,
                    view_formats: &[],
                });
                let view = texture.create_view(&Default::default());
                Memory::Texture(texture, view)
            }
        };
        self.check().map_err(|error| match error {
            Error::OutOfMemory { .. } => {
                Error::OutOfMemory { asked: tensor.held_bytes() as u64, held, hint: OOM_HINT.into() }
            }
            other => other,
        })?;
        self.memory.lock().unwrap().insert(tensor.id, memory);
        Ok(())
    }

    pub(crate) fn free(&self, id: u32) {
        match self.memory.lock().unwrap().remove(&id) {
            Some(Memory::Buffer(buffer)) => buffer.destroy(),
            Some(Memory::Texture(texture, _)) => texture.destroy(),
            None => {}
        }
    }

    pub(crate) fn write(&self, tensor: Tensor, offset: usize, bytes: &[u8]) -> Result<()> {
        self.check()?;
        {
            let memory = self.memory.lock().unwrap();
            let buffer = memory[&tensor.id].buffer();
            let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
            self.queue.write_buffer(buffer, offset as u64, words);
            if !rest.is_empty() {
                let mut last = [0; 4];
                last[..rest.len()].copy_from_slice(rest);
                self.queue.write_buffer(buffer, (offset + words.len()) as u64, &last);
            }
        }
        self.count_upload(bytes.len())
    }

    /// Writes rows of a matrix to the texture that holds it; `first_row` is the first of a block.
    pub(crate) fn write_rows(&self, tensor: Tensor, first_row: usize, rows: &[u8]) -> Result<()> {
        self.check()?;
        let row_bytes = tensor.width() * tensor.dtype.bytes();
        let texels = match (tensor.storage, tensor.dtype.bytes()) {
            (Storage::Pieces, _) => in_blocks::<16>(rows, row_bytes),
            (_, 2) => in_blocks::<2>(rows, row_bytes),
            _ => in_blocks::<4>(rows, row_bytes),
        };
        self.write_texels(tensor, first_row * row_bytes, &texels);
        self.count_upload(texels.len())
    }

    /// Starts a window of uploads where it is full, and waits for the one before: one is filled while one is copied.
    fn count_upload(&self, bytes: usize) -> Result<()> {
        let mut uploads = self.uploads.lock().unwrap();
        uploads.bytes += bytes;
        if uploads.bytes < UPLOAD_WINDOW {
            return Ok(());
        }
        uploads.bytes = 0;
        let submitted = self.queue.submit([]);
        match uploads.submitted.replace(submitted) {
            Some(before) => self.wait_for(before),
            None => Ok(()),
        }
    }

    /// Writes whole texels.
    fn write_texels(&self, tensor: Tensor, offset: usize, bytes: &[u8]) {
        let memory = self.memory.lock().unwrap();
        let Memory::Texture(texture, _) = &memory[&tensor.id] else { panic!("{tensor:?} is in no texture") };
        let row_bytes = TEXELS_A_ROW * tensor.storage.texel_bytes();
        let (mut at, mut left) = (offset, bytes);
        while !left.is_empty() {
            let column = at % row_bytes;
            // The rest of a row, or all whole rows at once.
            let whole = if column == 0 { left.len() / row_bytes * row_bytes } else { 0 };
            let (now, later) = left.split_at(whole.max(left.len().min(row_bytes - column)));
            let rows = now.len().div_ceil(row_bytes);
            self.queue.write_texture(
                wgpu::TexelCopyTextureInfo {
                    origin: wgpu::Origin3d {
                        x: (column / tensor.storage.texel_bytes()) as u32,
                        y: (at / row_bytes) as u32,
                        z: 0,
                    },
                    ..texture.as_image_copy()
                },
                now,
                wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row_bytes as u32), rows_per_image: None },
                texels(now.len() / rows / tensor.storage.texel_bytes(), rows),
            );
            at += now.len();
            left = later;
        }
    }

    /// Waits until the device has done everything. Does nothing in a browser, where only awaiting a read waits.
    fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// As [`Gpu::wait`], for everything up to a submission.
    fn wait_for(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
    }

    fn poll(&self, until: wgpu::PollType) -> Result<()> {
        // wgpu panics when a driver reports the loss of the device while it is polled.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| self.device.poll(until)));
        if polled.is_err() {
            self.lost.lock().unwrap().get_or_insert("the driver stopped".into());
        }
        self.check()
    }

    /// Waits as [`Gpu::wait`] does, in a browser too.
    pub(crate) async fn finish(&self) -> Result<()> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        self.wait()?;
        let _ = receiver.await;
        self.check()
    }

    pub(crate) fn prepare(&self, recording: &Recording, pool: &mut Pool) -> Result<GpuPlan> {
        let shared = share_scratch(recording);
        for &(tensor, _) in &shared.buffers {
            pool.add(tensor)?;
        }
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
        self.queue.write_buffer(&params_buffer, 0, &params);
        let mut steps = Vec::with_capacity(recording.dispatches.len());
        for (dispatch, offset) in recording.dispatches.iter().zip(params_at) {
            let layout = self.layout(&dispatch.operands.iter().map(|(t, a)| (*a, t.storage)).collect::<Vec<_>>());
            let pipeline = self.pipeline(dispatch, &layout);
            let memory = self.memory.lock().unwrap();
            let mut entries = Vec::with_capacity(dispatch.operands.len() + 1);
            for (binding, (tensor, _)) in dispatch.operands.iter().enumerate() {
                let id = shared.place.get(&tensor.id).unwrap_or(&tensor.id);
                let held = memory.get(id).ok_or_else(|| Error::State {
                    reason: format!("{}: operand {binding} has no memory on this device", dispatch.kernel.name),
                })?;
                let resource = match held {
                    Memory::Buffer(buffer) => {
                        let size = (tensor.size_bytes() as u64).max(4);
                        check_limit("maxStorageBufferBindingSize", size, self.info.max_binding_bytes)?;
                        let size = std::num::NonZeroU64::new(size);
                        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size })
                    }
                    Memory::Texture(_, view) => wgpu::BindingResource::TextureView(view),
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
            steps.push((pipeline, group, dispatch.workgroups));
        }
        self.check()?;
        Ok(GpuPlan { steps })
    }

    fn layout(&self, operands: &[(Access, Storage)]) -> wgpu::BindGroupLayout {
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let make = || {
            let operands = operands.iter().map(|&(access, storage)| match (storage, access) {
                (Storage::Buffer, _) => buffer(wgpu::BufferBindingType::Storage { read_only: access == Access::Read }),
                (_, Access::Read) => wgpu::BindingType::Texture {
                    sample_type: wgpu::TextureSampleType::Uint,
                    view_dimension: wgpu::TextureViewDimension::D2,
                    multisampled: false,
                },
                (_, Access::Write) => wgpu::BindingType::StorageTexture {
                    access: wgpu::StorageTextureAccess::WriteOnly,
                    format: texture_format(storage),
                    view_dimension: wgpu::TextureViewDimension::D2,
                },
            });
            let entries: Vec<_> = operands
                .chain([buffer(wgpu::BufferBindingType::Uniform)])
                .enumerate()
                .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                    binding: binding as u32,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty,
                    count: None,
                })
                .collect();
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        };
        self.layouts.lock().unwrap().entry(operands.to_vec()).or_insert_with(make).clone()
    }

    fn pipeline(&self, dispatch: &Dispatch, layout: &wgpu::BindGroupLayout) -> wgpu::ComputePipeline {
        let Dispatch { kernel, constants, .. } = dispatch;
        let access: String =
            dispatch.operands.iter().map(|(_, a)| if *a == Access::Read { 'r' } else { 'w' }).collect();
        let key = format!("{} {access} {constants:?}", kernel.name);
        if let Some(pipeline) = self.pipelines.lock().unwrap().get(&key) {
            return pipeline.clone();
        }
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(full_source(kernel, cfg!(target_arch = "wasm32")).into()),
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
            cache: None,
        });
        self.pipelines.lock().unwrap().insert(key, pipeline.clone());
        pipeline
    }

    pub(crate) fn run(&self, plan: &GpuPlan) -> Result<()> {
        self.check()?;
        for steps in plan.steps.chunks(DISPATCHES_A_SUBMISSION) {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for (pipeline, group, [x, y, z]) in steps {
                    pass.set_pipeline(pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(*x, *y, *z);
                }
            }
            self.queue.submit([encoder.finish()]);
        }
        self.check()
    }

    pub(crate) fn reader(&self, bytes: usize) -> Result<GpuReader> {
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("reader"),
            size: (bytes as u64).next_multiple_of(4).max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.check()?;
        Ok(GpuReader { buffer })
    }

    pub(crate) async fn read(&self, reader: &GpuReader, tensors: &[Tensor], out: &mut [u8]) -> Result<()> {
        self.check()?;
        let size = out.len() as u64;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let memory = self.memory.lock().unwrap();
            let mut at = 0;
            for tensor in tensors {
                let bytes = tensor.size_bytes() as u64;
                encoder.copy_buffer_to_buffer(memory[&tensor.id].buffer(), 0, &reader.buffer, at, bytes);
                at += bytes;
            }
        }
        self.queue.submit([encoder.finish()]);
        let (sender, receiver) = futures_channel::oneshot::channel();
        let slice = reader.buffer.slice(..size);
        slice.map_async(wgpu::MapMode::Read, move |result| {
            let _ = sender.send(result);
        });
        self.wait()?;
        let mapped = receiver.await;
        self.check()?;
        let failed = |reason: String| Error::Gpu { reason };
        mapped
            .map_err(|_| failed("a read was dropped".into()))?
            .map_err(|e| failed(format!("memory could not be read back: {e}")))?;
        {
            let view = slice.get_mapped_range().map_err(|e| failed(e.to_string()))?;
            out.copy_from_slice(&view);
        }
        reader.buffer.unmap();
        Ok(())
    }
}

fn check_limit(name: &str, need: u64, have: u64) -> Result<()> {
    if need > have { Err(Error::Limit { name: name.into(), need, have }) } else { Ok(()) }
}

fn texels(width: usize, height: usize) -> wgpu::Extent3d {
    wgpu::Extent3d { width: width as u32, height: height as u32, depth_or_array_layers: 1 }
}

fn texture_format(storage: Storage) -> wgpu::TextureFormat {
    match storage {
        Storage::Words => wgpu::TextureFormat::R32Uint,
        Storage::Pieces => wgpu::TextureFormat::Rgba32Uint,
        Storage::Buffer => unreachable!("buffers have no texels"),
    }
}

const OOM_HINT: &str = "close other programs that use the GPU, keep less there with a memory budget (--memory-budget), or \
                        make the weights smaller with `qllama quantize`";

/// The text that makes a kernel's shader module. Browsers want `enable subgroups;`, which naga does not know.
pub fn full_source(kernel: &Kernel, browser: bool) -> String {
    let enable = if browser && kernel.subgroups { "enable subgroups;\n" } else { "" };
    format!("{enable}{COMMON}\n{}", kernel.source)
}

/// Which buffer each scratch tensor lives in.
pub(crate) struct SharedScratch {
    /// Scratch id -> id of the tensor whose buffer it uses.
    place: HashMap<u32, u32>,
    /// The tensors that own buffers, with the last dispatch that uses each.
    pub(crate) buffers: Vec<(Tensor, usize)>,
}

/// Lets scratch tensors whose lives (first to last dispatch) do not overlap share a buffer: each takes the smallest
/// free buffer that is large enough, else enlarges the largest free one, else gets its own.
pub(crate) fn share_scratch(recording: &Recording) -> SharedScratch {
    let mut lives: HashMap<u32, (usize, usize)> = HashMap::new();
    for (i, dispatch) in recording.dispatches.iter().enumerate() {
        for (tensor, _) in &dispatch.operands {
            lives.entry(tensor.id).or_insert((i, i)).1 = i;
        }
    }
    let mut scratch: Vec<_> = recording.scratch.iter().filter_map(|t| Some((*t, *lives.get(&t.id)?))).collect();
    scratch.sort_by_key(|(_, life)| life.0);
    let mut shared = SharedScratch { place: HashMap::new(), buffers: Vec::new() };
    for (tensor, (first, last)) in scratch {
        let alike = |(t, busy_until): &&mut (Tensor, usize)| t.storage == tensor.storage && *busy_until < first;
        let free = shared.buffers.iter_mut().filter(alike);
        let fit = free.min_by_key(|(t, _)| {
            let short = tensor.size_bytes().saturating_sub(t.size_bytes());
            (short, t.size_bytes())
        });
        match fit {
            Some((owner, busy_until)) => {
                if owner.size_bytes() < tensor.size_bytes() {
                    *owner = Tensor::new(owner.id, DType::U32, &[tensor.size_bytes() / 4]).stored(owner.storage);
                }
                *busy_until = last;
                shared.place.insert(tensor.id, owner.id);
            }
            None => shared.buffers.push((tensor, last)),
        }
    }
    shared
}
