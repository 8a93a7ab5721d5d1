//! `qllama index`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use pollster::block_on;
use qllama::{Error, Mode, Model, Opened, PixelValues, Result};

use super::file::{About, Entry, FORMAT, Index, Lock, beside, letter};
use super::product::normalise;
use super::{file, fingerprint};
use crate::common::{Common, modes};
use crate::many::list::{self, Counts, Filter, IsDone, Listed, Place, Plan};
use crate::many::names::base_name;
use crate::many::names::count;
use crate::many::progress::Progress;
use crate::many::read::{Next, Pictures, Preparation};
use crate::many::shard::Share;
use crate::many::stop;
use crate::out;
use crate::tensors::check_outputs;

/// Make an index of a folder's pictures, for `qllama search` and `qllama duplicates`.
///
/// The folder is gone through with all below it; files there that are no PNG, JPEG or WebP are passed over. A picture that
/// cannot be read is told of and does not stop the others; the exit status is then 1. Run again, it reads only pictures
/// whose size or time changed, and drops those that are gone. Ctrl-C keeps what was made.
///
/// The index is a safetensors file: image_embeds.C and image_embeds.G [pictures, width] of unit length, paths (bytes, a
/// zero between two), sizes and times.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  qllama index photos\n  qllama search photos 'a red car'\n  \
    qllama search photos --image like.png --html found.html\n  qllama duplicates photos")]
pub struct Args {
    /// Folder of pictures.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// File to write. Default: FOLDER.index.safetensors beside the folder.
    #[arg(long, value_name = "FILE.safetensors")]
    output: Option<PathBuf>,
    /// Embeddings to make; default both. InternVL-G's take longer.
    #[arg(long, value_parser = modes(&[Mode::C, Mode::G]))]
    mode: Option<Mode>,
    /// Take files whose name or path below the folder matches, whatever their ending. May be repeated.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave out what matches. May be repeated.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Make the whole index anew.
    #[arg(long)]
    overwrite: bool,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

/// How long the model waits for a picture before it looks at the clock again.
const WAIT: Duration = Duration::from_millis(200);
/// How often what was made is kept, at least so far apart and never for more than a tenth of the time.
const KEEP: Duration = Duration::from_secs(60);

pub fn run(args: Args) -> Result<ExitCode> {
    let file = args.output.clone().unwrap_or_else(|| beside(&args.folder));
    check_outputs(&file)?;
    if !args.folder.is_dir() {
        let reason = "expected a folder of pictures: there is none".into();
        return Err(Error::Io { file: base_name(&args.folder), reason });
    }
    let filter = Filter::new(&args.include, &args.exclude)?.without_shards();
    let opened = args.common.open()?;
    if opened.config().vision.is_none() || opened.config().clip.is_none() {
        let reason = "this checkpoint has not InternViT (vision_model) and the heads that embed pictures".into();
        return Err(Error::State { reason });
    }
    let _lock = Lock::of(&file)?;
    let index = begin(&args, &opened, &file)?;
    let before = index.entries.len();
    let seen = Arc::new(Mutex::new(vec![false; before]));
    let stop = stop::asked();
    let plan = Plan {
        paths: vec![args.folder.clone()],
        filter,
        share: Share::ALL,
        is_done: unchanged(&args.folder, &index, seen.clone()),
        stop: stop.clone(),
    };
    let (list, counts) = list::start(plan);
    let preparation = Preparation { preprocessor: *opened.preprocessor(), ignore_orientation: args.ignore_orientation };
    let mut run = Run {
        folder: &args.folder,
        file: &file,
        progress: Progress::new(counts.clone(), "indexed", false),
        index,
        before,
        seen,
        list_failed: false,
        kept: Instant::now(),
        keeping: Duration::ZERO,
    };
    let ended = run.pictures(&Pictures::start(list, preparation), opened, &stop);
    run.end(ended, &counts, &stop)
}

/// The index that is there, or a new one.
fn begin(args: &Args, opened: &Opened<'_>, file: &Path) -> Result<Index> {
    let wanted = args.mode.map_or_else(|| vec![Mode::C, Mode::G], |mode| vec![mode]);
    let about = About {
        format: FORMAT.into(),
        model: fingerprint::name(&args.common)?,
        weights: fingerprint::weights(&args.common, opened)?,
        upright: !args.ignore_orientation,
        folder: from(file, &args.folder),
    };
    let width = opened.config().clip.as_ref().map_or(0, |clip| clip.clip_embed_dim);
    let embeddings: BTreeMap<_, _> = wanted.iter().map(|mode| (letter(*mode), Vec::new())).collect();
    if args.overwrite || !file.exists() {
        return Ok(Index { about, entries: Vec::new(), width, embeddings });
    }
    let mut index = Index::read(file, &[Mode::C, Mode::G])?;
    index.check(file, &about)?;
    let refuse = |reason: String| {
        let name = base_name(file);
        Err(Error::State { reason: format!("{name} {reason}; give another --output, or --overwrite") })
    };
    if !index.embeddings.keys().eq(embeddings.keys()) {
        let have: Vec<String> = index.embeddings.keys().map(|name| name.to_lowercase()).collect();
        let want: Vec<String> = embeddings.keys().map(|name| name.to_lowercase()).collect();
        return refuse(format!("has mode {}, and mode {} is asked for", have.join(" and "), want.join(" and ")));
    }
    if index.about.upright != about.upright {
        return refuse("has pictures that were turned the other way (--ignore-orientation)".into());
    }
    if index.about.folder != about.folder {
        return refuse(format!("is of the folder {}", out::name(&base_name(Path::new(&index.about.folder)))));
    }
    index.width = width;
    Ok(index)
}

/// A folder as an index keeps it: from the index's own folder, where it lies below that.
fn from(file: &Path, folder: &Path) -> String {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.into());
    let folder = whole(folder);
    folder.strip_prefix(whole(parent)).unwrap_or(&folder).to_string_lossy().into_owned()
}

/// Pictures that stand in the index with their present size and time are done.
fn unchanged(folder: &Path, index: &Index, seen: Arc<Mutex<Vec<bool>>>) -> IsDone {
    let folder = folder.to_path_buf();
    let known: HashMap<PathBuf, (usize, i64, i64)> =
        index.entries.iter().enumerate().map(|(row, e)| (e.path.clone(), (row, e.size, e.time))).collect();
    Box::new(move |_, place| {
        let Place::File(path) = place else { return Ok(false) };
        let below = path.strip_prefix(&folder).unwrap_or(path);
        let Some((row, size, time)) = known.get(below) else { return Ok(false) };
        let same = stamp(path) == Some((*size, *time));
        seen.lock().unwrap_or_else(PoisonError::into_inner)[*row] = same;
        Ok(same)
    })
}

/// A file's size, and when it was changed.
fn stamp(path: &Path) -> Option<(i64, i64)> {
    let found = path.metadata().ok()?;
    let since = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((found.len() as i64, since.as_nanos() as i64))
}

struct Run<'a> {
    folder: &'a Path,
    file: &'a Path,
    progress: Progress,
    index: Index,
    /// Rows that were there before.
    before: usize,
    /// Which of them are still true.
    seen: Arc<Mutex<Vec<bool>>>,
    /// A folder could not be read: what was not found may be there.
    list_failed: bool,
    /// When what was made was kept, and how long that took.
    kept: Instant,
    keeping: Duration,
}

/// A picture on its way, with what its file was when it was read.
type Waiting = (Listed, Entry, PixelValues);

impl Run<'_> {
    /// Embeds all pictures that are listed, or those that are at work when the user wants an end.
    fn pictures(&mut self, pictures: &Pictures, opened: Opened<'_>, stop: &AtomicBool) -> Result<()> {
        let (mut opened, mut model) = (Some(opened), None);
        let mut most = 1;
        while !stop.load(Ordering::Relaxed) {
            self.progress.show();
            let (group, end) = self.group(pictures, most);
            if !group.is_empty() {
                // The weights are not read before there is a picture.
                if let Some(opened) = opened.take() {
                    let loaded = opened.load()?;
                    most = loaded.pictures_at_once()?;
                    model = Some(loaded);
                    self.progress.begin();
                }
                self.embed(model.as_ref().expect("it was loaded"), group)?;
                self.keep()?;
            }
            if end {
                break;
            }
        }
        Ok(())
    }

    /// Pictures that are ready, and whether they are the last.
    fn group(&mut self, pictures: &Pictures, most: usize) -> (Vec<Waiting>, bool) {
        let mut group = Vec::new();
        while group.len() < most {
            let ready = match pictures.next(if group.is_empty() { WAIT } else { Duration::ZERO }) {
                Next::Ready(ready) => *ready,
                Next::NotYet => break,
                Next::End => return (group, true),
            };
            self.list_failed |= ready.listed.place.is_err();
            match (ready.pixels, self.entry(&ready.listed)) {
                (Ok(pixels), Ok(entry)) => group.push((ready.listed, entry, pixels)),
                (Err(error), _) | (_, Err(error)) => self.progress.count(&ready.listed.name, Err(&error)),
            }
        }
        (group, false)
    }

    fn entry(&self, listed: &Listed) -> Result<Entry> {
        let Ok(Place::File(path)) = &listed.place else { unreachable!("a folder without shards has files") };
        let gone = || Error::Io { file: listed.name.clone(), reason: "it went away while it was read".into() };
        let (size, time) = stamp(path).ok_or_else(gone)?;
        let path = path.strip_prefix(self.folder).unwrap_or(path).to_path_buf();
        Ok(Entry { path, size, time })
    }

    fn embed(&mut self, model: &Model, group: Vec<Waiting>) -> Result<()> {
        let wanted: Vec<&'static str> = self.index.embeddings.keys().copied().collect();
        let (names, pixels): (Vec<_>, Vec<_>) =
            group.into_iter().map(|(listed, entry, pixels)| ((listed.name, entry), pixels)).unzip();
        match embeddings(model, &pixels, &wanted) {
            Ok(found) => {
                for (name, mut rows) in found {
                    normalise(&mut rows, self.index.width);
                    self.index.embeddings.get_mut(name).expect("it was asked for").extend(rows);
                }
                for (name, entry) in names {
                    self.index.entries.push(entry);
                    self.progress.count(&name, Ok(()));
                }
                Ok(())
            }
            // One of them made no numbers: which, shows by itself.
            Err(Error::NonFinite { .. }) if names.len() > 1 => {
                for ((name, entry), pixels) in names.into_iter().zip(pixels) {
                    let listed =
                        Listed { name, place: Ok(Place::File(entry.path.clone())), original: None, request: None };
                    self.embed(model, vec![(listed, entry, pixels)])?;
                }
                Ok(())
            }
            Err(error @ Error::NonFinite { .. }) => {
                self.progress.count(&names[0].0, Err(&error));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps what was made so far, now and then.
    fn keep(&mut self) -> Result<()> {
        if self.kept.elapsed() < KEEP.max(self.keeping * 10) {
            return Ok(());
        }
        let begun = Instant::now();
        self.write(|_| true)?;
        (self.kept, self.keeping) = (Instant::now(), begun.elapsed());
        Ok(())
    }

    /// Writes the index without pictures that were embedded again, and those that are gone: all that were not found
    /// unchanged, but for those of which `stays` says otherwise. Returns how many are gone.
    fn write(&self, stays: impl Fn(&Entry) -> bool) -> Result<usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let again: HashSet<&Path> =
            self.index.entries[self.before..].iter().map(|entry| entry.path.as_path()).collect();
        let replaced = |row: usize| again.contains(self.index.entries[row].path.as_path());
        let gone = |row: &usize| !seen[*row] && !replaced(*row) && !stays(&self.index.entries[*row]);
        let kept = |row: usize| row >= self.before || seen[row] || !(replaced(row) || gone(&row));
        self.index.write(self.file, kept)?;
        Ok((0..self.before).filter(gone).count())
    }

    fn end(self, ended: Result<()>, counts: &Counts, stop: &AtomicBool) -> Result<ExitCode> {
        let stopped = stop.load(Ordering::Relaxed);
        let found = counts.found.load(Ordering::Relaxed) + counts.skipped.load(Ordering::Relaxed);
        if found == 0 && ended.is_ok() && !stopped {
            let others = counts.passed_over.load(Ordering::Relaxed);
            let reason = format!("no pictures were found among {} files: PNG, JPEG and WebP are read", count(others));
            return Err(Error::Input { reason });
        }
        let whole = ended.is_ok() && !stopped;
        // After a whole list only what could not be looked for stays.
        let list_failed = self.list_failed;
        let there = |entry: &Entry| self.folder.join(&entry.path).symlink_metadata().is_ok();
        let gone = match self.index.entries.len() > self.before || whole {
            true => self.write(|entry| !whole || (list_failed && there(entry)))?,
            false => 0,
        };
        let mut summary = self.progress.summary();
        if gone > 0 {
            summary += &format!(", dropped {} that are gone", count(gone));
        }
        out::note(format_args!("qllama: {summary}"));
        ended?;
        if stopped {
            out::note(format_args!("qllama: ended early; the same command goes on from here"));
            return Ok(ExitCode::from(stop::INTERRUPTED));
        }
        Ok(if self.progress.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// The wanted embeddings of some pictures: rows one behind the other.
fn embeddings(model: &Model, pixels: &[PixelValues], wanted: &[&'static str]) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let pixels = PixelValues::join(pixels.iter().cloned()).expect("there is a picture at least");
    block_on(model.run(async |network| {
        let vision = network.vision(&pixels).await?;
        let mut found = Vec::new();
        for name in wanted {
            let rows = match *name == file::letter(Mode::G) {
                true => network.embed_images_g(&vision, &network.cross_states(&vision).await?).await?,
                false => network.embed_images_c(&vision).await?,
            };
            found.push((*name, rows));
        }
        Ok(found)
    }))
}
