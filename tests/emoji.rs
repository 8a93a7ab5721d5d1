//! The trained toy model against what the published modules said of its 400 pictures, and the demo model, which is the
//! same in 4 bits, against what is written down beside it.

mod common;

use common::{gpu, load, path};
use pollster::block_on;
use qllama::Device;
use qllama::generate::session::GenerateOptions;
use qllama::model::{Mode, Model, PixelValues};
use qllama::text::SUMMARIZE;
use serde_json::Value;

const FOLDER: &str = "models/emoji-tiny";
const DEMO: &str = "models/emoji-tiny-w4";

fn expected(folder: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(&format!("{folder}/expected.json"))).unwrap()).unwrap()
}

fn pixels(model: &Model, file: &str) -> PixelValues {
    let bytes = std::fs::read(path(&format!("{FOLDER}/pictures/{file}"))).unwrap();
    let image = qllama::image::decode(file, &bytes, true).unwrap();
    let side = model.preprocessor.size() as usize;
    PixelValues { batch: 1, height: side, width: side, values: model.preprocessor.pixel_values(&image) }
}

/// Captions of every `step`-th picture; returns how many were compared.
fn check_captions(folder: &str, device: &Device, step: usize, num_beams: usize) -> usize {
    let model = load(folder, device);
    let expected = expected(folder);
    let (ids_key, text_key) = if num_beams == 1 { ("greedy_ids", "caption") } else { ("beam5_ids", "caption_beam5") };
    let options = GenerateOptions { num_beams, max_new_tokens: 20, ..Default::default() };
    let prompt = model.tokenizer().unwrap().encode_prompt(expected["prompt"].as_str().unwrap());
    let pictures = expected["pictures"].as_array().unwrap();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for picture in pictures.iter().step_by(step) {
        let file = picture["file"].as_str().unwrap();
        let found = block_on(async {
            let vision = model.vision(&pixels(&model, file)).await?;
            let crossed = model.cross_states(&vision).await?;
            model.generate(Some(&crossed), &[&prompt], &options, &mut |_| true).await
        });
        let ids: Vec<u32> = found.unwrap()[0][0].ids.iter().copied().filter(|id| *id != 2).collect();
        let text = model.tokenizer().unwrap().decode(&ids);
        if serde_json::json!(ids) != picture[ids_key] || text != picture[text_key].as_str().unwrap() {
            wrong.push(format!("{file}: {text:?}, expected {}", picture[text_key]));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{} of {compared} captions differ: {wrong:#?}", wrong.len());
    compared
}

/// Every 10th picture, or with `QLLAMA_ALL_PICTURES` set all 400.
fn step() -> usize {
    if std::env::var_os("QLLAMA_ALL_PICTURES").is_some() { 1 } else { 10 }
}

#[test]
fn greedy_captions() {
    assert_eq!(check_captions(FOLDER, &gpu(), step(), 1), 400 / step());
    assert_eq!(check_captions(DEMO, &gpu(), step(), 1), 400 / step());
}

#[test]
fn five_beam_captions() {
    assert_eq!(check_captions(FOLDER, &gpu(), step(), 5), 400 / step());
    assert_eq!(check_captions(DEMO, &gpu(), step(), 5), 400 / step());
}

#[test]
fn captions_of_the_cpu_executor() {
    for folder in [FOLDER, DEMO] {
        assert_eq!(check_captions(folder, &Device::cpu(), 40, 1), 10);
        assert_eq!(check_captions(folder, &Device::cpu(), 100, 5), 4);
    }
}

#[test]
fn match_probabilities() {
    check_match(FOLDER);
    check_match(DEMO);
}

/// At most 2 % of the captions differ from those of the model in bf16.
#[test]
fn the_demo_model_says_nearly_the_same() {
    let (demo, full) = (expected(DEMO), expected(FOLDER));
    for key in ["caption", "caption_beam5"] {
        let of = |v: &Value| v["pictures"].as_array().unwrap().iter().map(|p| p[key].clone()).collect::<Vec<_>>();
        let (demo, full) = (of(&demo), of(&full));
        let differ = demo.iter().zip(&full).filter(|(a, b)| a != b).count();
        println!("{key}: {differ} of {}", full.len());
        assert!(demo.len() == 400 && full.len() == 400 && differ <= 8, "{key}: {differ}");
    }
}

fn check_match(folder: &str) {
    let model = load(folder, &gpu());
    let expected = expected(folder);
    let strings = |v: &Value| v.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_string()).collect::<Vec<_>>();
    let (files, texts) = (strings(&expected["match"]["files"]), strings(&expected["match"]["texts"]));
    let tokenizer = model.tokenizer().unwrap();
    let ids: Vec<u32> = texts.iter().flat_map(|t| tokenizer.encode_text(&format!("{SUMMARIZE}{t}"))).collect();
    block_on(async {
        let texts_embedded = model.embed_text(&ids, texts.len()).await.unwrap();
        for (mode, name) in [(Mode::C, "C"), (Mode::G, "G")] {
            for (file, row) in files.iter().zip(expected["match"]["probabilities"][name].as_array().unwrap()) {
                let vision = model.vision(&pixels(&model, file)).await.unwrap();
                let crossed = model.cross_states(&vision).await.unwrap();
                let image = model.embed_image(&vision, Some(&crossed), mode).await.unwrap();
                let logits = model.logits_per_image(&image, &texts_embedded).unwrap();
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                let sum: f32 = logits.iter().map(|l| (l - largest).exp()).sum();
                for (logit, expected) in logits.iter().zip(row.as_array().unwrap()) {
                    let p = f64::from((logit - largest).exp() / sum);
                    assert!((p - expected.as_f64().unwrap()).abs() <= 1e-4, "{name} {file}: {p} {expected}");
                }
            }
        }
    });
}
