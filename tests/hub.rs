//! Checkpoints by their names, from a hub of the test's own: what is asked, what is kept, and what becomes of answers that
//! are wrong.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use sha2::Digest;

use crate::common::{Temp, path, printed, program};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &str = "model.safetensors";

/// What goes wrong with the next request whose path has a certain end.
#[derive(Clone)]
enum Fault {
    Status(u16, &'static str),
    /// The body ends behind so many bytes.
    Cut(usize),
    /// A byte of the body is another.
    Wrong,
    /// All is sent, whatever part was asked for.
    NoRanges,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: Vec<(&'static str, Fault)>,
    /// Path, range and authorisation of each request.
    log: Vec<(String, String, String)>,
}

/// A hub with the repository `lab/emoji`, whose files are sent by another host.
struct Hub {
    port: u16,
    state: Arc<Mutex<State>>,
    home: Temp,
}

impl Hub {
    fn start() -> Hub {
        let mut files = BTreeMap::new();
        for name in ["config.json", WEIGHTS, "tokenizer.model", "tokenizer_config.json", "preprocessor_config.json"] {
            files.insert(name.into(), std::fs::read(path("models/emoji-tiny-w4").join(name)).unwrap());
        }
        files.insert("README.md".into(), b"read me".to_vec());
        files.insert("pytorch_model.bin".into(), vec![1; 100_000]);
        let state = Arc::new(Mutex::new(State { files, ..Default::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                std::thread::spawn(move || answer(stream.unwrap(), port, &shared));
            }
        });
        Hub { port, state, home: Temp::new() }
    }

    fn fault(&self, end: &'static str, fault: Fault) {
        self.state.lock().unwrap().faults.push((end, fault));
    }

    /// The requests since this was last asked.
    fn requests(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn digest(&self, file: &str) -> String {
        digest(file, &self.state.lock().unwrap().files[file])
    }

    /// A file below the repository's folder in the cache.
    fn kept(&self, below: &str) -> std::path::PathBuf {
        self.home.path().join("hub/models--lab--emoji").join(below)
    }

    fn run(&self, args: &[&str], set: &[(&str, &str)]) -> (i32, String, String) {
        let mut command = program(args);
        for name in
            ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY"]
        {
            command.env_remove(name);
        }
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", self.home.path()).env("no_proxy", "*").env("NO_PROXY", "*");
        command.envs(set.iter().copied()).current_dir(self.home.path());
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// Uses the model for something small.
    fn use_model(&self, name: &str) -> (i32, String, String) {
        self.run(&["tokenize", "--model", name, "English caption:"], &[])
    }

    fn works(&self) {
        let (status, text, messages) = self.use_model("lab/emoji");
        assert_eq!((status, text), (0, printed(&["tokenize", "English caption:"])), "{messages}");
    }
}

/// As the hub has them: SHA-256 of what is large, Git's digest of what is small.
fn digest(file: &str, bytes: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match file {
        WEIGHTS | "tokenizer.model" => hex(&sha2::Sha256::digest(bytes)),
        _ => hex(&sha1::Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize()),
    }
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> Value {
    let entry = |(name, bytes): (&String, &Vec<u8>)| {
        let digest = digest(name, bytes);
        match digest.len() {
            64 => json!({ "rfilename": name, "size": bytes.len(), "blobId": "0".repeat(40),
                "lfs": { "sha256": digest, "size": bytes.len(), "pointerSize": 134 } }),
            _ => json!({ "rfilename": name, "size": bytes.len(), "blobId": digest }),
        }
    };
    json!({ "id": "lab/emoji", "sha": COMMIT, "siblings": files.iter().map(entry).collect::<Vec<_>>() })
}

fn answer(mut stream: TcpStream, port: u16, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let target = first.split(' ').nth(1).unwrap().to_string();
    let mut headers = BTreeMap::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut state = state.lock().unwrap();
    state.log.push((target.clone(), header("range"), header("authorization")));
    let fault = state.faults.iter().position(|(end, _)| target.ends_with(end));
    let fault = fault.map(|at| state.faults.remove(at).1);
    let mut send = |head: &str, body: &[u8], sent: usize| {
        let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        // Who was told enough hangs up.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent.min(body.len())]));
    };
    if let Some(Fault::Status(status, headers)) = fault {
        return send(&format!("{status} No\r\nX-Error-Message: no{headers}"), b"no", 2);
    }
    if target.starts_with("/api/models/lab/emoji/revision/") {
        let body = match target.contains("/revision/none") {
            true => return send("404 Not Found\r\nX-Error-Code: RevisionNotFound", b"", 0),
            false => listing(&state.files).to_string(),
        };
        return send("200 OK\r\nContent-Type: application/json", body.as_bytes(), usize::MAX);
    }
    if let Some(file) = target.strip_prefix(&format!("/lab/emoji/resolve/{COMMIT}/")) {
        return send(&format!("302 Found\r\nLocation: http://localhost:{port}/elsewhere/{file}"), b"", 0);
    }
    let Some(mut bytes) = target.strip_prefix("/elsewhere/").and_then(|file| state.files.get(file)).cloned() else {
        return send("404 Not Found\r\nX-Error-Code: RepoNotFound", b"", 0);
    };
    if let Some(Fault::Wrong) = fault {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    let from =
        header("range").strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse::<usize>().ok());
    let from = from.filter(|_| !matches!(fault, Some(Fault::NoRanges)));
    let sent = if let Some(Fault::Cut(count)) = fault { count } else { usize::MAX };
    match from {
        Some(from) if from >= bytes.len() => send("416 Range Not Satisfiable", b"", 0),
        Some(from) => {
            let head =
                format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            send(&head, &bytes[from..], sent);
        }
        None => send("200 OK", &bytes, sent),
    }
}

#[test]
fn a_model_is_downloaded_once_and_only_what_is_read_of_it() {
    let hub = Hub::start();
    std::fs::write(hub.home.file("token"), "hf_secret\n").unwrap();
    let (status, text, messages) = hub.use_model("lab/emoji");
    assert_eq!((status, text), (0, printed(&["tokenize", "English caption:"])), "{messages}");
    assert!(messages.contains("downloading 4 files of lab/emoji@main, 3."), "{messages}");
    let requests = hub.requests();
    for (target, _, authorization) in &requests {
        let expected = if target.starts_with("/elsewhere/") { "" } else { "Bearer hf_secret" };
        assert_eq!(authorization, expected, "{target}");
    }
    let files: Vec<&str> = requests.iter().filter_map(|(target, ..)| target.strip_prefix("/elsewhere/")).collect();
    assert_eq!(files, ["config.json", "preprocessor_config.json", "tokenizer.model", WEIGHTS]);
    // As huggingface_hub lays it out.
    assert_eq!(std::fs::read_to_string(hub.kept("refs/main")).unwrap(), COMMIT);
    for file in files {
        let pointer = hub.kept(&format!("snapshots/{COMMIT}/{file}"));
        if cfg!(unix) {
            let target = std::fs::read_link(&pointer).unwrap();
            assert_eq!(target.to_str().unwrap(), format!("../../blobs/{}", hub.digest(file)));
        }
        assert_eq!(std::fs::read(pointer).unwrap(), hub.state.lock().unwrap().files[file]);
    }

    // The next use asks whether there is a newer one; offline, nothing; out of reach, it does with what is here.
    hub.works();
    assert_eq!(hub.requests().len(), 1);
    let offline = ("HF_HUB_OFFLINE", "1");
    let args = ["tokenize", "--model", "lab/emoji", "a"];
    assert_eq!(hub.run(&args, &[offline]).0, 0);
    assert_eq!(hub.requests().len(), 0);
    let (status, _, messages) = hub.run(&args, &[("HF_ENDPOINT", "http://127.0.0.1:9")]);
    assert!(status == 0 && messages.contains("the copy in the cache is taken"), "{messages}");

    let (_, list, _) = hub.run(&["models"], &[]);
    assert!(list.contains("lab/emoji  main (01234567)") && list.contains("MiB"), "{list}");
    let (_, list, _) = hub.run(&["models", "--json"], &[]);
    let kept: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((&kept["name"], &kept["revisions"][COMMIT][0]), (&"lab/emoji".into(), &"main".into()));
    for (name, word) in [("lab/other", "not in the cache"), ("../lab", "org/name"), ("lab/emoji@main", "org/name")] {
        let (status, _, messages) = hub.run(&["models", "remove", name], &[]);
        assert!(status == 1 && messages.contains(word) && messages.contains("[E_INPUT]"), "{messages}");
    }
    let (status, text, _) = hub.run(&["models", "remove", "lab/emoji"], &[]);
    assert!(status == 0 && text.starts_with("removed lab/emoji: 3."), "{text}");
    assert!(!hub.kept("").exists());
    let (status, _, messages) = hub.run(&args, &[offline]);
    assert!(status == 1 && messages.contains("HF_HUB_OFFLINE") && messages.contains("[E_IO]"), "{messages}");
}

#[test]
fn an_interrupted_download_goes_on() {
    let hub = Hub::start();
    // The body is cut, twice; a server that is busy, and one that asks to wait.
    hub.fault("elsewhere/model.safetensors", Fault::Cut(1_000_000));
    hub.fault("elsewhere/model.safetensors", Fault::Cut(500_000));
    hub.fault("elsewhere/config.json", Fault::Status(503, ""));
    hub.fault("?blobs=true", Fault::Status(429, "\r\nRetry-After: 1"));
    let begun = Instant::now();
    hub.works();
    assert!(begun.elapsed().as_secs_f64() > 1.0);
    let ranges = |hub: &Hub| -> Vec<String> {
        let all = hub.requests().into_iter().filter(|(target, ..)| target == "/elsewhere/model.safetensors");
        all.map(|(_, range, _)| range).collect()
    };
    assert_eq!(ranges(&hub), ["", "bytes=1000000-", "bytes=1500000-"]);

    // What a run that was killed left; a server that cannot send parts; a part that is wrong.
    let (digest, whole) = (hub.digest(WEIGHTS), std::fs::read(path("models/emoji-tiny-w4").join(WEIGHTS)).unwrap());
    let part = hub.kept(&format!("blobs/{digest}.incomplete"));
    for (have, fault, expected) in [
        (&whole[..2_000_000], None, &["bytes=2000000-"][..]),
        (&whole[..2_000_000], Some(Fault::NoRanges), &["bytes=2000000-"]),
        (&vec![7; 1_000_000], None, &["bytes=1000000-", ""]),
        (&[&whole[..], b"more"].concat(), None, &[""]),
        (&whole[..], None, &[]),
    ] {
        std::fs::remove_file(hub.kept(&format!("snapshots/{COMMIT}/{WEIGHTS}"))).unwrap();
        std::fs::remove_file(hub.kept(&format!("blobs/{digest}"))).unwrap();
        std::fs::write(&part, have).unwrap();
        if let Some(fault) = fault {
            hub.fault("elsewhere/model.safetensors", fault);
        }
        hub.works();
        assert_eq!(ranges(&hub), expected);
        assert!(std::fs::read(hub.kept(&format!("blobs/{digest}"))).unwrap() == whole && !part.exists());
    }
}

#[test]
fn refusals_and_lies_are_told_by_their_codes() {
    let hub = Hub::start();
    let gated = "\r\nX-Error-Code: GatedRepo";
    for (end, fault, code, word) in [
        ("?blobs=true", Fault::Status(401, ""), "E_HTTP", "HF_TOKEN"),
        ("?blobs=true", Fault::Status(403, gated), "E_HTTP", "ask on its page"),
        ("?blobs=true", Fault::Status(404, ""), "E_HTTP", "no such repository"),
        ("?blobs=true", Fault::Status(429, "\r\nRetry-After: 1000"), "E_HTTP", "too many requests"),
        ("?blobs=true", Fault::Status(418, ""), "E_HTTP", "418"),
        ("elsewhere/config.json", Fault::Status(404, ""), "E_HTTP", "no such"),
        ("elsewhere/model.safetensors", Fault::Wrong, "E_INTEGRITY", "model.safetensors"),
        ("elsewhere/config.json", Fault::Wrong, "E_INTEGRITY", "config.json"),
    ] {
        let _ = std::fs::remove_dir_all(hub.kept(""));
        hub.fault(end, fault);
        let (status, text, messages) = hub.use_model("lab/emoji");
        assert!(status == 1 && text.is_empty(), "{messages}");
        assert!(messages.contains(word) && messages.trim_end().ends_with(&format!("[{code}]")), "{messages}");
        if code == "E_INTEGRITY" {
            assert!(
                !std::fs::read_dir(hub.kept("blobs"))
                    .unwrap()
                    .any(|entry| { entry.unwrap().path().extension().is_some_and(|e| e == "incomplete") })
            );
            hub.works();
        }
    }
    for (name, word) in [("lab/emoji@none", "no revision none"), ("lab/none", "nor is there such a folder here")] {
        let (status, _, messages) = hub.use_model(name);
        let code = if name == "lab/none" { "no such repository" } else { word };
        assert!(status == 1 && messages.contains(code) && messages.contains("[E_HTTP]"), "{messages}");
    }
    let (status, _, messages) = hub.use_model("lab/emoji/none.gguf");
    assert!(status == 1 && messages.contains("none.gguf") && messages.contains("[E_IO]"), "{messages}");
    let (status, _, messages) =
        hub.run(&["tokenize", "--model", "lab/new", "a"], &[("HF_ENDPOINT", "http://127.0.0.1:9")]);
    assert!(status == 1 && messages.contains("neither a folder here nor in the cache"), "{messages}");

    // Shards that an index names are taken by name, and no name leads out of the folder.
    let set = |name: &str, bytes: Option<&[u8]>| {
        let files = &mut hub.state.lock().unwrap().files;
        match bytes {
            Some(bytes) => drop(files.insert(name.into(), bytes.to_vec())),
            None => drop(files.remove(name)),
        }
    };
    let weights = hub.state.lock().unwrap().files[WEIGHTS].clone();
    set("one.safetensors", Some(&weights));
    set(WEIGHTS, None);
    for (file, code) in [("../one.safetensors", "[E_PATH]"), ("two.safetensors", "[E_IO]"), ("one.safetensors", "")] {
        let _ = std::fs::remove_dir_all(hub.kept(""));
        let index = json!({ "weight_map": { "a": file } }).to_string();
        set("model.safetensors.index.json", Some(index.as_bytes()));
        let (status, _, messages) = hub.use_model("lab/emoji");
        assert!((status == 0) == code.is_empty() && messages.contains(code), "{messages}");
    }
    let _ = std::fs::remove_dir_all(hub.kept(""));
    set("model.safetensors.index.json", None);
    set("one.safetensors", None);
    let (_, _, messages) = hub.use_model("lab/emoji");
    assert!(messages.contains("PyTorch's own format") && messages.contains("[E_IO]"), "{messages}");
    set("q4.gguf", Some(b"GGUF is not all of it"));
    let (_, _, messages) = hub.use_model("lab/emoji");
    assert!(messages.contains("name one, as lab/emoji/q4.gguf"), "{messages}");
    let (_, _, messages) = hub.use_model("lab/emoji/q4.gguf");
    assert!(messages.contains("downloading q4.gguf") && !messages.contains("[E_HTTP]"), "{messages}");
    assert!(hub.kept(&format!("snapshots/{COMMIT}/q4.gguf")).is_file());
}
