//! The CPU executor: plays a recording by the kernels' Rust references. It is the oracle of the tests and
//! the adapter named `cpu`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Mutex;

use crate::device::recording::{Call, Dispatch, HostBuffer, Recording};
use crate::device::tensor::Tensor;
use crate::error::{Error, Result};
use crate::room::zeros;

/// Host memory by tensor id.
#[derive(Default)]
pub struct Host {
    buffers: Mutex<HashMap<u32, HostBuffer>>,
}

/// A recording made ready: its scratch memory is allocated by the caller.
pub struct HostPlan {
    dispatches: Vec<Dispatch>,
}

impl Host {
    pub fn alloc(&self, tensor: Tensor) -> Result<()> {
        let words = zeros("the CPU executor", tensor.size_bytes().div_ceil(4))?;
        self.buffers.lock().unwrap().insert(tensor.id, RefCell::new(words));
        Ok(())
    }

    pub fn free(&self, id: u32) {
        self.buffers.lock().unwrap().remove(&id);
    }

    /// Copies bytes into a tensor at a byte offset.
    pub fn write(&self, tensor: Tensor, offset: usize, bytes: &[u8]) {
        let buffers = self.buffers.lock().unwrap();
        let mut words = buffers[&tensor.id].borrow_mut();
        let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        memory[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Fills `out` from the start of a tensor.
    pub fn read(&self, tensor: Tensor, out: &mut [u8]) {
        let buffers = self.buffers.lock().unwrap();
        let words = buffers[&tensor.id].borrow();
        let memory: &[u8] = bytemuck::cast_slice(&words);
        out.copy_from_slice(&memory[..out.len()]);
    }

    pub fn prepare(&self, recording: &Recording) -> HostPlan {
        HostPlan { dispatches: recording.dispatches.clone() }
    }

    pub fn run(&self, plan: &HostPlan) -> Result<()> {
        let buffers = self.buffers.lock().unwrap();
        for dispatch in &plan.dispatches {
            let memory = dispatch.operands.iter().map(|(t, _)| buffers.get(&t.id)).collect::<Option<Vec<_>>>();
            let memory = memory.ok_or_else(|| Error::State {
                reason: format!("{}: an operand's memory was released before the plan ran", dispatch.kernel.name),
            })?;
            (dispatch.kernel.reference)(&Call { dispatch, memory });
        }
        Ok(())
    }
}
