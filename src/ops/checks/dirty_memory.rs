//! Workgroup memory is not zeroed (`device/gpu/pipelines.rs`), and no kernel counts on that: each gives the same with
//! memory that is full of ones, NaN and huge numbers when it starts.

use std::collections::HashSet;

use naga::ShaderStage;
use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, ValidationFlags, Validator};

use crate::device::recording::{Dispatch, Kernel, PipelineKey, Recording};
use crate::device::tensor::{Storage, Tensor};
use crate::device::wgsl::{Access, Import};
use crate::ops::KERNELS;
use crate::ops::examples::{Examples, Op};
use crate::ops::testing::gpu_device;

/// Constants that change how workgroup memory is used; all others change sizes, and how operands are read.
const USES: [&str; 2] = ["TEAM", "MASK"];

/// A variable in workgroup memory: its name and type.
fn variables(text: &str) -> Vec<(&str, &str)> {
    let declarations = text.lines().filter_map(|line| line.strip_prefix("var<workgroup> "));
    let parts = declarations.map(|line| line.split_once(';').and_then(|(declared, _)| declared.split_once(": ")));
    parts.map(|parts| parts.expect("a declaration on one line")).collect()
}

/// A statement that dirties a variable of a type that is no array; `i` is the element's index in WGSL.
fn store(place: &str, ty: &str, i: &str) -> String {
    let scalar = |ty: &str| match ty {
        "f32" => format!("bitcast<f32>(select(dirt, 0x7f000000u, {i} % 2u == 1u))"),
        "u32" => "1u".to_string(),
        other => panic!("{place}: workgroup memory of {other}"),
    };
    match ty.strip_prefix("vec").and_then(|ty| ty.strip_suffix('>')) {
        Some(vector) => format!("{place} = {ty}({});", scalar(vector.split_once('<').expect("a vector").1)),
        None if ty == "atomic<u32>" => format!("atomicStore(&{place}, 1u);"),
        None => format!("{place} = {};", scalar(ty)),
    }
}

/// The shader with code in front of all else that dirties its workgroup memory; `None` where it has none.
fn dirtied(text: &str, lanes: u32) -> Option<String> {
    let variables = variables(text);
    if variables.is_empty() {
        return None;
    }
    let main = text.find("fn main(").expect("an entry point");
    let open = main + text[main..].find('{').expect("a body");
    const LANE: &str = "@builtin(local_invocation_index) ";
    let lane = text[main..open].split_once(LANE).and_then(|(_, rest)| rest.split_once(':'));
    let (lane, parameter) = match lane {
        Some((lane, _)) => (lane, String::new()),
        None => ("dirty_lane", format!("{LANE}dirty_lane: u32, ")),
    };
    let mut code = String::new();
    for (name, ty) in variables {
        match ty.strip_prefix("array<").and_then(|ty| ty.strip_suffix('>')).and_then(|ty| ty.rsplit_once(", ")) {
            Some((element, count)) => {
                let store = store(&format!("{name}[i]"), element, "i");
                code += &format!("for (var i = {lane}; i < u32({count}); i += {lanes}u) {{ {store} }}\n");
            }
            None => code += &format!("if {lane} == 0u {{ {} }}\n", store(name, ty, "0u")),
        }
    }
    let (before, after) = (&text[..main + "fn main(".len()], &text[main + "fn main(".len()..open]);
    let rest = &text[open + 1..];
    // A variable: constants may not be NaN.
    let dirt = "var<private> dirt: u32 = 0xffffffffu;\n";
    Some(format!("{dirt}{before}{parameter}{after}{{\n{code}workgroupBarrier();\n{rest}"))
}

/// Invocations of a workgroup.
fn lanes(text: &str, constants: &[(&'static str, f64)]) -> u32 {
    let module = naga::front::wgsl::parse_str(text).unwrap();
    let capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module).unwrap();
    let values = constants.iter().map(|&(name, value)| (name.to_string(), value)).collect();
    let (module, _) = process_overrides(&module, &info, Some((ShaderStage::Compute, "main")), &values).unwrap();
    module.entry_points[0].workgroup_size.iter().product()
}

/// The dispatch with `change` of its kernel's whole text; `None` where that gives none.
fn changed(dispatch: &Dispatch, change: impl Fn(&str, u32) -> Option<String>) -> Option<Dispatch> {
    let key = PipelineKey::of(dispatch);
    let text = dispatch.kernel.wgsl(&key.operands);
    let text = change(&text, lanes(&text, &dispatch.constants))?;
    let Kernel { name, params, reference, work, .. } = *dispatch.kernel;
    // The text is whole; the import says that its grid can be dispatched in parts.
    let imports = &[Import { name: "shared/part", source: "" }];
    let source = if dispatch.kernel.divides() { format!("#import shared/part\n{text}") } else { text };
    let kernel = Kernel { name, source: source.leak(), imports, params, reference, work };
    Some(Dispatch { kernel: Box::leak(Box::new(kernel)), ..dispatch.clone() })
}

/// What the dispatches of some examples write into buffers.
fn results(examples: &Examples, dispatches: Vec<Dispatch>) -> Vec<(Tensor, Vec<u32>)> {
    let device = gpu_device();
    let (mut pool, mut random) = (device.pool(), fastrand::Rng::with_seed(7));
    let tensors = examples.inputs.iter().map(|input| input.tensor).chain(examples.recording.scratch.iter().copied());
    tensors.for_each(|tensor| pool.add(tensor).unwrap());
    let used: HashSet<u32> = dispatches.iter().flat_map(|d| &d.operands).map(|(tensor, _)| tensor.id).collect();
    for input in examples.inputs.iter().filter(|input| used.contains(&input.tensor.id)) {
        device.write_all(input.tensor, &input.fill.words(input.tensor, &mut random)).unwrap();
    }
    let operands = dispatches.iter().flat_map(|dispatch| dispatch.operands.clone());
    let written = operands.filter(|(tensor, access)| *access == Access::Write && tensor.storage == Storage::Buffer);
    let written: HashSet<Tensor> = written.map(|(tensor, _)| tensor).collect();
    let mut recording = Recording::new();
    recording.dispatches = dispatches;
    device.play(&recording).unwrap();
    let read = |tensor: Tensor| (tensor, pollster::block_on(device.read_u32(tensor)).unwrap());
    let mut found: Vec<_> = written.into_iter().map(read).collect();
    found.sort_by_key(|(tensor, _)| tensor.id);
    found
}

/// The examples of an op, one for each way to use workgroup memory.
fn of_each_use(op: &Op) -> Examples {
    let mut examples = op.record();
    let mut seen = HashSet::new();
    examples.recording.dispatches.retain(|dispatch| {
        let key = PipelineKey::of(dispatch);
        let constants = key.constants().into_iter().filter(|(name, _)| USES.contains(name));
        let constants: Vec<_> = constants.map(|(name, value)| (name, value.to_bits())).collect();
        !variables(&key.kernel.wgsl(&key.operands)).is_empty() && seen.insert((key.kernel, key.operands, constants))
    });
    examples
}

#[test]
fn no_kernel_counts_on_zeros() {
    let mut kernels = HashSet::new();
    for op in KERNELS {
        let examples = of_each_use(op);
        let clean = examples.recording.dispatches.clone();
        let dirty: Vec<_> = clean.iter().map(|dispatch| changed(dispatch, dirtied).unwrap()).collect();
        kernels.extend(clean.iter().map(|dispatch| dispatch.kernel.name));
        for ((tensor, expected), (_, found)) in results(&examples, clean).into_iter().zip(results(&examples, dirty)) {
            assert!(expected == found, "{}: {tensor:?} is another with dirty workgroup memory", op.name);
        }
    }
    assert!(kernels.contains("sample") && kernels.contains("top_k") && kernels.len() > 10, "{kernels:?}");
}

/// Sampling counted on zeros once. Without what zeroes by hand the comparison above must fail.
#[test]
fn kernels_that_count_on_zeros_are_seen() {
    for (name, by_hand) in [("sample", "atomicStore(&odd, 0u);"), ("top_k", "atomicStore(&taken, 0u);")] {
        let op = KERNELS.iter().find(|op| op.name == name).unwrap();
        let examples = of_each_use(op);
        let planted = |text: &str, lanes: u32| {
            assert!(text.contains(by_hand), "{by_hand}");
            dirtied(&text.replace(by_hand, ""), lanes)
        };
        let clean = examples.recording.dispatches.clone();
        let dirty: Vec<_> = clean.iter().map(|dispatch| changed(dispatch, planted).unwrap()).collect();
        assert!(results(&examples, clean) != results(&examples, dirty), "{name}: not seen");
    }
}
