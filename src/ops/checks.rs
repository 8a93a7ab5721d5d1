//! Every pipeline of every op's examples, whole as the engine composes it and with the constants that it records:
//! valid, inside what any WebGPU device offers, and of the operands and parameters that the op hands over.
//!
//! Limits are WebGPU's defaults: 8 storage buffers a stage, 256 invocations and 16 KiB of memory a workgroup. Shaders
//! get no optional features.

mod coalescing;
mod dirty_memory;
mod parts_of_grids;
mod sources;
mod trials;

use naga::back::pipeline_constants::process_overrides;
use naga::proc::TypeResolution;
use naga::valid::{Capabilities, FunctionInfo, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{
    AddressSpace, Block, Expression, Function, GlobalVariable, Handle, ImageClass, ImageDimension, Literal, Module,
    ResourceBinding, ScalarKind, ShaderStage, Statement, StorageAccess, StorageFormat, TypeInner,
};

use crate::device::Device;
use crate::device::recording::PipelineKey;
use crate::device::tensor::{DType, Storage};
use crate::device::wgsl::{Access, Binding, Field};
use crate::ops::KERNELS;
use crate::ops::examples::Examples;
use crate::ops::kernel::GRID_X;

const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_DEPTH: u32 = 64;
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;

#[test]
fn all_pipelines_are_portable() {
    let mut faults = Vec::new();
    for op in KERNELS {
        let keys = op.pipelines();
        for kernel in op.kernels {
            if !keys.iter().any(|key| key.kernel == *kernel) {
                faults.push(format!("{}: no example of {}", op.name, kernel.name));
            }
        }
        for key in keys {
            if !op.kernels.contains(&key.kernel) && !KERNELS.iter().any(|other| other.kernels.contains(&key.kernel)) {
                faults.push(format!("{}: {} is not in KERNELS", op.name, key.kernel.name));
            }
            let source = key.kernel.wgsl(&key.operands);
            let mut told = shader_faults(&source, &key.constants(), &key.operands, key.kernel.params);
            if source.contains("@group(1)") != key.kernel.divides() {
                told.push("the kernel itself has to import shared/part, and to use it".into());
            }
            faults.extend(told.into_iter().map(|fault| format!("{key:?}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Examples are calls that a model may make: ids are in range, and what comes out is finite.
#[test]
fn examples_give_finite_numbers() {
    for op in KERNELS {
        let Examples { mut recording, inputs } = op.record();
        let device = Device::cpu();
        let (mut pool, mut random) = (device.pool(), fastrand::Rng::with_seed(7));
        let scratch = std::mem::take(&mut recording.scratch);
        inputs.iter().map(|input| input.tensor).chain(scratch).for_each(|tensor| pool.add(tensor).unwrap());
        for input in &inputs {
            device.write_all(input.tensor, &input.fill.words(input.tensor, &mut random)).unwrap();
        }
        device.play(&recording).unwrap();
        for dispatch in &recording.dispatches {
            for (tensor, access) in &dispatch.operands {
                if *access == Access::Write && tensor.dtype == DType::F32 {
                    let values = pollster::block_on(device.read_f32(*tensor)).unwrap();
                    let key = PipelineKey::of(dispatch);
                    assert!(values.iter().all(|v| v.is_finite()), "{key:?}: {tensor:?}");
                    assert!(values.iter().any(|v| *v != 0.0), "{key:?}: {tensor:?} is all zeros");
                }
            }
        }
    }
}

/// What keeps a whole shader with these constants from running on every device on these operands and parameters.
fn shader_faults(
    source: &str,
    constants: &[(&'static str, f64)],
    operands: &[Binding],
    params: &[Field],
) -> Vec<String> {
    let module = match naga::front::wgsl::parse_str(source) {
        Ok(module) => module,
        Err(e) => return vec![e.emit_to_string(source)],
    };
    // unpack2x16float is in every WebGPU; naga counts it apart because of older interfaces.
    let capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = match Validator::new(ValidationFlags::all(), capabilities).validate(&module) {
        Ok(info) => info,
        Err(e) => return vec![e.emit_to_string(source)],
    };
    let entries: Vec<_> = module.entry_points.iter().map(|e| (e.stage, e.name.as_str())).collect();
    if entries != [(ShaderStage::Compute, "main")] {
        return vec![format!("the entry points are {entries:?}, not one for compute named main")];
    }
    let mut faults = binding_faults(&module, info.get_entry_point(0), operands, params);
    faults.extend(store_faults(&module, &info));
    faults.extend(constant_faults(&module, constants));
    faults.extend(size_faults(&module, &info, constants));
    faults
}

/// Every override has the value that is recorded, or its default; shared numbers are the host's.
fn constant_faults(module: &Module, constants: &[(&'static str, f64)]) -> Vec<String> {
    let declared: Vec<_> = module.overrides.iter().filter_map(|(_, o)| o.name.as_deref()).collect();
    let unknown = constants.iter().filter(|(name, _)| !declared.contains(name));
    let mut faults: Vec<_> = unknown.map(|(name, _)| format!("there is no override {name}")).collect();
    for (_, constant) in module.constants.iter().filter(|(_, c)| c.name.as_deref() == Some("GRID_X")) {
        let value = &module.global_expressions[constant.init];
        if *value != Expression::Literal(Literal::U32(GRID_X)) {
            faults.push(format!("GRID_X is {value:?}, not {GRID_X}"));
        }
    }
    faults
}

/// The workgroup's size and memory: both may depend on overrides.
fn size_faults(module: &Module, info: &ModuleInfo, constants: &[(&'static str, f64)]) -> Vec<String> {
    let values = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let main = Some((ShaderStage::Compute, "main"));
    let (module, info) = match process_overrides(module, info, main, &values) {
        Ok(processed) => processed,
        Err(e) => return vec![format!("with the overrides {constants:?}: {e}")],
    };
    let mut faults = Vec::new();
    let [x, y, z] = module.entry_points[0].workgroup_size;
    if x * y * z > MAX_INVOCATIONS || z > MAX_WORKGROUP_DEPTH {
        faults.push(format!("a workgroup of {x} x {y} x {z} invocations: at most {MAX_INVOCATIONS}"));
    }
    let used = info.get_entry_point(0);
    let bytes: u32 = module
        .global_variables
        .iter()
        .filter(|(handle, variable)| variable.space == AddressSpace::WorkGroup && !used[*handle].is_empty())
        .map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx()).next_multiple_of(16))
        .sum();
    if bytes > MAX_WORKGROUP_BYTES {
        faults.push(format!("{bytes} bytes of workgroup memory: at most {MAX_WORKGROUP_BYTES}"));
    }
    faults
}

/// The executor binds group 0, the operands from 0 on, then the parameters; and group 1, `shared/part`. Operands that a
/// shader does not declare are faults too: nobody would see a wrong one.
fn binding_faults(module: &Module, main: &FunctionInfo, operands: &[Binding], params: &[Field]) -> Vec<String> {
    let mut bindings: Vec<(ResourceBinding, Handle<GlobalVariable>, &GlobalVariable)> = module
        .global_variables
        .iter()
        .filter_map(|(handle, variable)| Some((variable.binding?, handle, variable)))
        .collect();
    bindings.sort_by_key(|(at, ..)| (at.group, at.binding));
    bindings.retain(|(at, handle, variable)| !is_of_part(*at, variable) || main[*handle].is_empty());
    let mut faults = Vec::new();
    if bindings.len() != operands.len() + 1 {
        faults.push(format!("{} bindings for {} operands and the parameters", bindings.len(), operands.len()));
    }
    for (i, (at, handle, variable)) in bindings.iter().enumerate() {
        let name = variable.name.as_deref().unwrap_or("?");
        if (at.group, at.binding as usize) != (0, i) {
            faults
                .push(format!("{name} is at group {}, binding {}, not at group 0, binding {i}", at.group, at.binding));
        }
        let found = binding_of(module, variable);
        match operands.get(i) {
            Some(operand) if found != Some(*operand) => {
                faults.push(format!("binding {i}, {name}, is declared as {found:?}, but recorded as {operand:?}"));
            }
            Some(Binding::Buffer(Access::Write) | Binding::WrittenTexture(_))
                if !main[*handle].contains(GlobalUse::WRITE) =>
            {
                faults.push(format!("binding {i}, {name}, is never written"));
            }
            Some(_) => {}
            None => faults.extend(params_faults(module, name, variable, params)),
        }
    }
    let buffers = bindings.iter().filter(|(.., v)| matches!(v.space, AddressSpace::Storage { .. })).count();
    if buffers > MAX_STORAGE_BUFFERS {
        faults.push(format!("{buffers} storage buffers: at most {MAX_STORAGE_BUFFERS}"));
    }
    faults
}

/// Whether a variable is one of the two of `shared/part`.
fn is_of_part(at: ResourceBinding, variable: &GlobalVariable) -> bool {
    let names = [(1, 0, Some("first_x")), (1, 1, Some("first_y"))];
    variable.space == AddressSpace::Uniform && names.contains(&(at.group, at.binding, variable.name.as_deref()))
}

/// How a variable is bound; `None` for what no operand can be.
fn binding_of(module: &Module, variable: &GlobalVariable) -> Option<Binding> {
    if let AddressSpace::Storage { access } = variable.space {
        let written = access.contains(StorageAccess::STORE);
        return Some(Binding::Buffer(if written { Access::Write } else { Access::Read }));
    }
    let TypeInner::Image { dim: ImageDimension::D2, arrayed: false, class } = module.types[variable.ty].inner else {
        return None;
    };
    match class {
        ImageClass::Sampled { kind: ScalarKind::Uint, multi: false } => Some(Binding::Texture),
        ImageClass::Storage { format, access: StorageAccess::STORE } => match format {
            StorageFormat::Rgba32Uint => Some(Binding::WrittenTexture(Storage::Pieces)),
            StorageFormat::R32Uint => Some(Binding::WrittenTexture(Storage::Words)),
            _ => None,
        },
        _ => None,
    }
}

/// The parameters are a uniform struct with the names, types and offsets of the host's.
fn params_faults(module: &Module, name: &str, variable: &GlobalVariable, params: &[Field]) -> Vec<String> {
    let TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
        return vec![format!("the last binding, {name}, is not a struct")];
    };
    if variable.space != AddressSpace::Uniform {
        return vec![format!("the last binding, {name}, is not a uniform")];
    }
    let scalar = |inner: &TypeInner| match inner {
        TypeInner::Scalar(naga::Scalar::U32) => "u32",
        TypeInner::Scalar(naga::Scalar::F32) => "f32",
        _ => "other",
    };
    let declared: Vec<_> = members
        .iter()
        .map(|m| (m.name.as_deref().unwrap_or("?"), scalar(&module.types[m.ty].inner), m.offset as usize))
        .collect();
    let recorded: Vec<_> = params.iter().map(|f| (f.name, f.scalar, f.offset_bytes)).collect();
    let mut faults = Vec::new();
    if declared != recorded {
        faults.push(format!("the parameters are declared as {declared:?}, but recorded as {recorded:?}"));
    }
    if *span as usize != 4 * params.len() {
        faults.push(format!("the parameters take {span} bytes, but {} are recorded", 4 * params.len()));
    }
    faults
}

/// Stores into a component of a vector. In memory that invocations share, such a store may touch the whole vector, so
/// that two invocations undo each other's; elsewhere, HLSL's compiler refuses components whose number is not constant.
fn store_faults(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let mut faults = Vec::new();
    let functions = module.functions.iter().map(|(handle, function)| (function, &info[handle]));
    let entries = module.entry_points.iter().enumerate().map(|(i, e)| (&e.function, info.get_entry_point(i)));
    for (function, info) in functions.chain(entries) {
        let mut pointers = Vec::new();
        stores(&function.body, &mut pointers);
        for pointer in pointers {
            if let Some(space) = component_of(module, function, info, pointer) {
                let name = function.name.as_deref().unwrap_or("main");
                faults.push(format!("{name} stores into a component of a vector in {space:?} memory"));
            }
        }
    }
    faults
}

/// The memory in which a pointer names a component of a vector, where that is a fault.
fn component_of(
    module: &Module,
    function: &Function,
    info: &FunctionInfo,
    pointer: Handle<Expression>,
) -> Option<AddressSpace> {
    let inner = |resolution: &TypeResolution| resolution.inner_with(&module.types).clone();
    let TypeInner::ValuePointer { size: None, space, .. } = inner(&info[pointer].ty) else { return None };
    let shared = matches!(space, AddressSpace::WorkGroup | AddressSpace::Storage { .. });
    let dynamic = matches!(function.expressions[pointer], Expression::Access { .. });
    (shared || dynamic).then_some(space)
}

/// The pointers that a block's statements store to.
fn stores(block: &Block, found: &mut Vec<Handle<Expression>>) {
    for statement in block {
        match statement {
            Statement::Store { pointer, .. } => found.push(*pointer),
            Statement::Block(block) => stores(block, found),
            Statement::If { accept, reject, .. } => [accept, reject].iter().for_each(|block| stores(block, found)),
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| stores(&case.body, found)),
            Statement::Loop { body, continuing, .. } => {
                [body, continuing].iter().for_each(|block| stores(block, found));
            }
            _ => {}
        }
    }
}

/// The checks above see what they are for.
mod planted {
    use super::{Access, Binding, Field, Storage, shader_faults};

    const GOOD: &str = "
        override LANES: u32 = 64u;
        struct Params { count: u32, scale: f32 }
        var<workgroup> values: array<f32, LANES>;
        var<workgroup> fours: array<vec4<f32>, LANES>;
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
        @group(0) @binding(2) var<uniform> p: Params;
        @compute @workgroup_size(LANES)
        fn main(@builtin(local_invocation_index) lane: u32) {
            var local = x[lane];
            local.y = p.scale;
            fours[lane] = local;
            values[lane] = fours[lane / 2u][lane % 4u];
            y[lane] = values[lane];
        }";
    const OPERANDS: [Binding; 2] = [Binding::Buffer(Access::Write), Binding::Buffer(Access::Read)];
    const PARAMS: [Field; 2] = [
        Field { name: "count", scalar: "u32", offset_bytes: 0 },
        Field { name: "scale", scalar: "f32", offset_bytes: 4 },
    ];

    fn faults(source: &str) -> Vec<String> {
        shader_faults(source, &[("LANES", 32.0)], &OPERANDS, &PARAMS)
    }

    fn change(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to)
    }

    fn expect(fault: &str, found: Vec<String>) {
        let found = found.join("\n");
        assert!(found.contains(fault), "wanted {fault:?}, got {found:?}");
    }

    #[test]
    fn good() {
        assert_eq!(faults(GOOD), [""; 0]);
        let unused = format!("var<workgroup> unused: array<f32, 5000>;\n{GOOD}");
        assert_eq!(faults(&unused), [""; 0]);
    }

    #[test]
    fn invalid() {
        expect("error", faults(&change("p.scale", "q.scale")));
        expect("error", faults(&change("y[lane] = values", "y[lane] = vec2<f32>() + values")));
        expect("error", faults(&change("= p.scale", "= subgroupAdd(p.scale)")));
        expect("error", faults(&change("= p.scale", "= f32(f16(p.scale))")));
        expect("entry points", faults(&change("fn main", "fn other")));
        expect("entry points", faults(&format!("{GOOD}\n@compute @workgroup_size(1) fn second() {{}}")));
    }

    #[test]
    fn sizes_and_constants() {
        let with = |source: &str, lanes: f64| shader_faults(source, &[("LANES", lanes)], &OPERANDS, &PARAMS);
        expect("257 x 1 x 1 invocations", with(GOOD, 257.0));
        expect("2 x 1 x 65 invocations", faults(&change("size(LANES)", "size(2, 1, 65)")));
        expect(
            "16400 bytes of workgroup memory",
            with(&change("array<f32, LANES>", "array<f32, LANES * 192 + 177>"), 20.0),
        );
        expect("there is no override FORMAT", shader_faults(GOOD, &[("FORMAT", 1.0)], &OPERANDS, &PARAMS));
        expect("with the overrides []", shader_faults(&change(" = 64u", ""), &[], &OPERANDS, &PARAMS));
        expect("GRID_X is", faults(&format!("const GRID_X: u32 = 5u;\n{GOOD}")));
    }

    #[test]
    fn bindings() {
        let with = |operands: &[Binding]| shader_faults(GOOD, &[], operands, &PARAMS);
        expect("3 bindings for 1 operands", with(&OPERANDS[..1]));
        expect("3 bindings for 3 operands", with(&[OPERANDS[0], OPERANDS[1], OPERANDS[1]]));
        expect("binding 1, x, is declared as", with(&[OPERANDS[0]; 2]));
        expect("binding 0, y, is declared as", with(&[OPERANDS[1]; 2]));
        expect("binding 1, x, is declared as", with(&[OPERANDS[0], Binding::Texture]));
        expect("binding 0, y, is never written", faults(&change("y[lane] =", "_ =")));
        expect("not at group 0, binding 1", faults(&change("binding(1)", "binding(3)")));
        expect("not at group 0", faults(&change("group(0) @binding(1)", "group(1) @binding(1)")));
        let part = "@group(1) @binding(0) var<uniform> first_x: u32;\n@group(1) @binding(1) var<uniform> first_y: u32;";
        let parted = |used: &str| faults(&format!("{part}\n{}", change("y[lane] =", used)));
        assert_eq!(parted("y[lane + first_x + first_y] ="), [""; 0]);
        expect("4 bindings for 2 operands", parted("y[lane + first_x] ="));
        let texture = |ty: &str| change("var<storage, read> x: array<vec4<f32>>", &format!("var t: {ty}"));
        let of = |ty: &str, binding| {
            let source = texture(ty).replace("x[lane]", "vec4<f32>()");
            let source = match binding {
                Binding::Texture => source,
                _ => source.replace("y[lane] =", "textureStore(t, vec2(0u), vec4(0u)); y[lane] ="),
            };
            shader_faults(&source, &[], &[OPERANDS[0], binding], &PARAMS)
        };
        assert_eq!(of("texture_2d<u32>", Binding::Texture), [""; 0]);
        let (pieces, words) = (Binding::WrittenTexture(Storage::Pieces), Binding::WrittenTexture(Storage::Words));
        assert_eq!(of("texture_storage_2d<rgba32uint, write>", pieces), [""; 0]);
        assert_eq!(of("texture_storage_2d<r32uint, write>", words), [""; 0]);
        expect("binding 1, t, is declared as", of("texture_storage_2d<r32uint, write>", pieces));
        expect("binding 1, t, is declared as", of("texture_2d<f32>", Binding::Texture));
    }

    #[test]
    fn nine_buffers() {
        let nine: String =
            (0..9).map(|i| format!("@group(0) @binding({i}) var<storage> b{i}: array<u32>;\n")).collect();
        let rest = "struct Params { count: u32, scale: f32 }
            @group(0) @binding(9) var<uniform> p: Params;
            @compute @workgroup_size(1) fn main() {}";
        let operands = [Binding::Buffer(Access::Read); 9];
        expect("9 storage buffers", shader_faults(&format!("{nine}{rest}"), &[], &operands, &PARAMS));
    }

    #[test]
    fn parameters() {
        let declared = "the parameters are declared as";
        expect(declared, faults(&change("count: u32, scale", "size: u32, scale")));
        expect(declared, faults(&change("count: u32, scale", "count: f32, scale")));
        expect(declared, faults(&change("count: u32, scale: f32", "scale: f32, count: u32")));
        expect(declared, faults(&change("count: u32, scale", "count: u32, @align(16) scale")));
        expect("take 12 bytes", faults(&change("scale: f32 }", "scale: f32, more: u32 }")));
        expect("not a uniform", faults(&change("var<uniform>", "var<storage, read>")));
        expect("not a struct", faults(&change("p: Params", "p: vec4<f32>").replace("p.scale", "p.x")));
    }

    /// What attention's kernel of one row did once, the same in a buffer, and what sampling did.
    #[test]
    fn stores_into_components() {
        expect("WorkGroup memory", faults(&change("fours[lane] = local", "fours[lane / 4u][lane % 4u] = local.x")));
        expect("WorkGroup memory", faults(&change("fours[lane] = local", "fours[lane].x = local.x")));
        expect("WorkGroup memory", faults(&change("fours[lane] = local", "if lane > 1u { fours[0].x += local.x; }")));
        let buffer = change("var<storage, read> x", "var<storage, read_write> x");
        let buffer = buffer.replace("y[lane] =", "loop { x[lane].z = 1.0; if lane < 2u { break; } } y[lane] =");
        expect("memory", shader_faults(&buffer, &[], &[OPERANDS[0]; 2], &PARAMS));
        expect("Function memory", faults(&change("local.y =", "local[lane % 4u] =")));
        let helper = "fn help() { fours[1].w = 1.0; }";
        expect("help stores", faults(&format!("{helper}\n{}", change("y[lane] =", "help(); y[lane] ="))));
    }
}
