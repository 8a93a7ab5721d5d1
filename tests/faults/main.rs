//! A driver whose calls fail, one after the other: a layer between this program and the driver, `layer.c`, has them fail.
//!
//! A lost device is opened again, and the text is that of an undisturbed run. Where memory is short that is so too, or the
//! call ends with `E_OOM`, and the next one works. Nothing panics, no message is wgpu's, and no memory is left behind.
//!
//! A few calls of the kinds that matter most are tried; with `QLLAMA_ALL_FAULTS=1` each call of every kind is, once alone
//! and once with all that follow it. `QLLAMA_FAULT_KINDS` names the kinds, with commas between; `layer.c` lists them.

#[path = "../common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;

use common::engine::{CaptionOptions, Check, Error, GenerateOptions, Mode, Model, Picture, Result};
use common::heap::held;
use common::{Temp, path, skipped};

/// Calls of a kind that are tried where not all are, and the kinds.
const TRIES: u64 = 2;
const KINDS: &str = "alloc,begin,buffer,commands,device,image,instance,map,pipeline,set,submit,wait";
/// Bytes that the heap of this program may gain by any try, and the whole process, the driver too, by all of them.
const MOST_KEPT: u64 = 64 << 10;
const MOST_GROWTH: u64 = 8 << 20;

/// Where the layer writes its counts; who has it in the environment runs with the layer.
const LOG: &str = "QLLAMA_FAULT_LOG";

#[global_allocator]
static ALLOCATOR: common::heap::Counted = common::heap::Counted;

/// What panics said, which nobody caught.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Compiles the layer, and runs the test `name` in a process whose loader uses it.
fn with_layer(name: &str) {
    let folder = Temp::new();
    let library = folder.file("libfault.so");
    let mut cc = Command::new("cc");
    // It counts on when no instance is there.
    cc.args(["-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-z,nodelete", "-o", &library]);
    let made = match cc.arg(path("tests/faults/layer.c")).output() {
        Ok(made) => made,
        Err(error) => return skipped("faults", &format!("no C compiler: {error}")),
    };
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr).lines().next().unwrap_or_default().to_string();
        let why = format!("the layer does not compile (Debian: apt-get install gcc libvulkan-dev): {said}");
        return skipped("faults", &why);
    }
    let manifest = serde_json::json!({ "file_format_version": "1.2.0", "layer": {
        "name": "VK_LAYER_QLLAMA_fault", "type": "GLOBAL", "library_path": library, "api_version": "1.3.0",
        "implementation_version": "1", "description": "has calls fail" } });
    folder.write("fault.json", manifest.to_string());
    let mut run = Command::new(std::env::current_exe().unwrap());
    run.args([name, "--exact", "--nocapture"])
        .env("VK_LAYER_PATH", folder.folder())
        .env("VK_INSTANCE_LAYERS", "VK_LAYER_QLLAMA_fault")
        .env(LOG, folder.file("log"))
        // Mesa's own layer complains of each instance where there is no desktop.
        .env("NODEVICE_SELECT", "1")
        // A driver compiles in several threads. With a heap for each, glibc kept 60 MB more at hand after 60 losses, though no
        // more was in use.
        .env("MALLOC_ARENA_MAX", "1");
    assert!(run.status().unwrap().success(), "see above");
}

/// Has the layer begin to count for a fault.
fn set_fault(fault: &str) {
    // SAFETY: nothing else reads the environment; this is the only test of its process.
    unsafe { std::env::set_var("QLLAMA_FAULT", fault) };
    // The layer looks whenever an instance is made.
    pollster::block_on(common::engine::adapters());
}

/// Everything that a person asks of a model.
fn work(model: &Model) -> Result<String> {
    let picture = Picture::open(path("models/emoji-tiny/pictures/noto-cat.png")).unwrap();
    let write = |num_beams| -> Result<String> {
        let generate = GenerateOptions { num_beams, min_new_tokens: 4, max_new_tokens: 6, ..Default::default() };
        Ok(format!("{:?}", model.caption(&picture, &CaptionOptions { generate, prompt: None })?))
    };
    let table = model.match_texts(std::slice::from_ref(&picture), &["a cat", "a flower"], Mode::Itm)?;
    Ok(format!("{} {} {table:?}", write(1)?, write(5)?))
}

/// What came of a run: the errors in their order, before each step was done again, and the model that was loaded.
struct Outcome {
    errors: Vec<Error>,
    said: String,
    model: Option<Model>,
}

/// Loads and works; what fails is done again, at most so often.
fn run(again: usize) -> Outcome {
    let mut errors = Vec::new();
    let mut left = again + 1;
    let mut keep = |step: &mut dyn FnMut() -> Result<Option<String>>| loop {
        match step() {
            Ok(said) => return said,
            Err(error) => errors.push(error),
        }
        left -= 1;
        if left == 0 {
            return None;
        }
    };
    let mut model = None;
    keep(&mut || {
        model = Some(Model::builder(path("models/emoji-tiny-w4")).check(Check::Off).load()?);
        Ok(None)
    });
    let said = model.as_ref().and_then(|model| keep(&mut || work(model).map(Some))).unwrap_or_default();
    Outcome { errors, said, model }
}

/// The layer's numbers of calls by their kinds.
fn counts() -> BTreeMap<String, u64> {
    let log = std::fs::read_to_string(std::env::var_os(LOG).unwrap()).unwrap();
    let line = |line: &str| line.split_once(' ').map(|(kind, n)| (kind.to_string(), n.parse().unwrap()));
    log.lines().filter_map(line).collect()
}

/// Bytes of the process in memory, without those that the C library keeps at hand.
fn resident() -> u64 {
    #[cfg(target_env = "gnu")]
    // SAFETY: the C library's own.
    unsafe {
        libc::malloc_trim(0);
    }
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// What is wrong with an error of a kind of fault, if anything.
fn wrong(kind: &str, error: &Error) -> Option<String> {
    let message = error.to_string();
    let code = match kind {
        // wgpu does not tell of a map that fails, but takes the device as lost.
        "submit" | "wait" | "map" => "E_DEVICE_LOST",
        // wgpu does not tell why it found no driver.
        "instance" => "E_ADAPTER",
        _ => "E_OOM",
    };
    let foreign = ["wgpu", "Validation", "Caused by", "\n"].iter().any(|word| message.contains(word));
    (error.code() != code || foreign).then(|| format!("[{}] {message:?}", error.code()))
}

/// Tries one fault; says what is wrong, or how it ended.
fn attempt(kind: &str, fault: &str, expected: &str, lasting: bool) -> std::result::Result<String, String> {
    let before = held();
    set_fault(fault);
    let outcome = run(if lasting { 0 } else { 2 });
    let mut wrongs: Vec<String> = outcome.errors.iter().filter_map(|error| wrong(kind, error)).collect();
    wrongs.extend(PANICS.lock().unwrap().drain(..));
    if outcome.said != expected && !(lasting && outcome.said.is_empty()) {
        wrongs.push(format!("another text: {:?}, after {:?}", outcome.said, outcome.errors));
    }
    if let (true, Some(model)) = (lasting, &outcome.model) {
        set_fault("none:0");
        let next = work(model);
        if next.as_deref() != Ok(expected) {
            wrongs.push(format!("the next call gave {next:?}"));
        }
    }
    let ended = match (outcome.errors.first(), outcome.said.is_empty()) {
        (Some(error), false) => format!("{}, then the same text", error.code()),
        (Some(error), true) => error.code().into(),
        (None, _) => "the same text".into(),
    };
    drop(outcome);
    let kept = held().saturating_sub(before);
    if kept > MOST_KEPT {
        wrongs.push(format!("{kept} bytes are left on the heap"));
    }
    if wrongs.is_empty() { Ok(ended) } else { Err(wrongs.join("; ")) }
}

#[test]
fn every_call_of_the_driver_may_fail() {
    if std::env::var_os(LOG).is_none() {
        return with_layer("every_call_of_the_driver_may_fail");
    }
    let others = std::panic::take_hook();
    let here = std::thread::current().id();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() == here {
            PANICS.lock().unwrap().push(info.to_string());
        }
        others(info);
    }));
    set_fault("none:0");
    let undisturbed = run(0);
    assert!(undisturbed.errors.is_empty(), "{:?}", undisturbed.errors);
    set_fault("");
    let counts = counts();
    assert!(counts["submit"] > 20 && counts["wait"] > 10 && counts["alloc"] > 0, "{counts:?}");
    let all = std::env::var_os("QLLAMA_ALL_FAULTS").is_some();
    let only = std::env::var("QLLAMA_FAULT_KINDS").ok().or((!all).then(|| KINDS.into()));
    let wanted = |kind: &str| kind != "bytes" && only.as_ref().is_none_or(|only| only.split(',').any(|k| k == kind));
    let (mut bad, mut before) = (Vec::new(), None);
    for (kind, &calls) in counts.iter().filter(|(kind, _)| wanted(kind)) {
        let step = if all { 1 } else { calls.div_ceil(TRIES).max(1) };
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for n in (1..=calls).step_by(step as usize) {
            for lasting in [false, true].into_iter().filter(|lasting| all || n > 1 || calls == 1 || !lasting) {
                let fault = format!("{kind}:{n}{}", if lasting { "+" } else { "" });
                match attempt(kind, &fault, &undisturbed.said, lasting) {
                    Ok(end) => *ends.entry(end).or_default() += 1,
                    Err(why) => bad.push(format!("{fault}: {why}")),
                }
                before.get_or_insert_with(resident);
            }
        }
        println!("{kind}: {calls} calls: {ends:?}");
    }
    set_fault("");
    let growth = before.map_or(0, |before| resident().saturating_sub(before));
    println!("{} bad; memory grew by {} KiB", bad.len(), growth >> 10);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    let after = run(0);
    assert!(after.errors.is_empty() && after.said == undisturbed.said, "{:?}", after.errors);
    assert!(growth <= MOST_GROWTH, "memory grew by {growth} bytes");
}
