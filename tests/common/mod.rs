//! What the integration tests share: the engine's items, devices, fixtures, comparison.
#![allow(dead_code, unused_imports)]

pub mod checks;
pub mod engine;
pub mod expected;
pub mod gguf_file;
pub mod heap;
pub mod pictures;
pub mod random;
pub mod shared;
pub mod temp;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use pollster::block_on;

pub use self::checks::{Checks, close};
use self::engine::{
    Array, Builder, Checkpoint, Crossed, Device, Folder, GenerateInputs, GenerateOptions, Generation, Gpu, Location,
    Model, Piece, Result, Source, candidates,
};
pub use self::expected::Expected;
pub use self::pictures::{caption, expected_captions, picture, picture_step, pixels};
pub use self::shared::{Random, nmse, skipped};
pub use self::temp::Temp;

pub const BASE: &str = "tests/data/fixtures/qllama-base";
pub const TINY: &str = "tests/data/fixtures/internvl-tiny";
pub const EMOJI: &str = "models/emoji-tiny";

/// A path in the repository.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(relative)
}

/// As [`path`], for an argument of the program.
pub fn repository(relative: &str) -> String {
    path(relative).to_str().unwrap().into()
}

/// A folder of fixtures.
pub fn fixture(folder: &str) -> PathBuf {
    path("tests/data/fixtures").join(folder)
}

/// The `config.json` of qllama-base.
pub fn base_config() -> Vec<u8> {
    std::fs::read(fixture("qllama-base").join("config.json")).unwrap()
}

/// Opens a checkpoint.
pub fn open(source: impl Source + 'static) -> Result<Checkpoint> {
    block_on(Checkpoint::open(Box::new(source)))
}

/// The code of an error, whose message must be fit to print; `ok` for a success.
pub fn code<T>(result: Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 2000 && !message.contains('\n') && !message.contains('\0'), "{message:?}");
            assert!(!message.contains(env!("CARGO_MANIFEST_DIR").trim_end_matches("/src/cli")), "{message:?}");
            error.code()
        }
    }
}

/// The first adapter, opened anew: for tests that set a budget, count memory or lose the device.
pub fn new_gpu() -> Device {
    block_on(async {
        let first = candidates().await.into_iter().next();
        let first = first.expect("no WebGPU adapter: install a Vulkan driver, for example mesa-vulkan-drivers");
        Device::gpu(Gpu::open(first).await.unwrap())
    })
}

/// The first adapter, opened once for all tests.
pub fn gpu() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(new_gpu).clone()
}

/// Loads a folder of the repository.
pub fn load(folder: &str, device: &Device) -> Model {
    load_from(Folder::open(path(folder)).unwrap(), device).unwrap()
}

/// Loads the published layout from a source.
pub fn load_from(source: impl Source + 'static, device: &Device) -> Result<Model> {
    Builder::new(Location::Folder(Box::new(source))).device(device).load()
}

/// Loads the GGUF file `name` of a source.
pub fn load_gguf_from(source: impl Source + 'static, name: &str, device: &Device) -> Result<Model> {
    Builder::new(Location::Gguf(Box::new(source), name.into())).device(device).load()
}

/// A prompt of ids.
pub fn prompt(ids: &[u32]) -> GenerateInputs<'static> {
    let ids: Vec<i64> = ids.iter().map(|&id| id.into()).collect();
    GenerateInputs { input_ids: Some(Array::new(&[1, ids.len()], ids)), ..Default::default() }
}

/// A prompt of ids behind a picture's query tokens.
pub fn prompt_about<'a>(crossed: &'a Crossed, ids: &[u32]) -> GenerateInputs<'a> {
    GenerateInputs { crossed: Some(&crossed.states), ..prompt(ids) }
}

/// Generates; the new ids of each sequence with the id that ended it.
pub fn generate(model: &Model, inputs: &GenerateInputs, options: &GenerateOptions) -> Result<Vec<Vec<u32>>> {
    let found = model.generate_from(inputs, options, &mut go_on)?;
    Ok(found.into_iter().map(all_ids).collect())
}

/// The new ids with the id that ended them.
pub fn all_ids(generation: Generation) -> Vec<u32> {
    generation.ids.into_iter().chain(generation.end_id).collect()
}

/// Hears of a piece, and wants the next.
pub fn go_on(_: Piece<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The program with these arguments, not yet started.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qllama"));
    command.args(args);
    command
}

/// Runs the program, which must succeed; what it printed.
pub fn printed(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = program(args).output().unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Runs the program, which must fail with `code` and a message that has all of `words`.
pub fn fails(args: &[&str], code: &str, words: &[&str]) {
    let output = program(args).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let what = format!("{args:?}\n{message}");
    assert_eq!(output.status.code(), Some(1), "{what}");
    assert!(output.stdout.is_empty(), "something was printed: {what}");
    assert_eq!(message.trim_end().lines().count(), 1, "not one line: {what}");
    assert!(message.trim_end().ends_with(&format!("[{code}]")), "expected {code}: {what}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in the message: {what}");
    }
    for folder in [std::env::temp_dir(), path("")] {
        assert!(!message.contains(folder.to_str().unwrap().trim_end_matches('/')), "a path is in the message: {what}");
    }
}
