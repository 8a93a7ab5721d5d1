//! What the integration tests share: devices, fixtures, comparison.
#![allow(dead_code)]

pub mod gguf_file;
pub mod heap;
pub mod random;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pollster::block_on;
use qllama::device::Array;
use qllama::device::gpu::{Gpu, candidates};
use qllama::files::checkpoint::Checkpoint;
use qllama::files::source::{Folder, Source};
use qllama::model::Model;
use qllama::{Device, Result};
use safetensors::{Dtype, SafeTensors};

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

/// A picture that can be captioned.
pub fn picture() -> String {
    let pictures = std::fs::read_dir(path(EMOJI).join("pictures")).unwrap();
    pictures.map(|e| e.unwrap().path()).min().unwrap().to_str().unwrap().into()
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

/// The first adapter, opened once a test program.
pub fn gpu() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        block_on(async {
            let first = candidates().await.into_iter().next();
            let first = first.expect("no WebGPU adapter: install a Vulkan driver, for example mesa-vulkan-drivers");
            Device::gpu(Gpu::open(first).await.unwrap())
        })
    };
    DEVICE.get_or_init(open).clone()
}

pub fn load(folder: &str, device: &Device) -> Model {
    let source = Box::new(Folder::open(path(folder)).unwrap());
    block_on(Model::load(source, device, &mut |_| {})).unwrap()
}

/// A folder of a test's own that goes with it.
pub struct Temp(pub PathBuf);

impl Temp {
    pub fn new() -> Temp {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("qllama-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Temp(folder)
    }

    /// A temporary folder with the files of a folder of the repository.
    pub fn copy_of(folder: &str) -> Temp {
        let temp = Temp::new();
        for entry in std::fs::read_dir(path(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() && entry.file_name() != "expected.safetensors" {
                std::fs::copy(entry.path(), temp.0.join(entry.file_name())).unwrap();
            }
        }
        temp
    }

    pub fn folder(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Temp {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self
    }

    /// Names of the files in it, in order.
    pub fn names(&self) -> BTreeSet<String> {
        std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
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

/// A fixture's inputs and expected outputs; remembers which keys a test read.
pub struct Expected {
    bytes: Vec<u8>,
    read: std::cell::RefCell<BTreeSet<String>>,
}

impl Expected {
    pub fn open(folder: &str) -> Expected {
        let bytes = std::fs::read(path(&format!("tests/data/fixtures/{folder}/expected.safetensors"))).unwrap();
        Expected { bytes, read: Default::default() }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// All keys, in order.
    pub fn keys(&self) -> BTreeSet<String> {
        self.tensors().names().into_iter().map(String::from).collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.tensors().tensor(key).is_ok()
    }

    pub fn f32(&self, key: &str) -> Array<f32> {
        self.read.borrow_mut().insert(key.into());
        let tensors = self.tensors();
        let view = tensors.tensor(key).unwrap_or_else(|_| panic!("no key {key}"));
        assert_eq!(view.dtype(), Dtype::F32, "{key}");
        Array::new(view.shape(), bytemuck::pod_collect_to_vec(view.data()))
    }

    pub fn i64(&self, key: &str) -> Array<i64> {
        self.read.borrow_mut().insert(key.into());
        let tensors = self.tensors();
        let view = tensors.tensor(key).unwrap_or_else(|_| panic!("no key {key}"));
        assert_eq!(view.dtype(), Dtype::I64, "{key}");
        Array::new(view.shape(), bytemuck::pod_collect_to_vec(view.data()))
    }

    /// Fails when a key was never read.
    pub fn all_read(&self) {
        let read = self.read.borrow();
        let tensors = self.tensors();
        let left: Vec<_> = tensors.names().into_iter().filter(|name| !read.contains(*name)).collect();
        assert!(left.is_empty(), "no test reads {left:?}");
    }
}

/// Sum of squared differences over the sum of squares of what is expected.
pub fn nmse(expected: &[f32], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len(), "lengths differ");
    assert!(found.iter().all(|v| v.is_finite()), "not all numbers are finite");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = expected.iter().zip(found).map(|(e, f)| square(e - f)).sum();
    difference / expected.iter().map(|e| square(*e)).sum::<f64>().max(1e-30)
}

/// Fails when shapes differ or the normalised mean squared error is above `limit`.
pub fn close(what: &str, expected: &Array<f32>, found: &Array<f32>, limit: f64) {
    assert_eq!(expected.shape, found.shape, "{what}");
    let error = nmse(&expected.values, &found.values);
    assert!(error <= limit, "{what}: normalised mean squared error {error:e} above {limit:e}");
    println!("{what}: {error:.1e}");
}
