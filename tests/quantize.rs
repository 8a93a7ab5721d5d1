//! `qllama quantize`: what it writes, what it refuses, and what the quantized demo model says.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::engine::{
    Checkpoint, CheckpointWriter, Device, Error, Event, Folder, Footprint, Format, Loader, LocalFuture, Memory,
    NamedTensor, NewTensor, QuantizeOptions, Result, Source, StoredRows, Summary, TensorType, quantize,
    read_tensor_file, tensors_to_bytes,
};
use crate::common::{EMOJI, Temp, load, nmse, path, skipped};
use pollster::block_on;

fn run(source: impl Source + 'static, folder: &Path, options: &QuantizeOptions) -> Result<Summary> {
    block_on(quantize(Box::new(source), folder, options, &mut |_| {}))
}

fn tiny(folder: &Path, options: &QuantizeOptions) -> Summary {
    run(Folder::open(path(EMOJI)).unwrap(), folder, options).unwrap()
}

/// A packed matrix as f32, by the layout's own definition.
fn unpacked(tensors: &std::collections::BTreeMap<String, NamedTensor>, module: &str, bits: usize) -> Vec<f32> {
    let get = |end: &str| tensors.get(&format!("{module}.weight_{end}"));
    let shape = get("shape").unwrap().to_i64().unwrap();
    let (rows, cols) = (shape[0] as usize, shape[1] as usize);
    let words = |t: &NamedTensor| -> Vec<u32> { bytemuck::pod_collect_to_vec(&t.data) };
    let (packed, scales) = (words(get("packed").unwrap()), get("scale").unwrap().to_f32().unwrap());
    let zeros = get("zero_point").map(words);
    let (groups, per_word) = (scales.len() / rows, 32 / bits);
    let field = |word: u32, i: usize| ((word >> (bits * (i % per_word))) & ((1 << bits) - 1)) as f32;
    let row_words = packed.len() / rows;
    let mut out = Vec::with_capacity(rows * cols);
    for r in 0..rows {
        for c in 0..cols {
            let g = c / (cols / groups);
            let zero = match &zeros {
                Some(zeros) => field(zeros[r / per_word * groups + g], r),
                None => (1 << (bits - 1)) as f32,
            };
            out.push(scales[r * groups + g] * (field(packed[r * row_words + c / per_word], c) - zero));
        }
    }
    out
}

#[test]
fn the_demo_model_at_4_bits() {
    let temp = Temp::new();
    let folder = temp.path().join("out");
    let summary = tiny(&folder, &QuantizeOptions::default());
    assert!(summary.kept.is_empty());
    assert!(summary.packed.iter().any(|p| p.name == "qllama.lm_head"));
    let size = std::fs::metadata(folder.join("model.safetensors")).unwrap().len();
    println!("model.safetensors: {size} bytes; relative squared error {:.3e}", summary.relative_error());
    assert!(size <= 3_200_000, "{size}");
    assert!(summary.relative_error() <= 7.6e-3, "{}", summary.relative_error());
    for name in ["tokenizer.model", "tokenizer_config.json", "preprocessor_config.json"] {
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), std::fs::read(path(EMOJI).join(name)).unwrap(), "{name}");
    }
    assert!(!temp.path().join("out.part").exists() && !folder.join("quantize.journal").exists());

    // What is reported is what the file holds, and what is not packed is as it was.
    let tensors = read_tensor_file(folder.join("model.safetensors")).unwrap();
    let source = read_tensor_file(path(EMOJI).join("model.safetensors")).unwrap();
    let mut count = 0;
    for p in &summary.packed {
        let expected = source[&format!("{}.weight", p.name)].to_f32().unwrap();
        let found = unpacked(&tensors, &p.name, 4);
        let relative = nmse(&expected, &found);
        assert!((relative - p.relative_error()).abs() <= 1e-6 * relative, "{}", p.name);
        count += 3;
    }
    for (name, tensor) in &source {
        if let Some(same) = tensors.get(name) {
            assert_eq!((same.dtype, &same.shape, &same.data), (tensor.dtype, &tensor.shape, &tensor.data), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, tensors.len());

    // The demo model is what this command makes today; tests/emoji.rs has what it says.
    for name in ["model.safetensors", "config.json", "tokenizer.model", "preprocessor_config.json"] {
        let [made, kept] =
            [folder.join(name), path("models/emoji-tiny-w4").join(name)].map(|p| std::fs::read(p).unwrap());
        assert!(made == kept, "models/emoji-tiny-w4/{name} is not what `qllama quantize models/emoji-tiny` writes");
    }
}

/// The loader reads the same numbers, for each kind of packing.
#[test]
fn the_loader_reads_what_was_written() {
    let temp = Temp::new();
    for (bits, group_size, symmetric) in
        [(4, Some(32), true), (4, Some(32), false), (8, Some(32), false), (4, None, false), (8, None, true)]
    {
        let what = format!("{bits} bits, {group_size:?}, symmetric {symmetric}");
        let folder = temp.path().join(what.replace([' ', ',', '(', ')'], ""));
        let options = QuantizeOptions { bits, group_size, symmetric, ignore: Vec::new() };
        let summary = tiny(&folder, &options);
        println!("{what}: {:.3e}", summary.relative_error());
        let tensors = read_tensor_file(folder.join("model.safetensors")).unwrap();
        let checkpoint = block_on(Checkpoint::open(Box::new(Folder::open(&folder).unwrap()))).unwrap();
        let device = Device::cpu();
        let mut pool = device.pool();
        let quantization = checkpoint.config.quantization.clone();
        let mut on_bytes = |_| {};
        let mut loader = Loader::load(&checkpoint, quantization.as_ref(), &mut pool, &mut on_bytes);
        for p in &summary.packed {
            let (rows, cols) = (p.rows as usize, p.cols as usize);
            let matrix = block_on(loader.linear(&[(&p.name, rows)], cols)).unwrap();
            let [part] = &matrix.parts[..] else { panic!("several parts") };
            assert_eq!(part.format, Format::Int { bits, group: group_size.unwrap_or(cols) });
            let words = block_on(device.read_u32(part.words)).unwrap();
            let scales = block_on(device.read_u32(part.scales.unwrap())).unwrap();
            let offsets = part.offsets.map(|o| block_on(device.read_f32(o)).unwrap());
            let stored = StoredRows {
                cols,
                format: part.format,
                words: &words,
                scales: Some((&scales[..], part.scales.unwrap().dtype)),
                offsets: offsets.as_deref(),
            };
            let mut found = vec![0.0; rows * cols];
            found.chunks_mut(cols).enumerate().for_each(|(r, out)| stored.unpack(r, out));
            // `scale * q + offset` may round where `scale * (q - zero)` does not.
            let error = nmse(&unpacked(&tensors, &p.name, bits as usize), &found);
            assert!(error < 1e-12, "{what} {}: {error}", p.name);
        }
    }
}

#[test]
fn every_tensor_of_a_packed_checkpoint_is_used() {
    for folder in ["models/emoji-tiny", "models/emoji-tiny-w4"] {
        let source = Box::new(Folder::open(path(folder)).unwrap());
        let checkpoint = block_on(Checkpoint::open(source)).unwrap();
        let footprint = block_on(Footprint::of(&checkpoint, &checkpoint.config, &Device::cpu().info())).unwrap();
        let unused = checkpoint.unused(|name| footprint.tensors.iter().any(|t| t == name));
        assert!(unused.is_empty(), "{folder}: {unused:?}");
    }
}

#[test]
fn what_groups_do_not_divide_stays_and_is_said() {
    let temp = Temp::new();
    let folder = temp.path().join("out");
    let ignore = vec!["re:vision_model".into(), "itm_head".into()];
    let options = QuantizeOptions { group_size: Some(128), ignore, ..Default::default() };
    let summary = tiny(&folder, &options);
    let reason = |name: &str| summary.kept.iter().find(|k| k.name == name).map(|k| k.reason.as_str());
    assert_eq!(reason("qllama.lm_head"), Some("groups of 128 do not divide its 192 columns"));
    assert_eq!(reason("qllama.model.layers.0.mlp.down_proj"), None);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let ignored = config["quantization_config"]["ignore"].as_array().unwrap();
    for name in ["re:vision_model", "itm_head", "qllama.lm_head", "clip_projector.cross_attn.q"] {
        assert!(ignored.contains(&name.into()), "{name}");
    }
    load(folder.to_str().unwrap(), &Device::cpu());
}

/// A source that fails at one of its reads.
struct Flaky(Memory, Cell<usize>);

impl Source for Flaky {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>> {
        self.0.size(name)
    }
    fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>> {
        self.1.set(self.1.get().saturating_sub(1));
        if self.1.get() == 0 {
            return Box::pin(std::future::ready(Err(Error::Io { file: name.into(), reason: "no".into() })));
        }
        self.0.read(name, offset, buf)
    }
}

#[test]
fn an_interrupted_run_goes_on() {
    let temp = Temp::new();
    let bytes = |name: &str| std::fs::read(path(EMOJI).join(name)).unwrap();
    let files = ["config.json", "model.safetensors"];
    let memory = files.iter().fold(Memory::new("tiny"), |m, name| m.with(*name, bytes(name)));
    let whole = temp.path().join("whole");
    let options = QuantizeOptions::default();
    let summary = run(memory.clone(), &whole, &options).unwrap();

    let folder = temp.path().join("out");
    let tensors = read_tensor_file(path(EMOJI).join("model.safetensors")).unwrap().len();
    let error = run(Flaky(memory.clone(), Cell::new(100)), &folder, &options).unwrap_err();
    assert_eq!(error.code(), "E_IO");
    assert!(!folder.exists() && temp.path().join("out.part").exists());
    let mut resumed = 0;
    let again = block_on(quantize(Box::new(memory.clone()), &folder, &options, &mut |event| {
        if let Event::Resumed { tensors } = event {
            resumed = tensors;
        }
    }));
    assert!(resumed > 50 && resumed < tensors, "{resumed} of {tensors}");
    assert!(again.unwrap().packed == summary.packed);
    let same = |name: &str| std::fs::read(folder.join(name)).unwrap() == std::fs::read(whole.join(name)).unwrap();
    assert!(same("model.safetensors") && same("config.json"));

    // Other options begin anew.
    let folder = temp.path().join("other");
    run(Flaky(memory.clone(), Cell::new(100)), &folder, &options).unwrap_err();
    let eight = QuantizeOptions { bits: 8, ..options };
    let other = run(memory.clone(), &folder, &eight).unwrap();
    assert!(other.relative_error() < 1e-4);
    // A result that is there is left alone.
    assert_eq!(run(memory, &folder, &eight).unwrap_err().code(), "E_STATE");
}

/// A byte that changes far behind a tensor's start, in what an interrupted run has packed, begins all anew.
#[test]
fn a_source_that_changed_is_done_anew() {
    let temp = Temp::new();
    let bytes = |name: &str| std::fs::read(path(EMOJI).join(name)).unwrap();
    let memory = |weights: Vec<u8>| {
        Memory::new("tiny").with("config.json", bytes("config.json")).with("model.safetensors", weights)
    };
    let weights = bytes("model.safetensors");
    let options = QuantizeOptions::default();
    let folder = temp.path().join("out");
    run(Flaky(memory(weights.clone()), Cell::new(100)), &folder, &options).unwrap_err();
    // The last byte of the first tensor that has more than 512 of them; of a float, its sign.
    let checkpoint = block_on(Checkpoint::open(Box::new(memory(weights.clone())))).unwrap();
    let first = checkpoint.tensors().iter().filter(|t| t.bytes > 512).min_by_key(|t| t.offset).unwrap();
    let mut other = weights;
    other[(first.offset + first.bytes - 1) as usize] ^= 0x80;
    let mut events = Vec::new();
    block_on(quantize(Box::new(memory(other.clone())), &folder, &options, &mut |event| match event {
        Event::Resumed { .. } => events.push("resumed"),
        Event::Anew => events.push("anew"),
        _ => {}
    }))
    .unwrap();
    assert_eq!(events, ["anew"]);
    let fresh = temp.path().join("fresh");
    run(memory(other), &fresh, &options).unwrap();
    let weights = |folder: &std::path::Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&folder) == weights(&fresh));
}

/// A source whose files have another time whenever that is asked for.
struct Restless(Memory, Cell<u64>);

impl Source for Restless {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>> {
        self.0.size(name)
    }
    fn changed(&self, _name: &str) -> Option<SystemTime> {
        self.1.set(self.1.get() + 1);
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(self.1.get()))
    }
    fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>> {
        self.0.read(name, offset, buf)
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_an_error() {
    let temp = Temp::new();
    let bytes = |name: &str| std::fs::read(path(EMOJI).join(name)).unwrap();
    let files = ["config.json", "model.safetensors"];
    let memory = files.iter().fold(Memory::new("tiny"), |m, name| m.with(*name, bytes(name)));
    let folder = temp.path().join("out");
    let error = run(Restless(memory.clone(), Cell::new(0)), &folder, &QuantizeOptions::default()).unwrap_err();
    assert!(error.code() == "E_STATE" && error.to_string().contains("changed while it was read"), "{error}");
    assert!(!folder.exists());
    run(memory, &folder, &QuantizeOptions::default()).unwrap();
}

#[test]
fn what_is_refused() {
    let temp = Temp::new();
    let folder = temp.path().join("out");
    let code = |folder_of: &str, options: QuantizeOptions| {
        let source = Folder::open(path(folder_of)).unwrap();
        let error = run(source, &folder, &options).unwrap_err();
        assert!(!folder.exists());
        println!("{error}");
        error.code()
    };
    let good = QuantizeOptions::default;
    assert_eq!(code(EMOJI, QuantizeOptions { bits: 3, ..good() }), "E_INPUT");
    assert_eq!(code(EMOJI, QuantizeOptions { group_size: Some(0), ..good() }), "E_INPUT");
    assert_eq!(code(EMOJI, QuantizeOptions { group_size: Some(1 << 20), ..good() }), "E_INPUT");
    assert_eq!(code(EMOJI, QuantizeOptions { ignore: vec!["lm_heat".into()], ..good() }), "E_INPUT");
    assert_eq!(code(EMOJI, QuantizeOptions { ignore: vec!["re:(".into()], ..good() }), "E_INPUT");
    assert_eq!(code("tests/data/fixtures/qllama-w8-channel", good()), "E_INPUT");

    let config = std::fs::read(path("tests/data/fixtures/qllama-base/config.json")).unwrap();
    let bad = NamedTensor::f32("lm_head.weight", &[2, 32], &[[1.0; 63].as_slice(), &[f32::NAN]].concat());
    let memory =
        Memory::new("bad").with("config.json", config).with("model.safetensors", tensors_to_bytes(&[bad]).unwrap());
    let error = run(memory, &folder, &good()).unwrap_err();
    assert_eq!(error, Error::NonFinite { what: "lm_head.weight".into(), index: 63 });
}

/// Long weights go to several files, which an index lists.
#[test]
fn several_files() {
    let temp = Temp::new();
    let tensor = |name: &str, dtype, shape: &[u64]| NewTensor { name: name.into(), dtype, shape: shape.to_vec() };
    let groups: Vec<Vec<NewTensor>> = (0..5)
        .map(|i| {
            vec![
                tensor(&format!("{i}.half"), TensorType::BF16, &[3]),
                tensor(&format!("{i}.long"), TensorType::I64, &[2]),
            ]
        })
        .collect();
    let mut writer = CheckpointWriter::open(temp.path(), &groups, 50).unwrap();
    assert_eq!(writer.file_names().count(), 3);
    for i in 0..5u8 {
        writer.write(&format!("{i}.half"), 2, &[i, i]).unwrap();
        writer.write(&format!("{i}.long"), 0, &[i; 16]).unwrap();
    }
    writer.finish(temp.path()).unwrap();
    let config = std::fs::read(path("tests/data/fixtures/qllama-base/config.json")).unwrap();
    std::fs::write(temp.path().join("config.json"), config).unwrap();
    let checkpoint = block_on(Checkpoint::open(Box::new(Folder::open(temp.path()).unwrap()))).unwrap();
    assert_eq!(checkpoint.tensors().len(), 10);
    for i in 0..5u8 {
        let mut bytes = [9; 6];
        let half = checkpoint.get(&format!("{i}.half")).unwrap();
        block_on(checkpoint.read(half, 0, &mut bytes)).unwrap();
        assert_eq!(bytes, [0, 0, i, i, 0, 0]);
        let long = checkpoint.get(&format!("{i}.long")).unwrap();
        assert_eq!(long.offset % 8, 0);
    }
    let twice = [groups[0].clone(), groups[0].clone()];
    assert_eq!(CheckpointWriter::open(temp.path(), &twice, 1000).err().unwrap().code(), "E_DUP_KEY");
    let long = [vec![tensor("a", TensorType::F32, &[1 << 60, 4])]];
    assert_eq!(CheckpointWriter::open(temp.path(), &long, 1000).err().unwrap().code(), "E_OVERFLOW");
}

/// The Python package that the layout comes from unpacks the same numbers.
#[test]
fn the_python_package_agrees() {
    let works = |python: &str| {
        let script = "import torch, safetensors, compressed_tensors.compressors.pack_quantized.helpers";
        std::process::Command::new(python).args(["-c", script]).output().is_ok_and(|out| out.status.success())
    };
    let python = std::env::var("QLLAMA_PYTHON").unwrap_or("python3".into());
    if !works(&python) {
        let why = format!("{python} (or QLLAMA_PYTHON) has no compressed-tensors with torch and safetensors");
        return skipped("compressed-tensors", &why);
    }
    let temp = Temp::new();
    for (bits, group_size, symmetric) in
        [(4, Some(32), true), (4, Some(32), false), (8, None, true), (8, Some(32), false)]
    {
        let folder = temp.path().join(format!("{bits}{symmetric}{}", group_size.unwrap_or(0)));
        let summary = tiny(&folder, &QuantizeOptions { bits, group_size, symmetric, ignore: Vec::new() });
        let weights = folder.join("model.safetensors");
        let out = std::process::Command::new(&python)
            .args([path("tests/data/unpack.py").as_os_str(), weights.as_os_str(), bits.to_string().as_ref()])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let theirs = read_tensor_file(folder.join("unpacked.safetensors")).unwrap();
        let ours = read_tensor_file(&weights).unwrap();
        for p in &summary.packed {
            let expected = theirs[&p.name].to_f32().unwrap();
            assert_eq!(expected, unpacked(&ours, &p.name, bits as usize), "{}", p.name);
        }
        println!("{bits} bits, group {group_size:?}, symmetric {symmetric}: {} equal", summary.packed.len());
    }
}
