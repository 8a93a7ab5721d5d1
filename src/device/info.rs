//! What a device tells of itself.

use crate::device::maker::Maker;
use crate::device::recording::Recording;
use crate::device::scratch::share_scratch;
use crate::device::tensor::{Storage, Tensor};

/// The names and limits that a device shows to a person and to the planner.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    pub name: String,
    /// `Vulkan`, `Metal`, `Dx12`, `BrowserWebGpu`, or `CPU` for the CPU executor.
    pub backend: String,
    /// The driver and its version, where they are known.
    pub driver: String,
    pub maker: Maker,
    /// A software adapter's buffers are host memory.
    pub software: bool,
    /// What holds weights, and keys and values while texts are made: `Pieces` on software adapters, `Buffer` elsewhere.
    pub weights: Storage,
    /// The largest buffer range, in bytes, that one binding may cover.
    pub max_binding_bytes: u64,
    /// The largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Scratch tensors whose lives do not overlap share memory.
    pub shares_scratch: bool,
}

impl DeviceInfo {
    /// Bytes that a recording's scratch tensors take.
    pub fn scratch_bytes(&self, recording: &Recording) -> u64 {
        let bytes = |tensor: &Tensor| tensor.held_bytes() as u64;
        if self.shares_scratch {
            share_scratch(recording).buffers.iter().map(|(tensor, _)| bytes(tensor)).sum()
        } else {
            recording.scratch.iter().map(bytes).sum()
        }
    }
}
