//! How long a recording takes.

use web_time::Instant;

use crate::device::recording::Recording;
use crate::device::tensor::DType;
use crate::device::{Device, Plan};
use crate::error::Result;
use crate::ops::rows::gather_rows::gather_rows;

/// Seconds that are taken at least, so that starting and waiting count little.
const LEAST: f64 = 0.05;
/// Times that are taken; the shortest counts.
const TIMES: usize = 3;

/// Seconds of a recording, played as often as fills 50 ms, less what an empty one takes; the shortest of three.
pub(super) async fn seconds(device: &Device, recording: &Recording) -> Result<f64> {
    let plan = device.prepare(recording)?;
    let empty = empty(device).await?;
    // The first makes what drivers make late.
    played(device, &plan, 1).await?;
    let mut count = 1;
    let mut shortest = f64::MAX;
    let mut taken = 0;
    while taken < TIMES {
        let all = played(device, &plan, count).await?;
        if all < LEAST {
            count = (count as f64 * (1.2 * LEAST / all.max(1e-6)).clamp(2.0, 100.0)) as usize;
            continue;
        }
        shortest = shortest.min((all - empty).max(all * 0.01) / count as f64);
        taken += 1;
    }
    Ok(shortest)
}

/// Seconds from the start of the least work there is to hearing of its end.
pub(super) async fn empty(device: &Device) -> Result<f64> {
    let mut pool = device.pool();
    let (from, indices) = (pool.alloc(DType::F32, &[1, 1])?, pool.alloc(DType::U32, &[1])?);
    let mut r = Recording::new();
    gather_rows(&mut r, from, indices);
    let plan = device.prepare(&r)?;
    let mut shortest = f64::MAX;
    for _ in 0..10 {
        shortest = shortest.min(played(device, &plan, 1).await?);
    }
    Ok(shortest)
}

async fn played(device: &Device, plan: &Plan, count: usize) -> Result<f64> {
    device.finish().await?;
    let start = Instant::now();
    for _ in 0..count {
        device.run(plan)?;
    }
    device.finish().await?;
    Ok(start.elapsed().as_secs_f64())
}
