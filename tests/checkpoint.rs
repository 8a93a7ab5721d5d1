//! Checkpoint files: what is read from good ones, and that every bad one is an error with the right code.

use crate::common::engine::{
    Checkpoint, ElementType, Error, Folder, Memory, NamedTensor, Requirement, Result, TensorType, header_length,
    parse_header, read_tensor_file, read_tensors, tensors_to_bytes, write_tensors,
};
use crate::common::{Temp, base_config, code, fixture, open};
use pollster::block_on;
use safetensors::SafeTensors;
use serde_json::{Value, json};

const FOLDERS: [&str; 8] = [
    "internvl-tiny",
    "qllama-base",
    "qllama-outliers",
    "qllama-ragged",
    "qllama-repeat",
    "qllama-w4-g32-sym",
    "qllama-w4-g64-asym",
    "qllama-w8-channel",
];

/// A file of this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn small() -> Vec<u8> {
    tensors_to_bytes(&[NamedTensor::f32("a", &[2, 3], &[1.0; 6]), NamedTensor::i64("b", &[2], &[5, -6])]).unwrap()
}

// ---- Good files

#[test]
fn every_fixture_reads_as_the_safetensors_crate_reads_it() {
    for folder in FOLDERS {
        let checkpoint = open(Folder::open(fixture(folder)).unwrap()).unwrap();
        let bytes = std::fs::read(fixture(folder).join("model.safetensors")).unwrap();
        let oracle = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(checkpoint.tensors().len(), oracle.len(), "{folder}");
        for tensor in checkpoint.tensors() {
            let theirs = oracle.tensor(&tensor.name).unwrap();
            assert_eq!(tensor.dtype.name(), theirs.dtype().to_string());
            assert_eq!(tensor.shape, theirs.shape().iter().map(|&n| n as u64).collect::<Vec<_>>());
            assert_eq!(tensor.bytes, theirs.data().len() as u64);
            assert_eq!(checkpoint.tensor(&tensor.name), Some(tensor));
            let mut ours = vec![0; tensor.bytes as usize];
            for (at, piece) in ours.chunks_mut(1001).enumerate() {
                block_on(checkpoint.read(tensor, 1001 * at as u64, piece)).unwrap();
            }
            assert_eq!(ours, theirs.data(), "{folder} {}", tensor.name);
        }
        let expected = read_tensor_file(fixture(folder).join("expected.safetensors")).unwrap();
        let bytes = std::fs::read(fixture(folder).join("expected.safetensors")).unwrap();
        let oracle = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(expected.len(), oracle.len());
        assert!(expected.values().all(|t| t.data == oracle.tensor(&t.name).unwrap().data()));
    }
}

#[test]
fn odd_alignment_scalars_and_empty_axes_are_read() {
    let header = r#"{"c":{"dtype":"F32","shape":[0,5],"data_offsets":[1,1]},
        "a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}, "__metadata__":{"format":"pt","é":"\u0000"},
        "b":{"shape":[],"extra":[{"x":null}],"dtype":"F32","data_offsets":[1,5]}}   "#;
    let mut bytes = file(header, 1);
    bytes.extend(2.5f32.to_le_bytes());
    let tensors = read_tensors("odd.safetensors", &bytes).unwrap();
    assert_eq!(tensors["b"].to_f32().unwrap(), [2.5]);
    assert_eq!((tensors["c"].shape.clone(), tensors["c"].data.len()), (vec![0, 5], 0));
    let infos = parse_header("odd.safetensors", bytes.len() as u64, header.as_bytes()).unwrap();
    assert_eq!(infos[2].offset, 8 + header.len() as u64 + 1);
    assert!(read_tensors("empty.safetensors", &file("{}", 0)).unwrap().is_empty());
}

#[test]
fn offsets_beyond_32_bits_are_read() {
    let size = 5u64 << 30;
    let json = format!(
        r#"{{"big":{{"dtype":"BF16","shape":[{},1],"data_offsets":[0,{size}]}},
            "next":{{"dtype":"F32","shape":[1],"data_offsets":[{size},{}]}}}}"#,
        size / 2,
        size + 4
    );
    let infos = parse_header("big.safetensors", 8 + json.len() as u64 + size + 4, json.as_bytes()).unwrap();
    assert_eq!(infos[1].offset, 8 + json.len() as u64 + size);
}

#[test]
fn values_convert_from_every_type_that_inputs_may_have() {
    let tensor = |dtype, data: &[u8]| NamedTensor {
        file: "in.safetensors".into(),
        name: "x".into(),
        dtype,
        shape: vec![2],
        data: data.to_vec(),
    };
    assert_eq!(tensor(TensorType::F16, &[0, 0x3c, 0, 0xfc]).to_f32().unwrap(), [1.0, f32::NEG_INFINITY]);
    assert_eq!(tensor(TensorType::BF16, &[0x80, 0x3f, 0, 0xc0]).to_f32().unwrap(), [1.0, -2.0]);
    assert_eq!(tensor(TensorType::I32, &[255, 255, 255, 255, 1, 0, 0, 0]).to_i64().unwrap(), [-1, 1]);
    assert_eq!(tensor(TensorType::U32, &[255, 255, 255, 255, 1, 0, 0, 0]).to_i64().unwrap(), [0xffff_ffff, 1]);
    assert_eq!(tensor(TensorType::BOOL, &[1, 0]).to_i64().unwrap(), [1, 0]);
    assert_eq!(tensor(TensorType::U8, &[200, 0]).to_i64().unwrap(), [200, 0]);
    assert_eq!(code(tensor(TensorType::BOOL, &[1, 2]).to_i64()), "E_INPUT");
    assert_eq!(code(tensor(TensorType::I8, &[1, 2]).to_i64()), "E_DTYPE");
    assert_eq!(code(tensor(TensorType::I32, &[0; 8]).to_f32()), "E_DTYPE");
}

#[test]
fn what_is_written_is_read_back_and_nothing_is_left_when_writing_fails() {
    let temp = Temp::new();
    let path = temp.path().join("out.safetensors");
    let tensors = [NamedTensor::f32("x.y", &[2, 2], &[1.0, -0.0, f32::NAN, 4.0]), NamedTensor::i64("n", &[], &[-3])];
    write_tensors(&path, &tensors).unwrap();
    write_tensors(&path, &tensors).unwrap();
    let back = read_tensor_file(&path).unwrap();
    assert_eq!(back.len(), 2);
    assert!(tensors.iter().all(|t| back[&t.name].data == t.data && back[&t.name].shape == t.shape));
    assert_eq!(std::fs::read(&path).unwrap(), tensors_to_bytes(&tensors).unwrap());

    let before = std::fs::read(&path).unwrap();
    let twice = [tensors[0].clone(), tensors[0].clone()];
    assert_eq!(code(write_tensors(&path, &twice)), "E_INPUT");
    let mut unfit = tensors[1].clone();
    unfit.shape = vec![9];
    assert_eq!(code(write_tensors(&path, &[unfit])), "E_INPUT");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::create_dir(temp.path().join("folder")).unwrap();
    assert_eq!(code(write_tensors(temp.path().join("folder"), &tensors)), "E_IO");
    assert_eq!(code(write_tensors(temp.path().join("none/out.safetensors"), &tensors)), "E_IO");
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2);
}

// ---- Headers

#[test]
fn every_truncation_of_a_file_is_an_error() {
    let bytes = small();
    for length in 0..bytes.len() {
        match read_tensors("cut.safetensors", &bytes[..length]) {
            Err(Error::Truncated { need, have, .. }) => assert!(have == length as u64 && need > have),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
    assert!(read_tensors("whole.safetensors", &bytes).is_ok());
}

#[test]
fn every_changed_byte_of_a_header_agrees_with_the_safetensors_crate_or_is_refused() {
    let bytes = small();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for at in 0..header {
        for value in 0..=255 {
            let mut changed = bytes.clone();
            changed[at] = value;
            let Ok(ours) = read_tensors("changed.safetensors", &changed) else { continue };
            let theirs = SafeTensors::deserialize(&changed).expect("the crate refuses what we read");
            assert_eq!(ours.len(), theirs.len());
            assert!(ours.values().all(|t| theirs.tensor(&t.name).is_ok_and(|o| o.data() == t.data)));
        }
    }
}

#[test]
fn bad_header_lengths() {
    let read = |length: u64, rest: &[u8]| code(read_tensors("n.safetensors", &[&length.to_le_bytes(), rest].concat()));
    assert_eq!(read(0, b""), "E_HEADER");
    assert_eq!(read(1, b"{"), "E_HEADER");
    assert_eq!(read(3, b"{}"), "E_TRUNCATED");
    assert_eq!(read(100_000_000, b"{}"), "E_TRUNCATED");
    for length in [100_000_001, 1 << 32, 1 << 63, u64::MAX, u64::MAX - 7] {
        assert_eq!(read(length, b"{}"), "E_HEADER", "{length}");
    }
    assert_eq!(header_length("n.safetensors", u64::MAX, &2u64.to_le_bytes()), Ok(2));
    assert_eq!(code(read_tensors("empty.safetensors", b"")), "E_TRUNCATED");
}

/// A tensor of four bytes.
const FOUR: &str = r#""dtype":"U8","shape":[4],"data_offsets":[0,4]"#;

/// A header of one tensor with these fields.
fn entry(fields: &str) -> String {
    format!(r#"{{"a":{{{fields}}}}}"#)
}

fn shaped(shape: &str, end: &str) -> String {
    entry(&format!(r#""dtype":"U8","shape":{shape},"data_offsets":[0,{end}]"#))
}

fn named(name: &str) -> String {
    format!(r#"{{"{name}":{{{FOUR}}}}}"#)
}

/// Each header, in front of four bytes, gives its code.
fn headers_give(cases: Vec<(&str, String)>) {
    for (expected, header) in cases {
        let shown: String = header.chars().take(200).collect();
        assert_eq!(code(read_tensors("bad.safetensors", &file(&header, 4))), expected, "{shown}");
    }
}

#[test]
fn headers_of_bad_json() {
    let deep = format!(r#"{{"__metadata__":{}"#, "[".repeat(100_000));
    let ignored = format!(r#"{{"a":{{"x":{}"#, "[".repeat(100_000));
    headers_give(vec![
        ("ok", entry(FOUR)),
        // JSON
        ("E_HEADER", "  {}".into()),
        ("E_HEADER", "\u{feff}{}".into()),
        ("E_HEADER", "[]".into()),
        ("E_HEADER", "null".into()),
        ("E_HEADER", "{} x".into()),
        ("E_HEADER", "{}\0".into()),
        ("E_HEADER", "{".into()),
        ("E_HEADER", r#"{"a":1}"#.into()),
        ("E_HEADER", r#"{"a":null}"#.into()),
        ("E_HEADER", deep),
        ("E_HEADER", ignored),
        ("E_HEADER", entry("")),
        ("E_HEADER", entry(r#""dtype":"U8","shape":[4]"#)),
        ("E_HEADER", entry(r#""dtype":"U8","data_offsets":[0,4]"#)),
        ("E_HEADER", entry(r#""shape":[4],"data_offsets":[0,4]"#)),
        ("E_HEADER", entry(r#""dtype":1,"shape":[4],"data_offsets":[0,4]"#)),
        ("E_HEADER", entry(r#""dtype":"U8","shape":4,"data_offsets":[0,4]"#)),
        ("E_HEADER", entry(r#""dtype":"U8","shape":[4],"data_offsets":[0]"#)),
        ("E_HEADER", entry(r#""dtype":"U8","shape":[4],"data_offsets":[0,4,4]"#)),
        ("E_HEADER", entry(r#""dtype":"U8","shape":[4],"data_offsets":{"0":4}"#)),
        // Numbers
        ("E_HEADER", shaped("[1e3]", "4")),
        ("E_HEADER", shaped("[-1]", "4")),
        ("E_HEADER", shaped("[4.0]", "4")),
        ("E_HEADER", shaped("[18446744073709551616]", "4")),
        ("E_HEADER", shaped("[\"4\"]", "4")),
        ("E_HEADER", shaped("[4]", "4e0")),
        ("E_HEADER", shaped("[4]", "-4")),
        ("E_HEADER", shaped("[4]", "NaN")),
        // Metadata
        ("E_HEADER", r#"{"__metadata__":{"a":1}}"#.into()),
        ("E_HEADER", r#"{"__metadata__":{"a":null}}"#.into()),
        ("E_HEADER", r#"{"__metadata__":"a"}"#.into()),
        ("E_DUP_KEY", r#"{"__metadata__":{},"__metadata__":{}}"#.into()),
        ("E_DUP_KEY", r#"{"__metadata__":{"a":"b","a":"b"}}"#.into()),
    ]);
    let mut not_utf8 = file(&named("abc"), 4);
    not_utf8[11] = 0xff;
    let error = read_tensors("bad.safetensors", &not_utf8).unwrap_err();
    assert_eq!(error, Error::Header { file: "bad.safetensors".into(), offset: 11, reason: "not UTF-8".into() });
}

#[test]
fn headers_of_bad_tensors() {
    let two = |a: &str, b: &str| format!(r#"{{"a":{{"dtype":"U8",{a}}},"b":{{"dtype":"U8",{b}}}}}"#);
    let parts: Vec<_> = (0u64..9)
        .map(|i| {
            let size = (1u64 << 61) - 1;
            let (begin, end) = (i.saturating_mul(size), (i + 1).saturating_mul(size));
            format!(r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    headers_give(vec![
        // Names
        ("E_HEADER", named(r"\u0000")),
        ("E_HEADER", named(r"a\nb")),
        ("E_HEADER", named(&"n".repeat(1 << 20))),
        ("E_HEADER", named(r"\ud800")),
        ("ok", named("ключ/../x")),
        ("ok", named("")),
        ("E_DUP_KEY", format!(r#"{{"a":{{{FOUR}}},"a":{{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}}}"#)),
        ("E_DUP_KEY", entry(&format!(r#"{FOUR},"shape":[4]"#))),
        ("E_DUP_KEY", entry(&format!(r#"{FOUR},"dtype":"I8""#))),
        ("E_DUP_KEY", entry(&format!(r#"{FOUR},"data_offsets":[0,4]"#))),
        // Types
        ("E_DTYPE", entry(&FOUR.replace("U8", "Q4"))),
        ("E_DTYPE", entry(&FOUR.replace("U8", "f32"))),
        ("E_DTYPE", entry(&FOUR.replace("U8", "F4"))),
        ("E_DTYPE", entry(&FOUR.replace("U8", "F6_E2M3"))),
        ("E_DTYPE", entry(&FOUR.replace("U8", ""))),
        // Ranges
        ("E_TENSOR_RANGE", entry(r#""dtype":"U8","shape":[4],"data_offsets":[4,0]"#)),
        ("E_TENSOR_RANGE", shaped("[3]", "4")),
        ("E_TENSOR_RANGE", entry(&FOUR.replace("U8", "F32"))),
        ("E_TENSOR_RANGE", shaped("[]", "4")),
        ("E_TENSOR_RANGE", shaped("[0]", "4")),
        ("E_TENSOR_RANGE", shaped("[3]", "3")), // a trailing byte
        ("E_TENSOR_RANGE", "{}".into()),        // four of them
        ("E_TENSOR_RANGE", entry(r#""dtype":"U8","shape":[3],"data_offsets":[1,4]"#)),
        (
            "E_TENSOR_RANGE",
            entry(r#""dtype":"U8","shape":[4],"data_offsets":[18446744073709551611,18446744073709551615]"#),
        ),
        ("E_TENSOR_RANGE", two(r#""shape":[2],"data_offsets":[0,2]"#, r#""shape":[1],"data_offsets":[3,4]"#)),
        ("E_TENSOR_RANGE", two(r#""shape":[3],"data_offsets":[0,3]"#, r#""shape":[2],"data_offsets":[2,4]"#)),
        ("E_TENSOR_RANGE", two(r#""shape":[4],"data_offsets":[0,4]"#, r#""shape":[2,2],"data_offsets":[0,4]"#)),
        ("E_TENSOR_RANGE", shaped(&format!("[4{}]", ",1".repeat(999)), "4")),
        ("ok", shaped(&format!("[4{}]", ",1".repeat(63)), "4")),
        ("E_TRUNCATED", shaped("[5]", "5")),
        ("E_TRUNCATED", shaped("[4611686018427387904]", "4611686018427387904")),
        // Sizes
        ("E_OVERFLOW", shaped("[4294967296,4294967296]", "4")),
        ("E_OVERFLOW", shaped("[4294967296,4294967296,0]", "0")),
        ("E_OVERFLOW", entry(r#""dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]"#)),
        ("E_OVERFLOW", shaped("[18446744073709551615]", "18446744073709551615")),
        ("E_OVERFLOW", format!("{{{}}}", parts[..8].join(","))),
        ("E_TENSOR_RANGE", format!("{{{}}}", parts.join(","))),
    ]);
}

#[test]
fn an_error_in_json_names_its_byte() {
    let at = |header: &str| match read_tensors("bad.safetensors", &file(header, 0)) {
        Err(Error::Header { offset, .. }) => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(at("[]"), 8);
    assert_eq!(at("{\"a\": x}"), 8 + 6);
    assert_eq!(at("{\n\n  \"a\": x}"), 8 + 10);
}

#[test]
fn a_hundred_thousand_tensors_are_read() {
    let entries: Vec<_> =
        (0..100_000).map(|i| format!(r#""t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let header = format!("{{{}}}", entries.join(","));
    assert_eq!(parse_header("many.safetensors", 8 + header.len() as u64, header.as_bytes()).unwrap().len(), 100_000);
}

// ---- Folders and shards

#[test]
fn missing_and_irregular_files() {
    let temp = Temp::new();
    let open_folder = || open(Folder::open(temp.path())?);
    assert_eq!(code(Folder::open(temp.path().join("none"))), "E_IO");
    assert!(open_folder().unwrap_err().to_string().starts_with("config.json: not found in qllama-test-"));
    temp.write("config.json", base_config());
    assert_eq!(code(Folder::open(temp.path().join("config.json"))), "E_IO");
    assert_eq!(code(open_folder()), "E_IO");
    temp.write("pytorch_model.bin", "x");
    assert!(open_folder().unwrap_err().to_string().contains("save_pretrained"));

    let weights = temp.path().join("model.safetensors");
    std::fs::create_dir(&weights).unwrap();
    assert!(open_folder().unwrap_err().to_string().contains("found a folder"));
    std::fs::remove_dir(&weights).unwrap();
    for (bytes, expected) in [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS"),
        ("\n<!DOCTYPE html><html></html>", "web page"),
        ("PK\u{3}\u{4}0123456789", "zip"),
        ("GGUF0123456789", "GGUF"),
        ("", "cut short"),
        ("0123", "cut short"),
    ] {
        temp.write("model.safetensors", bytes);
        let message = open_folder().unwrap_err().to_string();
        assert!(message.starts_with("model.safetensors: ") && message.contains(expected), "{message}");
    }
    temp.write("model.safetensors", small());
    assert_eq!(open_folder().unwrap().tensors().len(), 2);
    temp.write("config.json", "<html>");
    assert_eq!(code(open_folder()), "E_IO");
    temp.write("config.json", vec![b' '; 2 << 20]);
    assert_eq!(code(open_folder()), "E_IO");
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_followed_and_pipes_refused() {
    let temp = Temp::new();
    temp.write("config.json", base_config()).write("blob", small());
    let weights = temp.path().join("model.safetensors");
    std::os::unix::fs::symlink("blob", &weights).unwrap();
    assert!(open(Folder::open(temp.path()).unwrap()).is_ok());
    std::fs::remove_file(&weights).unwrap();
    std::os::unix::fs::symlink("/dev/null", &weights).unwrap();
    let message = open(Folder::open(temp.path()).unwrap()).unwrap_err().to_string();
    assert!(message.contains("a device or pipe"), "{message}");
    std::fs::remove_file(&weights).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&weights).status().unwrap().success());
    let message = open(Folder::open(temp.path()).unwrap()).unwrap_err().to_string();
    assert!(message.contains("a device or pipe"), "{message}");
}

#[test]
fn a_file_cut_short_after_it_was_opened_is_an_error() {
    let temp = Temp::new();
    temp.write("config.json", base_config()).write("model.safetensors", small());
    let checkpoint = open(Folder::open(temp.path()).unwrap()).unwrap();
    let tensor = checkpoint.get("a").unwrap();
    let mut buf = [0; 24];
    block_on(checkpoint.read(tensor, 0, &mut buf)).unwrap();
    assert_eq!(code(block_on(checkpoint.read(tensor, 1, &mut buf))), "E_TENSOR_RANGE");
    assert_eq!(code(block_on(checkpoint.read(tensor, u64::MAX, &mut buf))), "E_TENSOR_RANGE");
    let cut = std::fs::OpenOptions::new().write(true).open(temp.path().join("model.safetensors")).unwrap();
    cut.set_len(tensor.offset + 5).unwrap();
    let error = block_on(checkpoint.read(tensor, 0, &mut buf)).unwrap_err();
    let file = "model.safetensors".into();
    assert_eq!(error, Error::Truncated { file, need: tensor.offset + 24, have: tensor.offset + 5 });
}

fn sharded(index: &str) -> Result<Checkpoint> {
    let one = tensors_to_bytes(&[NamedTensor::f32("a", &[2], &[1.0, 2.0])]).unwrap();
    let two = [NamedTensor::f32("b", &[2], &[3.0, 4.0]), NamedTensor::i64("c", &[1], &[5])];
    let source = Memory::new("test")
        .with("config.json", base_config())
        .with("one.safetensors", one.clone())
        .with("copy.safetensors", one)
        .with("two.safetensors", tensors_to_bytes(&two).unwrap())
        .with("model.safetensors.index.json", index.as_bytes().to_vec());
    open(source)
}

#[test]
fn shards_are_read_by_the_index() {
    let checkpoint = sharded(
        r#"{"metadata":{"total_size":24},"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"}}"#,
    )
    .unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    let tensor = checkpoint.get("b").unwrap();
    assert_eq!(checkpoint.file_name(tensor), "two.safetensors");
    let mut buf = [0; 4];
    block_on(checkpoint.read(tensor, 4, &mut buf)).unwrap();
    assert_eq!(f32::from_le_bytes(buf), 4.0);
    assert_eq!(checkpoint.unused(|name| name == "a"), ["b", "c"]);
    assert_eq!(block_on(checkpoint.read_small("tokenizer.model", 100)), Ok(None));
    assert_eq!(code(block_on(checkpoint.read_small("one.safetensors", 10))), "E_IO");
    assert_eq!(code(block_on(checkpoint.read_small("../one", 10))), "E_PATH");
}

#[test]
fn bad_indexes() {
    let shard = |name: &str| format!(r#"{{"weight_map":{{"a":{name}}}}}"#);
    for name in [
        "../x",
        "/etc/passwd",
        r"C:\\x",
        r"\\\\host\\x",
        "%2e%2e",
        "https://host/x",
        r"a\u0000b",
        "",
        ".",
        "..",
        "a b",
        "x/y",
        "é",
        r"\n",
        "a:b",
    ] {
        assert_eq!(code(sharded(&shard(&format!("\"{name}\"")))), "E_PATH", "{name}");
    }
    assert_eq!(code(sharded(&shard(&format!("\"{}\"", "n".repeat(300))))), "E_PATH");
    assert_eq!(code(sharded(&shard("\"none.safetensors\""))), "E_MISSING_SHARD");
    for (index, expected) in [
        ("", "E_HEADER"),
        ("{", "E_HEADER"),
        ("[]", "E_CONFIG"),
        ("{}", "E_CONFIG"),
        (r#"{"weight_map":[]}"#, "E_CONFIG"),
        (r#"{"weight_map":{}}"#, "E_CONFIG"),
        (r#"{"weight_map":{"a":1}}"#, "E_CONFIG"),
        (r#"{"weight_map":{"a":null}}"#, "E_CONFIG"),
        (r#"{"weight_map":{"a":"one.safetensors"},"weight_map":{"a":"one.safetensors"}}"#, "E_DUP_KEY"),
        (r#"{"weight_map":{"a":"one.safetensors","a":"copy.safetensors"}}"#, "E_DUP_KEY"),
        // In the wrong shard, in none, in two.
        (r#"{"weight_map":{"a":"two.safetensors","b":"one.safetensors"}}"#, "E_TENSOR_RANGE"),
        (r#"{"weight_map":{"a":"one.safetensors","x":"one.safetensors"}}"#, "E_TENSOR_RANGE"),
        (r#"{"weight_map":{"a":"one.safetensors","x":"copy.safetensors"}}"#, "E_DUP_KEY"),
        (r#"{"weight_map":{"a":"config.json"}}"#, "E_HEADER"),
    ] {
        assert_eq!(code(sharded(index)), expected, "{index}");
    }
    let deep = format!(r#"{{"weight_map":{}"#, "[".repeat(100_000));
    assert_eq!(code(sharded(&deep)), "E_HEADER");
}

#[test]
fn requirements_are_checked_all_at_once() {
    let checkpoint = open(Folder::open(fixture("qllama-base")).unwrap()).unwrap();
    let need = |name: &str, shape: &[u64], types: &[TensorType]| Requirement {
        name: name.into(),
        shape: shape.to_vec(),
        types: types.iter().map(|t| ElementType::Number(*t)).collect(),
    };
    let good = need("model.norm.weight", &[64], &TensorType::FLOATS);
    assert_eq!(checkpoint.require(std::slice::from_ref(&good)), Ok(()));
    let missing: Vec<_> = (0..30).map(|i| need(&format!("m{i}"), &[1], &TensorType::FLOATS)).collect();
    let Err(Error::MissingTensor { names, total }) = checkpoint.require(&missing) else { panic!() };
    assert_eq!((names.split(", ").count(), total), (21, 30));
    assert!(names.starts_with("m0, m1, ") && names.ends_with("m19, …"));
    assert_eq!(code(checkpoint.require(&[good, need("model.norm.weight", &[1, 64], &TensorType::FLOATS)])), "E_SHAPE");
    assert_eq!(code(checkpoint.require(&[need("model.norm.weight", &[64], &[TensorType::I32])])), "E_DTYPE");
    assert_eq!(code(checkpoint.get("nothing")), "E_MISSING_TENSOR");
}

#[test]
fn tensor_names_tell_a_lone_qllama_from_a_llama() {
    let mut config: Value = serde_json::from_slice(&base_config()).unwrap();
    for key in ["cross_attention_frequency", "num_query_token", "vision_hidden_size"] {
        config.as_object_mut().unwrap().remove(key);
    }
    config["rope_theta"] = json!(500000.0);
    let read = |name: &str, config: &Value| {
        let weights = tensors_to_bytes(&[NamedTensor::f32(name, &[1], &[0.0])]).unwrap();
        let config = serde_json::to_vec(config).unwrap();
        open(Memory::new("test").with("config.json", config).with("model.safetensors", weights)).map(|c| c.config.text)
    };
    let llama = read("model.norm.weight", &config).unwrap();
    assert_eq!((llama.cross_attention, llama.rope_theta), (false, 500000.0));
    assert!(!llama.cross_attends(0));
    let qllama = read("model.layers.0.cross_attn.q_proj.weight", &config).unwrap();
    assert_eq!((qllama.cross_attention, qllama.rope_theta, qllama.num_query_token), (true, 10000.0, 96));
    config["head_dim"] = json!(8);
    assert!(read("model.norm.weight", &config).is_ok());
    assert_eq!(code(read("model.layers.0.cross_attn.q_proj.weight", &config)), "E_CONFIG");
}
