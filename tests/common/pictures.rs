//! The toy model's pictures, and what it says of them.

use pollster::block_on;
use serde_json::Value;

use super::engine::{GenerateOptions, Model, PixelValues, decode_image};
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
    let image = decode_image(file, &bytes, true).unwrap();
    let side = model.preprocessor.size() as usize;
    PixelValues { batch: 1, height: side, width: side, values: model.preprocessor.pixel_values(&image) }
}

/// The ids of a picture's caption, without end ids, and their text.
pub fn caption(model: &Model, file: &str, options: &GenerateOptions) -> (Vec<u32>, String) {
    let tokenizer = model.tokenizer().unwrap();
    let prompt = tokenizer.encode_prompt("English caption:");
    let made = block_on(async {
        let crossed = model.cross_states(&model.vision(&pixels(model, file)).await?).await?;
        model.generate(Some(&crossed), &[&prompt], options, &mut |_| true).await
    });
    let ids = made.unwrap().remove(0).remove(0).ids;
    let ids: Vec<u32> = ids.into_iter().filter(|id| !options.eos_token_ids.contains(id)).collect();
    let text = tokenizer.decode(&ids);
    (ids, text)
}
