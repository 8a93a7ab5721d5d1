//! Every pipeline of the ops' examples, a line of JSON each: what compilers that are not on this machine are tested with.
//!
//! `cargo run --example pipelines > pipelines.jsonl`. A line has `kernel`, its whole `wgsl`, the `constants` that override
//! the shader's, and `bindings`, the operands in order: `read` and `write` are buffers, `texture` is read, `pieces` and
//! `words` are textures that are written. Behind them comes the uniform buffer of the parameters, and where a shader has a
//! `@group(1)`, that of `shared/part`.

use std::collections::HashSet;
use std::io::{self, BufWriter, Write};

use qllama::internals::{Access, Binding, KERNELS, PipelineKey, Storage};
use serde_json::{Map, json};

fn main() -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut done = HashSet::new();
    for op in KERNELS {
        for dispatch in op.record().recording.dispatches {
            let key = PipelineKey::of(&dispatch);
            if done.insert(key.clone()) {
                let constants: Map<_, _> = key.constants().iter().map(|&(name, v)| (name.into(), json!(v))).collect();
                let bindings: Vec<_> = key.operands.iter().map(name).collect();
                let (kernel, wgsl) = (key.kernel.name, key.kernel.wgsl(&key.operands));
                let line = json!({ "kernel": kernel, "constants": constants, "bindings": bindings, "wgsl": wgsl });
                writeln!(out, "{line}")?;
            }
        }
    }
    out.flush()
}

fn name(binding: &Binding) -> &'static str {
    match binding {
        Binding::Buffer(Access::Read) => "read",
        Binding::Buffer(Access::Write) => "write",
        Binding::Texture => "texture",
        Binding::WrittenTexture(Storage::Pieces) => "pieces",
        Binding::WrittenTexture(Storage::Words | Storage::Buffer) => "words",
    }
}
