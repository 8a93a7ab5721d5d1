//! One file a subcommand, and what they share: choosing a device, opening a checkpoint, reading pictures.

pub mod bench;
pub mod caption;
pub mod compare;
pub mod device;
pub mod embed;
pub mod info;
pub mod quantize;
pub mod tokenize;

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use qllama::checkpoint::Checkpoint;
use qllama::gguf::Gguf;
use qllama::model::{Model, PixelValues, Progress};
use qllama::source::{Folder, Source};
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
            let (folder, name) = Folder::open_file(path)?;
            Ok(Files::Gguf(Box::new(folder), name))
        }
        Some(folder) => Ok(Files::Folder(Box::new(Folder::open(folder)?))),
        None => Ok(Files::Folder(qllama::demo::source())),
    }
}

/// Opens `--model` without reading weights.
pub async fn checkpoint(common: &Common) -> Result<Checkpoint> {
    match files(common)? {
        Files::Folder(source) => Checkpoint::open(source).await,
        Files::Gguf(source, name) => Ok(Gguf::open(source, &name).await?.checkpoint),
    }
}

/// Opens the device and loads the model, with a progress bar on a terminal.
pub async fn load(common: &Common) -> Result<Model> {
    let files = files(common)?;
    let device = device::open(common).await?;
    let bar = progress_bar("loading");
    let mut on_progress = |Progress { bytes, total }| {
        bar.set_length(total);
        bar.set_position(bytes);
    };
    let model = match files {
        Files::Folder(source) => Model::load(source, &device, &mut on_progress).await,
        Files::Gguf(source, name) => Model::load_gguf(source, &name, &device, &mut on_progress).await,
    };
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

/// Reads, turns and prepares one picture.
pub fn picture(model: &Model, path: &Path, ignore_orientation: bool) -> Result<PixelValues> {
    let name = base_name(path);
    let bytes = std::fs::read(path).map_err(|e| Error::Io { file: name.clone(), reason: reason(&e) })?;
    let image = qllama::image::decode(&name, &bytes, !ignore_orientation)?;
    let values = model.preprocessor.pixel_values(&image);
    let side = model.preprocessor.size() as usize;
    Ok(PixelValues { batch: 1, height: side, width: side, values })
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
