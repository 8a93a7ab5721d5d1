//! Cached keys and values in f16 instead of f32: what it changes.

use crate::common::engine::{
    DType, Device, GenerateOptions, Keys, KvCache, KvCacheType, Mask, Model, Observed, Pass, Piece, Recording, Rows,
    embed,
};
use crate::common::{
    EMOJI, Expected, Temp, caption, expected_captions, go_on, gpu, load, nmse, path, picture_step, printed, program,
    prompt,
};
use pollster::block_on;

/// Logits of a prompt's rows but the last 8, then of these one by one on top of the cache.
fn logits(model: &Model, ids: &[u32], dtype: DType) -> Vec<f32> {
    let network = model.network();
    let (device, decoder) = (network.device(), network.decoder());
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
    let options = GenerateOptions { max_new_tokens: 20, kv_cache: Some(KvCacheType::F16), ..Default::default() };
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
        let before = model.memory().0;
        let (kv_cache, eos_token_ids) = (Some(kv_cache), Some(Vec::new()));
        let options = GenerateOptions { max_new_tokens, kv_cache, eos_token_ids, ..Default::default() };
        let mut most = 0;
        let on_piece = &mut |piece: Piece<'_>| {
            most = model.memory().0 - before;
            go_on(piece)
        };
        model.generate_from(&prompt(&[1, 2, 3]), &options, on_piece).unwrap();
        most
    };
    // Each new token makes the tables of rows longer, and each of 12 caches by a row of 192 elements.
    let grown = |kv_cache| peak(kv_cache, 102) - peak(kv_cache, 2);
    assert_eq!(grown(KvCacheType::F32) - grown(KvCacheType::F16), 100 * 12 * 192 * 2);
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

/// What the model was loaded with holds where options do not tell.
#[test]
fn the_builder_takes_it() {
    let folder = path("models/emoji-tiny");
    let model = Model::builder(folder).adapter("cpu").kv_cache(KvCacheType::F16).load().unwrap();
    let most = |options: GenerateOptions| {
        let before = model.memory().0;
        let mut most = 0;
        let on_piece = &mut |piece: Piece<'_>| {
            most = model.memory().0 - before;
            go_on(piece)
        };
        model.generate_from(&prompt(&[1, 2, 3]), &options, on_piece).unwrap();
        most
    };
    let told = |kv_cache| GenerateOptions { kv_cache, max_new_tokens: 8, ..Default::default() };
    assert_eq!(most(told(None)), most(told(Some(KvCacheType::F16))));
    assert!(most(told(None)) < most(told(Some(KvCacheType::F32))));
}

#[test]
fn what_it_does_not_take() {
    let text = std::fs::read_to_string(path("tests/data/fixtures/qllama-base/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["hidden_size"] = 72.into();
    let temp = Temp::new();
    std::fs::write(temp.file("config.json"), config.to_string()).unwrap();
    // No weight is needed to be told.
    std::fs::copy(path("tests/data/fixtures/qllama-base/model.safetensors"), temp.file("model.safetensors")).unwrap();
    // Of these 72 columns each of 4 heads has 18.
    let opened = Model::builder(temp.folder()).open().unwrap();
    let options = GenerateOptions { kv_cache: Some(KvCacheType::F16), ..Default::default() };
    let error = opened.check_generate(&prompt(&[1]), &options).unwrap_err();
    assert_eq!(error.code(), "E_INPUT");
    assert!(error.to_string().contains("multiple of 4 columns, found 18"), "{error}");
    opened.check_generate(&prompt(&[1]), &GenerateOptions::default()).unwrap();
}
