//! Shaders in the languages of the backends, with the options that wgpu-hal gives naga for this engine: memory is
//! checked by bounds, loops end, and workgroup memory is not zeroed (src/device/gpu/pipelines.rs).

use naga::back::{glsl, hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::{AddressSpace, ResourceBinding, ShaderStage};

use crate::pipeline::{Checked, ENTRY};

/// What DXC is given.
pub const DXC: hlsl::ShaderModel = hlsl::ShaderModel::V6_0;
/// What FXC is given, which wgpu takes where there is no dxcompiler.dll.
pub const FXC: hlsl::ShaderModel = hlsl::ShaderModel::V5_1;

const MAIN: (ShaderStage, &str) = (ShaderStage::Compute, ENTRY);
const CHECKED: BoundsCheckPolicies = BoundsCheckPolicies {
    index: BoundsCheckPolicy::Restrict,
    buffer: BoundsCheckPolicy::Restrict,
    image_load: BoundsCheckPolicy::Restrict,
    binding_array: BoundsCheckPolicy::Unchecked,
};

/// The bindings of a shader, and where each lies.
fn bound(checked: &Checked) -> impl Iterator<Item = (ResourceBinding, AddressSpace)> {
    checked.module.global_variables.iter().filter_map(|(_, v)| Some((v.binding?, v.space)))
}

/// SPIR-V; `robust` where the driver keeps loads and stores inside buffers and textures itself.
pub fn spirv(checked: &Checked, robust: bool) -> Result<Vec<u32>, String> {
    let memory = if robust { BoundsCheckPolicy::Unchecked } else { BoundsCheckPolicy::Restrict };
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: BoundsCheckPolicies { buffer: memory, image_load: memory, ..CHECKED },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: true,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: ENTRY.into() };
    spv::write_vec(&checked.module, &checked.info, &options, Some(&pipeline)).map_err(|e| e.to_string())
}

pub fn hlsl(checked: &Checked, shader_model: hlsl::ShaderModel) -> Result<String, String> {
    let target = |register| hlsl::BindTarget { register, restrict_indexing: true, ..Default::default() };
    let options = hlsl::Options {
        shader_model,
        binding_map: bound(checked).zip(0..).map(|((binding, _), i)| (binding, target(i))).collect(),
        fake_missing_bindings: false,
        zero_initialize_workgroup_memory: false,
        restrict_indexing: true,
        force_loop_bounding: true,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((MAIN.0, MAIN.1.into())) };
    let mut text = String::new();
    let mut writer = hlsl::Writer::new(&mut text, &options, &pipeline);
    let reflection = writer.write(&checked.module, &checked.info, None).map_err(|e| e.to_string())?;
    match reflection.entry_point_names.last() {
        Some(Ok(name)) if name == ENTRY => Ok(text),
        other => Err(format!("the entry point is {other:?}")),
    }
}

pub fn msl(checked: &Checked) -> Result<String, String> {
    let mut resources = msl::EntryPointResources { sizes_buffer: Some(30), ..Default::default() };
    for ((binding, space), slot) in bound(checked).zip(0..) {
        let mut target = msl::BindTarget { mutable: true, ..Default::default() };
        if space == AddressSpace::Handle { target.texture = Some(slot) } else { target.buffer = Some(slot) }
        resources.resources.insert(binding, target);
    }
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [(ENTRY.to_string(), resources)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: CHECKED,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: true,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions { entry_point: Some((MAIN.0, MAIN.1.into())), ..Default::default() };
    let (text, reflection) =
        msl::write_string(&checked.module, &checked.info, &options, &pipeline).map_err(|e| e.to_string())?;
    reflection.entry_point_names[0].as_ref().map(|_| text).map_err(|e| e.to_string())
}

pub fn glsl(checked: &Checked) -> Result<String, String> {
    let options = glsl::Options {
        version: glsl::Version::Embedded { version: 310, is_webgl: false },
        writer_flags: glsl::WriterFlags::empty(),
        binding_map: bound(checked).zip(0..).map(|((binding, _), i)| (binding, i)).collect(),
        zero_initialize_workgroup_memory: false,
    };
    let pipeline = glsl::PipelineOptions { shader_stage: MAIN.0, entry_point: MAIN.1.into(), multiview: None };
    let mut text = String::new();
    let (module, info) = (&checked.module, &checked.info);
    let writer = glsl::Writer::new(&mut text, module, info, &options, &pipeline, BoundsCheckPolicies::default());
    writer.and_then(|mut writer| writer.write()).map_err(|e| e.to_string())?;
    Ok(text)
}
