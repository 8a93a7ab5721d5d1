//! Any bytes as a file of a picture.
#![no_main]

#[path = "../../common/engine.rs"]
mod engine;
#[path = "../readers.rs"]
mod readers;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = readers::pictures(data);
});
