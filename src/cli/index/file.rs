//! The file of an index: safetensors with `image_embeds.C` and `image_embeds.G` [pictures, width] of unit length, `paths`
//! (bytes, a zero between two), `sizes` and `times` (nanoseconds since 1970) [pictures], and `about`, JSON.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use qllama::internals::{NewTensor, TensorInfo, TensorType, file_header, header_length, parse_header};
use qllama::{Error, Mode, Result};
use serde::{Deserialize, Serialize};

use crate::many::names::base_name;
use crate::many::names::path_of;
use crate::whole::{failed, write_whole};

/// What is said of all rows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    pub format: String,
    /// The name of the model that made the embeddings.
    pub model: String,
    /// A digest of its weights and of how it prepares pictures.
    pub weights: String,
    /// Pictures were turned as their EXIF orientation says.
    pub upright: bool,
    /// The folder of the pictures: from the index's own folder, where it lies below that.
    pub folder: String,
}

/// What [`About::format`] says.
pub const FORMAT: &str = "qllama index 1";

/// A picture of an index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Below the folder.
    pub path: PathBuf,
    pub size: i64,
    pub time: i64,
}

/// Embeddings of pictures.
pub struct Index {
    pub about: About,
    pub entries: Vec<Entry>,
    /// Numbers of a row.
    pub width: usize,
    /// [entries, width] for each mode that it has.
    pub embeddings: BTreeMap<&'static str, Vec<f32>>,
}

/// The name of a mode in the file.
pub fn letter(mode: Mode) -> &'static str {
    if mode == Mode::G { "G" } else { "C" }
}

/// Where the index of a folder is, unless told otherwise: beside it.
pub fn beside(folder: &Path) -> PathBuf {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let mut name = whole.file_name().unwrap_or_default().to_os_string();
    name.push(".index.safetensors");
    // The path as it was given, where that ends with a name.
    let ends_with_name = folder.file_name().is_some_and(|last| Some(last) == whole.file_name());
    if ends_with_name { folder.with_file_name(name) } else { whole.with_file_name(name) }
}

/// An index's file, given as itself or as the folder that it is of.
pub fn find(path: &Path) -> PathBuf {
    if path.is_dir() { beside(path) } else { path.into() }
}

impl Index {
    /// Reads an index, of the embeddings those of `modes` that it has.
    ///
    /// # Errors
    /// `E_IO` where there is none; `E_STATE` where it is another kind of file; the codes of a header that is wrong.
    pub fn read(path: &Path, modes: &[Mode]) -> Result<Index> {
        let mut stored = Stored::open(path)?;
        let about: About = serde_json::from_slice(&stored.bytes("about")?).map_err(|_| stored.foreign())?;
        if about.format != FORMAT {
            return Err(stored.foreign());
        }
        let (paths, sizes, times) = (stored.bytes("paths")?, stored.integers("sizes")?, stored.integers("times")?);
        let paths: Vec<PathBuf> = match sizes.len() {
            0 => Vec::new(),
            _ => paths.split(|byte| *byte == 0).map(path_of).collect(),
        };
        if paths.len() != sizes.len() || times.len() != sizes.len() {
            return Err(stored.foreign());
        }
        let entry = |((path, size), time)| Entry { path, size, time };
        let entries: Vec<Entry> = paths.into_iter().zip(sizes).zip(times).map(entry).collect();
        let (mut width, mut embeddings) = (0, BTreeMap::new());
        for mode in modes {
            let name = letter(*mode);
            if let Some((found, rows)) = stored.rows(&format!("image_embeds.{name}"), entries.len())? {
                width = found;
                embeddings.insert(name, rows);
            }
        }
        Ok(Index { about, entries, width, embeddings })
    }

    /// The rows of a mode.
    ///
    /// # Errors
    /// `E_STATE` where they were not made.
    pub fn rows(&self, file: &Path, mode: Mode) -> Result<&[f32]> {
        let found = self.embeddings.get(letter(mode)).map(Vec::as_slice);
        found.ok_or_else(|| {
            let (name, asked) = (base_name(file), letter(mode).to_lowercase());
            let reason = format!("{name} has no embeddings of mode {asked}: `qllama index --mode {asked}` makes them");
            Error::State { reason }
        })
    }

    /// Refuses to go on with another model's embeddings.
    ///
    /// # Errors
    /// `E_STATE`, naming both.
    pub fn check(&self, file: &Path, about: &About) -> Result<()> {
        if self.about.weights == about.weights {
            return Ok(());
        }
        let (name, theirs, ours) = (base_name(file), &self.about.model, &about.model);
        let reason = match theirs == ours {
            true => {
                format!("{name} was made with other weights, or another preparation, of a model of the name {ours}")
            }
            false => format!("{name} was made with the model {theirs}, and this is {ours}"),
        };
        Err(Error::State { reason: format!("{reason}; `qllama index --overwrite` makes it anew") })
    }

    /// Where a picture is.
    pub fn path(&self, file: &Path, row: usize) -> PathBuf {
        let parent = file.parent().unwrap_or(Path::new(""));
        parent.join(&self.about.folder).join(&self.entries[row].path)
    }

    /// Writes the rows `kept` in the order of their paths; at every moment there is the old file or the new one.
    ///
    /// # Errors
    /// `E_IO`.
    pub fn write(&self, file: &Path, kept: impl Fn(usize) -> bool) -> Result<()> {
        let mut order: Vec<usize> = (0..self.entries.len()).filter(|row| kept(*row)).collect();
        order.sort_unstable_by(|a, b| self.entries[*a].path.cmp(&self.entries[*b].path));
        let paths: Vec<&[u8]> =
            order.iter().map(|row| self.entries[*row].path.as_os_str().as_encoded_bytes()).collect();
        let paths = paths.join(&0);
        let about = serde_json::to_vec(&self.about).expect("texts are JSON");
        let tensor = |name: &str, dtype, shape: &[usize]| NewTensor {
            name: name.into(),
            dtype,
            shape: shape.iter().map(|axis| *axis as u64).collect(),
        };
        let mut tensors: Vec<NewTensor> = self
            .embeddings
            .keys()
            .map(|name| tensor(&format!("image_embeds.{name}"), TensorType::F32, &[order.len(), self.width]))
            .collect();
        tensors.push(tensor("sizes", TensorType::I64, &[order.len()]));
        tensors.push(tensor("times", TensorType::I64, &[order.len()]));
        tensors.push(tensor("paths", TensorType::U8, &[paths.len()]));
        tensors.push(tensor("about", TensorType::U8, &[about.len()]));
        let (header, _) = file_header(&tensors.iter().collect::<Vec<_>>());
        write_whole(file, |file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            out.write_all(&header)?;
            for rows in self.embeddings.values() {
                for row in &order {
                    for x in &rows[row * self.width..(row + 1) * self.width] {
                        out.write_all(&x.to_le_bytes())?;
                    }
                }
            }
            for row in &order {
                out.write_all(&self.entries[*row].size.to_le_bytes())?;
            }
            for row in &order {
                out.write_all(&self.entries[*row].time.to_le_bytes())?;
            }
            out.write_all(&paths)?;
            out.write_all(&about)?;
            out.flush()
        })
    }
}

/// Keeps other runs off an index while it is there.
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// # Errors
    /// `E_STATE` where another run is writing the index; `E_IO`.
    pub fn of(index: &Path) -> Result<Lock> {
        let mut name = std::ffi::OsString::from(".");
        name.push(index.file_name().unwrap_or_default());
        name.push(".lock");
        let path = index.with_file_name(name);
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| failed(index, e))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let reason =
                    format!("another run is writing {}; wait for it, or give another --output", base_name(index));
                Err(Error::State { reason })
            }
            // File systems without locks: there is no telling.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock { path, _file: file }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A file whose header was read.
struct Stored {
    name: String,
    file: File,
    tensors: Vec<TensorInfo>,
}

impl Stored {
    fn open(path: &Path) -> Result<Stored> {
        let name = base_name(path);
        if !path.is_file() {
            let reason = "there is no such index: `qllama index FOLDER` makes one".into();
            return Err(Error::Io { file: name, reason });
        }
        let fail = |e| failed(path, e);
        let mut file = File::open(path).map_err(fail)?;
        let total = file.metadata().map_err(fail)?.len();
        let mut start = Vec::new();
        (&file).take(64).read_to_end(&mut start).map_err(fail)?;
        let mut header = vec![0; header_length(&name, total, &start)? as usize];
        file.seek(SeekFrom::Start(8)).and_then(|_| file.read_exact(&mut header)).map_err(fail)?;
        let tensors = parse_header(&name, total, &header)?;
        Ok(Stored { name, file, tensors })
    }

    fn foreign(&self) -> Error {
        Error::State { reason: format!("{} was not written by `qllama index`", self.name) }
    }

    fn find(&self, name: &str, dtype: TensorType) -> Option<TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name && tensor.dtype == dtype).cloned()
    }

    fn read(&mut self, tensor: &TensorInfo, tell: &mut dyn FnMut(&[u8])) -> Result<()> {
        let fail = |e: std::io::Error| Error::System { file: self.name.clone(), cause: e.into() };
        self.file.seek(SeekFrom::Start(tensor.offset)).map_err(fail)?;
        let mut part = vec![0; 1 << 20];
        let mut left = tensor.bytes as usize;
        while left > 0 {
            let take = left.min(part.len());
            self.file.read_exact(&mut part[..take]).map_err(fail)?;
            tell(&part[..take]);
            left -= take;
        }
        Ok(())
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        let tensor = self.find(name, TensorType::U8).ok_or_else(|| self.foreign())?;
        let mut bytes = Vec::with_capacity(tensor.bytes as usize);
        self.read(&tensor, &mut |part| bytes.extend_from_slice(part))?;
        Ok(bytes)
    }

    fn integers(&mut self, name: &str) -> Result<Vec<i64>> {
        let tensor = self.find(name, TensorType::I64).ok_or_else(|| self.foreign())?;
        let mut numbers = Vec::with_capacity(tensor.bytes as usize / 8);
        self.read(&tensor, &mut |part| numbers.extend(part.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b))))?;
        Ok(numbers)
    }

    /// A matrix of so many rows: its width, and its numbers.
    fn rows(&mut self, name: &str, rows: usize) -> Result<Option<(usize, Vec<f32>)>> {
        let Some(tensor) = self.find(name, TensorType::F32) else { return Ok(None) };
        let [count, width] = tensor.shape[..] else { return Err(self.foreign()) };
        if count != rows as u64 || width == 0 {
            return Err(self.foreign());
        }
        let mut numbers = Vec::with_capacity(tensor.bytes as usize / 4);
        self.read(&tensor, &mut |part| numbers.extend(part.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))))?;
        Ok(Some((width as usize, numbers)))
    }
}
