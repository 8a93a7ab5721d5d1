//! Everything that can be wrong with files, options and adapters: one line that says what was expected and what was
//! found, exit status 1, nothing left behind.

use crate::common::engine::{NamedTensor, TensorType, candidates, read_tensor_file, tensors_to_bytes, write_tensors};
use crate::common::{BASE, EMOJI, Temp, fails, picture, printed, program, repository};
use pollster::block_on;

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
        let commands: [&[&str]; 3] = [
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
        fails(&["caption", &temp.file(name), "--adapter", "cpu"], code, &[name]);
    }
    check(&temp.file("nowhere.png"), "nowhere.png", "E_IO");
    fails(&["caption", &temp.file("nowhere.png"), "--adapter", "cpu"], "E_IO", &["nowhere.png"]);
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
    let cases: [(&[&str], &str); 18] = [
        (&["--num-beams", "3", "--do-sample"], "not supported"),
        (&["--num-beams", "0"], "--num-beams"),
        (&["--num-beams", "17"], "from 1 to 16"),
        (&["--max-new-tokens", "0"], "--max-new-tokens"),
        (&["--min-new-tokens", "33"], "--min-new-tokens"),
        (&["--num-return-sequences", "2"], "from 1 to 1, found 2"),
        (&["--num-return-sequences", "0"], "--num-return-sequences"),
        (&["--num-beams", "2", "--num-return-sequences", "3"], "from 1 to 2, found 3"),
        (&["--do-sample", "--num-return-sequences", "257"], "256"),
        (&["--repetition-penalty", "0"], "--repetition-penalty"),
        (&["--repetition-penalty", "nan"], "--repetition-penalty"),
        (&["--length-penalty", "inf"], "--length-penalty"),
        (&["--do-sample", "--temperature", "0"], "--temperature"),
        (&["--do-sample", "--top-p", "1.5"], "--top-p"),
        (&["--top-k", "5"], "--do-sample"),
        (&["--num-beams", "-1"], "--num-beams: expected a whole number"),
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
    fails(&["caption", "a.png", "--model", &nowhere, "--num-beams", "17"], "E_INPUT", &["--num-beams"]);
    fails(&["embed", "--outputs", &outputs], "E_INPUT", &["--image", "--text", "--inputs"]);
    fails(&[], "E_INPUT", &["subcommand"]);
    // What the argument parser says has more lines.
    let usage: [&[&str]; 3] = [
        &["generate"],
        &["generate", "--prompt", "a", "--inputs", &inputs],
        &["forward", "--inputs", &inputs, "--outputs", &outputs, "--return", "everything"],
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
    let whole = tensors_to_bytes(&[NamedTensor::i64("input_ids", &[1, 2], &[1, 5])]).unwrap();
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
    write_tensors(&inputs, &[NamedTensor::i64("input_ids", &[1, 9], &[7; 9])]).unwrap();
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

/// Files that are no pictures are refused by how they begin or by their size, before they are read.
#[cfg(target_os = "linux")]
#[test]
fn hostile_pictures() {
    let temp = Temp::new();
    let caption = |file: &str, code: &str, words: &[&str]| fails(&["caption", "--adapter", "cpu", file], code, words);
    caption("/dev/zero", "E_IMAGE", &["zero", "expected a PNG, JPEG or WebP picture, found something else"]);
    caption("/dev/null", "E_IMAGE", &["null", "an empty file"]);
    caption(&temp.file(""), "E_INPUT", &["no pictures were found"]);
    caption(&temp.file("none.png"), "E_IO", &["none.png", "No such file"]);
    // Six gigabytes that are a hole, with and without a signature.
    let jpeg = b"\xFF\xD8\xFF\xE0";
    for (signature, code, words) in [(&b""[..], "E_IMAGE", "something else"), (jpeg, "E_IO", "at most 536870912 bytes")]
    {
        let path = temp.file("sparse");
        std::fs::write(&path, signature).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(6 << 30).unwrap();
        caption(&path, code, &["sparse", words]);
    }
    // A decoder that panics.
    caption(&repository("tests/data/images/broken-animated.webp"), "E_IMAGE", &["broken-animated.webp", "whole WebP"]);
    // A picture comes through a pipe as well.
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "cat \"$1\" | \"$2\" caption --adapter cpu /dev/stdin",
            "sh",
            &picture(),
            env!("CARGO_BIN_EXE_qllama"),
        ])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        printed(&["caption", "--adapter", "cpu", &picture()]),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Too little memory for a large picture; where that ends the program it has no exit status.
    let large = repository("tests/data/images/large.png");
    let limited = |kilobytes: &str| {
        let script = "ulimit -v \"$3\" && exec \"$2\" caption --adapter cpu \"$1\"";
        let arguments = ["-c", script, "sh", &large, env!("CARGO_BIN_EXE_qllama"), kilobytes];
        std::process::Command::new("sh").args(arguments).output().unwrap()
    };
    assert!(limited("unlimited").status.success());
    let output = limited("400000");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && message.contains("[E_OOM]") && message.contains("large.png"),
        "{message}"
    );
}

/// Names and texts do not steer terminals; numbers that no model could take are told of as they were given.
#[test]
fn names_and_numbers() {
    let temp = Temp::new();
    let file = temp.file("a\u{1b}[31m\u{9b}2J.png");
    std::fs::copy(picture(), &file).unwrap();
    let table = printed(&["match", "--adapter", "cpu", "--image", &file, "--text", "cat"]);
    assert!(table.contains("a\\u001b[31m\\u009b2J.png") && !table.contains('\u{1b}'), "{table:?}");
    fails(&["caption", "--adapter", "cpu", &temp.file("b\u{1b}.png")], "E_IO", &["b\\u{1b}.png"]);
    let listed = printed(&["caption", "--dry-run", temp.folder()]);
    assert!(listed.ends_with("a\\u001b[31m\\u009b2J.png\n") && !listed.contains('\u{1b}'), "{listed:?}");
    let generate = |n: &str, code: &str, words: &str| {
        fails(&["generate", "--adapter", "cpu", "--prompt", "a", "--max-new-tokens", n], code, &[words]);
    };
    generate("18446744073709551615", "E_INPUT", "at most 2147483647, found 18446744073709551615");
    generate("2147483647", "E_CONTEXT", "2147483648 positions");
    for option in ["--rounds", "--tokens", "--prompt-tokens"] {
        let output = program(&["bench", "--adapter", "cpu", option, "0"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{option}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(option));
    }
}
