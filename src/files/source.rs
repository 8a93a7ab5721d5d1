//! Where the bytes of a checkpoint come from: a folder, memory, or (in the browser) downloads and their cache.
//!
//! A source knows files by plain base names and reads them in pieces. Nothing is mapped into memory: a file that is
//! cut short while it is read gives [`Error::Truncated`] and not a signal.

use crate::error::{Error, Result, printable};
use crate::room::zeros;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::SystemTime;

/// A future that stays on the thread that made it, as everything in a browser does.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Files by name. Native programs may wait for the futures with `pollster::block_on`; those of [`Folder`] and
/// [`Memory`] are ready at once.
pub trait Source {
    /// A short name for messages: a base name, never a path.
    fn describe(&self) -> String;

    /// The size in bytes of the file `name`, or `None` where there is no such file.
    ///
    /// # Errors
    /// `E_PATH` when `name` is not a plain file name, `E_IO` when the file is there but cannot be read.
    fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>>;

    /// When the file `name` was last changed, where that is known.
    fn changed(&self, _name: &str) -> Option<SystemTime> {
        None
    }

    /// Fills `buf` with the bytes of the file `name` from byte `offset` on.
    ///
    /// # Errors
    /// `E_TRUNCATED` when the file ends before `offset + buf.len()`, `E_IO` when it cannot be read.
    fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>>;
}

/// Whether `name` is a plain file name: ASCII letters, digits, `.`, `_` and `-`, at most 255 of them, not only dots.
pub fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'))
        && name.bytes().any(|c| c != b'.')
}

/// What a file really is when it is one of the things that are often saved under a checkpoint's names by mistake.
/// `start` is the first few dozen bytes of the file.
pub fn impostor(start: &[u8]) -> Option<&'static str> {
    let text = start.trim_ascii_start();
    let tag = |t: &str| text.len() >= t.len() && text[..t.len()].eq_ignore_ascii_case(t.as_bytes());
    if start.starts_with(b"version https://git-lfs") {
        return Some("this is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`");
    }
    if tag("<!doctype") || tag("<html") || tag("<head") || tag("<?xml") {
        return Some("this is a web page saved under the file's name; download the file itself");
    }
    if start.starts_with(b"PK\x03\x04") {
        return Some("this is a zip archive (PyTorch's own format, perhaps); safetensors is expected");
    }
    if start.starts_with(b"GGUF") {
        return Some(
            "this is a GGUF file; safetensors is expected (a GGUF file is opened by its own name, not by its folder's)",
        );
    }
    None
}

/// A whole small file of a source, or `None` where there is none.
///
/// # Errors
/// `E_IO` when the file has more than `cap` bytes, or is a web page or a Git LFS pointer; those of [`Source::read`].
pub async fn read_small(source: &dyn Source, name: &str, cap: u64) -> Result<Option<Vec<u8>>> {
    let Some(size) = source.size(name).await? else { return Ok(None) };
    if size > cap {
        let reason = format!("{size} bytes, and at most {cap} are read of such a file");
        return Err(Error::Io { file: name.into(), reason });
    }
    let mut bytes = zeros(name, size as usize)?;
    source.read(name, 0, &mut bytes).await?;
    match impostor(&bytes) {
        Some(reason) => Err(Error::Io { file: name.into(), reason: reason.into() }),
        None => Ok(Some(bytes)),
    }
}

/// `Ok` when `name` is a plain file name.
fn check_name(source: &dyn Source, name: &str) -> Result<()> {
    if is_plain_name(name) {
        return Ok(());
    }
    Err(Error::Path { file: source.describe(), name: printable(name) })
}

/// `E_IO` for a file that a source does not have.
pub(crate) fn not_found(name: &str, source: &dyn Source) -> Error {
    Error::Io { file: printable(name), reason: format!("not found in {}", source.describe()) }
}

/// Files held in memory: the model inside the binary, or those that a test or a web page hands over.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    name: String,
    files: BTreeMap<String, Cow<'static, [u8]>>,
}

impl Memory {
    /// An empty set of files; `name` is what messages call it.
    pub fn new(name: impl Into<String>) -> Memory {
        Memory { name: name.into(), files: BTreeMap::new() }
    }

    /// The same set with one more file, static bytes or a vector. A file of the same name is replaced.
    pub fn with(mut self, name: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Memory {
        self.files.insert(name.into(), bytes.into());
        self
    }
}

impl Source for Memory {
    fn describe(&self) -> String {
        self.name.clone()
    }

    fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>> {
        let size = check_name(self, name).map(|()| self.files.get(name).map(|bytes| bytes.len() as u64));
        Box::pin(std::future::ready(size))
    }

    fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>> {
        Box::pin(async move {
            check_name(self, name)?;
            let bytes = self.files.get(name).ok_or_else(|| not_found(name, self))?;
            let need = offset.saturating_add(buf.len() as u64);
            if need > bytes.len() as u64 {
                return Err(Error::Truncated { file: name.into(), need, have: bytes.len() as u64 });
            }
            let start = offset as usize;
            buf.copy_from_slice(&bytes[start..start + buf.len()]);
            Ok(())
        })
    }
}

#[cfg(not(target_arch = "wasm32"))]
pub use folder::Folder;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use folder::{base_name, io_error, open_regular, read_limited};

#[cfg(not(target_arch = "wasm32"))]
mod folder {
    use super::*;
    use crate::room::more as more_room;
    use std::fs::{File, Metadata};
    use std::io::{ErrorKind, Read};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex, PoisonError};

    /// How much of a file is read before the rest, to see what it is.
    const START: u64 = 64;

    /// A folder on disk. Files are opened once and read at given offsets; symbolic links are followed, and anything
    /// that is not a regular file in the end is refused.
    #[derive(Debug)]
    pub struct Folder {
        path: PathBuf,
        open: Mutex<BTreeMap<String, Arc<File>>>,
    }

    impl Folder {
        /// # Errors
        /// `E_IO` when there is no such folder or it is something else.
        pub fn open(path: impl AsRef<Path>) -> Result<Folder> {
            let path = path.as_ref();
            let found = std::fs::metadata(path).map_err(|e| io_error(&base_name(path), e))?;
            if !found.is_dir() {
                return Err(Error::Io { file: base_name(path), reason: "expected a folder, found a file".into() });
            }
            Ok(Folder { path: path.to_path_buf(), open: Mutex::default() })
        }

        /// The folder of one file, and the name by which the file is known there: its own, or `model.` and its
        /// extension where that is not a plain name.
        ///
        /// # Errors
        /// `E_IO` when there is no such file, or it is not a regular one.
        pub fn open_file(path: impl AsRef<Path>) -> Result<(Folder, String)> {
            let path = path.as_ref();
            let shown = base_name(path);
            let Some((file, _)) = open_regular(path)? else {
                return Err(Error::Io { file: shown, reason: "no such file".into() });
            };
            let own = path.file_name().and_then(|n| n.to_str()).filter(|n| is_plain_name(n));
            let extension = || path.extension().and_then(|e| e.to_str()).filter(|e| is_plain_name(e)).unwrap_or("bin");
            let name = own.map_or_else(|| format!("model.{}", extension()), String::from);
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let open = BTreeMap::from([(name.clone(), Arc::new(file))]);
            Ok((Folder { path: parent.to_path_buf(), open: Mutex::new(open) }, name))
        }

        fn file(&self, name: &str) -> Result<Option<Arc<File>>> {
            check_name(self, name)?;
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(file) = open.get(name) {
                return Ok(Some(file.clone()));
            }
            let Some((file, _)) = open_regular(&self.path.join(name))? else { return Ok(None) };
            let file = Arc::new(file);
            open.insert(name.into(), file.clone());
            Ok(Some(file))
        }
    }

    impl Source for Folder {
        fn describe(&self) -> String {
            base_name(&self.path)
        }

        fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>> {
            Box::pin(async move {
                let Some(file) = self.file(name)? else { return Ok(None) };
                Ok(Some(file.metadata().map_err(|e| io_error(name, e))?.len()))
            })
        }

        /// Of what has the name now, which may not be what was opened.
        fn changed(&self, name: &str) -> Option<SystemTime> {
            check_name(self, name).ok()?;
            std::fs::metadata(self.path.join(name)).ok()?.modified().ok()
        }

        fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>> {
            Box::pin(async move {
                let file = self.file(name)?.ok_or_else(|| not_found(name, self))?;
                let need = offset.saturating_add(buf.len() as u64);
                let mut done = 0;
                while done < buf.len() {
                    match read_at(&file, &mut buf[done..], offset + done as u64) {
                        Ok(0) => {
                            let have = file.metadata().map_or(offset + done as u64, |m| m.len());
                            return Err(Error::Truncated { file: name.into(), need, have });
                        }
                        Ok(n) => done += n,
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        Err(e) => return Err(io_error(name, e)),
                    }
                }
                Ok(())
            })
        }
    }

    /// Opens a regular file, or says `None` where there is nothing. The check comes before the opening: opening a FIFO
    /// would wait for a writer.
    pub(crate) fn open_regular(path: &Path) -> Result<Option<(File, Metadata)>> {
        let name = base_name(path);
        let found = match std::fs::metadata(path) {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&name, e)),
        };
        if !found.is_file() {
            let what = if found.is_dir() { "a folder" } else { "a device or pipe" };
            return Err(Error::Io { file: name, reason: format!("expected a regular file, found {what}") });
        }
        let file = File::open(path).map_err(|e| io_error(&name, e))?;
        Ok(Some((file, found)))
    }

    /// A whole file, pipe or device of at most `limit` bytes, which `check` may refuse by how it begins before the rest is
    /// read.
    ///
    /// # Errors
    /// `E_IO`, also where there is more; `E_OOM`; those of `check`.
    pub(crate) fn read_limited(path: &Path, limit: u64, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<Vec<u8>> {
        let name = base_name(path);
        let fail = |e| io_error(&name, e);
        let mut file = File::open(path).map_err(fail)?;
        let mut bytes = Vec::new();
        file.by_ref().take(START).read_to_end(&mut bytes).map_err(fail)?;
        check(&bytes)?;
        let size = file.metadata().map_err(fail)?.len();
        // What pipes and devices hold is not known before it is read.
        let mut more = size.saturating_sub(START);
        loop {
            if bytes.len() as u64 + more > limit {
                let reason = format!("expected at most {limit} bytes, found more");
                return Err(Error::Io { file: name, reason });
            }
            // One byte of room more, where the end shows.
            let asked = more + 1;
            more_room(&name, &mut bytes, asked as usize)?;
            if file.by_ref().take(asked).read_to_end(&mut bytes).map_err(fail)? < asked as usize {
                return Ok(bytes);
            }
            more = bytes.len() as u64;
        }
    }

    /// The last part of a path, for messages.
    pub(crate) fn base_name(path: &Path) -> String {
        let name = |p: &Path| p.file_name().map(|n| printable(&n.to_string_lossy()));
        name(path).or_else(|| name(&path.canonicalize().ok()?)).unwrap_or_else(|| "the folder".into())
    }

    /// The system's error as ours; the system's own text names no path.
    pub(crate) fn io_error(name: &str, error: std::io::Error) -> Error {
        Error::System { file: printable(name), cause: error.into() }
    }

    #[cfg(unix)]
    fn read_at(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(file, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(file: &File, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(file, buf, offset)
    }
}
