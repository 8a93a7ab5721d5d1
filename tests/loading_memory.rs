//! Host memory while a checkpoint is loaded, apart from the device's buffers: a fixed amount, whatever the file's size.
//!
//! `QLLAMA_SYNTHETIC_MIB=1200 cargo test --release --test heap loading_memory -- --nocapture` measures a larger file.

use crate::common::engine::{Check, CheckpointWriter, Device, Model, NewTensor, TensorType};
use crate::common::heap::{alone, growth};
use crate::common::{Temp, gpu};

/// What loading may take besides the header and the device's buffers.
const LIMIT: u64 = 64 << 20;
const HIDDEN: u64 = 1024;
const INNER: u64 = 4096;
/// Makes matrices of 80 MiB, which alone are above the limit.
const VOCAB: u64 = 40960;

/// A LLaMA of zeros in f16 of at least so many bytes: the files are holes, so they take no room on a disk.
fn write_synthetic(temp: &Temp, bytes: u64) {
    let tensor = |name: String, shape: &[u64]| NewTensor { name, dtype: TensorType::F16, shape: shape.to_vec() };
    let mut tensors = vec![
        tensor("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN]),
        tensor("lm_head.weight".into(), &[VOCAB, HIDDEN]),
        tensor("model.norm.weight".into(), &[HIDDEN]),
    ];
    let mut layers = 0;
    while tensors.iter().map(|t| t.bytes().unwrap()).sum::<u64>() < bytes {
        let mut add = |name: &str, shape: &[u64]| {
            tensors.push(tensor(format!("model.layers.{layers}.{name}.weight"), shape));
        };
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[HIDDEN, HIDDEN]);
        }
        add("mlp.gate_proj", &[INNER, HIDDEN]);
        add("mlp.up_proj", &[INNER, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, INNER]);
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        layers += 1;
    }
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "hidden_size": HIDDEN, "intermediate_size": INNER, "vocab_size": VOCAB, "num_hidden_layers": layers,
        "num_attention_heads": 16, "max_position_embeddings": 64,
    });
    std::fs::write(temp.file("config.json"), config.to_string()).unwrap();
    let folder = std::path::Path::new(temp.folder());
    CheckpointWriter::open(folder, &[tensors], u64::MAX).unwrap().finish(folder).unwrap();
}

/// Resident bytes of this process by a field of Linux's status file.
fn resident(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// Loads the checkpoint and says what that took at most: (on the heap, resident).
fn check(what: &str, temp: &Temp, device: &Device) {
    let before = resident("VmRSS");
    // Without the check of the adapter, which is made once: a software adapter keeps the shaders that it compiled, 80 MB.
    let load = || Model::builder(temp.folder()).device(device).check(Check::Off).load().unwrap();
    let (model, mut heap) = growth(load);
    let held = device.memory().0;
    if device.as_gpu().is_none() {
        // The CPU executor's buffers are on this heap.
        heap = heap.saturating_sub(held);
    }
    println!("{what}: {} MiB of buffers; {:.1} MiB of heap besides", held >> 20, heap as f64 / 1048576.0);
    assert!(heap <= LIMIT, "{what}: {heap} bytes of heap besides the buffers");
    // A software adapter's buffers are memory of this process, which the peak counts since its start.
    if let (true, Some(before), Some(peak)) = (device.info().software, before, resident("VmHWM")) {
        let besides = peak.saturating_sub(before + held);
        println!("{what}: {:.1} MiB resident besides", besides as f64 / 1048576.0);
        assert!(besides <= LIMIT, "{what}: {besides} bytes resident besides the buffers");
    }
    drop(model);
}

#[test]
fn loading_takes_a_fixed_amount_of_host_memory() {
    let _alone = alone();
    let mib = std::env::var("QLLAMA_SYNTHETIC_MIB").map_or(200, |text| text.parse::<u64>().expect("a number of MiB"));
    let temp = Temp::new();
    write_synthetic(&temp, mib << 20);
    check("first adapter", &temp, &gpu());
    check("CPU executor", &temp, &Device::cpu());
}
