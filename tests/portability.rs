//! Every shader stays inside what any WebGPU device offers.
//!
//! Limits are WebGPU's defaults: 8 storage buffers a stage, 256 invocations and 16 KiB of memory a workgroup. Shaders
//! get no optional features, except subgroups where the file's name ends in `_subgroups`.

use std::fs;
use std::path::{Path, PathBuf};

use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{
    AddressSpace, ImageClass, ImageDimension, Module, ResourceBinding, ScalarKind, ShaderStage, StorageAccess,
    StorageFormat, TypeInner,
};

const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_DEPTH: u32 = 64;
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;

#[test]
fn shaders_are_portable() {
    let mut faults = Vec::new();
    for (op, files) in kernels() {
        let texts: Vec<_> = files.iter().map(|file| read(&root().join("shaders").join(file))).collect();
        let last = files.last().expect("a kernel has a shader").trim_end_matches(".wgsl");
        if !is_shader_of(last, &name(&op)) {
            faults.push(at(&op)(&format!("the op of {last}.wgsl should be named like it")));
        }
        let source = format!("{}\n{}", read(&root().join("shaders/common.wgsl")), texts.join("\n"));
        let fault = |fault: &String| at(&op)(&format!("{}: {fault}", files.join(" + ")));
        faults.extend(shader_faults(&source, last.ends_with("_subgroups")).iter().map(fault));
    }
    report(&faults);
}

#[test]
fn every_shader_is_part_of_a_kernel() {
    let used: Vec<String> = kernels().into_iter().flat_map(|(_, files)| files).collect();
    assert!(used.len() > 20, "only {used:?} were found");
    let unused = files(&root().join("shaders"), "wgsl").into_iter().filter(|path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        file != "common.wgsl" && !used.contains(&file)
    });
    report(&unused.map(|path| at(&path)(&"no kernel in src/ops has it".into())).collect::<Vec<_>>());
}

/// The ops' files with the shaders of each kernel, in the order in which they are put together.
fn kernels() -> Vec<(PathBuf, Vec<String>)> {
    let mut found = Vec::new();
    for op in files(&root().join("src/ops"), "rs") {
        if name(&op) == "mod" {
            continue;
        }
        let text = read(&op);
        for source in text.split("include_str!(\"../../shaders/").skip(1) {
            found.push((op.clone(), vec![source.split('"').next().unwrap_or_default().into()]));
        }
        for arguments in text.split("writing_rows!(").skip(1) {
            let shader = arguments.split('"').nth(3).unwrap_or_default();
            for rows in ["y_buffers.wgsl", "y_textures.wgsl"] {
                found.push((op.clone(), vec![rows.into(), shader.into()]));
            }
        }
        for arguments in text.split("shader!(").skip(1) {
            let arguments = arguments.split(')').next().unwrap_or_default();
            found.push((op.clone(), arguments.split('"').skip(1).step_by(2).map(String::from).collect()));
        }
    }
    found
}

/// What keeps a whole shader, `common.wgsl` included, from running on every device.
fn shader_faults(source: &str, subgroups: bool) -> Vec<String> {
    let module = match naga::front::wgsl::parse_str(source) {
        Ok(module) => module,
        Err(e) => return vec![e.emit_to_string(source)],
    };
    // unpack2x16float is in every WebGPU; naga counts it apart because of older interfaces.
    let mut capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    let info = match Validator::new(ValidationFlags::all(), capabilities).validate(&module) {
        Ok(info) => info,
        Err(e) => return vec![e.emit_to_string(source)],
    };
    let mut faults = binding_faults(&module);
    let entries: Vec<_> = module.entry_points.iter().map(|e| (e.stage, e.name.as_str())).collect();
    if entries != [(ShaderStage::Compute, "main")] {
        faults.push(format!("the entry points are {entries:?}, not one for compute named main"));
        return faults;
    }
    // With every override at its default: sizes of workgroups and of their arrays may depend on some.
    let constants = Default::default();
    let main = Some((ShaderStage::Compute, "main"));
    let (module, info) = match naga::back::pipeline_constants::process_overrides(&module, &info, main, &constants) {
        Ok(processed) => processed,
        Err(e) => {
            faults.push(format!("with the defaults of its overrides: {e}"));
            return faults;
        }
    };
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

/// The executor binds group 0: storage buffers and textures from 0 on, then the parameters.
fn binding_faults(module: &Module) -> Vec<String> {
    let mut bindings: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let ResourceBinding { group, binding } = variable.binding?;
            let inner = &module.types[variable.ty].inner;
            let operand = matches!(variable.space, AddressSpace::Storage { .. }) || is_texture_of_words(inner);
            Some((group, binding, variable.name.as_deref().unwrap_or("?"), variable.space, operand))
        })
        .collect();
    bindings.sort_by_key(|(group, binding, ..)| (*group, *binding));
    let mut faults = Vec::new();
    for (i, (group, binding, name, space, operand)) in bindings.iter().enumerate() {
        if (*group, *binding as usize) != (0, i) {
            faults.push(format!("{name} is at group {group}, binding {binding}, not at group 0, binding {i}"));
        }
        let last = i + 1 == bindings.len();
        if last && *space != AddressSpace::Uniform {
            faults.push(format!("the last binding, {name}, is not a uniform"));
        }
        if !last && !operand {
            faults.push(format!("binding {binding}, {name}, is not a storage buffer or a texture of words"));
        }
    }
    let buffers = bindings.iter().filter(|(.., space, _)| matches!(space, AddressSpace::Storage { .. })).count();
    if buffers > MAX_STORAGE_BUFFERS {
        faults.push(format!("{buffers} storage buffers: at most {MAX_STORAGE_BUFFERS}"));
    }
    if bindings.is_empty() {
        faults.push("there are no bindings".into());
    }
    faults
}

fn is_texture_of_words(inner: &TypeInner) -> bool {
    let TypeInner::Image { dim: ImageDimension::D2, arrayed: false, class } = inner else { return false };
    match class {
        ImageClass::Sampled { kind, multi } => *kind == ScalarKind::Uint && !multi,
        ImageClass::Storage { format, access } => {
            matches!(format, StorageFormat::Rgba32Uint | StorageFormat::R32Uint) && *access == StorageAccess::STORE
        }
        _ => false,
    }
}

/// Whether `shader` is the shader of `op` or a variant of it, `op_suffix`.
fn is_shader_of(shader: &str, op: &str) -> bool {
    shader.strip_prefix(op).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// The checks above see what they are for.
mod checks {
    use super::{is_shader_of, shader_faults};

    const GOOD: &str = "
        override LANES: u32 = 64u;
        var<workgroup> memory: array<f32, LANES>;
        @group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @group(0) @binding(1) var<uniform> p: vec4<u32>;
        @compute @workgroup_size(LANES)
        fn main(@builtin(local_invocation_index) lane: u32) {
            memory[lane] = f32(p.x);
            y[lane] = memory[lane];
        }";

    fn expect(fault: &str, source: &str) {
        let faults = shader_faults(source, false).join("\n");
        assert!(faults.contains(fault), "wanted {fault:?}, got {faults:?} of {source}");
    }

    #[test]
    fn of_shaders() {
        assert_eq!(shader_faults(GOOD, false), [""; 0]);
        let change = |from: &str, to: &str| {
            assert!(GOOD.contains(from));
            GOOD.replace(from, to)
        };
        expect("error", &change("f32(p.x)", "f32(q.x)"));
        expect("error", &change("f32(p.x)", "f32(vec2(1.0, 2.0))"));
        expect("257 x 1 x 1 invocations", &change("64u", "257u"));
        expect("2 x 1 x 65 invocations", &change("size(LANES)", "size(2, 1, 65)"));
        expect("16400 bytes of workgroup memory", &change("array<f32, LANES>", "array<f32, LANES * 64 + 1>"));
        expect("defaults of its overrides", &change(" = 64u", ""));
        expect("entry points", &change("fn main", "fn other"));
        expect("entry points", &format!("{GOOD}\n@compute @workgroup_size(1) fn second() {{}}"));
        expect("not a uniform", &change("<uniform>", "<storage, read>"));
        expect("not at group 0, binding 1", &change("binding(1)", "binding(2)"));
        expect("not at group 0", &change("group(0) @binding(1)", "group(1) @binding(1)"));
        let two = "@group(0) @binding(2) var<uniform> q: vec4<u32>;";
        expect("binding 1, p, is not a storage buffer", &format!("{GOOD}\n{two}"));
        let texture = |ty: &str| format!("{}\n@group(0) @binding(1) var t: {ty};", change("binding(1)", "binding(2)"));
        assert_eq!(shader_faults(&texture("texture_2d<u32>"), false), [""; 0]);
        assert_eq!(shader_faults(&texture("texture_storage_2d<rgba32uint, write>"), false), [""; 0]);
        expect("binding 1, t, is not", &texture("texture_2d<f32>"));
        expect("binding 1, t, is not", &texture("texture_storage_2d<rgba32float, write>"));
        let nine: String =
            (0..9).map(|i| format!("@group(0) @binding({i}) var<storage> b{i}: array<u32>;\n")).collect();
        let empty = "@compute @workgroup_size(1) fn main() {}";
        expect("9 storage buffers", &format!("{nine}@group(0) @binding(9) var<uniform> p: vec4<u32>;\n{empty}"));
        expect("no bindings", empty);
        let reduced = change("f32(p.x)", "subgroupAdd(f32(p.x))");
        assert_ne!(shader_faults(&reduced, false), [""; 0]);
        assert_eq!(shader_faults(&reduced, true), [""; 0]);
        assert_ne!(shader_faults(&change("f32(p.x)", "f32(f16(p.x))"), true), [""; 0]);
    }

    #[test]
    fn of_unused_memory_count_nothing() {
        let unused = format!("var<workgroup> unused: array<f32, 5000>;\n{GOOD}");
        assert_eq!(shader_faults(&unused, false), [""; 0]);
    }

    #[test]
    fn of_names() {
        assert!(is_shader_of("linear", "linear") && is_shader_of("linear_rows", "linear"));
        assert!(!is_shader_of("linearity", "linear") && !is_shader_of("line", "linear"));
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The path from the root of the crate, with slashes.
fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

/// Files below a folder that end in `.extension`, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn at(path: &Path) -> impl Fn(&String) -> String {
    let file = relative(path);
    move |fault| format!("{file}: {fault}")
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
