//! Any bytes as a GGUF file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use qllama::gguf::Gguf;
use qllama::source::Memory;

fuzz_target!(|data: &[u8]| {
    let source = Memory::new("fuzz").with("m.gguf", data.to_vec());
    let _ = pollster::block_on(Gguf::open(&source, "m.gguf"));
});
