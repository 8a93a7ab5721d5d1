//! A folder that is filled bit by bit and gets its name when it is complete, and a file in it that grows by lines.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::source::{base_name, io_error};

/// A folder that is being filled, under its name with `.part` behind it. Who was interrupted finds what was written.
pub(crate) struct NewFolder {
    path: PathBuf,
    part: PathBuf,
}

impl NewFolder {
    /// Makes the unfinished folder, or takes the one that is there.
    ///
    /// # Errors
    /// `E_STATE` when `path` is there already and not empty, `E_IO`.
    pub(crate) fn begin(path: &Path) -> Result<NewFolder> {
        if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
            let reason = format!("{} is there already and not empty; choose another name", base_name(path));
            return Err(Error::State { reason });
        }
        let refuse = || Error::Io { file: base_name(path), reason: "expected the name of a new folder".into() };
        let mut name = path.file_name().ok_or_else(refuse)?.to_os_string();
        name.push(".part");
        let part = path.with_file_name(name);
        std::fs::create_dir_all(&part).map_err(|e| io_error(&base_name(&part), e))?;
        Ok(NewFolder { path: path.to_path_buf(), part })
    }

    /// Where the unfinished folder is.
    pub(crate) fn part(&self) -> &Path {
        &self.part
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        std::fs::write(self.part.join(name), bytes).map_err(|e| io_error(name, e))
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn finish(self) -> Result<()> {
        // Where it is there and empty.
        let _ = std::fs::remove_dir(&self.path);
        std::fs::rename(&self.part, &self.path).map_err(|e| io_error(&base_name(&self.path), e))
    }
}

/// A text file to which lines are added. Locked while it is open.
pub(crate) struct LineFile {
    name: &'static str,
    path: PathBuf,
    file: File,
}

impl LineFile {
    /// Opens or makes the file `name` of an unfinished folder; returns it with its text.
    ///
    /// # Errors
    /// `E_STATE` when another process has it open, `E_IO`.
    pub(crate) fn open(folder: &NewFolder, name: &'static str) -> Result<(LineFile, String)> {
        let path = folder.part.join(name);
        let fail = |e: std::io::Error| io_error(name, e);
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).append(true).open(&path).map_err(fail)?;
        if let Err(e) = file.try_lock() {
            return match e {
                std::fs::TryLockError::WouldBlock => {
                    Err(Error::State { reason: format!("another run is writing {}", base_name(&folder.part)) })
                }
                std::fs::TryLockError::Error(e) => Err(fail(e)),
            };
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok((LineFile { name, path, file }, text))
    }

    /// Takes all lines away.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn clear(&self) -> Result<()> {
        self.file.set_len(0).map_err(|e| io_error(self.name, e))
    }

    /// Adds text, and waits until it is on the disk.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn add(&mut self, text: &str) -> Result<()> {
        let done = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        done.map_err(|e| io_error(self.name, e))
    }

    /// Removes the file.
    ///
    /// # Errors
    /// `E_IO`.
    pub(crate) fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| io_error(self.name, e))
    }
}
