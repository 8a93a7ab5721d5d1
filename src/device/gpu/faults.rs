//! What a device reports of itself: errors that nobody asked for, and its loss.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};

pub(super) const OOM_HINT: &str = "close other programs that use the GPU, keep less there with a memory budget, or take a \
                                   checkpoint with weights of 4 or 8 bits";

/// The faults of one device.
#[derive(Default)]
pub(super) struct Faults {
    /// The first error that the device reported and nobody has been told of.
    fault: Mutex<Option<Error>>,
    /// Why the device was lost.
    lost: Mutex<Option<String>>,
}

impl Faults {
    /// Listens to a device.
    pub(super) fn of(device: &wgpu::Device) -> Arc<Faults> {
        let faults = Arc::new(Faults::default());
        device.on_uncaptured_error(Arc::new({
            let faults = faults.clone();
            move |error: wgpu::Error| {
                let error = match error {
                    wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { asked: 0, held: 0, hint: OOM_HINT.into() },
                    other => Error::Gpu { reason: other.to_string() },
                };
                faults.fault.lock().unwrap().get_or_insert(error);
            }
        }));
        device.set_device_lost_callback({
            let faults = faults.clone();
            move |reason, message| faults.lose(format!("{reason:?}: {message}"))
        });
        faults
    }

    /// Takes the device as lost; the first reason stays.
    pub(super) fn lose(&self, reason: String) {
        self.lost.lock().unwrap().get_or_insert(reason);
    }

    /// Why the device was lost, if it was.
    pub(super) fn lost(&self) -> Option<String> {
        self.lost.lock().unwrap().clone()
    }

    /// The error that the device reported since the last call, if any.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(reason) = self.lost() {
            return Err(Error::DeviceLost { reason });
        }
        self.fault.lock().unwrap().take().map_or(Ok(()), Err)
    }

    /// Polls the device, which does nothing in a browser, where only awaiting a read waits.
    pub(super) fn poll(&self, device: &wgpu::Device, until: wgpu::PollType) -> Result<()> {
        // wgpu panics when a driver reports the loss of the device while it is polled.
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| device.poll(until)));
        if polled.is_err() {
            self.lose("the driver stopped".into());
        }
        self.check()
    }
}
