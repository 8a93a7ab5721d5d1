//! `qllama forward` and `qllama generate` through files, against what the published modules computed.

use std::collections::BTreeMap;

use crate::common::engine::{Array, NamedTensor, TensorType, read_tensor_file, write_tensors};
use crate::common::{Checks, Expected, Temp, close, picture, printed, program, repository};
use serde_json::Value;

const LIMIT: f64 = 1e-9;

fn fixture(folder: &str) -> String {
    repository(&format!("tests/data/fixtures/{folder}"))
}

fn floats(name: &str, array: &Array<f32>) -> NamedTensor {
    NamedTensor::f32(name, &array.shape, &array.values)
}

fn integers(name: &str, array: &Array<i64>) -> NamedTensor {
    NamedTensor::i64(name, &array.shape, &array.values)
}

/// The same tensor with another type of integers.
fn as_type(tensor: NamedTensor, dtype: TensorType) -> NamedTensor {
    let values = tensor.to_i64().unwrap();
    let data = values.iter().flat_map(|v| v.to_le_bytes()[..dtype.bytes()].to_vec()).collect();
    NamedTensor { dtype, data, ..tensor }
}

/// The prompt of most calls.
fn prompt(e: &Expected) -> Vec<NamedTensor> {
    vec![
        floats("query_embeds", &e.f32("query_embeds")),
        integers("input_ids", &e.i64("input_ids")),
        integers("attention_mask", &e.i64("attention_mask")),
        floats("vision_hidden_states", &e.f32("vision_hidden_states")),
    ]
}

/// Runs a subcommand that reads and writes tensors; the tensors and what it printed.
fn run(
    temp: &Temp,
    command: &str,
    model: &str,
    inputs: &[NamedTensor],
    args: &[&str],
) -> (BTreeMap<String, NamedTensor>, String) {
    let (from, to) = (temp.file("in.safetensors"), temp.file("out.safetensors"));
    write_tensors(&from, inputs).unwrap();
    let model = fixture(model);
    let printed = printed(&[&[command, "--model", &model, "--inputs", &from, "--outputs", &to], args].concat());
    (read_tensor_file(&to).unwrap(), printed)
}

fn near(checks: &Checks, e: &Expected, key: &str, out: &BTreeMap<String, NamedTensor>, name: &str) {
    checks.run(key, || {
        let tensor = out.get(name).unwrap_or_else(|| panic!("no {name} among {:?}", out.keys()));
        close(key, &e.f32(key), &Array::new(&tensor.shape, tensor.to_f32()?), LIMIT);
        Ok(())
    });
}

#[test]
fn forward_agrees() {
    let e = Expected::open("qllama-base");
    let checks = Checks::default();
    let temp = Temp::new();
    let list = "last_hidden_state,logits,hidden_states,attentions,cross_attentions,cache";
    let (out, _) = run(&temp, "forward", "qllama-base", &prompt(&e), &["--zero-query-mask", "--return", list]);
    let mut compared = 0;
    for key in e.keys() {
        if let Some(name) = key.strip_prefix("prefill.") {
            near(&checks, &e, &key, &out, name);
            compared += 1;
        }
    }
    let crossed: Vec<_> = out.keys().filter(|name| name.starts_with("cross_attentions.")).collect();
    assert_eq!(crossed, ["cross_attentions.0", "cross_attentions.1"]);
    assert_eq!(out["cross_attentions.0"].shape, [2, 4, 96, 37]);
    assert_eq!(out.len(), compared + crossed.len());

    // A step on top of the cache that was written, with the other types of integers.
    let first = |key: &str| {
        let all = e.i64(key);
        Array::new(&[2, 1], all.values.chunks(all.shape[1]).map(|row| row[0]).collect())
    };
    let mask = e.i64("attention_mask");
    let longer = mask.values.chunks(mask.shape[1]).flat_map(|row| [row, &[1]].concat()).collect();
    let mask = Array::new(&[2, mask.shape[1] + 1], longer);
    let mut inputs = vec![
        as_type(integers("input_ids", &first("decode.input_ids")), TensorType::I32),
        as_type(integers("position_ids", &first("decode.position_ids.0")), TensorType::U32),
        as_type(integers("attention_mask", &mask), TensorType::BOOL),
    ];
    inputs.extend(out.into_iter().filter(|(name, _)| name.starts_with("past_")).map(|(_, tensor)| tensor));
    let (out, printed) = run(&temp, "forward", "qllama-base", &inputs, &["--json"]);
    near(&checks, &e, "decode.logits.0", &out, "logits");
    assert_eq!(printed.trim(), r#"{"shape":[2,1,320],"tensor":"logits"}"#);
    assert_eq!(out.len(), 1);
    checks.finish();
}

#[test]
fn forward_with_labels_and_forward_train_agree() {
    let e = Expected::open("qllama-base");
    let checks = Checks::default();
    let temp = Temp::new();
    let ids = integers("input_ids", &e.i64("loss.input_ids"));
    let labels = integers("labels", &e.i64("loss.labels"));
    let (out, _) = run(&temp, "forward", "qllama-base", &[ids.clone(), labels], &["--return", "loss,logits"]);
    near(&checks, &e, "loss.logits", &out, "logits");
    let (loss, expected) = (out["loss"].to_f32().unwrap()[0], e.f32("loss.loss").values[0]);
    assert!((loss - expected).abs() <= 1e-5, "loss {loss}, expected {expected}");

    let inputs = [ids, floats("additive_mask", &e.f32("forward_train.additive_mask"))];
    let train = ["--train", "--return", "last_hidden_state"];
    let (out, _) = run(&temp, "forward", "qllama-base", &inputs, &train);
    near(&checks, &e, "forward_train.last_hidden_state", &out, "last_hidden_state");

    let inputs = [
        floats("inputs_embeds", &e.f32("query_embeds")),
        floats("vision_hidden_states", &e.f32("vision_hidden_states")),
    ];
    let (out, _) = run(&temp, "forward", "qllama-base", &inputs, &train);
    near(&checks, &e, "forward_train.image.last_hidden_state", &out, "last_hidden_state");
    checks.finish();
}

#[test]
fn repeat_time_agrees() {
    let e = Expected::open("qllama-repeat");
    let checks = Checks::default();
    let temp = Temp::new();
    let args = ["--zero-query-mask", "--repeat-time", "2"];
    let (out, _) = run(&temp, "forward", "qllama-repeat", &prompt(&e), &args);
    near(&checks, &e, "prefill.logits", &out, "logits");
    checks.finish();
}

/// What `generate` wrote and printed, against a key of the fixture; `end` is the end id.
fn check_generated(e: &Expected, key: &str, end: i64, (out, printed): (BTreeMap<String, NamedTensor>, String)) {
    let expected = e.i64(key);
    let (sequences, scores) = (&out["sequences"], out["scores"].to_f32().unwrap());
    let found = sequences.to_i64().unwrap();
    assert_eq!(sequences.shape[0], expected.shape[0], "{key}");
    assert_eq!(out["scores"].shape, [expected.shape[0]], "{key}");
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), expected.shape[0], "{key}");
    for (i, expected) in expected.values.chunks(expected.shape[1]).enumerate() {
        // The fixture has the library's BOS in front, and padding up to its own longest.
        let mut padded = found[i * sequences.shape[1]..][..sequences.shape[1]].to_vec();
        padded.resize(expected.len() - 1, 0);
        assert_eq!(padded, expected[1..], "{key} sequence {i}");
        let length = padded.iter().position(|id| *id == end || *id == 0).unwrap_or(padded.len());
        assert_eq!(objects[i]["ids"], serde_json::json!(&padded[..length]), "{key} sequence {i}");
        assert_eq!(objects[i]["text"], Value::Null, "there is no tokenizer");
        assert_eq!(objects[i]["score"].as_f64().unwrap() as f32, scores[i], "{key} sequence {i}");
    }
}

#[test]
fn generate_agrees() {
    let e = Expected::open("qllama-base");
    let checks = Checks::default();
    let temp = Temp::new();
    let end = e.i64("generate_eos.eos_token_id").values[0];
    let end_id = end.to_string();
    let plain = ["--json", "--max-new-tokens", "12"];
    let with_end = ["--json", "--max-new-tokens", "16", "--eos-token-id", &end_id];
    let cases: [(&str, &[&str]); 6] = [
        ("generate.greedy", &[]),
        ("generate.beam5_min8", &["--num-beams", "5", "--min-new-tokens", "8"]),
        ("generate_eos.greedy_rep1.3", &["--repetition-penalty", "1.3"]),
        ("generate_eos.greedy_ngram2", &["--no-repeat-ngram-size", "2"]),
        ("generate_eos.beam4_ret3", &["--num-beams", "4", "--num-return-sequences", "3"]),
        ("generate_eos.beam4_never", &["--num-beams", "4", "--early-stopping", "never"]),
    ];
    for (key, args) in cases {
        let (base, end) = if key.starts_with("generate_eos.") { (&with_end[..], end) } else { (&plain[..], 2) };
        let made = run(&temp, "generate", "qllama-base", &prompt(&e), &[base, args].concat());
        checks.hold(key, || check_generated(&e, key, end, made));
    }
    checks.finish();
}

#[test]
fn generate_of_pixels_agrees() {
    let e = Expected::open("internvl-tiny");
    let temp = Temp::new();
    let inputs = [floats("pixel_values", &e.f32("pixel_values")), integers("input_ids", &e.i64("generate.input_ids"))];
    let made = run(&temp, "generate", "internvl-tiny", &inputs, &["--json", "--max-new-tokens", "10"]);
    check_generated(&e, "generate.greedy", 2, made);
}

/// Text that appears as it is made is the text at the end; the same seed draws the same text; without --outputs nothing
/// is written.
#[test]
fn generate_streams_and_samples() {
    let picture = picture();
    let start = ["generate", "--adapter", "cpu", "--image", &picture, "--prompt", "English caption:"];
    let run = |args: &[&str]| printed(&[&start, args].concat());
    let text = run(&[]);
    assert!(!text.trim().is_empty());
    assert_eq!(run(&["--stream"]), text);
    let lines: Vec<Value> =
        run(&["--stream", "--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, tokens) = lines.split_last().unwrap();
    let ids: Vec<Value> = tokens.iter().map(|t| t["id"].clone()).collect();
    assert_eq!(last["ids"], Value::Array(ids));
    assert_eq!(last["text"], text.trim());

    let drawn = |seed| run(&["--do-sample", "--temperature", "2", "--seed", seed, "--num-return-sequences", "4"]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    assert_eq!(drawn("1").lines().count(), 4);
}

/// Standard output that cannot be written is told of; one that nobody reads ends the program quietly.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_fails() {
    let (picture, temp) = (picture(), Temp::new());
    let inputs = temp.file("in.safetensors");
    write_tensors(&inputs, &[integers("input_ids", &Array::new(&[1, 2], vec![1, 5]))]).unwrap();
    let (emoji, out) = (repository("models/emoji-tiny"), temp.file("out"));
    let commands: [&[&str]; 12] = [
        &["--help"],
        &["--list-adapters"],
        &["tokenize", "cat"],
        &["info", "--json"],
        &["caption", &picture],
        &["caption", "--json", &picture],
        &["match", "--image", &picture, "--text", "cat"],
        &["generate", "--prompt", "a", "--stream", "--max-new-tokens", "3"],
        &["generate", "--prompt", "a", "--num-beams", "2", "--max-new-tokens", "3"],
        &["forward", "--json", "--inputs", &inputs, "--outputs", &out],
        &["bench", "--tokens", "2", "--rounds", "1"],
        &["quantize", &emoji, &temp.file("w4")],
    ];
    for args in commands {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = program(args).stdout(full).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.contains("No space left") && message.contains("[E_IO]"), "{args:?}: {message}");

        // Standard error that cannot be written changes nothing.
        let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(program(args).stdout(full()).stderr(full()).status().unwrap().code(), Some(1), "{args:?}");

        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let output = program(args).stdout(write).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(141), "{args:?}: {message}");
        assert!(!message.contains("qllama:") && !message.contains("panicked"), "{args:?}: {message}");
    }
}

/// `--outputs` writes to what is no regular file as it is, and through symbolic links.
#[cfg(unix)]
#[test]
fn outputs_that_are_no_regular_files() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    let temp = Temp::new();
    let embed = |outputs: &str| program(&["embed", "--text", "cat", "--outputs", outputs]).output().unwrap();
    let plain = temp.file("plain.safetensors");
    assert!(embed(&plain).status.success());
    let expected = std::fs::read(&plain).unwrap();

    // A link to a file, and one to nothing yet.
    for (link, target) in [("there", "a.safetensors"), ("dangling", "b.safetensors")] {
        if link == "there" {
            std::fs::write(temp.file(target), "old").unwrap();
        }
        symlink(target, temp.file(link)).unwrap();
        assert!(embed(&temp.file(link)).status.success());
        assert!(std::fs::symlink_metadata(temp.file(link)).unwrap().is_symlink(), "{link}");
        assert_eq!(std::fs::read(temp.file(target)).unwrap(), expected);
    }
    // A pipe.
    let pipe = temp.file("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    assert!(embed(&pipe).status.success());
    assert_eq!(reader.join().unwrap(), expected);
    assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    // A device that is full, by a link: neither is replaced.
    let full = temp.file("full");
    symlink("/dev/full", &full).unwrap();
    let output = embed(&full);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && message.contains("[E_IO]"), "{message}");
    assert!(std::fs::metadata("/dev/full").unwrap().file_type().is_char_device());
    // The mode that any new file here gets.
    std::fs::write(temp.file("other"), "").unwrap();
    let mode = |file: &str| std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode(&plain), mode(&temp.file("other")));
}
