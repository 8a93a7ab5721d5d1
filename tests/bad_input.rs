//! Everything that can be wrong with files, tensors, options and adapters: one line that says what was expected and
//! what was found, exit status 1, nothing left behind, and the library usable after.

mod common;

use common::{Expected, Temp, gpu, load, path, program};
use pollster::block_on;
use qllama::checkpoint::{NamedTensor, TensorType, read_tensor_file, write_tensors};
use qllama::forward::{Array, Inputs, PastKeyValues};
use qllama::generate::GenerateOptions;
use qllama::gpu::{Gpu, candidates};
use qllama::model::{Model, PixelValues};
use qllama::prompt::PromptInputs;
use qllama::{Device, Error};

const BASE: &str = "tests/data/fixtures/qllama-base";
const TINY: &str = "tests/data/fixtures/internvl-tiny";
const EMOJI: &str = "models/emoji-tiny";
/// The vocabulary and the width of qllama-base.
const VOCAB: i64 = 320;
const WIDTH: usize = 64;

/// Runs the program, which must fail with `code` and a message that has all of `words`.
fn fails(args: &[&str], code: &str, words: &[&str]) {
    let output = program(args).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let what = format!("{args:?}\n{message}");
    assert_eq!(output.status.code(), Some(1), "{what}");
    assert!(output.stdout.is_empty(), "something was printed: {what}");
    assert_eq!(message.trim_end().lines().count(), 1, "not one line: {what}");
    assert!(message.trim_end().ends_with(&format!("[{code}]")), "expected {code}: {what}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in the message: {what}");
    }
    let folders = [std::env::temp_dir(), path("")];
    for folder in folders {
        assert!(!message.contains(folder.to_str().unwrap().trim_end_matches('/')), "a path is in the message: {what}");
    }
}

fn repository(relative: &str) -> String {
    path(relative).to_str().unwrap().into()
}

/// A picture that can be captioned.
fn picture() -> String {
    let pictures = std::fs::read_dir(path(EMOJI).join("pictures")).unwrap();
    pictures.map(|e| e.unwrap().path()).min().unwrap().to_str().unwrap().into()
}

/// Runs every subcommand that loads a checkpoint: all must fail alike.
fn all_commands_fail(folder: &str, code: &str, words: &[&str]) {
    let (picture, temp) = (picture(), Temp::new());
    let (inputs, outputs) = (temp.file("in.safetensors"), temp.file("out.safetensors"));
    write_tensors(&inputs, &[NamedTensor::i64("input_ids", &[1, 2], &[1, 5])]).unwrap();
    let common = ["--model", folder, "--adapter", "cpu"];
    let commands: [&[&str]; 5] = [
        &["caption", &picture],
        &["match", "--image", &picture, "--text", "cat"],
        &["embed", "--text", "cat", "--outputs", &outputs],
        &["generate", "--inputs", &inputs, "--outputs", &outputs],
        &["forward", "--inputs", &inputs, "--outputs", &outputs],
    ];
    for command in commands {
        fails(&[command, &common].concat(), code, words);
    }
    assert_eq!(temp.names().len(), 1, "something was left behind: {:?}", temp.names());
}

/// As [`all_commands_fail`], and `info`, which reads no tokenizer.
fn all_and_info_fail(folder: &str, code: &str, words: &[&str]) {
    all_commands_fail(folder, code, words);
    fails(&["info", "--model", folder], code, words);
}

#[test]
fn folders_and_configs() {
    let temp = Temp::new();
    let missing = temp.file("nowhere");
    all_and_info_fail(&missing, "E_IO", &["nowhere"]);
    fails(&["tokenize", "--model", &missing, "cat"], "E_IO", &["nowhere"]);
    std::fs::write(&missing, "a file").unwrap();
    all_and_info_fail(&missing, "E_IO", &["nowhere", "expected a folder or a GGUF file, found another kind of file"]);

    let temp = Temp::copy_of(EMOJI);
    let config = temp.file("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let cases: [(String, &str, &[&str]); 7] = [
        (text[..text.len() / 2].into(), "E_CONFIG", &["config.json", "not JSON"]),
        ("not JSON".into(), "E_CONFIG", &["config.json", "byte"]),
        ("[]".into(), "E_CONFIG", &["config.json", "object", "list"]),
        (
            text.replace("\"patch_size\": 8", "\"patch_size\": \"8\""),
            "E_CONFIG",
            &["/vision_config/patch_size", "\"8\""],
        ),
        (text.replace("\"vocab_size\": 768,", ""), "E_CONFIG", &["/qllama_config/vocab_size", "nothing"]),
        (text.replace("\"vocab_size\": 768", "\"vocab_size\": 767"), "E_SHAPE", &["[767, 192]", "[768, 192]"]),
        ("<!DOCTYPE html><html></html>".into(), "E_IO", &["config.json", "web page"]),
    ];
    for (broken, code, words) in cases {
        assert_ne!(broken, text);
        std::fs::write(&config, broken).unwrap();
        all_and_info_fail(temp.folder(), code, words);
    }
    std::fs::remove_file(&config).unwrap();
    all_and_info_fail(temp.folder(), "E_IO", &["config.json", "not found"]);
}

#[test]
fn weights() {
    let temp = Temp::copy_of(EMOJI);
    let weights = temp.file("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let cases: [(&[u8], &str, &[&str]); 5] = [
        (&bytes[..bytes.len() - 10], "E_TRUNCATED", &["model.safetensors", "cut short"]),
        (&bytes[..100], "E_TRUNCATED", &["model.safetensors"]),
        (b"", "E_TRUNCATED", &["model.safetensors"]),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff and more", "E_HEADER", &["model.safetensors"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "E_IO", &["model.safetensors", "git lfs"]),
    ];
    for (broken, code, words) in cases {
        std::fs::write(&weights, broken).unwrap();
        all_and_info_fail(temp.folder(), code, words);
    }
    std::fs::rename(&weights, temp.file("pytorch_model.bin")).unwrap();
    all_and_info_fail(temp.folder(), "E_IO", &["model.safetensors", "pytorch_model.bin"]);

    let index = temp.file("model.safetensors.index.json");
    let cases: [(&str, &str, &[&str]); 5] = [
        ("{", "E_HEADER", &["model.safetensors.index.json"]),
        ("{}", "E_CONFIG", &["/weight_map"]),
        (r#"{"weight_map": {"a": 1}}"#, "E_CONFIG", &["/weight_map/a", "1"]),
        (r#"{"weight_map": {"a": "../a.safetensors"}}"#, "E_PATH", &["../a.safetensors", "plain file name"]),
        (r#"{"weight_map": {"a": "a.safetensors"}}"#, "E_MISSING_SHARD", &["a.safetensors", "index.json"]),
    ];
    for (broken, code, words) in cases {
        std::fs::write(&index, broken).unwrap();
        all_and_info_fail(temp.folder(), code, words);
    }
    std::fs::write(temp.file("a.safetensors"), &bytes).unwrap();
    all_and_info_fail(temp.folder(), "E_TENSOR_RANGE", &["a.safetensors", "tensor a", "no file has it"]);
}

#[test]
fn tensors_of_the_weights() {
    let temp = Temp::copy_of(EMOJI);
    let weights = temp.file("model.safetensors");
    let tensors = read_tensor_file(&weights).unwrap();
    let name = "qllama.model.layers.0.self_attn.q_proj.weight";
    let norm = "qllama.model.norm.weight";
    let write = |change: &dyn Fn(&NamedTensor) -> Option<NamedTensor>| {
        write_tensors(&weights, &tensors.values().filter_map(change).collect::<Vec<_>>()).unwrap();
    };
    write(&|t| (t.name != name).then(|| t.clone()));
    all_and_info_fail(temp.folder(), "E_MISSING_TENSOR", &[name, "1 tensor"]);
    write(&|t| {
        let shape = if t.name == name { vec![96, 384] } else { t.shape.clone() };
        Some(NamedTensor { shape, ..t.clone() })
    });
    all_and_info_fail(temp.folder(), "E_SHAPE", &["model.safetensors", name, "[192, 192]", "[96, 384]"]);
    write(&|t| {
        let dtype = if t.name == norm { TensorType::I16 } else { t.dtype };
        Some(NamedTensor { dtype, ..t.clone() })
    });
    all_and_info_fail(temp.folder(), "E_DTYPE", &["model.safetensors", norm, "I16", "expected", "BF16"]);
}

#[test]
fn tokenizers() {
    let temp = Temp::copy_of(EMOJI);
    let (file, folder) = (temp.file("tokenizer.model"), temp.folder().to_string());
    let bytes = std::fs::read(&file).unwrap();
    for broken in [&bytes[..bytes.len() / 2], b"not a tokenizer"] {
        std::fs::write(&file, broken).unwrap();
        all_commands_fail(&folder, "E_TOKENIZER", &["tokenizer.model"]);
        fails(&["tokenize", "--model", &folder, "cat"], "E_TOKENIZER", &["tokenizer.model"]);
    }
    std::fs::remove_file(&file).unwrap();
    let picture = picture();
    let common = ["--adapter", "cpu", "--model", &folder];
    let commands: [&[&str]; 4] = [
        &["caption", &picture],
        &["match", "--image", &picture, "--text", "cat"],
        &["generate", "--prompt", "cat"],
        &["tokenize", "cat"],
    ];
    for command in commands {
        fails(&[command, &common].concat(), "E_IO", &["tokenizer.model"]);
    }
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(temp.file("preprocessor_config.json"), "{").unwrap();
    fails(&[&["caption", &picture], &common[..]].concat(), "E_CONFIG", &["preprocessor_config.json"]);
}

#[test]
fn pictures() {
    let temp = Temp::new();
    let bytes = std::fs::read(picture()).unwrap();
    let cases: [(&str, &[u8], &str); 4] = [
        ("short.png", &bytes[..bytes.len() / 2], "E_IMAGE"),
        ("empty.png", b"", "E_IMAGE"),
        ("text.png", b"this is no picture", "E_IMAGE"),
        ("half.jpg", &[0xff, 0xd8, 0xff, 0xe0, 0, 16], "E_IMAGE"),
    ];
    let check = |file: &str, name: &str, code: &str| {
        let (whole, outputs) = (picture(), temp.file("out.safetensors"));
        let commands: [&[&str]; 4] = [
            &["caption", &whole, file],
            &["match", "--image", &whole, file, "--text", "cat"],
            &["embed", "--image", &whole, file, "--outputs", &outputs],
            &["generate", "--prompt", "cat", "--image", file],
        ];
        for command in commands {
            fails(&[command, &["--adapter", "cpu"]].concat(), code, &[name]);
        }
        assert!(!temp.names().contains("out.safetensors"));
    };
    for (name, bytes, code) in cases {
        std::fs::write(temp.file(name), bytes).unwrap();
        check(&temp.file(name), name, code);
    }
    check(&temp.file("nowhere.png"), "nowhere.png", "E_IO");
    std::fs::create_dir(temp.file("folder.png")).unwrap();
    check(&temp.file("folder.png"), "folder.png", "E_IO");
    // A decoder alone has nothing that could look at a picture.
    let model = repository(BASE);
    fails(&["caption", &picture(), "--model", &model, "--adapter", "cpu"], "E_IO", &["tokenizer.model"]);
}

#[test]
fn adapters() {
    let picture = picture();
    let args = ["caption", &picture, "--adapter", "no such adapter"];
    let expected = if block_on(candidates()).is_empty() { "no WebGPU adapter" } else { "no such adapter" };
    let output = program(&args).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    // Drivers print what they like before.
    let message = message.trim_end().lines().last().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains(expected) && message.ends_with("[E_ADAPTER]"), "{message}");

    if cfg!(target_os = "linux") {
        let mut command = program(&["caption", &picture]);
        let output = command.env("VK_DRIVER_FILES", "/dev/null").env("VK_ICD_FILENAMES", "/dev/null").output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        let message = message.trim_end().lines().last().unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        for word in ["no WebGPU adapter", "mesa-vulkan-drivers", "--adapter cpu", "[E_ADAPTER]"] {
            assert!(message.contains(word), "{message}");
        }
    }
}

/// Options that are wrong are told of before a checkpoint is looked for.
#[test]
fn options() {
    let temp = Temp::new();
    let inputs = temp.file("in.safetensors");
    write_tensors(&inputs, &[NamedTensor::i64("input_ids", &[1, 2], &[1, 5])]).unwrap();
    let nowhere = temp.file("nowhere");
    let cases: [(&[&str], &str); 17] = [
        (&["--num-beams", "3", "--do-sample"], "not supported"),
        (&["--num-beams", "0"], "num_beams"),
        (&["--num-beams", "17"], "from 1 to 16"),
        (&["--max-new-tokens", "0"], "max_new_tokens"),
        (&["--min-new-tokens", "33"], "min_new_tokens"),
        (&["--num-return-sequences", "2"], "from 1 to 1, found 2"),
        (&["--num-return-sequences", "0"], "num_return_sequences"),
        (&["--num-beams", "2", "--num-return-sequences", "3"], "from 1 to 2, found 3"),
        (&["--do-sample", "--num-return-sequences", "257"], "256"),
        (&["--repetition-penalty", "0"], "repetition_penalty"),
        (&["--repetition-penalty", "nan"], "repetition_penalty"),
        (&["--length-penalty", "inf"], "length_penalty"),
        (&["--do-sample", "--temperature", "0"], "temperature"),
        (&["--do-sample", "--top-p", "1.5"], "top_p"),
        (&["--top-k", "5"], "--do-sample"),
        (&["--stream", "--num-beams", "2"], "--num-beams 1"),
        (&["--num-beams", "16", "--eos-token-id", "1,2,3,4"], "too many end ids"),
    ];
    for (args, word) in cases {
        fails(&[&["generate", "--model", &nowhere, "--inputs", &inputs], args].concat(), "E_INPUT", &[word]);
    }
    let outputs = temp.file("out.safetensors");
    let start = ["forward", "--model", &nowhere, "--inputs", &inputs, "--outputs", &outputs];
    fails(&[&start, &["--train", "--zero-query-mask"][..]].concat(), "E_INPUT", &["--train", "--zero-query-mask"]);
    fails(&[&start, &["--train", "--return", "cache"][..]].concat(), "E_INPUT", &["--train", "cache"]);
    fails(&[&start, &["--return", "loss"][..]].concat(), "E_INPUT", &["in.safetensors", "labels", "loss"]);
    fails(&["caption", "a.png", "--model", &nowhere, "--num-beams", "17"], "E_INPUT", &["num_beams"]);
    fails(&["embed", "--outputs", &outputs], "E_INPUT", &["--image", "--text", "--inputs"]);
    fails(&[], "E_INPUT", &["subcommand"]);
    // What the argument parser says has more lines.
    let usage: [&[&str]; 4] = [
        &["generate"],
        &["generate", "--prompt", "a", "--inputs", &inputs],
        &["forward", "--inputs", &inputs, "--outputs", &outputs, "--return", "everything"],
        &["generate", "--prompt", "a", "--num-beams", "-1"],
    ];
    for args in usage {
        let output = program(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: "), "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["forward", "--help"]] {
        assert!(program(args).output().unwrap().status.success(), "{args:?}");
    }
}

fn ids(name: &str, shape: &[usize], values: &[i64]) -> NamedTensor {
    NamedTensor::i64(name, shape, values)
}

/// Floats that are all 0.5.
fn halves(name: &str, shape: &[usize]) -> NamedTensor {
    NamedTensor::f32(name, shape, &vec![0.5; shape.iter().product()])
}

fn with_value(mut tensor: NamedTensor, index: usize, value: f32) -> NamedTensor {
    tensor.data[4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    tensor
}

/// A case: tensors, options, code, words of the message.
type Case<'a> = (Vec<NamedTensor>, &'a [&'a str], &'a str, &'a [&'a str]);

/// Runs a subcommand on each case; nothing may be written.
fn tensors_fail(command: &str, model: &str, cases: Vec<Case>) {
    let temp = Temp::new();
    let (inputs, outputs) = (temp.file("in.safetensors"), temp.file("out.safetensors"));
    for (tensors, args, code, words) in cases {
        write_tensors(&inputs, &tensors).unwrap();
        let start = [command, "--inputs", &inputs, "--outputs", &outputs, "--model", model, "--adapter", "cpu"];
        fails(&[&start, args].concat(), code, words);
        assert_eq!(temp.names().len(), 1, "something was left behind: {:?}", temp.names());
    }
}

fn two() -> NamedTensor {
    ids("input_ids", &[1, 2], &[1, 5])
}

/// qllama-base's cache of `rows` rows.
fn past(layers: usize, shape: &[usize]) -> Vec<NamedTensor> {
    let pair = |i| [halves(&format!("past_key.{i}"), shape), halves(&format!("past_value.{i}"), shape)];
    (0..layers).flat_map(pair).collect()
}

#[test]
fn tensors_of_forward() {
    let with = |more: Vec<NamedTensor>| [vec![two()], more].concat();
    let vision = [1, 3, 3200];
    let fractional = NamedTensor::f32("input_ids", &[1, 2], &[1.0, 1.5]);
    let mut odd_bool = ids("attention_mask", &[2], &[1, 1]);
    (odd_bool.dtype, odd_bool.shape, odd_bool.data) = (TensorType::BOOL, vec![1, 2], vec![1, 7]);
    let cases: Vec<Case> = vec![
        (vec![ids("input_ids", &[1, 2], &[1, VOCAB])], &[], "E_TOKEN", &["320", "index 1"]),
        (vec![ids("input_ids", &[1, 2], &[-3, 1])], &[], "E_TOKEN", &["-3", "index 0"]),
        (vec![fractional], &[], "E_DTYPE", &["in.safetensors", "input_ids", "F32", "I64, I32 or U32"]),
        (vec![ids("input_ids", &[2], &[1, 2])], &[], "E_INPUT_SHAPE", &["input_ids", "[batch, rows]", "[2]"]),
        (vec![ids("input_ids", &[0, 5], &[])], &[], "E_INPUT", &["empty"]),
        (vec![ids("input_ids", &[2, 0], &[])], &[], "E_INPUT", &["empty"]),
        (vec![halves("query_embeds", &[])], &[], "E_INPUT_SHAPE", &["query_embeds"]),
        (vec![ids("labels", &[1, 2], &[1, 2])], &[], "E_INPUT", &["input_ids", "inputs_embeds"]),
        (with(vec![halves("inputs_embeds", &[1, 2, WIDTH])]), &[], "E_INPUT", &["not both"]),
        (with(vec![halves("query_embeds", &[2, 2, WIDTH])]), &[], "E_INPUT_SHAPE", &["query_embeds", "[1, rows, 64]"]),
        (vec![halves("inputs_embeds", &[1, 2, 63])], &[], "E_INPUT_SHAPE", &["inputs_embeds", "64", "63"]),
        (vec![ids("inputs_embeds", &[1, 1, 1], &[1])], &[], "E_DTYPE", &["inputs_embeds", "I64", "F32, F16 or BF16"]),
        (
            vec![with_value(halves("inputs_embeds", &[1, 2, WIDTH]), 70, f32::NAN)],
            &[],
            "E_NONFINITE",
            &["inputs_embeds", "70"],
        ),
        (
            with(vec![ids("attention_mask", &[1, 3], &[1; 3])]),
            &[],
            "E_INPUT_SHAPE",
            &["attention_mask", "[1, 2]", "[1, 3]"],
        ),
        (with(vec![ids("attention_mask", &[1, 2], &[1, 2])]), &[], "E_INPUT", &["attention_mask", "element 1 is 2"]),
        (with(vec![halves("attention_mask", &[1, 2])]), &[], "E_DTYPE", &["attention_mask", "BOOL"]),
        (with(vec![odd_bool]), &[], "E_INPUT", &["attention_mask", "7"]),
        (
            with(vec![ids("position_ids", &[2, 1], &[0, 1])]),
            &[],
            "E_INPUT_SHAPE",
            &["position_ids", "[1, 2]", "[2, 1]"],
        ),
        (with(vec![ids("position_ids", &[1, 2], &[0, 512])]), &[], "E_CONTEXT", &["513", "512"]),
        (with(vec![ids("position_ids", &[1, 2], &[-1, 0])]), &[], "E_INPUT", &["position_ids", "-1", "511"]),
        (vec![ids("input_ids", &[1, 513], &[1; 513])], &[], "E_CONTEXT", &["513", "512", "max_position_embeddings"]),
        (with(vec![halves("vision_hidden_states", &[1, 3, 3199])]), &[], "E_INPUT_SHAPE", &["3200", "3199"]),
        (
            with(vec![halves("vision_hidden_states", &[3, 3200])]),
            &[],
            "E_INPUT_SHAPE",
            &["vision_hidden_states", "[3, 3200]"],
        ),
        (with(vec![halves("vision_hidden_states", &[2, 3, 3200])]), &[], "E_INPUT_SHAPE", &["batch 1", "2 images"]),
        (
            with(vec![halves("vision_hidden_states", &vision)]),
            &["--repeat-time", "0"],
            "E_INPUT_SHAPE",
            &["repeat_time 0"],
        ),
        (
            with(vec![halves("vision_hidden_states", &vision)]),
            &["--repeat-time", "3"],
            "E_INPUT_SHAPE",
            &["repeat_time 3"],
        ),
        (
            with(vec![with_value(halves("vision_hidden_states", &vision), 5, f32::INFINITY)]),
            &[],
            "E_NONFINITE",
            &["vision_hidden_states", "5"],
        ),
        (with(vec![ids("labels", &[1, 3], &[1; 3])]), &["--return", "loss"], "E_INPUT_SHAPE", &["labels", "[1, 2]"]),
        (with(vec![ids("labels", &[1, 2], &[-1, 1])]), &["--return", "loss"], "E_TOKEN", &["-1"]),
        (with(past(3, &[1, 4, 2, 16])), &[], "E_INPUT_SHAPE", &["past_key_values", "4 layers", "3 layers"]),
        (with(past(4, &[1, 2, 2, 16])), &[], "E_INPUT_SHAPE", &["past_key.0", "[batch, 4, rows, 16]", "[1, 2, 2, 16]"]),
        (with(past(4, &[2, 4, 2, 16])), &[], "E_INPUT_SHAPE", &["past_key_values", "batch 1", "batch 2"]),
        (with(past(4, &[1, 4, 2, 16])[..7].to_vec()), &[], "E_INPUT", &["past_value.3", "past_key.3"]),
        (with(past(4, &[1, 4, 2, 16])[2..].to_vec()), &[], "E_INPUT", &["past_key.0"]),
        (with(past(4, &[1, 4, 511, 16])), &[], "E_CONTEXT", &["513", "512"]),
        (
            with(
                [
                    vec![with_value(past(1, &[1, 4, 2, 16]).remove(0), 9, f32::NAN)],
                    past(4, &[1, 4, 2, 16])[1..].to_vec(),
                ]
                .concat(),
            ),
            &[],
            "E_NONFINITE",
            &["past_key.0", "9"],
        ),
        (with(vec![halves("additive_mask", &[1, 1, 2, 2])]), &[], "E_INPUT", &["additive_mask", "--train"]),
        (
            with(vec![halves("additive_mask", &[1, 1, 2, 3])]),
            &["--train"],
            "E_INPUT_SHAPE",
            &["additive_mask", "[1, 1, 2, 2]", "[1, 1, 2, 3]"],
        ),
        (
            with(vec![with_value(halves("additive_mask", &[1, 1, 2, 2]), 3, f32::NAN)]),
            &["--train"],
            "E_NONFINITE",
            &["additive_mask", "3"],
        ),
        (with(vec![ids("attention_mask", &[1, 2], &[1, 1])]), &["--train"], "E_INPUT", &["attention_mask"]),
        (with(past(4, &[1, 4, 2, 16])), &["--train"], "E_INPUT", &["past_key", "--train"]),
    ];
    tensors_fail("forward", &repository(BASE), cases);
}

#[test]
fn tensors_of_generate() {
    let with = |more: Vec<NamedTensor>| [vec![two()], more].concat();
    let vision = halves("vision_hidden_states", &[1, 3, 3200]);
    let cases: Vec<Case> = vec![
        (vec![], &[], "E_INPUT", &["input_ids", "inputs_embeds"]),
        (vec![vision.clone()], &[], "E_INPUT", &["input_ids", "inputs_embeds"]),
        (vec![ids("input_ids", &[1, 1], &[VOCAB])], &[], "E_TOKEN", &["320"]),
        (vec![ids("input_ids", &[0, 1], &[])], &[], "E_INPUT", &["empty"]),
        (with(vec![halves("inputs_embeds", &[1, 2, WIDTH])]), &[], "E_INPUT", &["not both"]),
        (with(vec![halves("query_embeds", &[1, 2, 63])]), &[], "E_INPUT_SHAPE", &["query_embeds", "64", "63"]),
        (
            with(vec![ids("attention_mask", &[1, 3], &[1; 3])]),
            &[],
            "E_INPUT_SHAPE",
            &["attention_mask", "[1, 2]", "[1, 3]"],
        ),
        (with(vec![ids("attention_mask", &[1, 2], &[0, -1])]), &[], "E_INPUT", &["attention_mask", "-1"]),
        (vec![two(), halves("vision_hidden_states", &[3, 3, 3200])], &[], "E_INPUT_SHAPE", &["3 images"]),
        (with(vec![]), &["--eos-token-id", "320"], "E_TOKEN", &["320"]),
        (with(vec![]), &["--max-new-tokens", "512"], "E_CONTEXT", &["513", "512"]),
        (with(vec![]), &["--repeat-time", "2"], "E_INPUT", &["--repeat-time"]),
        (with(vec![halves("pixel_values", &[1, 3, 28, 28])]), &[], "E_STATE", &["InternViT"]),
        (
            vec![with_value(halves("inputs_embeds", &[1, 2, WIDTH]), 1, f32::NEG_INFINITY)],
            &[],
            "E_NONFINITE",
            &["inputs_embeds", "1"],
        ),
    ];
    tensors_fail("generate", &repository(BASE), cases);

    let pixels = halves("pixel_values", &[1, 3, 28, 28]);
    let picture = picture();
    let of_picture = ["--image", picture.as_str()];
    let cases: Vec<Case> = vec![
        (with(vec![halves("pixel_values", &[1, 3, 28, 29])]), &[], "E_INPUT_SHAPE", &["pixel_values", "29"]),
        (with(vec![halves("pixel_values", &[3, 28, 28])]), &[], "E_INPUT_SHAPE", &["pixel_values", "[3, 28, 28]"]),
        (with(vec![halves("pixel_values", &[0, 3, 28, 28])]), &[], "E_INPUT_SHAPE", &["pixel_values"]),
        (
            with(vec![halves("pixel_values", &[2, 3, 28, 28])]),
            &[],
            "E_INPUT_SHAPE",
            &["pixel_values", "batch 1", "2 images"],
        ),
        (with(vec![with_value(pixels.clone(), 9, f32::NAN)]), &[], "E_NONFINITE", &["pixel_values", "9"]),
        (with(vec![pixels.clone(), halves("query_embeds", &[1, 2, 48])]), &[], "E_INPUT", &["query_embeds", "picture"]),
        (
            with(vec![pixels.clone(), halves("vision_hidden_states", &[1, 5, 160])]),
            &[],
            "E_INPUT",
            &["vision_hidden_states", "pixel_values"],
        ),
        (with(vec![pixels.clone()]), &of_picture, "E_INPUT", &["--image", "pixel_values"]),
    ];
    tensors_fail("generate", &repository(TINY), cases);
}

#[test]
fn tensors_of_embed() {
    let cases: Vec<Case> = vec![
        (vec![two()], &[], "E_INPUT", &["in.safetensors", "pixel_values", "text_ids"]),
        (vec![ids("text_ids", &[3], &[1, 2, 3])], &[], "E_INPUT_SHAPE", &["text_ids", "[texts, rows]", "[3]"]),
        (vec![ids("text_ids", &[1, 2], &[1, -2])], &[], "E_TOKEN", &["-2"]),
        (vec![ids("text_ids", &[0, 2], &[])], &[], "E_INPUT_SHAPE", &["text_ids"]),
        (vec![halves("text_ids", &[1, 2])], &[], "E_DTYPE", &["text_ids", "F32"]),
        (vec![ids("text_ids", &[1, 5000], &[1; 5000])], &[], "E_CONTEXT", &["5000"]),
        (vec![halves("pixel_values", &[1, 4, 28, 28])], &[], "E_INPUT_SHAPE", &["pixel_values", "[1, 4, 28, 28]"]),
        (vec![halves("pixel_values", &[1, 3, 13, 28])], &[], "E_INPUT_SHAPE", &["pixel_values", "multiples of"]),
    ];
    tensors_fail("embed", &repository(TINY), cases);
}

/// Files of tensors that cannot be read or written.
#[test]
fn files_of_tensors() {
    let temp = Temp::new();
    let (inputs, outputs, model) = (temp.file("in.safetensors"), temp.file("out.safetensors"), repository(BASE));
    let run = |outputs: &str, code: &str, words: &[&str]| {
        for command in ["forward", "generate", "embed"] {
            let args = [command, "--inputs", &inputs, "--outputs", outputs, "--model", &model, "--adapter", "cpu"];
            fails(&args, code, words);
        }
    };
    run(&outputs, "E_IO", &["in.safetensors"]);
    let whole = qllama::checkpoint::tensors_to_bytes(&[two()]).unwrap();
    for (bytes, code) in [
        (&whole[..whole.len() - 1], "E_TRUNCATED"),
        (b"no", "E_TRUNCATED"),
        (b"{\"text\": \"and no tensors\"}", "E_HEADER"),
    ] {
        std::fs::write(&inputs, bytes).unwrap();
        run(&outputs, code, &["in.safetensors"]);
    }
    std::fs::remove_file(&inputs).unwrap();
    std::fs::create_dir(&inputs).unwrap();
    run(&outputs, "E_IO", &["in.safetensors", "folder"]);
    std::fs::remove_dir(&inputs).unwrap();

    std::fs::write(&inputs, &whole).unwrap();
    run(&temp.file("nowhere/out.safetensors"), "E_IO", &["out.safetensors", "folder", "not there"]);
    run(temp.folder(), "E_IO", &["folder"]);
    assert_eq!(temp.names().len(), 1, "something was left behind: {:?}", temp.names());

    // A failure leaves an older file as it was.
    std::fs::write(&outputs, "older").unwrap();
    std::fs::write(&inputs, b"no").unwrap();
    run(&outputs, "E_TRUNCATED", &["in.safetensors"]);
    assert_eq!(std::fs::read(&outputs).unwrap(), b"older");
}

/// A disk that is full in the middle of writing: here a limit on the size of files.
#[cfg(target_os = "linux")]
#[test]
fn nothing_half_written() {
    let temp = Temp::new();
    let (inputs, outputs, model) = (temp.file("in.safetensors"), temp.file("out.safetensors"), repository(BASE));
    write_tensors(&inputs, &[ids("input_ids", &[1, 9], &[7; 9])]).unwrap();
    std::fs::write(&outputs, "older").unwrap();
    let binary = env!("CARGO_BIN_EXE_qllama");
    let shell = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let args = ["-c", shell, "sh", binary, "forward", "--inputs", &inputs, "--outputs", &outputs, "--model", &model];
    let output = std::process::Command::new("sh").args(args).args(["--adapter", "cpu"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("out.safetensors") && message.contains("[E_IO]"), "{message}");
    assert_eq!(std::fs::read(&outputs).unwrap(), b"older");
    assert_eq!(temp.names().len(), 2, "something was left behind: {:?}", temp.names());
}

/// Prompts that go beyond the model's positions, found before the weights are read: they are not even there.
#[test]
fn prompts_that_are_too_long() {
    let temp = Temp::copy_of(EMOJI);
    let weights = temp.file("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let long = "cat ".repeat(300);
    let picture = picture();
    let common = ["--model", temp.folder(), "--adapter", "cpu"];
    let commands: [&[&str]; 3] = [
        &["caption", &picture, "--prompt", &long],
        &["caption", &picture, "--max-new-tokens", "1000"],
        &["generate", "--prompt", &long],
    ];
    for command in commands {
        fails(&[command, &common].concat(), "E_CONTEXT", &["max_position_embeddings", "256"]);
    }
    // Zeros in place of the weights: what is wrong with options is found all the same.
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let zeros = [&bytes[..header], &vec![0; bytes.len() - header]].concat();
    std::fs::write(&weights, zeros).unwrap();
    let command = ["generate", "--prompt", "cat", "--max-new-tokens", "1000"];
    fails(&[&command[..], &common].concat(), "E_CONTEXT", &["max_position_embeddings", "256"]);
}

fn array(e: &Expected, rows: usize) -> Inputs {
    let ids = e.i64("loss.input_ids");
    let values = ids.values[..rows].to_vec();
    Inputs { input_ids: Some(Array::new(&[1, rows], values)), output_logits: true, ..Default::default() }
}

/// Makes inputs wrong.
type Change = fn(&mut Inputs);

/// A call that fails leaves the cache with the caller, as it was.
#[test]
fn the_cache_survives_errors() {
    let e = Expected::open("qllama-base");
    let model = load(BASE, &Device::cpu());
    let filled = || -> PastKeyValues {
        let inputs = Inputs { use_cache: true, ..array(&e, 5) };
        block_on(model.forward(inputs)).unwrap().past_key_values.unwrap()
    };
    let step = |past| Inputs { past_key_values: Some(past), ..array(&e, 3) };
    let expected = block_on(model.forward(step(filled()))).unwrap().logits.unwrap();

    let mut inputs = step(filled());
    let breaks: [(Change, &str); 5] = [
        (|i| i.input_ids.as_mut().unwrap().values[1] = -1, "E_TOKEN"),
        (|i| i.attention_mask = Some(Array::new(&[1, 3], vec![1; 3])), "E_INPUT_SHAPE"),
        (|i| i.position_ids = Some(Array::new(&[1, 3], vec![600; 3])), "E_CONTEXT"),
        (|i| i.vision_hidden_states = Some(Array::new(&[1, 1, 7], vec![0.0; 7])), "E_INPUT_SHAPE"),
        (|i| i.inputs_embeds = Some(Array::new(&[1, 1, 1], vec![f32::NAN])), "E_INPUT"),
    ];
    for (change, code) in breaks {
        change(&mut inputs);
        let error = block_on(model.forward(&mut inputs)).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(inputs.past_key_values.as_ref().map(PastKeyValues::len), Some(5), "{error}");
        let past = inputs.past_key_values.take().unwrap();
        inputs = step(past);
    }
    assert_eq!(block_on(model.forward(&mut inputs)).unwrap().logits.unwrap(), expected);
    // The call asked for no new cache, so the old one is there still.
    assert_eq!(block_on(model.forward(&mut inputs)).unwrap().logits.unwrap(), expected);

    let other = load(BASE, &Device::cpu());
    let error = block_on(other.forward(&mut inputs)).err().unwrap();
    assert!(error.to_string().contains("another model"), "{error}");
    assert!(inputs.past_key_values.is_some());
    let error = block_on(model.forward_train(&mut inputs, None)).err().unwrap();
    assert!(error.to_string().contains("past_key_values"), "{error}");
    assert_eq!(block_on(model.forward(&mut inputs)).unwrap().logits.unwrap(), expected);
}

/// What was not asked for is not computed, and what was does not change the rest by a bit.
#[test]
fn more_outputs_change_nothing() {
    let e = Expected::open("qllama-base");
    let model = load(BASE, &gpu());
    let plain = block_on(model.forward(array(&e, 9))).unwrap();
    let all = Inputs {
        output_attentions: true,
        output_cross_attentions: true,
        output_hidden_states: true,
        output_last_hidden_state: true,
        use_cache: true,
        ..array(&e, 9)
    };
    assert_eq!(plain.logits, block_on(model.forward(all)).unwrap().logits);
    assert!(plain.hidden_states.is_empty() && plain.attentions.is_empty() && plain.past_key_values.is_none());
}

/// `on_token` ends a generation within a step, and the model goes on working.
#[test]
fn cancelling() {
    for device in [Device::cpu(), gpu()] {
        let model = load(BASE, &device);
        let prompt: &[u32] = &[1, 17, 40, 5];
        for num_beams in [1, 3] {
            let options =
                GenerateOptions { num_beams, max_new_tokens: 8, eos_token_ids: Vec::new(), ..Default::default() };
            let whole = block_on(model.generate(None, &[prompt], &options, &mut |_| true)).unwrap();
            assert_eq!(whole[0][0].ids.len(), 8);
            for stop_after in [1, 3] {
                let mut calls = 0;
                let stopped = block_on(model.generate(None, &[prompt], &options, &mut |_| {
                    calls += 1;
                    calls < stop_after
                }));
                assert_eq!(stopped, Err(Error::Aborted));
                assert_eq!(calls, stop_after, "{num_beams} beams: a step more was taken");
            }
            let again = block_on(model.generate(None, &[prompt], &options, &mut |_| true)).unwrap();
            assert_eq!(whole, again);
        }
    }
}

/// Bad input to the library, and the model usable after.
#[test]
fn bad_prompts() {
    let model = load(TINY, &Device::cpu());
    let options = GenerateOptions { max_new_tokens: 2, ..Default::default() };
    let generate = |inputs: &PromptInputs| block_on(model.generate_from(inputs, &options, &mut |_| true));
    let prompt = |values: Vec<i64>| PromptInputs {
        input_ids: Some(Array::new(&[1, values.len()], values)),
        ..Default::default()
    };
    let whole = generate(&prompt(vec![1, 2])).unwrap();
    let pixels =
        |side: usize| Some(PixelValues { batch: 1, height: side, width: side, values: vec![0.0; 3 * side * side] });
    let cases = [
        (PromptInputs::default(), "E_INPUT"),
        (prompt(vec![1 << 40]), "E_TOKEN"),
        (PromptInputs { pixel_values: pixels(5), ..prompt(vec![1]) }, "E_INPUT_SHAPE"),
        (PromptInputs { pixel_values: pixels(0), ..prompt(vec![1]) }, "E_INPUT_SHAPE"),
        (PromptInputs { repeat_time: Some(usize::MAX), pixel_values: pixels(28), ..prompt(vec![1]) }, "E_INPUT_SHAPE"),
        (PromptInputs { repeat_time: Some(0), pixel_values: pixels(28), ..Default::default() }, "E_INPUT"),
    ];
    for (inputs, code) in cases {
        let error = generate(&inputs).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let none = block_on(model.generate(None, &[], &options, &mut |_| true)).unwrap_err();
    assert_eq!(none.code(), "E_INPUT_SHAPE", "{none}");
    assert_eq!(generate(&prompt(vec![1, 2])).unwrap(), whole);
}

/// Every call on a lost device says so, and the next load, on a device opened anew, works.
#[test]
fn a_lost_device() {
    let open = || {
        let first = block_on(candidates()).into_iter().next().expect("an adapter");
        Device::gpu(block_on(Gpu::open(first)).unwrap())
    };
    let run = |model: &Model| {
        let options = GenerateOptions { max_new_tokens: 2, ..Default::default() };
        block_on(model.generate(None, &[&[1, 2, 3]], &options, &mut |_| true))
    };
    let device = open();
    let model = load(BASE, &device);
    let expected = run(&model).unwrap();
    device.as_gpu().unwrap().destroy();
    assert_eq!(run(&model).unwrap_err().code(), "E_DEVICE_LOST");
    let e = Expected::open("qllama-base");
    assert_eq!(block_on(model.forward(array(&e, 4))).err().unwrap().code(), "E_DEVICE_LOST");
    let source = Box::new(qllama::source::Folder::open(path(BASE)).unwrap());
    let again = block_on(Model::load(source, &device, &mut |_| {}));
    assert_eq!(again.err().unwrap().code(), "E_DEVICE_LOST");
    drop(model);
    assert_eq!(run(&load(BASE, &open())).unwrap(), expected);

    // Lost between two tokens.
    let device = open();
    let model = load(BASE, &device);
    let options = GenerateOptions { max_new_tokens: 5, eos_token_ids: Vec::new(), ..Default::default() };
    let mut calls = 0;
    let lost = block_on(model.generate(None, &[&[1, 2, 3]], &options, &mut |_| {
        calls += 1;
        device.as_gpu().unwrap().destroy();
        true
    }));
    assert_eq!((lost.unwrap_err().code(), calls), ("E_DEVICE_LOST", 1));
}
