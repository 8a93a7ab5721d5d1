//! `--adapter` and `--list-adapters`.

use qllama::device::gpu::{Candidate, Gpu, candidates};
use qllama::{Device, Error, Result};

use crate::Common;

/// Prints the adapters, numbered as `--adapter` takes them.
pub async fn list() -> Result<()> {
    for (index, candidate) in candidates().await.iter().enumerate() {
        println!("{index}: {}", describe(candidate));
    }
    println!("cpu: the CPU executor (slow; no GPU and no driver needed)");
    Ok(())
}

/// One line about an adapter.
pub fn describe(candidate: &Candidate) -> String {
    let info = candidate.info();
    format!(
        "{} ({}{}, bindings up to {} MiB)",
        info.name,
        info.backend,
        if info.software { ", software" } else { "" },
        info.max_binding_bytes >> 20
    )
}

/// Opens the adapter that was asked for, or the first.
pub async fn open(common: &Common) -> Result<Device> {
    if common.adapter.as_deref() == Some("cpu") {
        return Ok(Device::cpu());
    }
    let mut found = candidates().await;
    let index = chosen(&found, common)?;
    Ok(Device::gpu(Gpu::open(found.swap_remove(index)).await?))
}

/// The index of the adapter that was asked for, or of the first.
pub fn chosen(found: &[Candidate], common: &Common) -> Result<usize> {
    if found.is_empty() {
        return Err(Error::Adapter {
            reason: "no WebGPU adapter was found: install a Vulkan driver (on Debian or Ubuntu, \
                     `apt-get install mesa-vulkan-drivers` has one that needs no GPU), or use --adapter cpu"
                .into(),
        });
    }
    match &common.adapter {
        None => Ok(0),
        Some(wanted) => {
            let by_index = wanted.parse::<usize>().ok().filter(|&i| i < found.len());
            let by_name = || found.iter().position(|c| c.name().to_lowercase().contains(&wanted.to_lowercase()));
            by_index.or_else(by_name).ok_or_else(|| Error::Adapter {
                reason: format!(
                    "no adapter is called {wanted:?}; there are: {}",
                    found.iter().enumerate().map(|(i, c)| format!("{i}: {}", c.name())).collect::<Vec<_>>().join(", ")
                ),
            })
        }
    }
}
