//! Where captions go: the terminal, a text file beside each picture, or one file of all.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use qllama::{Error, Result};
use serde_json::{Value, json};

use super::ledger::{Keep, Ledger};
use super::record::{Format, Outcome};
use crate::many::list::{IsDone, Place};
use crate::many::names::base_name;
use crate::out::{self, say};
use crate::whole::{failed, part_of, write_whole};

/// Where captions go.
pub enum Sink {
    /// `name: text` a line, or JSON.
    Terminal {
        json: bool,
    },
    Sidecars(Sidecars),
    /// One file, and the file that is made of it at the end.
    Ledger(Box<Ledger>, Option<Summary>),
}

impl Sink {
    /// Takes what became of a picture, in the order of the list.
    ///
    /// # Errors
    /// `E_IO` where nothing can be written any more.
    pub fn put(&mut self, outcome: &Outcome, place: Option<&Place>) -> Result<()> {
        match (self, &outcome.result) {
            (Sink::Terminal { json: true }, _) => say!("{}", outcome.json()),
            (Sink::Terminal { json: false }, Ok(caption)) => {
                say!("{}: {}", out::name(&outcome.name), caption.text.as_deref().unwrap_or_default());
            }
            (Sink::Sidecars(sidecars), Ok(caption)) => {
                if let Some(Place::File(path)) = place {
                    return sidecars.write(path, caption.text.as_deref().unwrap_or_default());
                }
            }
            (Sink::Ledger(ledger, _), _) => return ledger.put(outcome),
            (Sink::Terminal { json: false } | Sink::Sidecars(_), Err(_)) => {}
        }
        Ok(())
    }

    /// Ends the run's output, complete or not.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn finish(&mut self) -> Result<()> {
        let Sink::Ledger(ledger, summary) = self else { return Ok(()) };
        ledger.sync()?;
        summary.as_ref().map_or(Ok(()), |summary| summary.write(ledger))
    }
}

/// Text files beside pictures.
#[derive(Clone, Debug)]
pub struct Sidecars {
    pub extension: String,
    pub prepend: String,
    pub append: String,
}

impl Sidecars {
    fn of(&self, picture: &Path) -> PathBuf {
        picture.with_extension(&self.extension)
    }

    fn write(&self, picture: &Path, text: &str) -> Result<()> {
        let Sidecars { prepend, append, .. } = self;
        write_whole(&self.of(picture), |file| file.write_all(format!("{prepend}{text}{append}\n").as_bytes()))
    }

    /// Pictures that have a text already are done. Two pictures that would share one are an error for the second.
    pub fn is_done(&self, overwrite: bool) -> IsDone {
        let (sidecars, mut claimed) = (self.clone(), HashSet::new());
        Box::new(move |name, place| {
            let Place::File(picture) = place else {
                let reason = format!("{name} is in a shard, where nothing can stand beside it: take --output");
                return Err(Error::Input { reason });
            };
            let text = sidecars.of(picture);
            if text == *picture {
                let reason = format!("{name} would be replaced by its caption: give another --extension");
                return Err(Error::Input { reason });
            }
            let there = !overwrite && text.exists();
            if !claimed.insert(text.clone()) {
                let text = base_name(&text);
                let reason = format!("{text} is of another picture already, of the same name but for its ending");
                return Err(Error::Input { reason: format!("{name}: {reason}") });
            }
            Ok(there)
        })
    }

    /// Keeps a second run off the folders until the files that are returned are closed. Runs that share the work with
    /// others, by `--shard`, keep off those that do not.
    ///
    /// # Errors
    /// `E_STATE` where another run is at work in one of them.
    #[cfg(unix)]
    pub fn lock(paths: &[PathBuf], shared: bool) -> Result<Vec<File>> {
        use std::fs::TryLockError;
        let mut locks = Vec::new();
        for path in paths.iter().filter(|path| path.is_dir()) {
            let folder = File::open(path).map_err(|e| failed(path, e))?;
            match if shared { folder.try_lock_shared() } else { folder.try_lock() } {
                Err(TryLockError::WouldBlock) => {
                    let reason = format!("another run is writing captions into {}; wait for it", base_name(path));
                    return Err(Error::State { reason });
                }
                // File systems without locks: there is no telling.
                Ok(()) | Err(TryLockError::Error(_)) => locks.push(folder),
            }
        }
        Ok(locks)
    }

    #[cfg(not(unix))]
    pub fn lock(_: &[PathBuf], _: bool) -> Result<Vec<File>> {
        Ok(Vec::new())
    }
}

/// A file of all captions that cannot grow by lines: it is made at the end, of a journal that can.
pub struct Summary {
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// COCO's results: `[{"image_id", "caption"}]`.
    Coco,
    #[cfg(feature = "parquet")]
    Parquet,
}

/// The file that grows by lines, and what is made of it, for an `--output`.
pub struct Target {
    pub path: PathBuf,
    pub format: Format,
    pub summary: Option<Summary>,
}

impl Target {
    /// By the file's ending.
    ///
    /// # Errors
    /// `E_INPUT` for another ending.
    pub fn of(path: &Path) -> Result<Target> {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let kind = match &*ending {
            "jsonl" => return Ok(Target { path: path.into(), format: Format::Jsonl, summary: None }),
            "csv" => return Ok(Target { path: path.into(), format: Format::Csv, summary: None }),
            "json" => Kind::Coco,
            #[cfg(feature = "parquet")]
            "parquet" => Kind::Parquet,
            #[cfg(not(feature = "parquet"))]
            "parquet" => {
                let reason =
                    "this program was built without Parquet: build it with `--features parquet`, or take .jsonl";
                return Err(Error::Input { reason: reason.into() });
            }
            _ => {
                let reason = format!(
                    "--output {}: expected a name that ends with .jsonl, .csv, .json or .parquet",
                    base_name(path)
                );
                return Err(Error::Input { reason });
            }
        };
        let mut journal = path.as_os_str().to_os_string();
        journal.push(".journal");
        let summary = Some(Summary { path: path.into(), kind });
        Ok(Target { path: journal.into(), format: Format::Jsonl, summary })
    }

    /// Checks that a file which is there was made by a run that can be gone on with.
    ///
    /// # Errors
    /// `E_STATE` where it was not, `E_IO` where it cannot be written.
    pub fn check(&self, keep: Keep) -> Result<()> {
        let Some(Summary { path, .. }) = &self.summary else { return Ok(()) };
        if path.exists() && !self.path.exists() && !keep.overwrite {
            let reason = format!(
                "{} is there, and {}, of which it would be gone on with, is not; choose another file, or --overwrite",
                base_name(path),
                base_name(&self.path)
            );
            return Err(Error::State { reason });
        }
        if path.is_dir() {
            return Err(Error::Io { file: base_name(path), reason: "this is a folder, not a file".into() });
        }
        // Now, and not behind a night's work.
        let part = part_of(path);
        File::create(&part).and_then(|_| std::fs::remove_file(&part)).map_err(|e| failed(path, e))
    }
}

impl Summary {
    fn write(&self, ledger: &Ledger) -> Result<()> {
        match self.kind {
            Kind::Coco => self.coco(ledger),
            #[cfg(feature = "parquet")]
            Kind::Parquet => super::parquet::write(&self.path, ledger.records()?),
        }
    }

    fn coco(&self, ledger: &Ledger) -> Result<()> {
        let mut wrong = None;
        let records = ledger.records()?;
        write_whole(&self.path, |file| {
            let mut file = std::io::BufWriter::new(file);
            let mut before = "[\n";
            for record in records {
                match record {
                    Ok(record) => {
                        let Some(caption) = record.text else { continue };
                        let entry = json!({ "image_id": image_id(&record.image), "caption": caption });
                        write!(file, "{before}{entry}")?;
                        before = ",\n";
                    }
                    Err(error) => wrong = Some(error),
                }
            }
            if before == "[\n" {
                file.write_all(b"[")?;
            }
            file.write_all(b"\n]\n")?;
            file.flush()
        })?;
        wrong.map_or(Ok(()), Err)
    }
}

/// COCO's number of a picture where its file is named by one (`COCO_val2014_000000391895.jpg`, `000000391895.jpg`), else
/// its name.
fn image_id(name: &str) -> Value {
    let last = name.rsplit('/').next().unwrap_or(name);
    let stem = last.split_once('.').map_or(last, |(stem, _)| stem);
    let digits = match stem.strip_prefix("COCO_") {
        Some(rest) => rest.rsplit('_').next().unwrap_or(rest),
        None => stem,
    };
    let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u64>().ok()).flatten();
    number.map_or_else(|| name.into(), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coco_knows_pictures_by_number() {
        for (name, expected) in [
            ("val2014/COCO_val2014_000000391895.jpg", json!(391895)),
            ("000000000139.jpg", json!(139)),
            ("a/cat.png", json!("a/cat.png")),
            ("a/cat_12.png", json!("a/cat_12.png")),
            ("COCO_x.png", json!("COCO_x.png")),
            ("99999999999999999999999.png", json!("99999999999999999999999.png")),
            (".png", json!(".png")),
        ] {
            assert_eq!(image_id(name), expected, "{name}");
        }
    }
}
