//! The trained toy model against what the published modules said of its 400 pictures, and the demo model, which is the
//! same in 4 bits, against what is written down beside it.

use crate::common::engine::{Device, GenerateOptions, Mode, Picture};
use crate::common::{EMOJI, caption, expected_captions, gpu, load, path, picture_step};
use serde_json::Value;

const DEMO: &str = "models/emoji-tiny-w4";

/// Captions of every `step`-th picture, which must be as written down.
fn check_captions(folder: &str, device: &Device, step: usize, num_beams: usize) -> Vec<String> {
    let model = load(folder, device);
    let (ids_key, text_key) = if num_beams == 1 { ("greedy_ids", "caption") } else { ("beam5_ids", "caption_beam5") };
    let options = GenerateOptions { num_beams, max_new_tokens: 20, ..Default::default() };
    let mut wrong = Vec::new();
    let mut texts = Vec::new();
    for picture in expected_captions(folder)["pictures"].as_array().unwrap().iter().step_by(step) {
        let file = picture["file"].as_str().unwrap();
        let (ids, text) = caption(&model, file, &options);
        if serde_json::json!(ids) != picture[ids_key] || text != picture[text_key].as_str().unwrap() {
            wrong.push(format!("{file}: {text:?}, expected {}", picture[text_key]));
        }
        texts.push(text);
    }
    assert!(wrong.is_empty(), "{} of {} captions differ: {wrong:#?}", wrong.len(), texts.len());
    assert_eq!(texts.len(), 400 / step);
    texts
}

/// Both models say what is written down, and at most 2 % of the captions differ between them.
fn check_both(device: &Device, step: usize, num_beams: usize) {
    let full = check_captions(EMOJI, device, step, num_beams);
    let demo = check_captions(DEMO, device, step, num_beams);
    let differ = demo.iter().zip(&full).filter(|(a, b)| a != b).count();
    println!("{num_beams} beams: {differ} of {} captions differ in 4 bits", full.len());
    assert!(differ <= full.len().div_ceil(50), "{differ} of {} captions differ in 4 bits", full.len());
}

#[test]
fn greedy_captions() {
    check_both(&gpu(), picture_step(), 1);
}

#[test]
fn five_beam_captions() {
    check_both(&gpu(), picture_step(), 5);
}

#[test]
fn captions_of_the_cpu_executor() {
    check_both(&Device::cpu(), 40, 1);
    check_both(&Device::cpu(), 100, 5);
}

#[test]
fn match_probabilities() {
    check_match(EMOJI);
    check_match(DEMO);
}

fn check_match(folder: &str) {
    let model = load(folder, &gpu());
    let expected = expected_captions(folder);
    let strings = |v: &Value| v.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_string()).collect::<Vec<_>>();
    let (files, texts) = (strings(&expected["match"]["files"]), strings(&expected["match"]["texts"]));
    let pictures: Vec<Picture> =
        files.iter().map(|file| Picture::open(path(EMOJI).join("pictures").join(file)).unwrap()).collect();
    for (mode, name) in [(Mode::C, "C"), (Mode::G, "G")] {
        let rows = model.match_texts(&pictures, &texts, mode).unwrap();
        let wanted = expected["match"]["probabilities"][name].as_array().unwrap();
        assert_eq!((rows.len(), rows[0].len()), (wanted.len(), texts.len()));
        for ((file, row), wanted) in files.iter().zip(rows).zip(wanted) {
            for (found, wanted) in row.iter().zip(wanted.as_array().unwrap()) {
                let difference = (f64::from(*found) - wanted.as_f64().unwrap()).abs();
                assert!(difference <= 1e-4, "{name} {file}: {found} {wanted}");
            }
        }
    }
}
