//! `qllama finetune`.

mod data;
mod saved;
mod views;

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use pollster::block_on;
use qllama::{ALL_TARGETS, Error, Lesson, Model, Result, Schedule, StepReport, Taught, Trainer, TrainerOptions};

use self::data::Pair;
use self::views::Views;
use crate::common::Common;
use crate::many::names::base_name;
use crate::out::{self, say};

const HELP: &str = "\
DATA is a folder with cat.png and cat.txt beside each other, or a .jsonl or .csv file with image and text, whose paths count
from the file's folder. 20 to 200 pictures, several of each name, are enough for new names.

What is learned: adapters of rank --rank in every matrix of QLLaMA's self-attention and MLP, and `lm_head`, which new words
need. The weights themselves, InternViT among them, stay as they are, so a model of 4 bits can be taught as well.

Names that are not taught suffer: --keep FOLDER mixes pictures of what must stay into each step, half of it, with their .txt
files or, where there are none, with the model's own captions as they are now.

ADAPTER is written in the format of Python's `peft`, at the end and every --save-every steps. Use it so:
  qllama caption --model BASE --adapter-weights ADAPTER picture.png

Examples:
  qllama finetune --data my-pictures --out adapter
  qllama finetune --data train.csv --keep old-pictures --out adapter --steps 200 --log log.jsonl
  qllama finetune --data my-pictures --out adapter --resume";

/// Teach the model names for pictures of your own.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Pictures with texts; see below.
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Folder to write the adapter to.
    #[arg(long, value_name = "ADAPTER")]
    out: PathBuf,
    /// Folder, .jsonl or .csv of pictures of what must stay.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Steps to take.
    #[arg(long, default_value_t = 120, conflicts_with = "epochs")]
    steps: usize,
    /// Rounds over all pictures, in place of --steps.
    #[arg(long)]
    epochs: Option<usize>,
    /// Pictures a step; with --keep, half of them are of what must stay.
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Batches whose mean a step takes.
    #[arg(long, default_value_t = 1)]
    accumulate: usize,
    /// The highest rate of learning.
    #[arg(long, default_value_t = 2e-3)]
    lr: f32,
    /// How the rate falls behind the warm-up.
    #[arg(long, value_enum, default_value = "cosine")]
    schedule: Falling,
    /// Steps over which the rate rises.
    #[arg(long, default_value_t = 10)]
    warmup: usize,
    /// Rank of the adapters.
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Adapters' products are multiplied by this over the rank. Default: twice the rank.
    #[arg(long)]
    alpha: Option<f32>,
    /// Ends of the names of the modules that get adapters, with commas between. Default: all of self-attention and MLP.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    targets: Option<Vec<String>>,
    /// Leave `lm_head` as it is: smaller files, but new words are hardly learned.
    #[arg(long)]
    no_lm_head: bool,
    /// Views of each picture: the picture itself, and the others turned, moved, scaled and coloured a little.
    #[arg(long, default_value_t = 6)]
    views: usize,
    /// Share of the pictures that is held back, to tell how well others are named.
    #[arg(long, default_value_t = 0.0, value_name = "FRACTION")]
    validation: f32,
    /// Seed of all that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// File for a line of JSON a step.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Steps between saves.
    #[arg(long, default_value_t = 50)]
    save_every: usize,
    /// Go on from what an earlier run with the same options left in ADAPTER.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, ValueEnum)]
enum Falling {
    Cosine,
    Linear,
    Constant,
}

/// Steps in a row without a finite loss after which a run ends.
const MAX_SKIPPED: usize = 5;

pub fn run(args: Args) -> Result<()> {
    let mut options = args.options();
    options.check()?;
    args.check()?;
    let pairs = data::read(&args.data, true)?;
    let keep = args.keep.as_ref().map(|path| data::read(path, false)).transpose()?.unwrap_or_default();
    let mut model = args.common.open()?.load()?;
    let (learn, held) = see_all(&args, &model, &pairs, Side::Learn)?;
    let (kept, _) = if keep.is_empty() { Default::default() } else { see_all(&args, &model, &keep, Side::Keep)? };
    let lesson = Lesson::new(learn, kept, args.batch_size, args.seed)?;
    if let Some(epochs) = args.epochs {
        options.steps = (epochs * lesson.steps_per_epoch()).div_ceil(args.accumulate);
    }
    let settings = fingerprint(&options, &args, &pairs, &keep);
    let started = match args.resume {
        true => Some(saved::load(&args.out, settings)?),
        false => None,
    };
    let mut run = Run { args: &args, lesson: &lesson, settings, stop: on_interrupt(), log: args.open_log()? };
    let mut trainer = block_on(model.trainer_async(options.clone(), None))?;
    if let Some(state) = &started {
        trainer.restore(state)?;
    }
    let finished = run.train(&mut trainer, options.steps)?;
    run.tell(&trainer, &name_held(&trainer, &held)?, finished);
    if finished { Ok(()) } else { Err(Error::Aborted) }
}

impl Args {
    fn options(&self) -> TrainerOptions {
        let all = || ALL_TARGETS.map(String::from).to_vec();
        TrainerOptions {
            rank: self.rank,
            alpha: self.alpha,
            targets: self.targets.clone().unwrap_or_else(all),
            lm_head: !self.no_lm_head,
            learning_rate: self.lr,
            schedule: match self.schedule {
                Falling::Cosine => Schedule::Cosine,
                Falling::Linear => Schedule::Linear,
                Falling::Constant => Schedule::Constant,
            },
            warmup: self.warmup,
            steps: self.steps,
            accumulate: self.accumulate,
            seed: self.seed,
            ..Default::default()
        }
    }

    fn check(&self) -> Result<()> {
        let fail = |reason: &str| Err(Error::Input { reason: reason.into() });
        if !self.common.adapter_weights.is_empty() {
            return fail("finetune begins with new adapters: leave --adapter-weights out, or give --resume");
        }
        if self.views == 0 || self.save_every == 0 || self.epochs == Some(0) {
            return fail("--views, --save-every and --epochs are at least 1");
        }
        if !(0.0..1.0).contains(&self.validation) {
            return fail("--validation is a share from 0 to below 1");
        }
        Ok(())
    }

    fn open_log(&self) -> Result<Option<File>> {
        let Some(path) = &self.log else { return Ok(None) };
        let file = File::options().create(true).append(self.resume).write(true).truncate(!self.resume).open(path);
        file.map(Some).map_err(|e| Error::Io { file: base_name(path), reason: e.to_string() })
    }
}

/// Whether pictures are to be learned, or to be kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Learn,
    Keep,
}

/// The views of all pictures, and the pictures that are held back.
fn see_all(args: &Args, model: &Model, pairs: &[Pair], side: Side) -> Result<(Vec<Taught>, Vec<Taught>)> {
    let what = if side == Side::Learn { "looking at pictures" } else { "looking at what stays" };
    let bar = steps_bar(what, pairs.len());
    let seed = args.seed.wrapping_mul(1_000_003).wrapping_add(side as u64);
    let mut seen = views::see(model, pairs, Views { count: args.views, seed }, &bar)?;
    bar.finish_and_clear();
    if seen.broken > 0 {
        eprintln!("qllama: {} of {} pictures could not be read and are left out", seen.broken, pairs.len());
    }
    let held = match side {
        Side::Learn => (args.validation * seen.taught.len() as f32).round() as usize,
        Side::Keep => 0,
    };
    if held == 0 {
        return Ok((seen.taught, Vec::new()));
    }
    fastrand::Rng::with_seed(args.seed).shuffle(&mut seen.taught);
    let learn = seen.taught.split_off(held.min(seen.taught.len()));
    Ok((learn, seen.taught))
}

/// What decides a run: another one cannot go on from it.
fn fingerprint(options: &TrainerOptions, args: &Args, pairs: &[Pair], keep: &[Pair]) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{options:?} {} {} {:?}", args.batch_size, args.views, args.validation).hash(&mut hasher);
    format!("{pairs:?} {keep:?}").hash(&mut hasher);
    hasher.finish()
}

/// Becomes true at the first Ctrl-C; the second ends the program.
fn on_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            out::leave(130);
        }
    };
    // Without a handler Ctrl-C ends the program at once, which loses the steps since the last save only.
    let _ = ctrlc::set_handler(handler);
    stop
}

fn steps_bar(what: &'static str, count: usize) -> ProgressBar {
    let bar = ProgressBar::new(count as u64).with_message(what);
    let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}, {eta} left {prefix}");
    bar.with_style(style.expect("the template is right"))
}

/// A run over a lesson's steps.
struct Run<'a> {
    args: &'a Args,
    lesson: &'a Lesson,
    settings: u64,
    stop: Arc<AtomicBool>,
    log: Option<File>,
}

impl Run<'_> {
    /// Takes the steps that are left; false where Ctrl-C ended it before the last.
    fn train(&mut self, trainer: &mut Trainer<'_>, steps: usize) -> Result<bool> {
        let bar = steps_bar("step", steps);
        bar.set_position(trainer.steps() as u64);
        let mut skipped = 0;
        while trainer.steps() < steps {
            if self.stop.load(Ordering::SeqCst) {
                bar.finish_and_clear();
                self.save(trainer)?;
                return Ok(false);
            }
            let since = Instant::now();
            let report = self.step(trainer)?;
            skipped = if report.skipped { skipped + 1 } else { 0 };
            self.log(&report, since)?;
            bar.set_prefix(format!("loss {:.4}", report.loss));
            bar.inc(1);
            if report.skipped {
                bar.suspend(|| eprintln!("qllama: step {} left out: its loss is no finite number", report.step));
            }
            if skipped == MAX_SKIPPED {
                let reason = format!("{MAX_SKIPPED} steps in a row had no finite loss: try a lower --lr");
                return Err(Error::Input { reason });
            }
            if trainer.steps().is_multiple_of(self.args.save_every) {
                self.save(trainer)?;
            }
        }
        bar.finish_and_clear();
        self.save(trainer)?;
        Ok(true)
    }

    fn step(&self, trainer: &mut Trainer<'_>) -> Result<StepReport> {
        let first = trainer.steps() * self.args.accumulate + 1;
        let batch = |number: usize| trainer.model().caption_batch(&self.lesson.step(number));
        let batches = (first..first + self.args.accumulate).map(batch).collect::<Result<Vec<_>>>()?;
        block_on(trainer.step(&batches))
    }

    fn save(&self, trainer: &Trainer<'_>) -> Result<()> {
        let base = self.args.common.model.as_deref().map_or("emoji-tiny".into(), |path| path.display().to_string());
        block_on(trainer.adapter())?.save(&self.args.out, &base)?;
        saved::save(&self.args.out, &block_on(trainer.state())?, self.settings)
    }

    fn log(&mut self, report: &StepReport, since: Instant) -> Result<()> {
        let (Some(file), Some(path)) = (&mut self.log, &self.args.log) else { return Ok(()) };
        let line = serde_json::json!({
            "step": report.step,
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "learning_rate": report.learning_rate,
            "skipped": report.skipped,
            "seconds": since.elapsed().as_secs_f64(),
        });
        writeln!(file, "{line}").map_err(|e| Error::Io { file: base_name(path), reason: e.to_string() })
    }

    /// Says what was done, and what to do with it.
    fn tell(&self, trainer: &Trainer<'_>, held: &Held, finished: bool) {
        let out = self.args.out.to_string_lossy();
        if self.args.common.json {
            say!(
                "{}",
                serde_json::json!({
                    "steps": trainer.steps(), "finished": finished, "adapter": out,
                    "held_back": held.count, "held_back_right": held.right,
                })
            );
            return;
        }
        if !finished {
            say!("stopped after {} steps; --resume goes on", trainer.steps());
            return;
        }
        if held.count > 0 {
            say!("{} of {} held back pictures are named right", held.right, held.count);
        }
        let out = out::name(&out);
        let model = self.args.common.model.as_ref().map(|path| path.to_string_lossy());
        let model = model.map(|path| format!("--model {} ", out::name(&path)));
        say!("wrote {out} after {} steps", trainer.steps());
        say!("use it: qllama caption {}--adapter-weights {out} picture.png", model.unwrap_or_default());
    }
}

/// How many of the pictures that were held back are named right.
struct Held {
    count: usize,
    right: usize,
}

fn name_held(trainer: &Trainer<'_>, held: &[Taught]) -> Result<Held> {
    let mut right = 0;
    for taught in held {
        let caption = block_on(trainer.model().caption_rows_async(&taught.views[0]))?;
        right += usize::from(caption == taught.text);
    }
    Ok(Held { count: held.len(), right })
}
