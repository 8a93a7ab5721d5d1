//! Shader modules, bind group layouts and pipelines, each made once.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::device::gpu::memory::texture_format;
use crate::device::recording::{Access, Dispatch, Kernel};
use crate::device::tensor::Storage;

const COMMON: &str = include_str!("../../../shaders/shared/common.wgsl");

/// The pipelines of one device.
pub(super) struct Pipelines {
    device: wgpu::Device,
    layouts: Mutex<HashMap<Vec<(Access, Storage)>, wgpu::BindGroupLayout>>,
    pipelines: Mutex<HashMap<String, wgpu::ComputePipeline>>,
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device) -> Pipelines {
        Pipelines { device: device.clone(), layouts: Mutex::default(), pipelines: Mutex::default() }
    }

    pub(super) fn layout(&self, operands: &[(Access, Storage)]) -> wgpu::BindGroupLayout {
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let make = || {
            let operands = operands.iter().map(|&(access, storage)| match (storage, access) {
                (Storage::Buffer, _) => buffer(wgpu::BufferBindingType::Storage { read_only: access == Access::Read }),
                (_, Access::Read) => wgpu::BindingType::Texture {
                    sample_type: wgpu::TextureSampleType::Uint,
                    view_dimension: wgpu::TextureViewDimension::D2,
                    multisampled: false,
                },
                (_, Access::Write) => wgpu::BindingType::StorageTexture {
                    access: wgpu::StorageTextureAccess::WriteOnly,
                    format: texture_format(storage),
                    view_dimension: wgpu::TextureViewDimension::D2,
                },
            });
            let entries: Vec<_> = operands
                .chain([buffer(wgpu::BufferBindingType::Uniform)])
                .enumerate()
                .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
                    binding: binding as u32,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty,
                    count: None,
                })
                .collect();
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        };
        self.layouts.lock().unwrap().entry(operands.to_vec()).or_insert_with(make).clone()
    }

    pub(super) fn pipeline(&self, dispatch: &Dispatch, layout: &wgpu::BindGroupLayout) -> wgpu::ComputePipeline {
        let Dispatch { kernel, constants, .. } = dispatch;
        let access: String =
            dispatch.operands.iter().map(|(_, a)| if *a == Access::Read { 'r' } else { 'w' }).collect();
        let key = format!("{} {access} {constants:?}", kernel.name);
        if let Some(pipeline) = self.pipelines.lock().unwrap().get(&key) {
            return pipeline.clone();
        }
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(full_source(kernel).into()),
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions { constants, ..Default::default() },
            cache: None,
        });
        self.pipelines.lock().unwrap().insert(key, pipeline.clone());
        pipeline
    }
}

/// The text that makes a kernel's shader module.
pub fn full_source(kernel: &Kernel) -> String {
    format!("{COMMON}\n{}", kernel.source)
}
