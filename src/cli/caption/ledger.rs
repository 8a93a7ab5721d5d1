//! An output that grows by a line a picture. It is its own journal: what stands in it is done, and a run that was
//! interrupted, at whatever moment, goes on behind its last whole line.

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use qllama::{Error, Result};

use super::record::{Format, Outcome, Record};
use crate::many::names::base_name;
use crate::out;
use crate::whole::{failed, part_of};

/// How often what was written is brought to the disk, for power cuts; other interruptions lose nothing.
const SYNC: Duration = Duration::from_secs(5);

/// What to do with lines that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// None is kept.
    pub overwrite: bool,
    /// Those of pictures that failed are not kept.
    pub retry_failed: bool,
}

/// The output, locked while it is open.
pub struct Ledger {
    path: PathBuf,
    file: File,
    format: Format,
    model: String,
    /// Bytes of whole lines.
    length: u64,
    /// A pipe or a device is written as it is.
    regular: bool,
    synced: Instant,
}

impl Ledger {
    /// Opens or makes the output; returns it with the names of the pictures that are done.
    ///
    /// # Errors
    /// `E_STATE` where another run has it open, or it has lines of another model or of another program; `E_IO`.
    pub fn open(path: &Path, format: Format, model: &str, keep: Keep) -> Result<(Ledger, HashSet<String>)> {
        // Through links: what they lead to is replaced, not they.
        let path = path.canonicalize().unwrap_or_else(|_| path.into());
        let fail = |e| failed(&path, e);
        let regular = path.metadata().map_or(true, |found| found.is_file());
        let file =
            File::options().write(true).create(regular).truncate(false).read(regular).open(&path).map_err(fail)?;
        let mut ledger = Ledger {
            path: path.clone(),
            file,
            format,
            model: model.into(),
            length: 0,
            regular,
            synced: Instant::now(),
        };
        let mut done = HashSet::new();
        if regular {
            ledger.lock()?;
            match keep.overwrite {
                true => ledger.file.set_len(0).map_err(fail)?,
                false => done = ledger.take_up(keep.retry_failed)?,
            }
        }
        if ledger.length == 0 {
            ledger.add(&format.head())?;
        }
        Ok((ledger, done))
    }

    /// The names of the pictures that are done; nothing is changed.
    ///
    /// # Errors
    /// As [`Ledger::open`], but for the lock.
    pub fn done(path: &Path, format: Format, model: &str, keep: Keep) -> Result<HashSet<String>> {
        if keep.overwrite || !path.is_file() {
            return Ok(HashSet::new());
        }
        let mut bytes = std::fs::read(path).map_err(|e| failed(path, e))?;
        bytes.truncate(format.whole(&bytes));
        Ok(done_of(&base_name(path), format, model, keep.retry_failed, &bytes)?.0)
    }

    fn lock(&self) -> Result<()> {
        match self.file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                let reason = format!("another run is writing {}; wait for it, or choose another file", self.name());
                Err(Error::State { reason })
            }
            // File systems without locks: there is no telling.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => Ok(()),
            Err(TryLockError::Error(e)) => Err(failed(&self.path, e)),
        }
    }

    /// Reads the lines that are there; cuts off one that is not whole; leaves out those that are to be redone.
    fn take_up(&mut self, retry_failed: bool) -> Result<HashSet<String>> {
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).map_err(|e| failed(&self.path, e))?;
        let whole = self.format.whole(&bytes);
        if whole < bytes.len() {
            self.check_torn(&bytes[whole..], whole)?;
            bytes.truncate(whole);
        }
        let (done, left_out) = done_of(&self.name(), self.format, &self.model, retry_failed, &bytes)?;
        if left_out {
            self.without_failed(&bytes)?;
        } else {
            self.length = whole as u64;
            let cut = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            cut.map_err(|e| failed(&self.path, e))?;
        }
        Ok(done)
    }

    /// Only what a line of ours begins with is cut off without a question.
    fn check_torn(&self, torn: &[u8], before: usize) -> Result<()> {
        let ours = match self.format {
            Format::Jsonl => torn.starts_with(b"{\"") || b"{\"".starts_with(torn),
            Format::Csv => before > 0 || self.format.head().starts_with(torn),
        };
        let name = self.name();
        if !ours {
            let reason = format!(
                "{name}: the last line was not written by `qllama caption`; choose another file, or --overwrite"
            );
            return Err(Error::State { reason });
        }
        out::note(format_args!("qllama: {name}: the last line was cut short; its picture is captioned again"));
        Ok(())
    }

    /// Puts a file without the pictures that failed in the place of this one, whole at every moment.
    fn without_failed(&mut self, bytes: &[u8]) -> Result<()> {
        let part = part_of(&self.path);
        let fail = |e| failed(&part, e);
        let mut file = File::create(&part).map_err(fail)?;
        // Locked before it has the name that others look for.
        let old = std::mem::replace(&mut self.file, file.try_clone().map_err(fail)?);
        self.lock()?;
        let (mut from, mut kept) = (0, self.format.head());
        let mut records = self.format.read(self.name(), bytes);
        from += self.format.head().len();
        while from < bytes.len() {
            let end = from + first_line(self.format, &bytes[from..]);
            if records.next().transpose()?.is_some_and(|record| record.text.is_some()) {
                kept.extend(&bytes[from..end]);
            }
            from = end;
        }
        file.write_all(&kept).and_then(|()| file.sync_all()).map_err(fail)?;
        std::fs::rename(&part, &self.path).map_err(|e| failed(&self.path, e))?;
        drop(old);
        self.length = kept.len() as u64;
        Ok(())
    }

    /// Adds what became of a picture.
    ///
    /// # Errors
    /// `E_IO`; what could be written of the line is taken away again.
    pub fn put(&mut self, outcome: &Outcome) -> Result<()> {
        let line = self.format.line(outcome, &self.model);
        self.add(&line)
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(e) = self.file.write_all(bytes) {
            if self.regular {
                // What cannot be taken away now is cut off by the next run.
                let _ = self.file.set_len(self.length);
            }
            return Err(failed(&self.path, e));
        }
        self.length += bytes.len() as u64;
        if self.synced.elapsed() > SYNC {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        if self.regular { self.file.sync_data().map_err(|e| failed(&self.path, e)) } else { Ok(()) }
    }

    /// All lines, read again.
    ///
    /// # Errors
    /// `E_IO`, `E_STATE`.
    pub fn records(&self) -> Result<impl Iterator<Item = Result<Record>>> {
        let file = File::open(&self.path).map_err(|e| failed(&self.path, e))?;
        Ok(self.format.read(self.name(), file))
    }

    fn name(&self) -> String {
        base_name(&self.path)
    }
}

/// The names of the pictures that are done by whole lines, and whether there are others.
fn done_of(
    name: &str,
    format: Format,
    model: &str,
    retry_failed: bool,
    lines: &[u8],
) -> Result<(HashSet<String>, bool)> {
    let (mut done, mut left_out) = (HashSet::new(), false);
    for record in format.read(name.into(), lines) {
        let Record { image, text, model: of, .. } = record?;
        if of != model {
            let reason =
                format!("{name} has captions of {of:?}, and this is {model:?}; choose another file, or --overwrite");
            return Err(Error::State { reason });
        }
        match text.is_some() || !retry_failed {
            true => drop(done.insert(image)),
            false => left_out = true,
        }
    }
    Ok((done, left_out))
}

/// The bytes of the first line.
fn first_line(format: Format, bytes: &[u8]) -> usize {
    let ends = (1..=bytes.len()).filter(|&end| bytes[end - 1] == b'\n');
    ends.into_iter().find(|&end| format.whole(&bytes[..end]) == end).unwrap_or(bytes.len())
}
