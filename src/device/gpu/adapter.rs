//! The adapters of this machine, and what they offer.

use crate::device::info::DeviceInfo;
use crate::device::maker::Maker;
use crate::device::tensor::Storage;

/// An adapter that could be opened.
pub struct Candidate {
    pub(super) adapter: wgpu::Adapter,
    pub(super) info: DeviceInfo,
    /// The limits of [`Candidate::limited`].
    pub(super) limits: Option<(u64, u64)>,
}

impl Candidate {
    fn new(adapter: wgpu::Adapter) -> Candidate {
        Candidate { info: device_info(&adapter), adapter, limits: None }
    }

    /// The adapter as if its largest buffer and binding, in bytes, were at most these and, as on a GPU, weights lay in
    /// buffers. For tests of small adapters.
    pub fn limited(mut self, max_buffer_bytes: u64, max_binding_bytes: u64) -> Candidate {
        self.limits = Some((max_buffer_bytes, max_binding_bytes));
        self.info.weights = Storage::Buffer;
        self.info.max_buffer_bytes = self.info.max_buffer_bytes.min(max_buffer_bytes);
        self.info.max_binding_bytes = self.info.max_binding_bytes.min(max_binding_bytes);
        self
    }

    pub fn name(&self) -> String {
        self.info.name.clone()
    }

    pub fn info(&self) -> DeviceInfo {
        self.info.clone()
    }
}

fn device_info(adapter: &wgpu::Adapter) -> DeviceInfo {
    let info = adapter.get_info();
    let limits = adapter.limits();
    // Browsers do not say which adapters are software; theirs is SwiftShader.
    let software = info.device_type == wgpu::DeviceType::Cpu || info.name.contains("SwiftShader");
    DeviceInfo {
        maker: Maker::of(info.vendor, &info.name),
        name: info.name,
        backend: format!("{:?}", info.backend),
        driver: [info.driver, info.driver_info].join(" ").trim().into(),
        software,
        weights: if software { Storage::Pieces } else { Storage::Buffer },
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        shares_scratch: true,
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // GL has no bounds checks.
    descriptor.backends =
        wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12 | wgpu::Backends::BROWSER_WEBGPU;
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// The adapters of this machine, the ones with a GPU of their own first and software adapters last.
pub async fn candidates() -> Vec<Candidate> {
    let instance = instance();
    #[cfg(not(target_arch = "wasm32"))]
    let mut adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    #[cfg(target_arch = "wasm32")]
    let mut adapters: Vec<_> = instance
        .request_adapter(&wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        })
        .await
        .into_iter()
        .collect();
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters.into_iter().map(Candidate::new).collect()
}
