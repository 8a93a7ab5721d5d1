//! A line of the list, and its shader with the constants put in.

use std::collections::BTreeMap;

use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};

pub const ENTRY: &str = "main";

/// What `examples/pipelines.rs` tells of a pipeline.
#[derive(serde::Deserialize)]
pub struct Pipeline {
    pub kernel: String,
    constants: BTreeMap<String, f64>,
    /// `read`, `write`, `texture`, `pieces` or `words` each; the uniform buffer stands behind them.
    pub bindings: Vec<String>,
    wgsl: String,
}

/// A module that has no overrides left.
pub struct Checked {
    pub module: Module,
    pub info: ModuleInfo,
}

impl Pipeline {
    pub fn read_all(path: &str) -> Result<Vec<Pipeline>, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        let of = |line| serde_json::from_str(line).map_err(|e| format!("{path}: {e}"));
        text.lines().map(of).collect()
    }

    /// What no other pipeline is called: the kernel, its constants, and its bindings by their first letters.
    pub fn name(&self) -> String {
        let constants = self.constants.iter().map(|(name, value)| format!(" {name}={value}"));
        let bindings: String = self.bindings.iter().map(|binding| &binding[..1]).collect();
        format!("{}{} {bindings}", self.kernel, constants.collect::<String>())
    }

    /// Whether all operands lie in buffers, as on every adapter that is a GPU.
    pub fn on_gpus(&self) -> bool {
        self.bindings.iter().all(|binding| binding == "read" || binding == "write")
    }

    pub fn module(&self) -> Result<Checked, String> {
        let module = naga::front::wgsl::parse_str(&self.wgsl).map_err(|e| e.emit_to_string(&self.wgsl))?;
        let capabilities = Capabilities::default() | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
        let info = info.map_err(|e| e.emit_to_string(&self.wgsl))?;
        let constants = self.constants.iter().map(|(name, value)| (name.clone(), *value)).collect();
        let main = Some((ShaderStage::Compute, ENTRY));
        let (module, info) =
            process_overrides(&module, &info, main, &constants).map_err(|e| format!("overrides: {e}"))?;
        Ok(Checked { module: module.into_owned(), info: info.into_owned() })
    }
}
