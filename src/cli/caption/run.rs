//! A run over many pictures: the list, the readers, the model and the output, each going on while the others work.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use qllama::{Error, Generation, Result};

use super::engine::{Engine, Output, Texts};
use super::ledger::{Keep, Ledger};
use super::record::Outcome;
use super::sink::{Sidecars, Sink, Target};
use crate::common::Common;
use crate::many::list::{self, Filter, IsDone, Listed, Place, Plan};
use crate::many::names::count;
use crate::many::progress::Progress;
use crate::many::read::{Pictures, Preparation};
use crate::many::shard::Share;
use crate::many::stop;
use crate::out::{self, say};

/// Where captions go.
pub enum Where {
    Terminal { json: bool },
    Sidecars(Sidecars),
    File(PathBuf),
}

/// All that a run is told.
pub struct Job {
    pub paths: Vec<PathBuf>,
    pub filter: Filter,
    pub share: Share,
    pub place: Where,
    pub keep: Keep,
    pub ignore_orientation: bool,
    pub texts: Texts,
    pub common: Common,
}

impl Job {
    /// What would be done: a line for each picture.
    pub fn tell(self) -> Result<ExitCode> {
        let is_done = match &self.place {
            Where::Terminal { .. } => all_new(),
            Where::Sidecars(sidecars) => sidecars.is_done(self.keep.overwrite),
            Where::File(path) => {
                let target = Target::of(path)?;
                of_names(Ledger::done(&target.path, target.format, &self.common.model_name()?, self.keep)?)
            }
        };
        let Job { paths, filter, share, .. } = self;
        let plan = Plan { paths, filter, share, is_done, stop: Arc::default() };
        let (list, counts) = list::start(plan);
        let mut wrong = 0;
        for Listed { name, place, .. } in list {
            match place {
                Ok(_) => say!("{}", out::name(&name)),
                Err(error) => {
                    wrong += 1;
                    out::note(format_args!("qllama: {} [{}]", out::name(&error.to_string()), error.code()));
                }
            }
        }
        let found = counts.found.load(Ordering::Relaxed) - wrong;
        let skipped = counts.skipped.load(Ordering::Relaxed);
        let (found, skipped) = (count(found), count(skipped));
        let others = count(counts.passed_over.load(Ordering::Relaxed));
        out::note(format_args!(
            "qllama: {found} to caption, {skipped} captioned before, {others} other files passed over"
        ));
        Ok(if wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    pub fn run(self) -> Result<ExitCode> {
        let opened = self.common.open()?;
        opened.tokenizer()?;
        if opened.config().vision.is_none() {
            let reason = "this checkpoint has no InternViT (vision_model), which pictures need".into();
            return Err(Error::State { reason });
        }
        let (sink, is_done, _locks) = self.sink()?;
        let printing = matches!(self.place, Where::Terminal { .. });
        let stop = stop::asked();
        let preparation =
            Preparation { preprocessor: *opened.preprocessor(), ignore_orientation: self.ignore_orientation };
        let Job { paths, filter, share, texts, .. } = self;
        let (list, counts) = list::start(Plan { paths, filter, share, is_done, stop: stop.clone() });
        let progress = Progress::new(counts.clone(), "captioned", printing);
        let output = Ordered { sink, progress, next: 0, waiting: BTreeMap::new() };
        let mut engine = Engine { pictures: Pictures::start(list, preparation), output, stop: stop.clone() };
        let ended = engine.run(opened, texts);
        let finished = engine.output.sink.finish();
        let (progress, left) = (&engine.output.progress, engine.output.waiting.len());
        if progress.done() == 0 && ended.is_ok() && !stop.load(Ordering::Relaxed) {
            nothing_to_do(&counts)?;
        }
        let summary = progress.summary();
        let quiet = printing && ended.is_ok() && progress.failed() == 0 && !stop.load(Ordering::Relaxed);
        if !quiet {
            out::note(format_args!("qllama: {summary}"));
        }
        ended.and(finished)?;
        if stop.load(Ordering::Relaxed) {
            if !printing {
                out::note(format_args!("qllama: ended early; the same command goes on from here"));
            }
            return Ok(ExitCode::from(stop::INTERRUPTED));
        }
        if left > 0 {
            return Err(Error::State { reason: "a thread that reads pictures broke off".into() });
        }
        Ok(if progress.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// The output, what is done in it, and what keeps other runs off it.
    fn sink(&self) -> Result<(Sink, IsDone, Vec<File>)> {
        Ok(match &self.place {
            Where::Terminal { json } => (Sink::Terminal { json: *json }, all_new(), Vec::new()),
            Where::Sidecars(sidecars) => {
                let locks = Sidecars::lock(&self.paths, self.share != Share::ALL)?;
                (Sink::Sidecars(sidecars.clone()), sidecars.is_done(self.keep.overwrite), locks)
            }
            Where::File(path) => {
                let target = Target::of(path)?;
                target.check(self.keep)?;
                let (ledger, done) = Ledger::open(&target.path, target.format, &self.common.model_name()?, self.keep)?;
                (Sink::Ledger(Box::new(ledger), target.summary), of_names(done), Vec::new())
            }
        })
    }
}

fn all_new() -> IsDone {
    Box::new(|_, _| Ok(false))
}

/// Pictures of these names are done, and those that are listed twice.
fn of_names(mut done: HashSet<String>) -> IsDone {
    Box::new(move |name, _| Ok(!done.insert(name.into())))
}

/// Nothing became of anything: because all was done before, or by mistake.
fn nothing_to_do(counts: &list::Counts) -> Result<()> {
    if counts.skipped.load(Ordering::Relaxed) > 0 {
        return Ok(());
    }
    let others = counts.passed_over.load(Ordering::Relaxed);
    let reason = match others {
        0 => "no pictures were found: there are no files".into(),
        n => format!("no pictures were found among {} files: PNG, JPEG and WebP are read", count(n)),
    };
    Err(Error::Input { reason })
}

/// What became of pictures, put into the order of the list.
struct Ordered {
    sink: Sink,
    progress: Progress,
    /// The number that the output waits for.
    next: usize,
    waiting: BTreeMap<usize, (Outcome, Option<Place>)>,
}

impl Output for Ordered {
    fn begin(&mut self) {
        self.progress.begin();
    }

    fn show(&mut self) {
        self.progress.show();
    }

    fn take(&mut self, number: usize, listed: Listed, result: Result<Generation>) -> Result<()> {
        let Listed { name, place, original, .. } = listed;
        self.waiting.insert(number, (Outcome { name, original, result }, place.ok()));
        while let Some((mut outcome, place)) = self.waiting.remove(&self.next) {
            self.next += 1;
            if let Err(error) = self.sink.put(&outcome, place.as_ref()) {
                // A folder that may not be written to does not end the run; a disk that is full does.
                let refused = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem, ErrorKind::NotFound];
                let of_one =
                    |error: &Error| matches!(error, Error::System { cause, .. } if refused.contains(&cause.kind()));
                if !matches!(self.sink, Sink::Sidecars(_)) || !of_one(&error) {
                    return Err(error);
                }
                outcome.result = Err(error);
            }
            self.progress.count(&outcome.name, outcome.result.as_ref().map(|_| ()));
        }
        self.progress.show();
        Ok(())
    }
}
