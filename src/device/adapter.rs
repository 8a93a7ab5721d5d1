//! Which adapter a device is opened on.

use std::convert::Infallible;
use std::str::FromStr;

use crate::device::executor::Device;
use crate::device::gpu::{Candidate, Gpu, candidates};
use crate::device::info::DeviceInfo;
use crate::error::{Error, Result};

/// The choice of an adapter. As text: `cpu`, part of an adapter's name, or its number in [`adapters`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Adapter {
    /// The first of [`adapters`]: a GPU of its own before an integrated one, software last.
    #[default]
    Best,
    /// The CPU executor: slow, but needs neither GPU nor driver.
    Cpu,
    /// Part of an adapter's name, in any case of letters, or its number in [`adapters`].
    Named(String),
}

impl From<&str> for Adapter {
    fn from(text: &str) -> Adapter {
        if text == "cpu" { Adapter::Cpu } else { Adapter::Named(text.into()) }
    }
}

impl FromStr for Adapter {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Adapter, Infallible> {
        Ok(text.into())
    }
}

/// The adapters of this machine in the order of preference; in a browser, the one that it offers. The CPU executor is not
/// among them.
pub async fn adapters() -> Vec<DeviceInfo> {
    candidates().await.iter().map(Candidate::info).collect()
}

impl Adapter {
    /// The index in `found`, the adapters of this machine; `None` for the CPU executor.
    ///
    /// # Errors
    /// `E_ADAPTER` where there is no such adapter, or none at all.
    pub fn choose(&self, found: &[DeviceInfo]) -> Result<Option<usize>> {
        if *self == Adapter::Cpu {
            return Ok(None);
        }
        if found.is_empty() {
            return Err(Error::Adapter { reason: NO_ADAPTER.into() });
        }
        let Adapter::Named(wanted) = self else { return Ok(Some(0)) };
        let by_index = wanted.parse::<usize>().ok().filter(|&i| i < found.len());
        let by_name = || found.iter().position(|info| info.name.to_lowercase().contains(&wanted.to_lowercase()));
        let index = by_index.or_else(by_name).ok_or_else(|| {
            let names: Vec<String> = found.iter().enumerate().map(|(i, info)| format!("{i}: {}", info.name)).collect();
            let reason = format!("no adapter is called {wanted:?}; there are: {}, cpu", names.join(", "));
            Error::Adapter { reason }
        })?;
        Ok(Some(index))
    }
}

#[cfg(not(target_arch = "wasm32"))]
const NO_ADAPTER: &str = "no WebGPU adapter was found: install a Vulkan driver (on Debian or Ubuntu, `apt-get install \
                          mesa-vulkan-drivers` has one that needs no GPU), or choose the adapter `cpu`, which needs none";
#[cfg(target_arch = "wasm32")]
const NO_ADAPTER: &str = "this browser offers no WebGPU adapter: the GPU may be blocked, or hardware acceleration turned \
                          off in the settings";

impl Device {
    /// Opens an adapter.
    ///
    /// # Errors
    /// `E_ADAPTER` where there is no such adapter or it refuses, `E_LIMIT` where it lacks what kernels need.
    pub async fn open(adapter: &Adapter) -> Result<Device> {
        // A device that is lost while it is opened is opened again.
        for _ in 0..2 {
            match Device::open_once(adapter).await {
                Err(Error::DeviceLost { .. }) => {}
                opened => return opened,
            }
        }
        Device::open_once(adapter).await
    }

    async fn open_once(adapter: &Adapter) -> Result<Device> {
        if *adapter == Adapter::Cpu {
            return Ok(Device::cpu());
        }
        let mut found = candidates().await;
        let infos: Vec<DeviceInfo> = found.iter().map(Candidate::info).collect();
        match adapter.choose(&infos)? {
            Some(index) => Ok(Device::gpu(Gpu::open(found.swap_remove(index)).await?)),
            None => Ok(Device::cpu()),
        }
    }
}
