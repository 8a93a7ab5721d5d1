//! What is to be captioned: files, folders, a list on standard input, shards. A thread of its own goes through them, so
//! that the first caption need not wait for the last folder.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use qllama::{Error, Result};
use serde_json::Value;
use walkdir::{DirEntry, WalkDir};

use super::names::{name_of, path_of};
use super::shard::{self, Member, Share};
use crate::out;

/// Where a picture's bytes are.
#[derive(Clone, Debug)]
pub enum Place {
    File(PathBuf),
    /// A piece of a shard.
    Piece {
        path: PathBuf,
        offset: u64,
        size: u64,
    },
    Bytes(Arc<[u8]>),
}

/// A picture that is to be captioned, or what cannot be.
#[derive(Clone, Debug)]
pub struct Listed {
    /// As it was given: of a shard, the shard's name, a slash and the member's.
    pub name: String,
    pub place: Result<Place>,
    /// Of a shard: the text member of the picture's key.
    pub original: Option<String>,
    /// Of a worker's request: its id, and when it came.
    pub request: Option<(Value, Instant)>,
}

/// What to look for in folders.
pub struct Filter {
    include: Option<Globs>,
    exclude: Globs,
    /// Whether shards in folders are gone through.
    shards: bool,
}

/// Endings of the formats that are read.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "jfif", "webp"];

impl Filter {
    /// # Errors
    /// `E_INPUT` for a pattern that is none.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Filter> {
        let given = (!include.is_empty()).then(|| Globs::new("--include", include)).transpose()?;
        Ok(Filter { shards: given.is_none(), include: given, exclude: Globs::new("--exclude", exclude)? })
    }

    /// Passes over shards.
    pub fn without_shards(self) -> Filter {
        Filter { shards: false, ..self }
    }

    fn takes(&self, below: &Path) -> bool {
        let ending = || below.extension().is_some_and(|e| ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known)));
        self.include.as_ref().map_or_else(ending, |globs| globs.matches(below)) && !self.exclude.matches(below)
    }
}

/// Patterns: those without a slash are of names, others of paths below the folder that was given.
struct Globs {
    names: GlobSet,
    paths: GlobSet,
}

impl Globs {
    fn new(option: &str, patterns: &[String]) -> Result<Globs> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let wrong = |e: globset::Error| Error::Input { reason: format!("{option} {pattern:?}: {}", e.kind()) };
            let glob = GlobBuilder::new(pattern.trim_start_matches("./")).literal_separator(true).build();
            let glob = glob.map_err(wrong)?;
            if pattern.contains('/') {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let built =
            |set: GlobSetBuilder| set.build().map_err(|e| Error::Input { reason: format!("{option}: {}", e.kind()) });
        Ok(Globs { names: built(names)?, paths: built(paths)? })
    }

    fn matches(&self, below: &Path) -> bool {
        self.paths.is_match(below) || below.file_name().is_some_and(|name| self.names.is_match(name))
    }
}

/// How far the list is.
#[derive(Default)]
pub struct Counts {
    /// Pictures that are to be captioned, so far.
    pub found: AtomicUsize,
    /// Those that were captioned before.
    pub skipped: AtomicUsize,
    /// Files in folders that are no pictures, or no pictures that were asked for.
    pub passed_over: AtomicUsize,
    /// All were gone through.
    pub complete: AtomicBool,
}

/// Whether a picture was captioned before.
pub type IsDone = Box<dyn FnMut(&str, &Place) -> Result<bool> + Send>;

/// What to list, and what of it to leave out.
pub struct Plan {
    pub paths: Vec<PathBuf>,
    pub filter: Filter,
    pub share: Share,
    pub is_done: IsDone,
    pub stop: Arc<AtomicBool>,
}

/// Starts to list. What comes is in the order of the arguments; folders are gone through by name.
pub fn start(plan: Plan) -> (Receiver<Listed>, Arc<Counts>) {
    let (sender, receiver) = channel();
    let counts = Arc::new(Counts::default());
    let mut lister = Lister { plan, sender, counts: counts.clone() };
    std::thread::spawn(move || {
        for path in std::mem::take(&mut lister.plan.paths) {
            if lister.path(&path, true).is_none() {
                break;
            }
        }
        lister.counts.complete.store(true, Ordering::Release);
    });
    (receiver, counts)
}

struct Lister {
    plan: Plan,
    sender: Sender<Listed>,
    counts: Arc<Counts>,
}

/// `None` where nobody wants more.
type GoOn = Option<()>;

impl Lister {
    /// One argument, or one line of the list on standard input.
    fn path(&mut self, path: &Path, argument: bool) -> GoOn {
        if argument && path == Path::new("-") {
            return self.standard_input();
        }
        if path.is_dir() {
            return self.folder(path);
        }
        if is_shard(path) {
            return self.shard(path);
        }
        self.put(name_of(path), Ok(Place::File(path.to_path_buf())), None)
    }

    /// A path a line; empty lines are passed over.
    fn standard_input(&mut self) -> GoOn {
        let mut input = std::io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            match input.read_until(b'\n', &mut line) {
                Ok(0) => return Some(()),
                Ok(_) => {
                    let text = line.strip_suffix(b"\n").unwrap_or(&line);
                    let text = text.strip_suffix(b"\r").unwrap_or(text);
                    if !text.is_empty() {
                        self.path(&path_of(text), false)?;
                    }
                }
                Err(e) => return self.fault("standard input", e.to_string()),
            }
        }
    }

    /// Pictures and shards of a folder and those below, by name; hidden ones are left out.
    fn folder(&mut self, root: &Path) -> GoOn {
        let hidden = |entry: &DirEntry| entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".");
        let mut walk = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
        while let Some(entry) = walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) if e.loop_ancestor().is_some() => {
                    let name = |path: Option<&Path>| path.map(name_of).unwrap_or_default();
                    let (at, up) = (name(e.path()), name(e.loop_ancestor()));
                    out::note(format_args!("qllama: {at}: a link back to {up}, which is not gone through again"));
                    continue;
                }
                Err(e) => {
                    let name = e.path().map_or_else(|| name_of(root), name_of);
                    let below = e.path().and_then(|path| path.strip_prefix(root).ok());
                    // A link to nothing counts where it is named like a picture.
                    let a_file = e.path().is_some_and(Path::is_symlink);
                    if a_file && !below.is_some_and(|below| self.plan.filter.takes(below)) {
                        self.counts.passed_over.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let reason = e.io_error().map_or_else(|| "it cannot be read".into(), ToString::to_string);
                    self.fault(&name, reason)?;
                    continue;
                }
            };
            let below = entry.path().strip_prefix(root).unwrap_or(entry.path());
            if hidden(&entry) || (entry.depth() > 0 && self.plan.filter.exclude.matches(below)) {
                if entry.file_type().is_dir() {
                    walk.skip_current_dir();
                } else {
                    self.counts.passed_over.fetch_add(1, Ordering::Relaxed);
                }
            } else if entry.file_type().is_dir() {
            } else if entry.file_type().is_file() && self.plan.filter.takes(below) {
                self.put(name_of(entry.path()), Ok(Place::File(entry.path().to_path_buf())), None)?;
            } else if entry.file_type().is_file() && is_shard(entry.path()) && self.plan.filter.shards {
                self.shard(entry.path())?;
            } else {
                self.counts.passed_over.fetch_add(1, Ordering::Relaxed);
            }
        }
        Some(())
    }

    /// The pictures of a shard, each with the text of its key.
    fn shard(&mut self, path: &Path) -> GoOn {
        let name = name_of(path);
        let told = shard::each_sample(path, &mut |sample| {
            for Member { name: member, offset, size } in sample.members {
                if !self.plan.filter.takes(Path::new(&member)) {
                    self.counts.passed_over.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let place = Place::Piece { path: path.to_path_buf(), offset, size };
                self.put(format!("{name}/{member}"), Ok(place), sample.text.clone())?;
            }
            Some(())
        });
        match told {
            Ok(more) => more,
            Err(error) => self.put(name, Err(error), None),
        }
    }

    fn fault(&mut self, name: &str, reason: String) -> GoOn {
        self.put(name.into(), Err(Error::Io { file: name.into(), reason }), None)
    }

    fn put(&mut self, name: String, place: Result<Place>, original: Option<String>) -> GoOn {
        if self.plan.stop.load(Ordering::Relaxed) {
            return None;
        }
        if !self.plan.share.has(&name) {
            return Some(());
        }
        let place = match place {
            Ok(place) => match (self.plan.is_done)(&name, &place) {
                Ok(true) => {
                    self.counts.skipped.fetch_add(1, Ordering::Relaxed);
                    return Some(());
                }
                Ok(false) => Ok(place),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        self.counts.found.fetch_add(1, Ordering::Relaxed);
        self.sender.send(Listed { name, place, original, request: None }).ok()
    }
}

fn is_shard(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar"))
}
