//! What a device can do at best.

use crate::bench::timing;
use crate::device::Device;
use crate::device::recording::Recording;
use crate::device::tensor::DType;
use crate::device::work::Work;
use crate::error::Result;
use crate::ops::roof::{fmas_per_round, invocations, roof_fma, roof_read};

/// Bytes that are read, in as many buffers as that takes: beyond any cache.
const READ_BYTES: usize = 1 << 30;
/// The largest buffer of them, within the portable binding limit.
const BUFFER_BYTES: usize = 128 << 20;
const ROUNDS: u32 = 256;

/// The roofs of a device.
#[derive(Clone, Copy, Debug)]
pub struct Roofs {
    /// Bytes read a second.
    pub read_bytes: f64,
    /// Multiply-adds of f32 a second.
    pub multiply_adds: f64,
    /// Seconds from starting a submission with nothing in it to hearing of its end.
    pub empty: f64,
}

impl Roofs {
    /// Reads 1 GiB, or as much as the memory budget leaves, from buffers one after another, and makes multiply-adds in
    /// registers.
    ///
    /// # Errors
    /// The device's.
    pub async fn measure(device: &Device) -> Result<Roofs> {
        let left = device.memory_budget().saturating_sub(device.memory().0) / 2;
        let bytes = (left.min(READ_BYTES as u64) as usize).max(1 << 20);
        let size = bytes.min(BUFFER_BYTES).min(device.info().max_binding_bytes as usize) / 16 * 16;
        let mut pool = device.pool();
        let out = pool.alloc(DType::U32, &[invocations()])?;
        let mut r = Recording::new();
        let buffers = bytes / size;
        for _ in 0..buffers {
            let words = pool.alloc(DType::U32, &[size / 4])?;
            roof_read(&mut r, words, out);
        }
        let read = timing::seconds(device, &r).await?;
        drop(pool);
        let mut pool = device.pool();
        let sums = pool.alloc(DType::F32, &[invocations()])?;
        let rounds = if device.as_gpu().is_some() { ROUNDS } else { ROUNDS / 64 };
        let mut r = Recording::new();
        roof_fma(&mut r, sums, rounds);
        let made = timing::seconds(device, &r).await?;
        Ok(Roofs {
            read_bytes: (buffers * size) as f64 / read,
            multiply_adds: (fmas_per_round() * u64::from(rounds)) as f64 / made,
            empty: timing::empty(device).await?,
        })
    }

    /// How near to the nearer roof work comes that takes so long: 1 is at it.
    pub fn share(&self, work: Work, seconds: f64) -> f64 {
        let (bytes, made) = (work.bytes as f64 / self.read_bytes, work.multiply_adds as f64 / self.multiply_adds);
        bytes.max(made) / seconds
    }
}
