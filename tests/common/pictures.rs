//! The toy model's pictures, and what it says of them.

use serde_json::Value;

use super::engine::{CaptionOptions, GenerateOptions, Model, Picture, PixelValues, decode_image};
use super::{EMOJI, path};

/// A picture that can be captioned.
pub fn picture() -> String {
    let pictures = std::fs::read_dir(path(EMOJI).join("pictures")).unwrap();
    pictures.map(|e| e.unwrap().path()).min().unwrap().to_str().unwrap().into()
}

/// What is written down in `expected.json` beside a model.
pub fn expected_captions(folder: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(folder).join("expected.json")).unwrap()).unwrap()
}

/// Of 400 pictures every tenth is looked at, or with `QLLAMA_ALL_PICTURES` set each one.
pub fn picture_step() -> usize {
    if std::env::var_os("QLLAMA_ALL_PICTURES").is_some() { 1 } else { 10 }
}

/// A picture as the model takes it.
pub fn pixels(model: &Model, file: &str) -> PixelValues {
    let bytes = std::fs::read(path(EMOJI).join("pictures").join(file)).unwrap();
    model.pixel_values(&decode_image(file, &bytes, true).unwrap())
}

/// The ids of a picture's caption, without end ids, and their text.
pub fn caption(model: &Model, file: &str, options: &GenerateOptions) -> (Vec<u32>, String) {
    let picture = Picture::open(path(EMOJI).join("pictures").join(file)).unwrap();
    let options = CaptionOptions { generate: options.clone(), ..Default::default() };
    let caption = model.caption(&picture, &options).unwrap();
    (caption.ids, caption.text)
}
