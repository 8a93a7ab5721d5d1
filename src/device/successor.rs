//! A device in place of one that was lost.

use std::time::Duration;

use crate::device::executor::Device;
use crate::device::gpu::{Gpu, candidates};
use crate::device::pause::pause;
use crate::error::{Error, Result};

/// How long a driver may take to come back. A browser starts its GPU process again meanwhile.
const TRIES: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(250);
/// So many tries wait for the same adapter; then any other will do.
const FOR_THE_SAME: u32 = 8;

impl Device {
    /// The device that takes the place of this one: itself while it is not lost. It is opened on the same adapter, or,
    /// where that stays away for 2 seconds, on the first of the others; once, whoever asks, with the same memory budget.
    ///
    /// # Errors
    /// `E_ADAPTER` where no adapter comes back within 10 seconds; what opening it gives.
    pub async fn successor(&self) -> Result<Device> {
        let mut device = self.clone();
        loop {
            if device.lost().is_none() {
                return Ok(device);
            }
            let mut place = device.successor_place().lock().await;
            let Some(next) = place.clone() else {
                let opened = device.open_again().await?;
                opened.set_memory_budget(device.memory_budget());
                if opened.info().name == device.info().name {
                    // The same ways give the same last bits.
                    opened.set_choices((*device.choices()).clone());
                }
                *place = Some(opened.clone());
                return Ok(opened);
            };
            drop(place);
            device = next;
        }
    }

    async fn open_again(&self) -> Result<Device> {
        let gpu = self.as_gpu().expect("only GPUs are lost");
        let before = gpu.info();
        let mut failed = None;
        for attempt in 0..TRIES {
            if attempt > 0 {
                pause(BETWEEN).await;
            }
            let mut found = candidates().await;
            let same = |info: crate::device::DeviceInfo| info.name == before.name && info.backend == before.backend;
            let index = match found.iter().position(|candidate| same(candidate.info())) {
                None if found.is_empty() || attempt < FOR_THE_SAME => continue,
                index => index.unwrap_or(0),
            };
            match Gpu::open(gpu.as_limited(found.swap_remove(index))).await {
                Ok(gpu) => return Ok(Device::gpu(gpu)),
                Err(error @ Error::OutOfMemory { .. }) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::Adapter { reason: "its adapter is gone, and there is no other".into() }))
    }
}
