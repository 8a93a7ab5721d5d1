//! What models ask of devices, against the list of kernels: nothing that the list lacks, and all that it has.

use std::collections::BTreeSet;
use std::path::Path;

use crate::device::gpu::{Gpu, candidates};
use crate::device::recording::PipelineKey;
use crate::device::{Array, Device};
use crate::generate::options::{GenerateOptions, KvCacheType};
use crate::image::Picture;
use crate::model::{CaptionOptions, Check, ForwardInputs, IGNORED_LABEL, Mode, Model};
use crate::ops::KERNELS;
use crate::ops::logits::sampling::Sampling;

/// Constants that follow from a model's sizes: examples have one value, models many.
const SIZES: [&str; 6] = ["HEAD_DIM", "ROWS", "TEAM", "LANES", "WORDS", "BLOCK"];

/// Kernels that training alone uses.
const TRAINING: [&str; 16] = [
    "adamw",
    "attention_stats",
    "attention_queries",
    "attention_keys_values",
    "column_sums",
    "cross_entropy_gradient",
    "gelu_gradient",
    "layer_norm_gradient",
    "linear_gradient",
    "put_columns",
    "rms_norm_gradient",
    "rope_gradient",
    "silu_gate_gradient",
    "squares",
    "sum_rows",
    "weight_gradient",
];

/// A pipeline without the sizes that it is made for.
fn form(key: &PipelineKey) -> String {
    let constants = key.constants().into_iter().map(|(name, value)| match SIZES.contains(&name) {
        true => name.to_string(),
        false => format!("{name} {value}"),
    });
    format!("{}: {}; {:?}", key.kernel.name, constants.collect::<Vec<_>>().join(", "), key.operands)
}

fn path(relative: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The first adapter, opened anew: with weights where it wants them, and in buffers as GPUs have them.
fn devices() -> [Device; 2] {
    let open = |in_buffers: bool| {
        pollster::block_on(async {
            let first = candidates().await.into_iter().next();
            let first = first.expect("no WebGPU adapter: install a Vulkan driver, for example mesa-vulkan-drivers");
            let first = if in_buffers { first.limited(u64::MAX, u64::MAX) } else { first };
            Device::gpu(Gpu::open(first).await.unwrap())
        })
    };
    [open(false), open(true)]
}

fn load(folder: &str, device: &Device) -> Model {
    // A check plays what the model itself would not.
    Model::builder(path(folder)).device(device).check(Check::Off).load().unwrap()
}

/// Captions by each way of choosing ids, and match tables.
fn run_internvl(model: &Model, picture: &Picture) {
    let short = GenerateOptions { max_new_tokens: 3, min_new_tokens: 2, ..Default::default() };
    let kv_cache = Some(KvCacheType::F16);
    let penalties = GenerateOptions { repetition_penalty: 1.2, no_repeat_ngram_size: 2, ..short.clone() };
    for generate in [
        short.clone(),
        GenerateOptions { kv_cache, ..short.clone() },
        GenerateOptions { num_beams: 3, ..penalties },
        GenerateOptions { num_beams: 3, kv_cache, ..short.clone() },
        GenerateOptions { sampling: Some(Sampling::default()), num_return_sequences: 2, ..short },
    ] {
        model.caption(picture, &CaptionOptions { generate, prompt: None }).unwrap();
    }
    for mode in [Mode::C, Mode::G, Mode::Itm] {
        model.match_texts(&[picture.clone(), picture.clone()], &["a cat", "one red apple"], mode).unwrap();
    }
}

/// The published forward passes with everything that they can give.
fn run_forward(model: &Model) {
    let ids = |rows: usize| Some(Array::new(&[1, rows], (3..3 + rows as i64).collect()));
    let asked = || ForwardInputs {
        input_ids: ids(5),
        use_cache: true,
        output_attentions: true,
        output_hidden_states: true,
        output_logits: true,
        output_last_hidden_state: true,
        ..Default::default()
    };
    let labels = Some(Array::new(&[1, 5], vec![IGNORED_LABEL, 4, 5, 6, 7]));
    let mut past_key_values = model.forward(&mut ForwardInputs { labels, ..asked() }).unwrap().past_key_values;
    for output_attentions in [false, true] {
        let mut inputs = ForwardInputs { input_ids: ids(1), past_key_values, output_attentions, ..asked() };
        past_key_values = model.forward(&mut inputs).unwrap().past_key_values;
    }
    for output_attentions in [false, true] {
        let mut inputs = ForwardInputs { use_cache: false, output_attentions, ..asked() };
        model.forward_train(&mut inputs, None).unwrap();
        let mask = Array::new(&[1, 1, 5, 5], vec![0.0; 25]);
        model.forward_train(&mut inputs, Some(&mask)).unwrap();
    }
}

#[test]
fn models_use_the_kernels_of_the_list() {
    let listed: BTreeSet<_> = KERNELS.iter().flat_map(|op| op.pipelines()).map(|key| form(&key)).collect();
    let picture = Picture::open(path("models/emoji-tiny/pictures/noto-cat.png")).unwrap();
    let (mut used, mut missing) = (BTreeSet::new(), BTreeSet::new());
    for device in devices() {
        for folder in ["models/emoji-tiny-w4", "models/emoji-tiny"] {
            let model = load(folder, &device);
            run_internvl(&model, &picture);
            run_forward(&model);
        }
        run_forward(&load("tests/data/fixtures/qllama-base", &device));
        for key in device.as_gpu().unwrap().pipelines() {
            used.insert(key.kernel.name);
            missing.extend(Some(form(&key)).filter(|form| !listed.contains(form)));
        }
    }
    assert!(missing.is_empty(), "no examples of {missing:#?}");
    let idle = KERNELS.iter().flat_map(|op| op.kernels).map(|kernel| kernel.name);
    let idle: Vec<_> = idle.filter(|name| !used.contains(name) && !TRAINING.contains(name)).collect();
    // Steps of more keys than these captions have; matrices whose groups are not whole pieces; large gates in textures; what
    // the command line measures of an adapter.
    assert_eq!(idle, ["attention_join", "linear", "linear_gate_tile", "roof_read", "roof_fma"]);
}
