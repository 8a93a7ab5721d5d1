//! What the subcommands share: arguments, opening and loading a model, reading pictures.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use qllama::internals::{Folder, read_tokenizer};
use qllama::{
    AdapterWeights, Array, Error, Location, Mode, Model, Opened, Picture, PixelValues, Preprocessor, Progress,
    Recovered, Result, Tokenizer,
};

use crate::device::adapter;
use crate::out::note;
use crate::verdict::{CheckArgument, warn};

/// What every subcommand takes.
#[derive(clap::Args, Clone)]
pub struct Common {
    /// Folder of the checkpoint: config.json, model.safetensors or its shards, tokenizer.model; or, for texts, a GGUF file
    /// of the LLaMA family. Default: the demo model.
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: Option<PathBuf>,
    /// Adapter to run on: part of its name, its number in --list-adapters, or `cpu` for the CPU executor.
    /// Default: the first that --list-adapters shows.
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,
    /// Most GPU memory to use: bytes, or a number with KiB, MiB, GiB, KB, MB or GB. Where it is too little for all weights,
    /// those that only pictures need are read again for every picture.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub memory_budget: Option<u64>,
    /// Folder of what was learned beside the weights, as `peft` writes it: adapter_config.json and
    /// adapter_model.safetensors. May be given more than once, for different parts of the model.
    #[arg(long, value_name = "DIR")]
    pub adapter_weights: Vec<PathBuf>,
    /// How much of --adapter-weights is used, from 0 (nothing) to 1.
    #[arg(long, default_value_t = 1.0, value_name = "STRENGTH", requires = "adapter_weights")]
    pub adapter_strength: f32,
    /// Whether to compare the GPU's results with what they should be, before the model is loaded: `qllama check` tells more.
    #[arg(long, value_name = "WHEN", value_enum, default_value = "on")]
    pub check: CheckArgument,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

impl Common {
    /// The files of `--model`, or of the demo model.
    pub fn location(&self) -> Result<Location> {
        match &self.model {
            Some(path) => Location::of_path(path),
            None => Ok(qllama::demo::location()),
        }
    }

    /// What outputs say of the model that made them: the name of its folder or file.
    pub fn model_name(&self) -> Result<String> {
        let Some(path) = &self.model else { return Ok("demo".into()) };
        // Where it is not there, whoever opens it says so.
        Ok(base_name(&path.canonicalize().unwrap_or_else(|_| path.clone())))
    }

    /// Reads everything of a model but the weights, whose loading will show a bar on a terminal.
    pub fn open(&self) -> Result<Opened<'static>> {
        self.open_at(self.location()?)
    }

    /// As [`Common::open`], of other files.
    pub fn open_at(&self, location: Location) -> Result<Opened<'static>> {
        let bar = progress_bar("loading");
        let mut builder =
            qllama::Builder::new(location).adapter(adapter(self.adapter.as_deref())).check(self.check.into());
        if let Some(bytes) = self.memory_budget {
            builder = builder.memory_budget(bytes);
        }
        if let Some(learned) = self.learned()? {
            builder = builder.adapter_weights(learned, self.adapter_strength);
        }
        builder
            .on_recovered(|Recovered { reason, adapter, seconds, .. }| {
                note(format_args!(
                    "qllama: the GPU device was lost ({reason}); {adapter} was opened again in {seconds:.1} s, and the work goes \
                     on"
                ));
            })
            .on_progress(move |Progress { bytes, total }| {
                bar.set_length(total);
                bar.set_position(bytes);
            })
            .open()
    }

    /// What `--adapter-weights` names, read.
    fn learned(&self) -> Result<Option<AdapterWeights>> {
        let read = |path: &PathBuf| {
            let folder = Folder::open(path)?;
            pollster::block_on(AdapterWeights::read(&folder))
        };
        let all = self.adapter_weights.iter().map(read).collect::<Result<Vec<_>>>()?;
        if all.is_empty() { Ok(None) } else { AdapterWeights::joined(all).map(Some) }
    }

    /// The tokenizer of `--model`, which needs nothing else of it.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        pollster::block_on(read_tokenizer(self.location()?))
    }
}

/// Loads what was opened, and tells on standard error what is wrong with the adapter, once.
pub fn load(opened: Opened<'_>) -> Result<Model> {
    let model = opened.load()?;
    warn(model.check_report());
    Ok(model)
}

/// The last part of a path: messages and JSON name files, not folders.
pub fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// What the command line can do about an error of the library.
pub fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Adapter { .. } => Some("`qllama --list-adapters` shows what is there; --adapter cpu needs no driver"),
        Error::Budget { .. } => Some(
            "--memory-budget sets that limit; `qllama info` tells what a model needs, `qllama quantize` makes it smaller",
        ),
        Error::OutOfMemory { .. } => {
            Some("--memory-budget keeps less on the GPU at a time; `qllama quantize` makes the weights smaller")
        }
        _ => None,
    }
}

/// `--mode` that takes these.
pub fn modes(these: &[Mode]) -> impl TypedValueParser<Value = Mode> + use<> {
    let named = Mode::NAMED.iter().filter(|(_, mode, _)| these.contains(mode));
    let words: Vec<PossibleValue> = named.map(|(name, _, help)| PossibleValue::new(*name).help(*help)).collect();
    PossibleValuesParser::new(words).try_map(|word| word.parse::<Mode>())
}

/// A prompt's ids [1, rows], as `generate` takes them.
pub fn prompt_ids(opened: &Opened<'_>, prompt: &str) -> Result<Array<i64>> {
    let ids: Vec<i64> = opened.tokenizer()?.encode_prompt(prompt).into_iter().map(i64::from).collect();
    Ok(Array::new(&[1, ids.len()], ids))
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

/// A bar of bytes with the time left; nothing unless standard error is a terminal.
pub fn progress_bar(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}, {eta} left");
    let bar = ProgressBar::new(0).with_message(what).with_style(style.expect("the template is right"));
    bar.with_finish(ProgressFinish::AndClear)
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
    pub fn open(opened: &Opened<'_>, paths: &[PathBuf], ignore_orientation: bool) -> Result<Pictures> {
        if opened.config().vision.is_none() && !paths.is_empty() {
            let reason = "this checkpoint has no InternViT (vision_model), which pictures need".into();
            return Err(Error::State { reason });
        }
        let preprocessor = *opened.preprocessor();
        let mut pictures = Pictures { paths: paths.to_vec(), ignore_orientation, preprocessor, first: Vec::new() };
        for path in paths {
            let pixels = pictures.read(path)?;
            if pictures.first.len() < KEPT_PICTURES {
                pictures.first.push(pixels);
            }
        }
        Ok(pictures)
    }

    /// The first picture's pixels, where there is one.
    pub fn first(&self) -> Option<PixelValues> {
        self.first.first().cloned()
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
        Ok(self.preprocessor.pixel_values(&Picture::open_as_stored(path, !self.ignore_orientation)?))
    }
}
