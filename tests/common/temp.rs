//! Temporary folders.

use std::collections::BTreeSet;
use std::path::Path;

use tempfile::TempDir;

use super::path;

/// A folder of a test's own that goes with it.
pub struct Temp(TempDir);

impl Temp {
    pub fn new() -> Temp {
        Temp(tempfile::Builder::new().prefix("qllama-test-").tempdir().unwrap())
    }

    /// A temporary folder with the files of a folder of the repository, without what is expected of them.
    pub fn copy_of(folder: &str) -> Temp {
        let temp = Temp::new();
        for entry in std::fs::read_dir(path(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() && entry.file_name() != "expected.safetensors" {
                std::fs::copy(entry.path(), temp.path().join(entry.file_name())).unwrap();
            }
        }
        temp
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// As [`Temp::path`], for an argument of the program.
    pub fn folder(&self) -> &str {
        self.path().to_str().unwrap()
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> String {
        self.path().join(name).to_str().unwrap().into()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Temp {
        std::fs::write(self.path().join(name), bytes).unwrap();
        self
    }

    /// Names of the files in it, in order.
    pub fn names(&self) -> BTreeSet<String> {
        std::fs::read_dir(self.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }
}
