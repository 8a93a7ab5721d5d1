//! What an interrupted run has done, so that the next goes on with it.

use std::collections::HashMap;

use xxhash_rust::xxh3::Xxh3Default;

use super::plan::Job;
use crate::error::Result;
use crate::files::new_folder::{LineFile, NewFolder};

/// The journal's name, in the unfinished folder.
const JOURNAL: &str = "quantize.journal";

/// A number that other tensors, another configuration or other options make another.
pub(super) fn fingerprint(config: &str, jobs: &[Job<'_>]) -> String {
    let mut hash = Xxh3Default::new();
    hash.update(env!("CARGO_PKG_VERSION").as_bytes());
    hash.update(config.as_bytes());
    for job in jobs {
        hash.update(format!("{} {} {:?} {:?};", job.info.name, job.info.dtype, job.info.shape, job.module).as_bytes());
    }
    format!("{:016x}", hash.digest())
}

/// What became of a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Done {
    /// Squared error and sum of squares.
    pub(super) sums: (f64, f64),
    /// Of the source's bytes, as they were read.
    pub(super) hash: u64,
}

/// The tensors that are done: a line each (sums as the bits of their f64), behind a line with the fingerprint. Locked
/// while a run writes.
pub(super) struct Journal {
    file: LineFile,
    fingerprint: String,
    /// By the source's tensor name.
    pub(super) done: HashMap<String, Done>,
    /// There was one, of another source or other options.
    pub(super) of_another: bool,
    unsaved: String,
}

impl Journal {
    /// Opens the journal in a folder; one of another source or other options is begun anew.
    pub(super) fn open(folder: &NewFolder, fingerprint: String) -> Result<Journal> {
        let (file, text) = LineFile::open(folder, JOURNAL)?;
        let mut journal =
            Journal { file, fingerprint, done: HashMap::new(), of_another: false, unsaved: String::new() };
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        if lines.next() != Some(&journal.fingerprint) {
            journal.of_another = !text.is_empty();
            journal.clear()?;
            return Ok(journal);
        }
        for line in lines {
            if let Ok((name, error, squares, hash)) = serde_json::from_str::<(String, u64, u64, u64)>(line) {
                let sums = (f64::from_bits(error), f64::from_bits(squares));
                journal.done.insert(name, Done { sums, hash });
            }
        }
        if !text.ends_with('\n') {
            journal.unsaved.push('\n');
        }
        Ok(journal)
    }

    /// Forgets all that is done.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.file.clear()?;
        self.done.clear();
        self.unsaved = format!("{}\n", self.fingerprint);
        Ok(())
    }

    pub(super) fn add(&mut self, name: &str, Done { sums, hash }: Done) {
        self.unsaved += &format!("{}\n", serde_json::json!((name, sums.0.to_bits(), sums.1.to_bits(), hash)));
    }

    /// Writes what was added. Call it when the tensors themselves are on the disk.
    pub(super) fn save(&mut self) -> Result<()> {
        self.file.add(&std::mem::take(&mut self.unsaved))
    }

    pub(super) fn remove(self) -> Result<()> {
        self.file.remove()
    }
}
