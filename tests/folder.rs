//! `qllama caption` of folders, lists and shards: what goes where, and what becomes of a run that is interrupted, refused
//! or left without a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{EMOJI, Random, Temp, expected_captions, fails, path, picture_step, program};

/// What the demo model says of its pictures.
fn expected() -> BTreeMap<String, String> {
    let expected = expected_captions("models/emoji-tiny-w4");
    let entries = expected["pictures"].as_array().unwrap().iter();
    entries.map(|e| (e["file"].as_str().unwrap().into(), e["caption"].as_str().unwrap().into())).collect()
}

/// A folder with a copy of so many pictures, and what the demo model says of them.
fn pictures(temp: &Temp, folder: &str, most: usize) -> BTreeMap<String, String> {
    std::fs::create_dir_all(temp.path().join(folder)).unwrap();
    let expected: BTreeMap<String, String> = expected().into_iter().step_by(400 / most).take(most).collect();
    for name in expected.keys() {
        std::fs::copy(path(EMOJI).join("pictures").join(name), temp.path().join(folder).join(name)).unwrap();
    }
    expected
}

/// Runs `qllama caption` in a folder: exit status, output, messages.
fn caption(temp: &Temp, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(temp, args).output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn command(temp: &Temp, args: &[&str]) -> Command {
    let mut command = program(&["caption"]);
    command.args(args).current_dir(temp.path());
    command
}

fn jsonl(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line: {text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

/// Each picture of `expected` stands in the file once, with its caption.
fn check_jsonl(file: &str, folder: &str, expected: &BTreeMap<String, String>) {
    let lines = jsonl(file);
    let found: BTreeMap<&str, &str> =
        lines.iter().map(|l| (l["image"].as_str().unwrap(), l["text"].as_str().unwrap())).collect();
    let wanted: BTreeMap<String, &str> =
        expected.iter().map(|(name, text)| (format!("{folder}/{name}"), text.as_str())).collect();
    assert_eq!(lines.len(), found.len(), "a picture stands there twice");
    assert_eq!(found, wanted.iter().map(|(name, text)| (name.as_str(), *text)).collect());
}

#[test]
fn a_folder_with_all_sorts_of_files() {
    let temp = Temp::new();
    let mut expected = pictures(&temp, "p/sub", 4);
    expected.extend(pictures(&temp, "p", 2));
    std::fs::write(temp.file("p/broken.png"), "no picture").unwrap();
    std::fs::write(temp.file("p/readme.md"), "no picture").unwrap();
    std::fs::write(temp.file("p/.hidden.png"), "no picture").unwrap();

    // On the terminal, by name, a bad one told of on the way.
    let (status, text, messages) = caption(&temp, &["p"]);
    assert_eq!(status, 1, "{messages}");
    let names: Vec<&str> = text.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    assert!(names.is_sorted() && names.len() == 6, "{text}");
    assert!(messages.contains("qllama: p/broken.png: ") && messages.contains("[E_IMAGE]"), "{messages}");
    assert!(messages.ends_with("captioned 6, passed over 2 other files, failed 1: p/broken.png\n"), "{messages}");
    for line in text.lines() {
        let (name, text) = line.split_once(": ").unwrap();
        assert_eq!(expected[name.rsplit('/').next().unwrap()], text, "{name}");
    }

    // Into a file: what stands there is not done again, a failure only if asked.
    for args in [&["p", "--output", "c.jsonl"][..], &["p/", "p", "--output", "c.jsonl"]] {
        let (_, text, _) = caption(&temp, args);
        assert_eq!(text, "");
    }
    let before = jsonl(&temp.file("c.jsonl"));
    // p and p/ name the same pictures in two ways.
    let of = |prefix: &str| before.iter().filter(|l| l["image"].as_str().unwrap().starts_with(prefix)).count();
    assert_eq!((before.len(), of("p//")), (7, 0));
    assert_eq!(before.iter().filter(|l| l["code"] == "E_IMAGE" && l["error"].is_string()).count(), 1);
    assert!(before.iter().all(|l| l["model"] == "demo"));
    let (status, _, messages) = caption(&temp, &["p", "--output", "c.jsonl"]);
    assert_eq!((status, messages.contains("captioned 0, captioned before 7")), (0, true), "{messages}");
    let (status, _, messages) = caption(&temp, &["p", "--output", "c.jsonl", "--retry-failed"]);
    assert_eq!((status, messages.contains("captioned 0, captioned before 6")), (1, true), "{messages}");
    std::fs::copy(temp.file("p/sub/").clone() + expected.keys().next().unwrap(), temp.file("p/broken.png")).unwrap();
    let (status, text, _) = caption(&temp, &["p", "--output", "c.jsonl", "--retry-failed", "--dry-run"]);
    assert_eq!((status, text.as_str()), (0, "p/broken.png\n"));
    assert_eq!(caption(&temp, &["p", "--output", "c.jsonl", "--retry-failed"]).0, 0);
    let after = jsonl(&temp.file("c.jsonl"));
    assert!(after.len() == 7 && after.iter().all(|l| l["text"].is_string()), "{after:?}");
    assert_eq!(caption(&temp, &["p", "--output", "c.jsonl", "--overwrite"]).0, 0);
    assert_eq!(jsonl(&temp.file("c.jsonl")).len(), 7);
    // Another model's output stays as it is.
    let model = path(EMOJI);
    let args = ["p", "--output", "c.jsonl", "--model", model.to_str().unwrap()];
    let (status, _, messages) = caption(&temp, &args);
    assert!(status == 1 && messages.contains("\"demo\"") && messages.contains("[E_STATE]"), "{messages}");
    assert_eq!(jsonl(&temp.file("c.jsonl")).len(), 7);
}

#[test]
fn files_of_other_forms_and_files_beside_pictures() {
    let temp = Temp::new();
    let expected = pictures(&temp, "p", 3);
    std::fs::write(temp.file("p/broken.webp"), "no picture").unwrap();
    let first = expected.keys().next().unwrap();

    let (status, _, messages) = caption(&temp, &["p", "--output", "c.csv"]);
    assert_eq!(status, 1, "{messages}");
    let text = std::fs::read_to_string(temp.file("c.csv")).unwrap();
    assert!(text.starts_with("image,text,original,error,code,model\n"), "{text}");
    assert!(text.contains(&format!("p/{first},{},,,,demo\n", expected[first])), "{text}");
    assert!(text.contains("p/broken.webp,,,") && text.contains("E_IMAGE,demo\n"), "{text}");
    // Torn in the middle of a line.
    std::fs::write(temp.file("c.csv"), &text[..text.len() - 20]).unwrap();
    let (_, _, messages) = caption(&temp, &["p", "--output", "c.csv"]);
    assert!(messages.contains("cut short"), "{messages}");
    assert_eq!(std::fs::read_to_string(temp.file("c.csv")).unwrap(), text);

    assert_eq!(caption(&temp, &["p", "--output", "c.json"]).0, 1);
    let coco: Value = serde_json::from_slice(&std::fs::read(temp.file("c.json")).unwrap()).unwrap();
    let found: BTreeSet<(String, String)> = coco.as_array().unwrap().iter().map(pair_of_coco).collect();
    assert_eq!(found, expected.iter().map(|(name, text)| (format!("p/{name}"), text.clone())).collect());
    let (status, _, messages) = caption(&temp, &["p", "--output", "c.json"]);
    assert!(status == 0 && messages.contains("captioned before 4"), "{messages}");
    std::fs::remove_file(temp.file("c.json.journal")).unwrap();
    let (status, _, messages) = caption(&temp, &["p", "--output", "c.json"]);
    assert!(status == 1 && messages.contains("c.json.journal") && messages.contains("[E_STATE]"), "{messages}");

    let sidecar = ["p", "--sidecar", "--prepend", "a photo of xyz, ", "--append", ".", "--extension", ".caption"];
    assert_eq!(caption(&temp, &sidecar).0, 1);
    for (name, text) in &expected {
        let file = Path::new(&temp.file("p")).join(name).with_extension("caption");
        assert_eq!(std::fs::read_to_string(file).unwrap(), format!("a photo of xyz, {text}.\n"));
    }
    // What was written by hand stays.
    let by_hand = Path::new(&temp.file("p")).join(first).with_extension("caption");
    std::fs::write(&by_hand, "mine").unwrap();
    let (_, _, messages) = caption(&temp, &sidecar);
    assert!(messages.contains("captioned 0, captioned before 3"), "{messages}");
    assert_eq!(std::fs::read_to_string(&by_hand).unwrap(), "mine");
    // Two pictures that would share a text.
    std::fs::copy(temp.file(&format!("p/{first}")), by_hand.with_extension("webp")).unwrap();
    let (status, _, messages) = caption(&temp, &sidecar);
    assert!(status == 1 && messages.contains("another picture") && messages.contains("[E_INPUT]"), "{messages}");
    let names: Vec<String> =
        std::fs::read_dir(temp.file("p")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.contains(".part")), "{names:?}");
}

fn pair_of_coco(entry: &Value) -> (String, String) {
    (entry["image_id"].as_str().unwrap().into(), entry["caption"].as_str().unwrap().into())
}

#[test]
fn lists_globs_and_shares() {
    let temp = Temp::new();
    let expected = pictures(&temp, "p", 5);
    let names: Vec<String> = expected.keys().map(|name| format!("p/{name}")).collect();
    let lines = |args: &[&str]| caption(&temp, &[args, &["--dry-run"]].concat()).1;
    let mut child = command(&temp, &["-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let list = format!("{}\r\n\n{}", names[3], names[0]);
    child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let texts: Vec<&String> = expected.values().collect();
    let wanted = format!("{}: {}\n{}: {}\n", names[3], texts[3], names[0], texts[0]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), wanted);

    let all = lines(&["p"]);
    assert_eq!(all.lines().collect::<Vec<_>>(), names);
    let mut shares: Vec<String> = (0..3)
        .flat_map(|i| lines(&["p", "--shard", &format!("{i}/3")]).lines().map(String::from).collect::<Vec<_>>())
        .collect();
    shares.sort();
    assert_eq!(shares, names);
    let last = names[4].rsplit('/').next().unwrap();
    assert_eq!(lines(&["p", "--include", last]).trim(), names[4]);
    assert_eq!(lines(&["p", "--exclude", last]).lines().count(), 4);
    assert_eq!(lines(&[".", "--exclude", "p"]), "");
    assert_eq!(lines(&[".", "--exclude", "p/*.png"]), "");
    assert_eq!(lines(&[".", "--include", "p/*.png"]).lines().count(), 5);
    fails(&["caption", temp.folder(), "--include", "[", "--dry-run"], "E_INPUT", &["--include"]);
    std::fs::create_dir(temp.file("empty")).unwrap();
    fails(&["caption", &temp.file("empty")], "E_INPUT", &["no pictures"]);
    fails(&["caption", &temp.file("p"), "--output", "c.txt"], "E_INPUT", &["c.txt", ".jsonl"]);
    fails(&["caption", &temp.file("p"), "--output", "nowhere/c.jsonl"], "E_IO", &["c.jsonl"]);
}

/// The whole lines of a file, if it is there.
fn lines_of(file: &str) -> usize {
    std::fs::read(file).unwrap_or_default().iter().filter(|&&b| b == b'\n').count()
}

/// A run that is killed again and again, each time somewhere behind a few more pictures, and goes on each time.
#[test]
fn kills_lose_nothing() {
    let temp = Temp::new();
    let (most, kills) = if picture_step() == 1 { (400, 100) } else { (40, 8) };
    let expected = pictures(&temp, "p", most);
    let (args, file) = (["p", "--output", "c.jsonl", "--batch-size", "2"], temp.file("c.jsonl"));
    let mut random = Random::new(15);
    let mut hit = 0;
    for _ in 0..kills {
        let before = lines_of(&file);
        let until = before + random.below(2 * (most / kills) as u32) as usize;
        let mut child = command(&temp, &args).stderr(Stdio::null()).spawn().unwrap();
        while lines_of(&file) <= until && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(random.below(30).into()));
        hit += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(lines_of(&file) <= most);
        if lines_of(&file) == most {
            // Kills shall hit work: begin anew.
            check_jsonl(&file, "p", &expected);
            std::fs::remove_file(&file).unwrap();
        }
    }
    assert_eq!(caption(&temp, &args).0, 0);
    check_jsonl(&file, "p", &expected);
    println!("{hit} of {kills} kills hit a run at work");
    assert!(hit * 2 > kills, "{hit} of {kills} kills hit a run at work");
}

/// Lines torn at every place that a kill could leave them at.
#[test]
fn torn_lines_are_mended() {
    let temp = Temp::new();
    let expected = pictures(&temp, "p", 3);
    assert_eq!(caption(&temp, &["p", "--output", "c.jsonl"]).0, 0);
    let whole = std::fs::read(temp.file("c.jsonl")).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
    for cut in [last, last + 1, last + 2, (last + whole.len()) / 2, whole.len() - 1] {
        std::fs::write(temp.file("c.jsonl"), &whole[..cut]).unwrap();
        let (status, _, messages) = caption(&temp, &["p", "--output", "c.jsonl"]);
        assert_eq!((status, messages.contains("cut short")), (0, cut > last), "{cut}: {messages}");
        check_jsonl(&temp.file("c.jsonl"), "p", &expected);
    }
    // What is no line of ours stays as it is.
    for foreign in ["hello", "hello\n", "[1,2]\n"] {
        std::fs::write(temp.file("c.jsonl"), foreign).unwrap();
        let (status, _, messages) = caption(&temp, &["p", "--output", "c.jsonl"]);
        assert!(status == 1 && messages.contains("[E_STATE]"), "{foreign:?}: {messages}");
        assert_eq!(std::fs::read_to_string(temp.file("c.jsonl")).unwrap(), foreign);
    }
}

/// Waits until the file has so many lines.
#[cfg(unix)]
fn wait_for_lines(file: &str, lines: usize) {
    let until = Instant::now() + Duration::from_secs(120);
    while lines_of(file) < lines {
        assert!(Instant::now() < until, "no {lines} lines in {file}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A list on standard input that is not at its end keeps a run going for as long as a test likes.
#[cfg(unix)]
#[test]
fn a_second_run_is_refused_and_ctrl_c_ends_the_first() {
    let temp = Temp::new();
    let expected = pictures(&temp, "p", 3);
    let names: Vec<&String> = expected.keys().collect();
    for output in ["c.jsonl", "c.csv", "c.json"] {
        let args = ["-", "--output", output];
        let mut first = command(&temp, &args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = first.stdin.take().unwrap();
        writeln!(input, "p/{}\np/{}", names[0], names[1]).unwrap();
        let journal = temp.file(if output == "c.json" { "c.json.journal" } else { output });
        wait_for_lines(&journal, if output == "c.csv" { 3 } else { 2 });
        let (status, _, messages) = caption(&temp, &["p", "--output", output]);
        assert!(status == 1 && messages.contains("another run") && messages.contains("[E_STATE]"), "{messages}");
        Command::new("kill").args(["-INT", &first.id().to_string()]).status().unwrap();
        let Output { status, stderr, .. } = first.wait_with_output().unwrap();
        let messages = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(130), "{messages}");
        assert!(messages.contains("captioned 2") && messages.contains("goes on from here"), "{messages}");
        drop(input);
        let (status, _, messages) = caption(&temp, &["p", "--output", output]);
        assert!(status == 0 && messages.contains("captioned 1, captioned before 2"), "{messages}");
    }
    check_jsonl(&temp.file("c.jsonl"), "p", &expected);
}

/// A disk that becomes full: what was written stays whole, and the run goes on when there is room.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let temp = Temp::new();
    let expected = pictures(&temp, "p", 10);
    // A limit on the size of files ends writes in the middle of a line, as a disk does.
    let limited = |args: &str, bytes: usize| {
        let script = format!("trap '' XFSZ; exec prlimit --fsize={bytes} \"$0\" caption {args}");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_qllama")]);
        let output = command.current_dir(temp.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, messages) = limited("p --output c.jsonl", 300);
    assert!(status == Some(1) && messages.contains("[E_IO]") && messages.contains("c.jsonl"), "{messages}");
    let lines = jsonl(&temp.file("c.jsonl")).len();
    assert!(lines > 0 && lines < 10, "{lines} lines");
    assert_eq!(caption(&temp, &["p", "--output", "c.jsonl"]).0, 0);
    check_jsonl(&temp.file("c.jsonl"), "p", &expected);
    let (status, messages) = limited("p --sidecar", 2);
    assert!(status == Some(1) && messages.contains("[E_IO]"), "{messages}");
    assert!(temp.names().iter().all(|name| !name.ends_with(".txt")));
    let (status, _, messages) = caption(&temp, &["p", "--output", "/dev/full", "--overwrite"]);
    assert!(status == 1 && messages.contains(".jsonl"), "{messages}");
    std::os::unix::fs::symlink("/dev/full", temp.file("full.jsonl")).unwrap();
    let (status, _, messages) = caption(&temp, &["p", "--output", "full.jsonl"]);
    assert!(status == 1 && messages.contains("[E_IO]"), "{messages}");
}

#[cfg(unix)]
#[test]
fn names_links_and_pictures_that_lie() {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let temp = Temp::new();
    let expected = pictures(&temp, "p/a", 1);
    let (name, text) = expected.into_iter().next().unwrap();
    let odd = Path::new(temp.folder()).join("p").join(std::ffi::OsStr::from_bytes(b"cat\xff\n.png"));
    std::fs::copy(temp.file(&format!("p/a/{name}")), odd).unwrap();
    symlink("..", temp.file("p/a/up")).unwrap();
    symlink("nowhere", temp.file("p/b.png")).unwrap();
    symlink("nowhere", temp.file("p/b.txt")).unwrap();
    // In one run two names that look alike stay apart, and nobody writes lines into the terminal.
    let (status, printed, messages) = caption(&temp, &["p"]);
    assert_eq!(printed, format!("p/a/{name}: {text}\np/cat\\xFF\\u000a.png: {text}\n"));
    assert!(status == 1 && messages.contains("p/a/up: a link back to p"), "{messages}");
    assert!(messages.contains("p/b.png: ") && messages.contains("failed 1: p/b.png\n"), "{messages}");
    assert_eq!(caption(&temp, &["p", "--output", "c.jsonl"]).0, 1);
    let lines = jsonl(&temp.file("c.jsonl"));
    assert!(lines.iter().any(|l| l["image"] == "p/cat\\xFF\n.png" && l["text"] == text.as_str()), "{lines:?}");

    // Empty files: as many as one likes.
    let count = if picture_step() == 1 { 100_000 } else { 1_000 };
    std::fs::create_dir(temp.file("empty")).unwrap();
    (0..count).for_each(|i| drop(std::fs::File::create(temp.file(&format!("empty/{i:06}.png"))).unwrap()));
    let (status, _, messages) = caption(&temp, &["empty", "--output", "e.jsonl"]);
    assert_eq!((status, jsonl(&temp.file("e.jsonl")).len()), (1, count), "{}", messages.lines().last().unwrap());
    assert_eq!(messages.lines().count(), 102, "failures are told of a hundred times at most, then counted");
}

#[test]
fn shards() {
    let temp = Temp::new();
    let expected = pictures(&temp, "p", 3);
    let mut tar = Vec::new();
    let mut ends = Vec::new();
    for (i, name) in expected.keys().enumerate() {
        let bytes = std::fs::read(temp.file(&format!("p/{name}"))).unwrap();
        for (ending, bytes) in [("txt", &b"what it said\n"[..]), ("json", b"{}"), ("png", &bytes)] {
            tar.extend(member(&format!("data/{i:04}.{ending}"), bytes));
        }
        ends.push(tar.len());
    }
    tar.extend([0; 1024]);
    std::fs::write(temp.file("s.tar"), &tar).unwrap();
    let (status, _, messages) = caption(&temp, &["s.tar", "--output", "s.jsonl"]);
    assert_eq!(status, 0, "{messages}");
    let lines = jsonl(&temp.file("s.jsonl"));
    for (i, (line, text)) in lines.iter().zip(expected.values()).enumerate() {
        assert_eq!(line["image"], format!("s.tar/data/{i:04}.png"));
        assert_eq!((&line["text"], &line["original"]), (&text.as_str().into(), &"what it said".into()));
    }
    assert_eq!(lines.len(), 3);
    // Cut short: the pictures before are captioned, the shard is told of, once.
    std::fs::write(temp.file("cut.tar"), &tar[..ends[2] - 600]).unwrap();
    let (status, _, messages) = caption(&temp, &["cut.tar", "--output", "cut.jsonl"]);
    assert!(status == 1 && messages.contains("cut.tar") && messages.contains("[E_TRUNCATED]"), "{messages}");
    let captions = jsonl(&temp.file("cut.jsonl"));
    assert_eq!((captions.len(), captions.iter().filter(|l| l["text"].is_string()).count()), (3, 2));
    std::fs::write(temp.file("no.tar"), "this is no tar file".repeat(100)).unwrap();
    let (status, _, messages) = caption(&temp, &["no.tar", "s.tar"]);
    assert!(status == 1 && messages.contains("no.tar") && messages.contains("[E_HEADER]"), "{messages}");
    let (_, _, messages) = caption(&temp, &["s.tar", "--sidecar"]);
    assert!(messages.contains("--output") && messages.contains("[E_INPUT]"), "{messages}");
}

/// A worker answers each line at once, bad ones too, and ends with its input.
#[test]
fn a_worker() {
    let temp = Temp::new();
    let expected = pictures(&temp, "p", 2);
    let (name, text) = expected.iter().next().unwrap();
    let mut child = command(&temp, &["-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |line: &str| -> Value {
        writeln!(input, "{line}").unwrap();
        serde_json::from_str(&output.next().unwrap().unwrap()).unwrap()
    };
    let answer = ask(&format!(r#"{{"id": 7, "path": "p/{name}"}}"#));
    assert_eq!((&answer["id"], &answer["text"]), (&7.into(), &text.as_str().into()), "{answer}");
    assert!(answer["seconds"].as_f64().unwrap() > 0.0 && answer["ids"].is_array(), "{answer}");
    for (line, id, code) in [
        ("hello", Value::Null, "E_INPUT"),
        (r#"{"id": "x", "path": "nowhere.png"}"#, "x".into(), "E_IO"),
        (r#"{"id": [1], "base64": "bm8gcGljdHVyZQ=="}"#, serde_json::json!([1]), "E_IMAGE"),
    ] {
        let answer = ask(line);
        assert_eq!((&answer["id"], &answer["code"]), (&id, &code.into()), "{answer}");
        assert!(answer["error"].is_string(), "{answer}");
    }
    let answer = ask(&format!(r#"{{"id": 8, "path": "p/{name}"}}"#));
    assert_eq!(answer["text"], text.as_str());
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(output.next().is_none());
}

/// A member of a tar file, by the format's description (POSIX ustar).
fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut head = [0u8; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[100..107].copy_from_slice(b"0000644");
    head[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    head[148..156].fill(b' ');
    head[156] = b'0';
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|&b| u32::from(b)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut out = [&head[..], bytes].concat();
    out.resize(out.len().next_multiple_of(512), 0);
    out
}
