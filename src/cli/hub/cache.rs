//! The cache on this machine, laid out as Python's `huggingface_hub` has it: `models--org--name` with `refs/REVISION` (a
//! commit), `blobs/DIGEST` (contents) and `snapshots/COMMIT/FILE` (links to them).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qllama::{Error, Result};

use super::name::{Name, is_plain};
use crate::whole::{failed, write_whole};

/// The folder of all repositories.
pub struct Cache(pub PathBuf);

/// A repository in the cache.
pub struct Kept {
    pub name: String,
    pub bytes: u64,
    /// Commits, each with the revisions that name it.
    pub revisions: BTreeMap<String, Vec<String>>,
    /// Files whose download was interrupted.
    pub incomplete: usize,
}

impl Cache {
    /// By `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, or the home folder.
    ///
    /// # Errors
    /// `E_STATE` where there is no home folder.
    pub fn of_environment() -> Result<Cache> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")) {
            Some(folder) => Ok(Cache(folder)),
            None => Ok(Cache(home()?.join("hub"))),
        }
    }

    pub fn repository(&self, name: &Name) -> Repository {
        Repository(self.0.join(name.folder()))
    }

    /// What is there, by name.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn all(&self) -> Result<Vec<Kept>> {
        let mut all = Vec::new();
        for folder in entries(&self.0)? {
            let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if let Some(name) = name.strip_prefix("models--").filter(|_| folder.is_dir()) {
                all.push(Repository(folder.clone()).kept(name.replacen("--", "/", 1))?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Deletes a repository; returns the bytes that it took, or `None` where it is not there.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn remove(&self, name: &Name) -> Result<Option<u64>> {
        let folder = self.repository(name).0;
        if !folder.is_dir() {
            return Ok(None);
        }
        let bytes = size_of(&folder)?;
        std::fs::remove_dir_all(&folder).map_err(|e| failed(&folder, e))?;
        let locks = self.0.join(".locks").join(name.folder());
        let _ = std::fs::remove_dir_all(locks);
        Ok(Some(bytes))
    }

    /// The file by which one process at a time downloads a blob; Python's takes the same.
    pub fn lock(&self, name: &Name, digest: &str) -> PathBuf {
        self.0.join(".locks").join(name.folder()).join(format!("{digest}.lock"))
    }
}

/// The folder of Hugging Face's tools.
///
/// # Errors
/// `E_STATE` where there is no home folder.
pub fn home() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("HF_HOME") {
        return Ok(folder);
    }
    let caches = set("XDG_CACHE_HOME").or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let reason = "there is no home folder to keep downloads in: set HF_HOME";
    caches.map(|folder| folder.join("huggingface")).ok_or_else(|| Error::State { reason: reason.into() })
}

/// A repository's folder.
pub struct Repository(PathBuf);

impl Repository {
    /// The commit of a revision, as it was when it was last asked for.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let text = std::fs::read_to_string(self.0.join("refs").join(revision)).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_plain(commit))
    }

    /// Notes the commit of a revision.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn note(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let file = self.0.join("refs").join(revision);
        make_parent(&file)?;
        write_whole(&file, |file| std::io::Write::write_all(file, commit.as_bytes()))
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.0.join("snapshots").join(commit)
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        self.0.join("blobs").join(digest)
    }

    /// Has a snapshot name a blob: by a link, or, where the system has none, by moving it there.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn link(&self, commit: &str, file: &str, digest: &str) -> Result<()> {
        let pointer = self.snapshot(commit).join(file);
        make_parent(&pointer)?;
        if pointer.symlink_metadata().is_ok() {
            std::fs::remove_file(&pointer).map_err(|e| failed(&pointer, e))?;
        }
        let up = "../".repeat(2 + file.matches('/').count());
        let linked = symlink(Path::new(&format!("{up}blobs/{digest}")), &pointer);
        linked.or_else(|_| std::fs::rename(self.blob(digest), &pointer)).map_err(|e| failed(&pointer, e))
    }

    fn kept(&self, name: String) -> Result<Kept> {
        let mut revisions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for snapshot in entries(&self.0.join("snapshots"))? {
            revisions.entry(snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned()).or_default();
        }
        let refs = self.0.join("refs");
        for file in files_below(&refs)? {
            let commit = std::fs::read_to_string(&file).unwrap_or_default().trim().to_string();
            let revision = file.strip_prefix(&refs).unwrap_or(&file).to_string_lossy().into_owned();
            if let Some(revisions) = revisions.get_mut(&commit) {
                revisions.push(revision);
            }
        }
        let partial = |path: &&PathBuf| path.extension().is_some_and(|e| e == "incomplete");
        let incomplete = entries(&self.0.join("blobs"))?.iter().filter(partial).count();
        Ok(Kept { name, bytes: size_of(&self.0)?, revisions, incomplete })
    }
}

/// # Errors
/// `E_IO`.
pub fn make_parent(file: &Path) -> Result<()> {
    let Some(folder) = file.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|e| failed(folder, e))
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(|e| failed(folder, e))?.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(folder, e)),
    }
}

/// Files of a folder and of those below; links are not followed.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => files.extend(files_below(&path)?),
            _ => files.push(path),
        }
    }
    Ok(files)
}

fn size_of(folder: &Path) -> Result<u64> {
    let sizes = files_below(folder)?.into_iter().filter_map(|file| Some(file.symlink_metadata().ok()?.len()));
    Ok(sizes.sum())
}

#[cfg(unix)]
fn symlink(target: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, pointer)
}

#[cfg(windows)]
fn symlink(target: &Path, pointer: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, pointer)
}
