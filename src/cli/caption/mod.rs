//! `qllama caption`.

pub mod engine;
mod ledger;
#[cfg(feature = "parquet")]
mod parquet;
mod record;
mod run;
mod sink;
mod worker;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use qllama::{CAPTION_PROMPT, Error, GenerateInputs, Generation, Result};

use self::engine::Texts;
use self::ledger::Keep;
use self::run::{Job, Where};
use self::sink::Sidecars;
use crate::common::{Common, Pictures, prompt_ids};
use crate::generation::GenerationArgs;
use crate::many::list::Filter;
use crate::many::names::name_of;
use crate::many::shard::Share;
use crate::out::{self, say};

/// Say what is in pictures: one, or a folder of a million.
///
/// Folders are gone through with all below them; files there that are no PNG, JPEG or WebP are passed over. A picture
/// that cannot be read is told of and does not stop the others; the exit status is then 1. With --sidecar or --output a
/// run that was interrupted goes on where it stopped when it is started again.
///
/// `caption - --json` is a worker for other programs: each line that it reads is {"id": any, "path": "cat.png"} or
/// {"id": any, "base64": "..."}, and each line that it writes, in the order in which captions end, {"id", "text", "ids",
/// "seconds"} or {"id", "error", "code"}.
///
/// One beam is greedy search and prints text as it is made. The published InternVL-14B was used with
/// `--num-beams 5 --min-new-tokens 8`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  qllama caption cat.png\n  \
    qllama caption photos --output captions.jsonl\n  \
    qllama caption photos --sidecar --prepend 'a photo of xyz, '\n  \
    find . -newer last-week -name '*.jpg' | qllama caption - --output new.csv\n  \
    qllama caption shards/*.tar --output shards.jsonl")]
pub struct Args {
    /// Pictures (PNG, JPEG, WebP), folders, .tar shards in WebDataset's layout, or - for a list of them on standard input,
    /// one a line.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What the caption continues.
    #[arg(long, default_value = CAPTION_PROMPT)]
    prompt: String,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    folders: FolderArgs,
    #[command(flatten)]
    outputs: OutputArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Many pictures")]
struct FolderArgs {
    /// Of folders and shards, take files whose name or path below them matches, whatever their ending. May be repeated.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Of folders and shards, leave out what matches. May be repeated.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Captions that are written at once; `auto` is what suits the model, the memory budget and the adapter.
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    batch_size: BatchSize,
    /// Take the I-th of N parts, I from 0, chosen by a hash of each picture's name: for N machines with the same list.
    #[arg(long, value_name = "I/N")]
    shard: Option<Share>,
}

/// A number, or `auto`.
#[derive(Clone, Copy)]
struct BatchSize(Option<usize>);

impl std::str::FromStr for BatchSize {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<BatchSize, &'static str> {
        let number = text.parse().ok().filter(|n| (1..=1024).contains(n));
        match (text, number) {
            ("auto", _) => Ok(BatchSize(None)),
            (_, Some(number)) => Ok(BatchSize(Some(number))),
            _ => Err("expected a number from 1 to 1024, or auto"),
        }
    }
}

#[derive(clap::Args)]
#[command(next_help_heading = "Where captions go")]
struct OutputArgs {
    /// Write all captions to this file: .jsonl, .csv, .json (COCO results) or .parquet.
    #[arg(long, value_name = "FILE", conflicts_with = "sidecar")]
    output: Option<PathBuf>,
    /// Write cat.txt beside cat.png, as trainers of image models expect it.
    #[arg(long)]
    sidecar: bool,
    /// Put this before each caption.
    #[arg(long, value_name = "TEXT", requires = "sidecar", default_value = "", hide_default_value = true)]
    prepend: String,
    /// Put this behind each caption.
    #[arg(long, value_name = "TEXT", requires = "sidecar", default_value = "", hide_default_value = true)]
    append: String,
    /// Ending of the files beside pictures.
    #[arg(long, value_name = "EXT", requires = "sidecar", default_value = "txt")]
    extension: String,
    /// Caption again what has a caption.
    #[arg(long)]
    overwrite: bool,
    /// Try again what failed in earlier runs.
    #[arg(long)]
    retry_failed: bool,
    /// Only tell what would be done.
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// The picture that is the whole task, where it is one file.
    fn lone(&self) -> Option<&PathBuf> {
        let OutputArgs { output, sidecar, dry_run, .. } = &self.outputs;
        let [path] = &self.paths[..] else { return None };
        let many = path.is_dir() || path.as_os_str() == "-" || path.extension().is_some_and(|e| e == "tar");
        (output.is_none() && !sidecar && !dry_run && !many && self.folders.shard.is_none()).then_some(path)
    }

    fn place(&self) -> Where {
        let OutputArgs { output, sidecar, prepend, append, extension, .. } = &self.outputs;
        match output {
            Some(path) => Where::File(path.clone()),
            None if *sidecar => Where::Sidecars(Sidecars {
                extension: extension.trim_start_matches('.').into(),
                prepend: prepend.clone(),
                append: append.clone(),
            }),
            None => Where::Terminal { json: self.common.json },
        }
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    let options = args.generation.options()?;
    if options.num_return_sequences > 1 {
        let reason = "a picture gets one caption: `qllama generate --image` writes several sequences".into();
        return Err(Error::Input { reason });
    }
    if let Some(path) = args.lone() {
        return lone(&args, path.clone()).map(|()| ExitCode::SUCCESS);
    }
    let OutputArgs { overwrite, retry_failed, dry_run, .. } = args.outputs;
    let job = Job {
        filter: Filter::new(&args.folders.include, &args.folders.exclude)?,
        share: args.folders.shard.unwrap_or(Share::ALL),
        place: args.place(),
        keep: Keep { overwrite, retry_failed },
        ignore_orientation: args.ignore_orientation,
        texts: Texts { prompt: args.prompt, options, batch_size: args.folders.batch_size.0 },
        common: args.common,
        paths: args.paths,
    };
    match (dry_run, &job.place) {
        (true, _) => job.tell(),
        (false, Where::Terminal { json: true }) if job.paths == [PathBuf::from("-")] => {
            worker::run(&job.common, job.ignore_orientation, job.texts)
        }
        _ => job.run(),
    }
}

/// One picture, whose text appears as it is made where greedy search makes it and a person reads it.
fn lone(args: &Args, path: PathBuf) -> Result<()> {
    let options = args.generation.options()?;
    let opened = args.common.open()?;
    let prompt = prompt_ids(&opened, &args.prompt)?;
    let pictures = Pictures::open(&opened, std::slice::from_ref(&path), args.ignore_orientation)?;
    let inputs = GenerateInputs { input_ids: Some(prompt), pixel_values: pictures.first(), ..Default::default() };
    opened.check_generate(&inputs, &options)?;
    let model = opened.load()?;
    let live = !args.common.json && options.num_beams == 1;
    let found = model.generate_from(&inputs, &options, &mut |piece| {
        if live {
            out::piece(piece.text);
        }
        ControlFlow::Continue(())
    })?;
    let Generation { text, ids, .. } = &found[0];
    let text = text.as_deref().unwrap_or_default();
    if args.common.json {
        say!("{}", serde_json::json!({ "image": name_of(&path), "text": text, "ids": ids }));
    } else if live {
        say!();
    } else {
        say!("{text}");
    }
    Ok(())
}
