//! One file into the cache: what is there of it is gone on from, and nothing counts as a blob that is not what the hub
//! says it is.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use qllama::internals::printable;
use qllama::{Error, Result};

use super::cache::{Repository, make_parent};
use super::client::{Client, Fault, wait};
use super::digest::Digest;
use super::name::Name;
use crate::out;
use crate::whole::failed;

/// A file as the hub lists it.
#[derive(Clone, Debug)]
pub struct Remote {
    pub file: String,
    pub size: u64,
    pub digest: String,
}

/// Downloads of a commit.
pub struct Downloads<'a> {
    pub client: &'a Client,
    pub name: &'a Name,
    pub commit: &'a str,
    pub repository: &'a Repository,
    /// Hears of bytes as they come; of those that have to come again, a negative number.
    pub on_bytes: &'a dyn Fn(i64),
}

impl Downloads<'_> {
    /// Brings a file's blob into the cache. `lock` is the file by which one process at a time does so.
    ///
    /// # Errors
    /// `E_HTTP`, `E_IO`; `E_INTEGRITY` where the bytes are not those that were promised.
    pub fn blob(&self, remote: &Remote, lock: &Path) -> Result<()> {
        let blob = self.repository.blob(&remote.digest);
        make_parent(&blob)?;
        make_parent(lock)?;
        let guard = File::options().write(true).create(true).truncate(false).open(lock).map_err(|e| failed(lock, e))?;
        if let Err(TryLockError::WouldBlock) = guard.try_lock() {
            out::note(format_args!(
                "qllama: another program is downloading {}; waiting for it",
                printable(&remote.file)
            ));
            guard.lock().map_err(|e| failed(lock, e))?;
        }
        if blob.metadata().is_ok_and(|found| found.len() == remote.size) {
            (self.on_bytes)(remote.size as i64);
            return Ok(());
        }
        let part = part_of(&blob);
        // What was kept of another download may be wrong; what comes in one piece is the server's fault.
        let began_before = part.metadata().is_ok_and(|found| found.len() > 0);
        match self.fill(remote, &part) {
            Err(Error::Integrity { .. }) if began_before => self.fill(remote, &part)?,
            done => done?,
        }
        std::fs::rename(&part, &blob).map_err(|e| failed(&blob, e))
    }

    /// Fills the file of a blob that is not whole, and checks it; where it is wrong, it goes.
    fn fill(&self, remote: &Remote, part: &Path) -> Result<()> {
        let fail = |e| failed(part, e);
        let mut out = File::options().read(true).write(true).create(true).truncate(false).open(part).map_err(fail)?;
        let mut have = out.metadata().map_err(fail)?.len();
        if have > remote.size {
            out.set_len(0).map_err(fail)?;
            have = 0;
        }
        (self.on_bytes)(have as i64);
        let mut failures = 0;
        while have < remote.size {
            let before = have;
            let fault = match self.more(remote, &mut out, &mut have, part) {
                Ok(()) if have < remote.size => {
                    let (need, file) = (remote.size, printable(&remote.file));
                    Fault::Passing(Error::Truncated { file, need, have }, None)
                }
                Ok(()) => break,
                Err(fault) => fault,
            };
            failures = if have > before { 1 } else { failures + 1 };
            wait(fault, failures)?;
        }
        out.sync_all().map_err(fail)?;
        let found = digest_of(&mut out, remote).map_err(fail)?;
        if found.as_ref().is_none_or(|found| *found == remote.digest) {
            return Ok(());
        }
        drop(out);
        let _ = std::fs::remove_file(part);
        (self.on_bytes)(-(remote.size as i64));
        let (file, expected) = (printable(&remote.file), remote.digest.clone());
        Err(Error::Integrity { file, expected, found: found.unwrap_or_default() })
    }

    /// One request: appends what comes.
    fn more(&self, remote: &Remote, out: &mut File, have: &mut u64, part: &Path) -> std::result::Result<(), Fault> {
        let local = |e| Fault::Final(failed(part, e));
        let mut answer = self.client.file(self.name, self.commit, &remote.file, *have)?;
        if *have > 0 && !goes_on_at(&answer, *have) {
            // The server sends all from its start.
            (self.on_bytes)(-(*have as i64));
            *have = 0;
            out.set_len(0).map_err(local)?;
        }
        out.seek(SeekFrom::Start(*have)).map_err(local)?;
        let mut body = answer.body_mut().as_reader();
        let mut bytes = vec![0; 1 << 16];
        loop {
            let count = match body.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Fault::Passing(self.client.broken(&e), None)),
            };
            out.write_all(&bytes[..count]).map_err(local)?;
            *have += count as u64;
            (self.on_bytes)(count as i64);
            if *have > remote.size {
                // The digest will tell.
                return Ok(());
            }
        }
    }
}

/// Whether an answer begins at this byte of the file.
fn goes_on_at(answer: &ureq::http::Response<ureq::Body>, from: u64) -> bool {
    let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
    answer.status().as_u16() == 206 && range.trim_start_matches("bytes ").split('-').next() == Some(&from.to_string())
}

/// Where a blob is until it is whole, also for Python's `huggingface_hub`.
fn part_of(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_os_string();
    name.push(".incomplete");
    name.into()
}

/// The digest of a whole file; none where the hub gave none.
fn digest_of(file: &mut File, remote: &Remote) -> std::io::Result<Option<String>> {
    let Some(mut digest) = Digest::like(&remote.digest, remote.size) else { return Ok(None) };
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(Some(digest.finish())),
            count => digest.update(&bytes[..count]),
        }
    }
}
