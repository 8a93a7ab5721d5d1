//! Files that are whole at every moment.

use std::fs::File;
use std::path::{Path, PathBuf};

use qllama::{Error, Result};

use crate::many::names::base_name;

/// The name of a file until it is whole.
pub fn part_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".part");
    path.with_file_name(name)
}

/// Writes a whole file: at every moment there is the old one or the new one.
///
/// # Errors
/// `E_IO`.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let part = part_of(path);
    let made = File::create(&part).and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()));
    let done = made.and_then(|()| std::fs::rename(&part, path));
    done.map_err(|e| {
        let _ = std::fs::remove_file(&part);
        failed(path, e)
    })
}

/// An error of the system about an output.
pub fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::System { file: base_name(path), cause: error.into() }
}
