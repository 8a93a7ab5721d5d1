//! What an interrupted run has done, so that the next goes on with it.

use std::collections::HashMap;

use super::plan::Job;
use crate::error::Result;
use crate::files::checkpoint::Checkpoint;
use crate::files::new_folder::{LineFile, NewFolder};

/// The journal's name, in the unfinished folder.
const JOURNAL: &str = "quantize.journal";

/// A number that another source, other weights or other options make another.
pub(super) async fn fingerprint(checkpoint: &Checkpoint, config: &str, jobs: &[Job<'_>]) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(config.as_bytes());
    let mut start = [0; 512];
    for job in jobs {
        add(format!("{} {} {:?} {:?};", job.info.name, job.info.dtype, job.info.shape, job.module).as_bytes());
        let start = &mut start[..job.info.bytes.min(512) as usize];
        checkpoint.read(job.info, 0, start).await?;
        add(start);
    }
    Ok(format!("{hash:016x}"))
}

/// The tensors that are done: a line each (sums as the bits of their f64), behind a line with the fingerprint. Locked
/// while a run writes.
pub(super) struct Journal {
    file: LineFile,
    /// Squared error and sum of squares by the source's tensor name.
    pub(super) done: HashMap<String, (f64, f64)>,
    unsaved: String,
}

impl Journal {
    /// Opens the journal in a folder; one of another source or other options is begun anew.
    pub(super) fn open(folder: &NewFolder, fingerprint: String) -> Result<Journal> {
        let (file, text) = LineFile::open(folder, JOURNAL)?;
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let mut done = HashMap::new();
        let mut unsaved = String::new();
        if lines.next() == Some(&fingerprint) {
            for line in lines {
                if let Ok((name, error, squares)) = serde_json::from_str::<(String, u64, u64)>(line) {
                    done.insert(name, (f64::from_bits(error), f64::from_bits(squares)));
                }
            }
            if !text.ends_with('\n') {
                unsaved.push('\n');
            }
        } else {
            file.clear()?;
            unsaved = format!("{fingerprint}\n");
        }
        Ok(Journal { file, done, unsaved })
    }

    pub(super) fn add(&mut self, name: &str, sums: (f64, f64)) {
        self.unsaved += &format!("{}\n", serde_json::json!((name, sums.0.to_bits(), sums.1.to_bits())));
    }

    /// Writes what was added. Call it when the tensors themselves are on the disk.
    pub(super) fn save(&mut self) -> Result<()> {
        self.file.add(&std::mem::take(&mut self.unsaved))
    }

    pub(super) fn remove(self) -> Result<()> {
        self.file.remove()
    }
}
