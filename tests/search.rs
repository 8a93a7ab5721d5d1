//! `qllama index`, `qllama search` and `qllama duplicates`: what stands in an index, what is read again, what is found.

use std::process::Output;

use serde_json::Value;

use crate::common::engine::{Mode, Model, Picture, read_tensor_file};
use crate::common::{EMOJI, Temp, fails, path, printed, program, repository};

/// Runs the program in a folder: exit status, output, messages.
fn run(temp: &Temp, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = program(args).current_dir(temp.path()).output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn add(temp: &Temp, name: &str, from: &str) {
    std::fs::copy(path(EMOJI).join("pictures").join(from), temp.path().join(name)).unwrap();
}

const NAMES: [&str; 5] = ["noto-cat.png", "noto-dog.png", "noto-pizza.png", "noto-rocket.png", "twemoji-cherries.png"];

/// A folder `p` with some pictures, one of them below.
fn pictures() -> Temp {
    let temp = Temp::new();
    std::fs::create_dir_all(temp.file("p/below")).unwrap();
    for name in NAMES {
        add(&temp, &if name == "noto-dog.png" { format!("p/below/{name}") } else { format!("p/{name}") }, name);
    }
    temp
}

fn hits(text: &str) -> Vec<(String, f64)> {
    let hit = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap();
        (value["image"].as_str().unwrap().into(), value["score"].as_f64().unwrap())
    };
    text.lines().map(hit).collect()
}

#[test]
fn an_index_holds_what_the_model_says_and_finds_it() {
    let temp = pictures();
    std::fs::write(temp.file("p/broken.png"), "no picture").unwrap();
    std::fs::write(temp.file("p/notes.txt"), "no picture").unwrap();
    let (status, _, messages) = run(&temp, &["index", "p"]);
    assert_eq!(status, 1, "{messages}");
    assert!(messages.contains("p/broken.png") && messages.contains("[E_IMAGE]"), "{messages}");
    assert!(messages.ends_with("indexed 5, passed over 1 other files, failed 1: p/broken.png\n"), "{messages}");

    // Embeddings of several pictures at once are those of one, of unit length.
    let tensors = read_tensor_file(temp.file("p.index.safetensors")).unwrap();
    let stored = &tensors["paths"].data;
    let paths: Vec<&str> = stored.split(|b| *b == 0).map(|name| std::str::from_utf8(name).unwrap()).collect();
    assert!(paths.is_sorted() && paths.len() == 5 && paths[0] == "below/noto-dog.png", "{paths:?}");
    let model = Model::open(path("models/emoji-tiny-w4")).unwrap();
    for (mode, name) in [(Mode::C, "image_embeds.C"), (Mode::G, "image_embeds.G")] {
        let rows = tensors[name].to_f32().unwrap();
        let width = tensors[name].shape[1];
        for (row, picture) in rows.chunks(width).zip(&paths) {
            let picture = Picture::open(temp.path().join("p").join(picture)).unwrap();
            let expected = model.embed_picture(&picture, mode).unwrap();
            let length = expected.iter().map(|x| x * x).sum::<f32>().sqrt();
            for (found, expected) in row.iter().zip(&expected) {
                assert!((found - expected / length).abs() < 1e-4, "{name}: {found} and {expected} / {length}");
            }
        }
    }

    for (text, name) in [("cat", "p/noto-cat.png"), ("dog", "p/below/noto-dog.png"), ("pizza", "p/noto-pizza.png")] {
        for mode in ["c", "g"] {
            let (_, found, messages) = run(&temp, &["search", "p", text, "--mode", mode, "--json"]);
            let found = hits(&found);
            assert_eq!((found.len(), &*found[0].0), (5, name), "{text}, mode {mode}: {found:?} {messages}");
            assert!(found.is_sorted_by(|a, b| a.1 >= b.1));
        }
    }
    // By a picture, from another folder, whose index is named as a file.
    let index = temp.file("p.index.safetensors");
    let like = repository(&format!("{EMOJI}/pictures/noto-rocket.png"));
    let found = hits(&printed(&["search", &index, "--image", &like, "--top", "2", "--json"]));
    let whole = temp.path().canonicalize().unwrap().join("p/noto-rocket.png");
    assert_eq!((found.len(), &*found[0].0), (2, whole.to_str().unwrap()));
    assert!((found[0].1 - 1.0).abs() < 1e-4, "{found:?}");
    let table = printed(&["search", &index, "--image", &like, "--top", "1"]);
    assert!(table.starts_with("1.0000  ") && table.trim_end().ends_with("p/noto-rocket.png"), "{table}");
}

#[test]
fn only_what_changed_is_read_again() {
    let temp = pictures();
    let (status, _, messages) = run(&temp, &["index", "p"]);
    assert_eq!((status, messages.as_str()), (0, "qllama: indexed 5\n"));
    let before = std::fs::read(temp.file("p.index.safetensors")).unwrap();
    let (status, _, messages) = run(&temp, &["index", "p/"]);
    assert_eq!((status, messages.as_str()), (0, "qllama: indexed 0, indexed before 5\n"));
    assert_eq!(before, std::fs::read(temp.file("p.index.safetensors")).unwrap());

    std::fs::remove_file(temp.file("p/noto-cat.png")).unwrap();
    std::fs::remove_file(temp.file("p/noto-pizza.png")).unwrap();
    add(&temp, "p/noto-pizza.png", "noto-dragon-face.png");
    add(&temp, "p/new.png", "noto-cat.png");
    let (status, _, messages) = run(&temp, &["index", "p"]);
    let expected = "qllama: indexed 2, indexed before 3, dropped 1 that are gone\n";
    assert_eq!((status, messages.as_str()), (0, expected));
    let found = hits(&run(&temp, &["search", "p", "cat", "--json"]).1);
    assert_eq!((found.len(), &*found[0].0), (5, "p/new.png"), "{found:?}");
    assert_eq!(temp.names().into_iter().collect::<Vec<_>>(), ["p", "p.index.safetensors"]);

    // An index goes with its folder.
    std::fs::create_dir(temp.file("elsewhere")).unwrap();
    for name in ["p", "p.index.safetensors"] {
        std::fs::rename(temp.file(name), temp.path().join("elsewhere").join(name)).unwrap();
    }
    let (_, _, messages) = run(&temp, &["index", "elsewhere/p"]);
    assert_eq!(messages, "qllama: indexed 0, indexed before 5\n");
    assert_eq!(hits(&run(&temp, &["search", "elsewhere/p", "cat", "--json"]).1)[0].0, "elsewhere/p/new.png");
}

#[test]
fn groups_of_alike_pictures() {
    let temp = pictures();
    add(&temp, "p/copy.png", "noto-cat.png");
    add(&temp, "p/below/again.png", "noto-cat.png");
    assert_eq!(run(&temp, &["index", "p", "--mode", "c"]).0, 0);
    let (status, text, messages) = run(&temp, &["duplicates", "p", "--above", "0.999", "--json"]);
    assert_eq!(status, 0, "{messages}");
    let groups: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> =
        groups[0]["images"].as_array().unwrap().iter().map(|i| i["image"].as_str().unwrap()).collect();
    assert_eq!((groups.len(), names), (1, vec!["p/below/again.png", "p/copy.png", "p/noto-cat.png"]));
    let (_, text, messages) = run(&temp, &["duplicates", "p", "--above", "1"]);
    assert!(text.starts_with("1.0000  p/below/again.png  ") && text.lines().count() == 4, "{text}");
    assert!(messages.contains("1 groups of 3 pictures"), "{messages}");
    let (_, text, _) = run(&temp, &["duplicates", "p", "--above", "-1"]);
    assert_eq!(text.lines().count(), 8, "{text}");
    // InternVL-G's were not made.
    let (status, _, messages) = run(&temp, &["search", "p", "cat", "--mode", "g"]);
    assert!(
        status == 1 && messages.contains("no embeddings of mode g") && messages.contains("[E_STATE]"),
        "{messages}"
    );
    let (status, _, messages) = run(&temp, &["index", "p"]);
    let expected = "has mode c, and mode c and g is asked for";
    assert!(status == 1 && messages.contains(expected) && messages.contains("[E_STATE]"), "{messages}");
}

#[test]
fn what_is_no_index_of_this_model_is_refused() {
    let temp = pictures();
    let folder = temp.file("p");
    let index = temp.file("p.index.safetensors");
    fails(&["search", &folder, "cat"], "E_IO", &["p.index.safetensors", "qllama index"]);
    fails(&["index", &temp.file("none")], "E_IO", &["none"]);
    fails(&["index", &folder, "--output", &temp.file("no/where.safetensors")], "E_IO", &["folder"]);
    assert_eq!(run(&temp, &["index", "p"]).0, 0);
    let other = repository(EMOJI);
    for args in [&["search", &folder, "cat", "--model", &other][..], &["index", &folder, "--model", &other]] {
        fails(args, "E_STATE", &["made with the model demo", "this is emoji-tiny", "--overwrite"]);
    }
    let good = std::fs::read(&index).unwrap();
    std::fs::write(&index, &good[..good.len() - 10]).unwrap();
    fails(&["search", &folder, "cat"], "E_TRUNCATED", &["p.index.safetensors"]);
    std::fs::copy(path("models/emoji-tiny-w4/model.safetensors"), &index).unwrap();
    fails(&["duplicates", &folder], "E_STATE", &["was not written by `qllama index`"]);
    fails(&["index", &folder], "E_STATE", &["was not written by `qllama index`"]);
    std::fs::write(&index, b"").unwrap();
    fails(&["search", &folder, "cat"], "E_TRUNCATED", &[]);
    let empty = temp.file("empty");
    std::fs::create_dir(&empty).unwrap();
    fails(&["index", &empty], "E_INPUT", &["no pictures"]);
    fails(&["duplicates", &folder, "--above", "1.5"], "E_INPUT", &["-1 to 1"]);
    // A second run on one index at once.
    let lock = std::fs::File::create(temp.file(".p.index.safetensors.lock")).unwrap();
    lock.lock().unwrap();
    fails(&["index", &folder, "--overwrite"], "E_STATE", &["another run"]);
}

/// Whatever moment it is killed at, there is a whole index or none, and the same command goes on.
#[test]
fn a_run_that_is_killed_goes_on() {
    let temp = pictures();
    for wait in [0, 150, 400, 900] {
        let mut child = program(&["index", "p"]).current_dir(temp.path()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().unwrap();
        let (status, _, messages) = run(&temp, &["duplicates", "p"]);
        assert!(status == 0 || messages.contains("[E_IO]"), "{messages}");
    }
    let (status, _, messages) = run(&temp, &["index", "p"]);
    assert_eq!(status, 0, "{messages}");
    assert_eq!(hits(&run(&temp, &["search", "p", "dog", "--json"]).1)[0].0, "p/below/noto-dog.png");
}
