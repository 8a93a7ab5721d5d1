//! A checkpoint into the cache: only the files that the engine reads, and nothing where all are there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use qllama::internals::printable;
use qllama::{Error, Result};
use serde_json::Value;

use super::cache::{Cache, Repository};
use super::client::Client;
use super::download::{Downloads, Remote};
use super::name::{Name, is_plain};
use crate::amounts::progress_bar;
use crate::amounts::size;
use crate::out;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What is read beside weights, where it is there.
const SMALL: [&str; 3] = ["config.json", "preprocessor_config.json", "tokenizer.model"];

/// Where a checkpoint is on this machine: downloaded, where it or a part of it is not there yet.
///
/// # Errors
/// `E_HTTP` where the hub refuses, `E_IO` where it is out of reach and the checkpoint not here, `E_INTEGRITY`.
pub fn fetch(name: &Name) -> Result<PathBuf> {
    let cache = Cache::of_environment()?;
    let repository = cache.repository(name);
    let kept = || repository.commit(&name.revision).and_then(|commit| whole(name, &repository, &commit));
    if Client::is_offline() {
        let lacks = || {
            let reason = "it is not in the cache, and HF_HUB_OFFLINE forbids to download it";
            Error::Io { file: name.repository.clone(), reason: reason.into() }
        };
        return kept().ok_or_else(lacks);
    }
    let client = Client::of_environment();
    let listing = match client.list(name) {
        Ok(json) => Listing::read(name, &json)?,
        // Out of reach; or a hub that is in trouble.
        Err(error @ (Error::Io { .. } | Error::Http { status: 408 | 429 | 500.., .. })) => {
            let Some(path) = kept() else { return Err(neither(name, error)) };
            out::note(format_args!("qllama: {error}; the copy in the cache is taken"));
            return Ok(path);
        }
        Err(error) => return Err(error),
    };
    let fetching = Fetching { name, cache: &cache, repository: &repository, client: &client, listing: &listing };
    match &name.file {
        Some(file) => fetching.bring(std::slice::from_ref(file))?,
        None => fetching.checkpoint()?,
    }
    repository.note(&name.revision, &listing.commit)?;
    Ok(place(name, &repository, &listing.commit))
}

/// A hub that is out of reach may not have been meant.
fn neither(name: &Name, error: Error) -> Error {
    match error {
        Error::Io { file, reason } => {
            let reason = format!("{reason}; {} is neither a folder here nor in the cache", name.repository);
            Error::Io { file, reason }
        }
        other => other,
    }
}

/// What `--model` would be, were it given as a path.
fn place(name: &Name, repository: &Repository, commit: &str) -> PathBuf {
    let snapshot = repository.snapshot(commit);
    name.file.as_ref().map_or(snapshot.clone(), |file| snapshot.join(file))
}

/// The place of a checkpoint whose files are all in the cache.
fn whole(name: &Name, repository: &Repository, commit: &str) -> Option<PathBuf> {
    let place = place(name, repository, commit);
    if name.file.is_some() {
        return place.is_file().then_some(place);
    }
    let shards = match std::fs::read(place.join(INDEX)) {
        Ok(json) => shards(&json).ok()?,
        Err(_) => vec![WEIGHTS.into()],
    };
    let there = place.join(SMALL[0]).is_file() && shards.iter().all(|file| place.join(file).is_file());
    there.then_some(place)
}

/// The files of weights that an index names.
fn shards(json: &[u8]) -> Result<Vec<String>> {
    let wrong = |rule: &str| Error::Config { file: INDEX.into(), pointer: "/weight_map".into(), rule: rule.into() };
    let index: Value = serde_json::from_slice(json).map_err(|_| wrong("expected a JSON object"))?;
    let map = index["weight_map"].as_object().ok_or_else(|| wrong("expected names of files by names of tensors"))?;
    let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    match files.iter().find(|file| !is_plain(file)) {
        Some(file) => Err(Error::Path { file: INDEX.into(), name: printable(file) }),
        None => Ok(files.into_iter().map(String::from).collect()),
    }
}

/// A revision as the hub lists it.
struct Listing {
    commit: String,
    files: BTreeMap<String, Remote>,
}

impl Listing {
    fn read(name: &Name, json: &[u8]) -> Result<Listing> {
        let wrong = || Error::Http {
            url: name.repository.clone(),
            status: 200,
            reason: "the answer is no list of a repository's files: is HF_ENDPOINT a hub?".into(),
        };
        let answer: Value = serde_json::from_slice(json).map_err(|_| wrong())?;
        let commit = answer["sha"].as_str().filter(|commit| is_plain(commit)).ok_or_else(wrong)?.to_string();
        let mut files = BTreeMap::new();
        for entry in answer["siblings"].as_array().ok_or_else(wrong)? {
            let file = entry["rfilename"].as_str().ok_or_else(wrong)?;
            let bytes = entry["lfs"]["size"].as_u64().or_else(|| entry["size"].as_u64());
            let digest = entry["lfs"]["sha256"].as_str().or_else(|| entry["blobId"].as_str());
            // Names that lead elsewhere are nobody's model.
            if let (Some(size), Some(digest), true) = (bytes, digest, file.split('/').all(is_plain)) {
                let digest = Some(digest).filter(|digest| is_plain(digest)).ok_or_else(wrong)?.to_string();
                files.insert(file.into(), Remote { file: file.into(), size, digest });
            }
        }
        Ok(Listing { commit, files })
    }
}

struct Fetching<'a> {
    name: &'a Name,
    cache: &'a Cache,
    repository: &'a Repository,
    client: &'a Client,
    listing: &'a Listing,
}

impl Fetching<'_> {
    /// A checkpoint in the published layout.
    fn checkpoint(&self) -> Result<()> {
        let has = |file: &str| self.listing.files.contains_key(file);
        let mut files: Vec<String> = SMALL.iter().filter(|file| has(file)).map(ToString::to_string).collect();
        match (has(INDEX), has(WEIGHTS)) {
            (true, _) => {
                self.bring(&[INDEX.into()])?;
                let index = self.repository.snapshot(&self.listing.commit).join(INDEX);
                let json = std::fs::read(&index).map_err(|e| crate::whole::failed(&index, e))?;
                files.extend(shards(&json)?);
            }
            (false, true) => files.push(WEIGHTS.into()),
            (false, false) => return Err(self.no_weights()),
        }
        self.bring(&files)
    }

    fn no_weights(&self) -> Error {
        let files = &self.listing.files;
        let gguf: Vec<&str> = files.keys().filter(|file| file.ends_with(".gguf")).map(String::as_str).collect();
        let hint = match gguf.first() {
            Some(first) => format!("it has GGUF files: name one, as {}/{first}", self.name.repository),
            None if files.keys().any(|file| file.ends_with(".bin")) => {
                "weights in PyTorch's own format (.bin) are not read: convert them with Python's safetensors".into()
            }
            None => "it has no weights that are read".into(),
        };
        Error::Io { file: self.name.repository.clone(), reason: format!("there is no {WEIGHTS}; {hint}") }
    }

    /// Brings those of some files that are not in the cache.
    fn bring(&self, files: &[String]) -> Result<()> {
        let commit = &self.listing.commit;
        let lacks = |file: &String| {
            let reason = format!("{} has no such file in revision {}", self.name.repository, self.name.revision);
            Error::Io { file: printable(file), reason }
        };
        let all = files.iter().map(|file| self.listing.files.get(file).ok_or_else(|| lacks(file)));
        let all = all.collect::<Result<Vec<&Remote>>>()?;
        let snapshot = self.repository.snapshot(commit);
        let there = |remote: &&&Remote| {
            let found = snapshot.join(&remote.file).metadata();
            found.is_ok_and(|found| found.is_file() && found.len() == remote.size)
        };
        let missing: Vec<&Remote> = all.iter().filter(|remote| !there(remote)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let total: u64 = missing.iter().map(|remote| remote.size).sum();
        let (repository, revision) = (&self.name.repository, &self.name.revision);
        let words = match missing.len() {
            1 => printable(&missing[0].file),
            n => format!("{n} files"),
        };
        out::note(format_args!("qllama: downloading {words} of {repository}@{revision}, {}", size(total)));
        let bar = progress_bar("downloading");
        bar.set_length(total);
        let on_bytes = |count: i64| {
            if count < 0 { bar.dec(count.unsigned_abs()) } else { bar.inc(count as u64) }
        };
        let downloads = Downloads {
            client: self.client,
            name: self.name,
            commit,
            repository: self.repository,
            on_bytes: &on_bytes,
        };
        for remote in missing {
            downloads.blob(remote, &self.cache.lock(self.name, &remote.digest))?;
            self.repository.link(commit, &remote.file, &remote.digest)?;
        }
        Ok(())
    }
}
