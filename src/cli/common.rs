//! What the subcommands share: choosing a device, opening a checkpoint, reading pictures.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use qllama::files::checkpoint::Checkpoint;
use qllama::files::gguf::Gguf;
use qllama::files::source::{Folder, Source};
use qllama::image::Preprocessor;
use qllama::model::{Model, Opened, PixelValues, Progress};
use qllama::{Error, Result};

use crate::Common;

/// The last part of a path: messages and JSON name files, not folders.
pub fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Errors of drivers can have many lines.
pub fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What `--model` names.
pub enum Files {
    Folder(Box<dyn Source>),
    /// A GGUF file, by its name in the source.
    Gguf(Box<dyn Source>, String),
}

/// The files of `--model`, or of the demo model.
pub fn files(common: &Common) -> Result<Files> {
    match &common.model {
        Some(path) if path.is_file() => {
            if !looks_like_gguf(path) {
                let reason = "expected a folder or a GGUF file, found another kind of file".into();
                return Err(Error::Io { file: base_name(path), reason });
            }
            let (folder, name) = Folder::open_file(path)?;
            Ok(Files::Gguf(Box::new(folder), name))
        }
        Some(folder) => Ok(Files::Folder(Box::new(Folder::open(folder)?))),
        None => Ok(Files::Folder(qllama::model::demo::source())),
    }
}

/// Whether a file is meant as GGUF: by its name, or by its first bytes.
fn looks_like_gguf(path: &Path) -> bool {
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        return true;
    }
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

/// Opens `--model` without reading weights.
pub async fn checkpoint(common: &Common) -> Result<Checkpoint> {
    match files(common)? {
        Files::Folder(source) => Checkpoint::open(source).await,
        Files::Gguf(source, name) => {
            let gguf = Gguf::open(&*source, &name).await?;
            Ok(Checkpoint::from_gguf(source, gguf))
        }
    }
}

/// Reads everything of a checkpoint but the weights.
pub async fn open(common: &Common) -> Result<Opened> {
    match files(common)? {
        Files::Folder(source) => Opened::open(source).await,
        Files::Gguf(source, name) => Opened::open_gguf(source, &name).await,
    }
}

/// A number of bytes: `5368709120`, `5GiB`, `1.5 GB`.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("unit {unit:?}: expected KiB, MiB, GiB, KB, MB, GB or none")),
    };
    let whole = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    let fraction = || number.parse::<f64>().ok().map(|n| n * factor as f64).filter(|n| *n < u64::MAX as f64);
    let found = whole.or_else(|| fraction().filter(|_| number.contains('.')).map(|n| n as u64));
    found.filter(|&n| n > 0).ok_or_else(|| "expected a number of bytes above 0, as 5368709120 or 5GiB".into())
}

/// Opens the device and brings the weights to it, with a progress bar on a terminal.
pub async fn load(common: &Common, opened: Opened) -> Result<Model> {
    let device = crate::device::open(common).await?;
    if let Some(bytes) = common.memory_budget {
        device.set_memory_budget(bytes);
    }
    let bar = progress_bar("loading");
    let model = opened
        .load(&device, &mut |Progress { bytes, total }| {
            bar.set_length(total);
            bar.set_position(bytes);
        })
        .await;
    bar.finish_and_clear();
    model
}

/// A bar of bytes with the time left; nothing unless standard error is a terminal.
pub fn progress_bar(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}, {eta} left");
    ProgressBar::new(0).with_message(what).with_style(style.expect("the template is right"))
}

/// Pictures that were all read once before the weights, so that a broken one is told of at once.
pub struct Pictures {
    paths: Vec<PathBuf>,
    ignore_orientation: bool,
    preprocessor: Preprocessor,
    /// The first of them, made ready; the others are read again when it is their turn.
    first: Vec<PixelValues>,
}

/// Prepared pictures that are kept.
const KEPT_PICTURES: usize = 64;

impl Pictures {
    pub fn open(opened: &Opened, paths: &[PathBuf], ignore_orientation: bool) -> Result<Pictures> {
        if opened.config.vision.is_none() && !paths.is_empty() {
            let reason = "this checkpoint has no InternViT (vision_model), which pictures need".into();
            return Err(Error::State { reason });
        }
        let preprocessor = opened.preprocessor;
        let mut pictures = Pictures { paths: paths.to_vec(), ignore_orientation, preprocessor, first: Vec::new() };
        for path in paths {
            let pixels = pictures.read(path)?;
            if pictures.first.len() < KEPT_PICTURES {
                pictures.first.push(pixels);
            }
        }
        Ok(pictures)
    }

    /// Names and pixels, one by one.
    pub fn iter(&self) -> impl Iterator<Item = Result<(String, PixelValues)>> {
        self.paths.iter().enumerate().map(|(i, path)| {
            let kept = self.first.get(i).cloned();
            Ok((base_name(path), kept.map_or_else(|| self.read(path), Ok)?))
        })
    }

    /// Reads, turns and prepares one picture.
    fn read(&self, path: &Path) -> Result<PixelValues> {
        let name = base_name(path);
        let bytes = std::fs::read(path).map_err(|e| Error::Io { file: name.clone(), reason: reason(&e) })?;
        let image = qllama::image::decode(&name, &bytes, !self.ignore_orientation)?;
        let values = self.preprocessor.pixel_values(&image);
        let side = self.preprocessor.size() as usize;
        Ok(PixelValues { batch: 1, height: side, width: side, values })
    }
}

/// An input or output error in words.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission to read it was refused".into(),
        std::io::ErrorKind::IsADirectory => "this is a folder, not a file".into(),
        _ => error.to_string(),
    }
}
