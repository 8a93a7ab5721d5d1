//! Shader modules, bind group layouts and pipelines, each made once.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::device::gpu::memory::texture_format;
use crate::device::recording::{Kernel, PipelineKey};
use crate::device::wgsl::{Access, Binding};

/// The pipelines of one device.
pub(super) struct Pipelines {
    device: wgpu::Device,
    part: wgpu::BindGroupLayout,
    layouts: Mutex<HashMap<Vec<Binding>, wgpu::BindGroupLayout>>,
    modules: Mutex<HashMap<(&'static Kernel, Vec<Binding>), wgpu::ShaderModule>>,
    pipelines: Mutex<HashMap<PipelineKey, wgpu::ComputePipeline>>,
}

impl Pipelines {
    pub(super) fn new(device: &wgpu::Device, part: &wgpu::BindGroupLayout) -> Pipelines {
        Pipelines {
            device: device.clone(),
            part: part.clone(),
            layouts: Mutex::default(),
            modules: Mutex::default(),
            pipelines: Mutex::default(),
        }
    }

    /// What the pipelines that there are were made from.
    pub(super) fn keys(&self) -> Vec<PipelineKey> {
        self.pipelines.lock().unwrap().keys().cloned().collect()
    }

    pub(super) fn layout(&self, operands: &[Binding]) -> wgpu::BindGroupLayout {
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let make = || {
            let operands = operands.iter().map(|&operand| match operand {
                Binding::Buffer(access) => {
                    buffer(wgpu::BufferBindingType::Storage { read_only: access == Access::Read })
                }
                Binding::Texture => wgpu::BindingType::Texture {
                    sample_type: wgpu::TextureSampleType::Uint,
                    view_dimension: wgpu::TextureViewDimension::D2,
                    multisampled: false,
                },
                Binding::WrittenTexture(texels) => wgpu::BindingType::StorageTexture {
                    access: wgpu::StorageTextureAccess::WriteOnly,
                    format: texture_format(texels),
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

    fn module(&self, kernel: &'static Kernel, operands: &[Binding]) -> wgpu::ShaderModule {
        let make = || {
            self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name),
                source: wgpu::ShaderSource::Wgsl(kernel.wgsl(operands).into()),
            })
        };
        self.modules.lock().unwrap().entry((kernel, operands.to_vec())).or_insert_with(make).clone()
    }

    /// The layout of group 1, `shared/part`'s: where in its grid a part begins, in x and y, chosen at every dispatch.
    pub(super) fn part_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
        let entry = |binding| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: wgpu::BufferBindingType::Uniform,
                has_dynamic_offset: true,
                min_binding_size: None,
            },
            count: None,
        };
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("part"),
            entries: &[0, 1].map(entry),
        })
    }

    pub(super) fn pipeline(&self, key: PipelineKey, layout: &wgpu::BindGroupLayout) -> wgpu::ComputePipeline {
        if let Some(pipeline) = self.pipelines.lock().unwrap().get(&key) {
            return pipeline.clone();
        }
        let label = Some(key.kernel.name);
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(layout), Some(&self.part)][..if key.kernel.divides() { 2 } else { 1 }],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &self.module(key.kernel, &key.operands),
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &key.constants(),
                // One lane would do it in HLSL and MSL, which took Microsoft's compiler 12 s for one kernel. No kernel reads
                // what it did not write: `ops::checks::dirty_memory`.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.pipelines.lock().unwrap().insert(key, pipeline.clone());
        pipeline
    }
}
