//! Pictures as InternViT sees them, each in several views, made once.

use std::path::Path;

use indicatif::ProgressBar;
use pollster::block_on;
use qllama::internals::decode;
use qllama::{CaptionOptions, Error, Model, Picture, PixelValues, Preprocessor, Result, Taught, Variation};

use super::data::Pair;
use crate::many::names::base_name;

/// How many views of each picture, and from what they are drawn.
#[derive(Clone, Copy)]
pub struct Views {
    pub count: usize,
    pub seed: u64,
}

/// What became of the pictures.
pub struct Seen {
    pub taught: Vec<Taught>,
    /// Pictures that could not be read.
    pub broken: usize,
}

/// Makes the views of every picture; one that cannot be read is told of and left out.
///
/// # Errors
/// `E_INPUT` where no picture is left; the model's.
pub fn see(model: &Model, pairs: &[Pair], views: Views, bar: &ProgressBar) -> Result<Seen> {
    let mut seen = Seen { taught: Vec::with_capacity(pairs.len()), broken: 0 };
    let preprocessor = *model.preprocessor();
    for (i, pair) in pairs.iter().enumerate() {
        bar.inc(1);
        let picture = match read(&pair.image) {
            Ok(picture) => picture,
            Err(error) => {
                bar.suspend(|| eprintln!("qllama: left out: {error} [{}]", error.code()));
                seen.broken += 1;
                continue;
            }
        };
        let text = match &pair.text {
            Some(text) => text.clone(),
            None => model.caption(&picture, &CaptionOptions::default())?.text,
        };
        let pixels = all_views(&preprocessor, &picture, Views { seed: views.seed.wrapping_add(i as u64), ..views });
        seen.taught.push(Taught { views: block_on(model.vision_rows_async(&pixels))?, text });
    }
    if seen.taught.is_empty() {
        return Err(Error::Input { reason: "no picture could be read".into() });
    }
    Ok(seen)
}

/// The picture as it is, and changed at random.
fn all_views(preprocessor: &Preprocessor, picture: &Picture, views: Views) -> PixelValues {
    let plain = preprocessor.pixel_values(picture);
    let mut random = fastrand::Rng::with_seed(views.seed);
    let varied = (1..views.count).map(|_| preprocessor.varied(&plain, &Variation::draw(&mut random)));
    PixelValues::join([plain.clone()].into_iter().chain(varied)).expect("there is at least the picture itself")
}

fn read(path: &Path) -> Result<Picture> {
    let name = base_name(path);
    let bytes = std::fs::read(path).map_err(|e| Error::Io { file: name.clone(), reason: e.to_string() })?;
    decode(&name, &bytes, true)
}
