//! Cached keys and values in f16 instead of f32: what it changes.

use crate::common::engine::{
    Config, DType, Device, GenerateOptions, Keys, KvCache, Mask, Model, Observed, Pass, Recording, Rows, embed,
};
use crate::common::{
    EMOJI, Expected, caption, expected_captions, gpu, load, nmse, path, picture_step, printed, program,
};
use pollster::block_on;

/// Logits of a prompt's rows but the last 8, then of these one by one on top of the cache.
fn logits(model: &Model, ids: &[u32], dtype: DType) -> Vec<f32> {
    let (device, decoder) = (model.device(), model.decoder());
    let first = ids.len() - 8;
    let mut pool = device.pool();
    let width = decoder.heads().kv_width();
    let mut cache = || pool.alloc(dtype, &[ids.len(), width]).unwrap();
    let caches: Vec<_> = decoder.layers.iter().map(|_| KvCache { k: cache(), v: cache() }).collect();
    let every: Vec<u32> = (0..ids.len() as u32).collect();
    let table = pool.u32(&[1, ids.len()], &every).unwrap();
    let mut all = Vec::new();
    for range in std::iter::once(0..first).chain((first..ids.len()).map(|i| i..i + 1)) {
        let rows = range.len();
        let keys = match range.start {
            0 => Keys::Rows { count: rows, batches: 1 },
            past => Keys::Cached { table, past: pool.u32(&[1], &[past as u32]).unwrap() },
        };
        let mut r = Recording::new();
        let x = r.scratch_f32(&[rows, decoder.config.hidden_size]);
        let ids = pool.u32(&[rows], &ids[range.clone()]).unwrap();
        embed(&mut r, &decoder.embed_tokens, ids, x, Rows::all(x));
        let places = pool.u32(&[rows], &every[range]).unwrap();
        let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
        let pass = Pass {
            embeddings: x,
            batch: 1,
            rows,
            positions: places,
            slots: places,
            caches: &caches,
            keys,
            mask,
            cross: None,
        };
        let passed = decoder.record(&mut r, &pass, &Observed::default());
        let logits = decoder.logits(&mut r, passed.last_hidden_state);
        let logits = pool.keep(&mut r, logits).unwrap();
        device.play(&r).unwrap();
        all.extend(block_on(device.read_f32(logits)).unwrap());
    }
    all
}

#[test]
fn logits_are_close() {
    let e = Expected::open("qllama-base");
    let ids: Vec<u32> = e.i64("loss.input_ids").values.iter().map(|&id| id as u32).collect();
    for device in [gpu(), Device::cpu()] {
        let model = load("tests/data/fixtures/qllama-base", &device);
        let (wide, narrow) = (logits(&model, &ids, DType::F32), logits(&model, &ids, DType::F16));
        let error = nmse(&wide, &narrow);
        println!("{} rows: normalised mean squared error of the logits {error:.1e}", ids.len());
        assert!(error > 0.0, "f16 was not used");
        assert!(error < 1e-6, "{error:e}");
    }
}

#[test]
fn captions_are_the_same() {
    let model = load(EMOJI, &gpu());
    let options = GenerateOptions { max_new_tokens: 20, kv_cache: DType::F16, ..Default::default() };
    let (mut count, mut differ) = (0, Vec::new());
    for picture in expected_captions(EMOJI)["pictures"].as_array().unwrap().iter().step_by(picture_step()) {
        let file = picture["file"].as_str().unwrap();
        let (_, text) = caption(&model, file, &options);
        if text != picture["caption"].as_str().unwrap() {
            differ.push(format!("{file}: {text:?} instead of {}", picture["caption"]));
        }
        count += 1;
    }
    println!("{} of {count} captions differ: {differ:#?}", differ.len());
    assert!(differ.len() * 100 <= count, "{} of {count} captions differ: {differ:#?}", differ.len());
}

#[test]
fn half_the_memory() {
    let model = load("models/emoji-tiny", &Device::cpu());
    let peak = |kv_cache, max_new_tokens| {
        let before = model.device().memory().0;
        let options = GenerateOptions { max_new_tokens, kv_cache, eos_token_ids: vec![], ..Default::default() };
        let mut most = 0;
        let on_token = &mut |_| {
            most = model.device().memory().0 - before;
            true
        };
        block_on(model.generate(None, &[&[1, 2, 3]], &options, on_token)).unwrap();
        most
    };
    // Each new token makes the tables of rows longer, and each of 12 caches by a row of 192 elements.
    let grown = |dtype| peak(dtype, 102) - peak(dtype, 2);
    assert_eq!(grown(DType::F32) - grown(DType::F16), 100 * 12 * 192 * 2);
}

#[test]
fn the_command_line_takes_it() {
    let picture = path("models/emoji-tiny/pictures/noto-cat.png");
    let picture = picture.to_str().unwrap();
    assert_eq!(printed(&["caption", picture, "--kv-cache", "f16"]), "cat\n");
    let args = ["generate", "--image", picture, "--prompt", "English caption:", "--kv-cache"];
    assert_eq!(printed(&[&args[..], &["f16"]].concat()), printed(&[&args[..], &["f32"]].concat()));
    let out = program(&[&args[..], &["f8"]].concat()).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8(out.stderr).unwrap().contains("f16"));
}

#[test]
fn what_it_does_not_take() {
    let check = |kv_cache| GenerateOptions { kv_cache, ..Default::default() }.check();
    check(DType::F16).unwrap();
    assert_eq!(check(DType::BF16).unwrap_err().code(), "E_INPUT");
    let text = std::fs::read(path("tests/data/fixtures/qllama-base/config.json")).unwrap();
    let mut config = Config::from_bytes("config.json", &text).unwrap().text;
    config.head_dim = 18;
    let options = GenerateOptions { kv_cache: DType::F16, ..Default::default() };
    assert_eq!(options.check_for(&config, 1).unwrap_err().code(), "E_INPUT");
}
