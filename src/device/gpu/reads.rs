//! The way of bytes back from the GPU, in the submission that makes them where a plan does.

use futures_channel::oneshot;

use crate::device::gpu::faults::Faults;
use crate::device::gpu::memory::Memory;
use crate::device::gpu::submissions::Submissions;
use crate::device::tensor::Tensor;
use crate::error::{Error, Result};

/// Staging memory for reads, one at a time.
pub struct GpuReader {
    buffer: wgpu::Buffer,
}

/// A read on its way.
pub struct GpuReading {
    buffer: wgpu::Buffer,
    bytes: u64,
    submission: wgpu::SubmissionIndex,
    mapped: oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

impl GpuReader {
    pub(super) fn new(device: &wgpu::Device, bytes: usize) -> GpuReader {
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("reader"),
            size: (bytes as u64).next_multiple_of(4).max(4),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        GpuReader { buffer }
    }

    /// Adds the way of whole tensors, one behind the other, to commands.
    pub(super) fn copy(&self, memory: &Memory, tensors: &[Tensor], encoder: &mut wgpu::CommandEncoder) {
        let memory = memory.held();
        let mut at = 0;
        for tensor in tensors {
            memory[&tensor.id].copy(encoder, *tensor, &self.buffer, at);
            at += tensor.size_bytes() as u64;
        }
    }

    /// The read of what a submission copied.
    pub(super) fn start(&self, faults: &Faults, tensors: &[Tensor], submission: wgpu::SubmissionIndex) -> GpuReading {
        let bytes = tensors.iter().map(|tensor| tensor.size_bytes() as u64).sum();
        let (answer, mapped) = faults.answer();
        self.buffer.slice(..bytes).map_async(wgpu::MapMode::Read, answer);
        GpuReading { buffer: self.buffer.clone(), bytes, submission, mapped }
    }
}

impl GpuReading {
    /// Waits for the bytes, and not for what was submitted behind them.
    pub(super) async fn finish(self, submissions: &Submissions, out: &mut [u8]) -> Result<()> {
        submissions.wait(self.submission)?;
        let mapped = self.mapped.await;
        submissions.check()?;
        let failed = |what: &dyn std::fmt::Display| Error::Gpu { reason: format!("memory was not read back: {what}") };
        let slice = self.buffer.slice(..self.bytes);
        let view = match mapped {
            Ok(Ok(())) => slice.get_mapped_range().map_err(|e| failed(&e)),
            Ok(Err(e)) => Err(failed(&e)),
            Err(_) => Err(failed(&"the device did not answer")),
        };
        let view = match view {
            Ok(view) => view,
            Err(error) => {
                submissions.settle().await?;
                return Err(error);
            }
        };
        out.copy_from_slice(&view);
        drop(view);
        self.buffer.unmap();
        Ok(())
    }
}
