//! Numbers that are none: whatever a model gives out of them is `E_NONFINITE`, and nothing is printed.

use pollster::block_on;

use crate::common::engine::{
    Array, CAPTION_PROMPT, CaptionOptions, ForwardInputs, GenerateOptions, Mode, Model, Picture, Sampling,
};
use crate::common::{EMOJI, Temp, code, fails, path, program};

/// The demo model with NaN in these tensors, which are of BF16.
fn poisoned(temp: &Temp, names: &[&str]) {
    for entry in std::fs::read_dir(path("models/emoji-tiny-w4")).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, temp.file(from.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let file = temp.file("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for name in names {
        let offsets = header[name]["data_offsets"].as_array().unwrap_or_else(|| panic!("no {name}"));
        let [begin, end] = [0, 1].map(|i| 8 + length + offsets[i].as_u64().unwrap() as usize);
        bytes[begin..end].chunks_mut(2).for_each(|half| half.copy_from_slice(&0x7fc0u16.to_le_bytes()));
    }
    std::fs::write(&file, bytes).unwrap();
}

const EYES: &str = "vision_model.embeddings.class_embedding";
const WORDS: &str = "qllama.model.embed_tokens.weight";

#[test]
fn every_way_out_of_the_engine_is_guarded() {
    let temp = Temp::new();
    poisoned(&temp, &[EYES, WORDS]);
    let model = Model::builder(temp.folder()).load().unwrap();
    let cat = Picture::open(path(&format!("{EMOJI}/pictures/noto-cat.png"))).unwrap();
    let mut found = Vec::new();
    let mut note = |what: &str, code: &'static str| found.push(format!("{what} {code}"));
    let beams = GenerateOptions { num_beams: 3, ..Default::default() };
    let drawn = GenerateOptions { sampling: Some(Sampling::default()), ..Default::default() };
    for (name, generate) in [("greedy", Default::default()), ("beams", beams.clone()), ("drawn", drawn)] {
        let options = CaptionOptions { generate: generate.clone(), ..Default::default() };
        note(name, code(model.caption(&cat, &options)));
        note(name, code(model.generate("a", &generate)));
    }
    for (name, mode, _) in Mode::NAMED {
        note(name, code(model.match_texts(std::slice::from_ref(&cat), &["a cat", "a dog"], *mode)));
    }
    note("picture", code(model.embed_picture(&cat, Mode::C)));
    note("picture", code(model.embed_picture(&cat, Mode::G)));
    note("text", code(model.embed_text("a cat")));
    note("map", code(model.attention_map(&cat, None)));
    let pixels = model.pixel_values(&cat);
    let network = model.network();
    note("rows", code(block_on(async { network.vision_rows(&network.vision(&pixels).await?).await })));
    note("rows", code(block_on(network.vision_hidden_states(&pixels))));
    let ids = || ForwardInputs { input_ids: Some(Array::new(&[1, 2], vec![1, 304])), ..Default::default() };
    let asked: [fn(&mut ForwardInputs); 5] = [
        |inputs| inputs.output_logits = true,
        |inputs| inputs.output_last_hidden_state = true,
        |inputs| inputs.output_hidden_states = true,
        |inputs| inputs.output_attentions = true,
        |inputs| inputs.labels = Some(Array::new(&[1, 2], vec![1, 304])),
    ];
    for ask in asked {
        let mut inputs = ids();
        inputs.output_logits = false;
        ask(&mut inputs);
        note("forward", code(model.forward(&mut inputs)));
    }
    let mut inputs = ids();
    (inputs.use_cache, inputs.output_logits) = (true, false);
    let mut past = model.forward(&mut inputs).unwrap().past_key_values.unwrap();
    note("cache", code(past.to_arrays(&model)));
    for generate in [GenerateOptions::default(), beams] {
        let mut batch = model.batch(CAPTION_PROMPT, &generate, 2).unwrap();
        let mut ended = batch.add([0, 1].map(|key| (key, pixels.clone())).into()).unwrap();
        while batch.open() > 0 {
            ended.extend(batch.step().unwrap());
        }
        ended.into_iter().for_each(|(_, caption)| note("batch", code(caption)));
    }
    let other: Vec<_> = found.iter().filter(|found| !found.ends_with(" E_NONFINITE")).collect();
    assert!(other.is_empty() && found.len() > 20, "{other:?} of {}", found.len());
}

/// One of the tensors is enough.
#[test]
fn the_program_prints_nothing() {
    let cat = path(&format!("{EMOJI}/pictures/noto-cat.png"));
    let cat = cat.to_str().unwrap();
    for poison in [EYES, WORDS] {
        let temp = Temp::new();
        poisoned(&temp, &[poison]);
        let out = temp.file("out.safetensors");
        let cases: [&[&str]; 4] = [
            &["caption", cat],
            &["match", "--image", cat, "--text", "cat", "dog"],
            &["match", "--mode", "itm", "--image", cat, "--text", "cat", "dog"],
            &["embed", "--image", cat, "--text", "cat", "--outputs", &out],
        ];
        for case in cases {
            fails(&[case, &["--model", temp.folder()]].concat(), "E_NONFINITE", &[]);
            assert!(!std::path::Path::new(&out).exists(), "{case:?} wrote a file");
        }
    }
    assert!(program(&["caption", cat]).output().unwrap().status.success());
}
