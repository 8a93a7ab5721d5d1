//! What the subcommands share: arguments, opening and loading a model, reading pictures.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use qllama::internals::{Folder, read_tokenizer};
use qllama::{
    AdapterWeights, Array, Error, Location, Mode, Opened, Picture, PixelValues, Preprocessor, Progress, Recovered,
    Result, Tokenizer,
};

use crate::amounts::{bytes, progress_bar};
use crate::device::adapter;
use crate::hub::{self, Name};
use crate::many::names::base_name;
use crate::out::{note, notes};
use crate::verdict::CheckArgument;

/// What every subcommand takes.
#[derive(clap::Args, Clone)]
pub struct Common {
    /// Folder of the checkpoint: config.json, model.safetensors or its shards, tokenizer.model; or, for texts, a GGUF file
    /// of the LLaMA family; or the name of either on the Hugging Face hub, as org/name, org/name@revision or
    /// org/name/file.gguf, from where it is downloaded once. Default: the demo model.
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub model: Option<PathBuf>,
    /// Where a model of the hub is on this machine.
    #[arg(skip)]
    fetched: OnceCell<PathBuf>,
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
            Some(path) => Location::of_path(self.here(path)?),
            None => Ok(qllama::demo::location()),
        }
    }

    /// A path, or the place in the cache of what it names on the hub.
    fn here<'a>(&'a self, path: &'a Path) -> Result<&'a Path> {
        let Some(name) = Name::parse(path).filter(|_| !path.exists()) else { return Ok(path) };
        if self.fetched.get().is_none() {
            let _ = self.fetched.set(hub::fetch(&name)?);
        }
        Ok(self.fetched.get().map_or(path, PathBuf::as_path))
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
            .on_wrong(|report| report.text().iter().for_each(|text| notes(text)))
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
