//! Buffers and textures that hold tensors, and the way of bytes into them.

use crate::device::gpu::faults::Faults;
use crate::device::info::DeviceInfo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::tensor::{MAX_TEXELS, Storage, TEXELS_PER_ROW, Tensor};
use crate::error::{Error, Result};

/// Bytes that are uploaded at a time, so that staging memory stays small, and in the processor's cache.
/// With 16 MiB, it and what its allocator kept came to 80 MiB on Mesa's software adapter for a file of 1.2 GiB.
const UPLOAD_WINDOW: usize = 2 << 20;

/// Uploads on their way.
#[derive(Default)]
struct Uploads {
    /// Bytes since the last submission.
    bytes: usize,
    submitted: Option<wgpu::SubmissionIndex>,
}

/// What holds a tensor.
pub(super) enum Held {
    Buffer(wgpu::Buffer),
    Texture(wgpu::Texture, wgpu::TextureView),
}

impl Held {
    /// Copies a whole tensor to a buffer at `offset`. Of a texture, whole rows are copied: zeros follow the tensor there.
    pub(super) fn copy(&self, encoder: &mut wgpu::CommandEncoder, tensor: Tensor, to: &wgpu::Buffer, offset: u64) {
        match self {
            Held::Buffer(buffer) => encoder.copy_buffer_to_buffer(buffer, 0, to, offset, tensor.size_bytes() as u64),
            Held::Texture(texture, _) => {
                let row_bytes = (TEXELS_PER_ROW * tensor.storage.texel_bytes()) as u32;
                let layout =
                    wgpu::TexelCopyBufferLayout { offset, bytes_per_row: Some(row_bytes), rows_per_image: None };
                let to = wgpu::TexelCopyBufferInfo { buffer: to, layout };
                encoder.copy_texture_to_buffer(texture.as_image_copy(), to, texture.size());
            }
        }
    }
}

/// The memory of one device's tensors, by their ids.
pub(super) struct Memory {
    device: wgpu::Device,
    queue: wgpu::Queue,
    faults: Arc<Faults>,
    info: DeviceInfo,
    held: Mutex<HashMap<u32, Held>>,
    uploads: Mutex<Uploads>,
}

impl Memory {
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue, faults: &Arc<Faults>, info: &DeviceInfo) -> Memory {
        Memory {
            device: device.clone(),
            queue: queue.clone(),
            faults: faults.clone(),
            info: info.clone(),
            held: Mutex::default(),
            uploads: Mutex::default(),
        }
    }

    /// What the tensors are held in. A panic of wgpu's leaves it whole, and memory is given back behind one, too.
    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<u32, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alloc(&self, tensor: Tensor) -> Result<()> {
        let memory = match tensor.storage {
            Storage::Buffer => {
                let size = (tensor.size_bytes() as u64).max(4);
                check_limit("maxBufferSize", size, self.info.max_buffer_bytes)?;
                Held::Buffer(self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size,
                    usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }))
            }
            Storage::Words | Storage::Pieces => {
                let rows = tensor.held_bytes() / tensor.storage.texel_bytes() / TEXELS_PER_ROW;
                check_limit("maxTextureDimension2D", rows as u64, (MAX_TEXELS / TEXELS_PER_ROW) as u64)?;
                let texture = self.device.create_texture(&wgpu::TextureDescriptor {
                    label: None,
                    size: texels(TEXELS_PER_ROW, rows.max(1)),
                    mip_level_count: 1,
                    sample_count: 1,
                    dimension: wgpu::TextureDimension::D2,
                    format: texture_format(tensor.storage),
                    usage: wgpu::TextureUsages::TEXTURE_BINDING
                        | wgpu::TextureUsages::STORAGE_BINDING
                        | wgpu::TextureUsages::COPY_SRC
                        | wgpu::TextureUsages::COPY_DST,
                    view_formats: &[],
                });
                let view = texture.create_view(&Default::default());
                Held::Texture(texture, view)
            }
        };
        self.faults.check_made(&self.device, tensor.held_bytes() as u64)?;
        self.held().insert(tensor.id, memory);
        Ok(())
    }

    pub(super) fn free(&self, id: u32) {
        match self.held().remove(&id) {
            Some(Held::Buffer(buffer)) => buffer.destroy(),
            Some(Held::Texture(texture, _)) => texture.destroy(),
            None => {}
        }
    }

    /// Copies bytes into a tensor at a byte offset: of a buffer, a multiple of 4; of a texture, whole texels.
    pub(super) fn write(&self, tensor: Tensor, offset: usize, bytes: &[u8]) -> Result<()> {
        self.faults.check(&self.device)?;
        match &self.held()[&tensor.id] {
            Held::Buffer(buffer) => self.write_words(buffer, offset, bytes),
            Held::Texture(texture, _) => self.write_texels(texture, tensor.storage, offset, bytes),
        }
        self.count_upload(bytes.len())
    }

    /// Writes whole words, zeros behind the last byte.
    fn write_words(&self, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) {
        let (words, rest) = bytes.split_at(bytes.len() / 4 * 4);
        self.queue.write_buffer(buffer, offset as u64, words);
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.queue.write_buffer(buffer, (offset + words.len()) as u64, &last);
        }
    }

    /// Starts a window of uploads where it is full, and waits for the one before: one is filled while one is copied.
    fn count_upload(&self, bytes: usize) -> Result<()> {
        let mut uploads = self.uploads.lock().unwrap();
        uploads.bytes += bytes;
        if uploads.bytes < UPLOAD_WINDOW {
            return Ok(());
        }
        uploads.bytes = 0;
        self.faults.moment(&self.device);
        let submitted = self.queue.submit([]);
        match uploads.submitted.replace(submitted) {
            Some(before) => {
                self.faults.moment(&self.device);
                let until = wgpu::PollType::Wait { submission_index: Some(before), timeout: None };
                self.faults.poll(&self.device, until)
            }
            None => Ok(()),
        }
    }

    /// Writes whole texels.
    fn write_texels(&self, texture: &wgpu::Texture, storage: Storage, offset: usize, bytes: &[u8]) {
        let texel_bytes = storage.texel_bytes();
        let row_bytes = TEXELS_PER_ROW * texel_bytes;
        let (mut at, mut left) = (offset, bytes);
        while !left.is_empty() {
            let column = at % row_bytes;
            // The rest of a row, or all whole rows at once.
            let whole = if column == 0 { left.len() / row_bytes * row_bytes } else { 0 };
            let (now, later) = left.split_at(whole.max(left.len().min(row_bytes - column)));
            let rows = now.len().div_ceil(row_bytes);
            self.queue.write_texture(
                wgpu::TexelCopyTextureInfo {
                    origin: wgpu::Origin3d { x: (column / texel_bytes) as u32, y: (at / row_bytes) as u32, z: 0 },
                    ..texture.as_image_copy()
                },
                now,
                wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(row_bytes as u32), rows_per_image: None },
                texels(now.len() / rows / texel_bytes, rows),
            );
            at += now.len();
            left = later;
        }
    }
}

pub(super) fn check_limit(name: &str, need: u64, have: u64) -> Result<()> {
    if need > have { Err(Error::Limit { name: name.into(), need, have }) } else { Ok(()) }
}

fn texels(width: usize, height: usize) -> wgpu::Extent3d {
    wgpu::Extent3d { width: width as u32, height: height as u32, depth_or_array_layers: 1 }
}

pub(super) fn texture_format(storage: Storage) -> wgpu::TextureFormat {
    match storage {
        Storage::Words => wgpu::TextureFormat::R32Uint,
        Storage::Pieces => wgpu::TextureFormat::Rgba32Uint,
        Storage::Buffer => unreachable!("buffers have no texels"),
    }
}
