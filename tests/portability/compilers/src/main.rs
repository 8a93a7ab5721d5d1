//! What compilers make of each pipeline that `examples/pipelines.rs` lists, without their devices.
//!
//! ```text
//! compilers translate PIPELINES FOLDER     each as SPIR-V, HLSL, MSL and GLSL, by naga as wgpu has it do
//! compilers driver PIPELINES [FILTER]      the Vulkan driver at hand makes them; a table of what it tells
//! compilers compare KEPT FOUND             what differs between two tables; exit status 1 where it got worse
//! ```

mod driver;
mod pipeline;
mod table;
mod targets;

use std::path::Path;
use std::process::ExitCode;

use pipeline::Pipeline;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["translate", pipelines, folder] => translate(pipelines, Path::new(folder)),
        ["driver", pipelines] => driver::run(pipelines, ""),
        ["driver", pipelines, filter] => driver::run(pipelines, filter),
        ["compare", kept, found] => table::compare(kept, found),
        _ => Err("usage: compilers translate PIPELINES FOLDER | driver PIPELINES [FILTER] | compare KEPT FOUND".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("compilers: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Writes `NUMBER-KERNEL.spv` and so on. HLSL comes in two versions: 6.0 for DXC, 5.1 for FXC.
fn translate(pipelines: &str, folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let (mut count, mut faults) = (0, Vec::new());
    for (i, pipeline) in Pipeline::read_all(pipelines)?.iter().enumerate() {
        let write = |ending: &str, bytes: &[u8]| {
            let path = folder.join(format!("{i:03}-{}.{ending}", pipeline.kernel));
            std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))
        };
        let module = match pipeline.module() {
            Ok(module) => module,
            Err(fault) => {
                faults.push(format!("{}: {fault}", pipeline.name()));
                continue;
            }
        };
        let hlsl = |model| targets::hlsl(&module, model).map(String::into_bytes);
        let spirv = targets::spirv(&module, false).map(|words| words.iter().flat_map(|w| w.to_le_bytes()).collect());
        let written = [
            ("spv", spirv),
            ("6_0.hlsl", hlsl(targets::DXC)),
            ("5_1.hlsl", hlsl(targets::FXC)),
            ("metal", targets::msl(&module).map(String::into_bytes)),
            ("comp", targets::glsl(&module).map(String::into_bytes)),
        ];
        for (ending, text) in written {
            match text {
                Ok(bytes) => write(ending, &bytes)?,
                Err(fault) => faults.push(format!("{}: {ending}: {fault}", pipeline.name())),
            }
        }
        count += 1;
    }
    eprintln!("{count} pipelines as SPIR-V, HLSL, MSL and GLSL");
    if faults.is_empty() { Ok(()) } else { Err(format!("{} faults\n{}", faults.len(), faults.join("\n"))) }
}
