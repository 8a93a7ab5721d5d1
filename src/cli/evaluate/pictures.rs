//! Embeddings of all pictures of a data set, none left out: figures are of all.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::channel;
use std::time::Duration;

use pollster::block_on;
use qllama::{Error, Mode, Model, PixelValues, Preprocessor, Result};

use crate::many::list::{Counts, Listed, Place};
use crate::many::names::name_of;
use crate::many::progress::Progress;
use crate::many::read::{Next, Pictures, Preparation};

/// How long a picture is waited for before the clock is looked at.
const WAIT: Duration = Duration::from_millis(200);

/// [pictures, width], in the order of the paths, as pictures are stored.
///
/// # Errors
/// The first picture's that cannot be read; the model's.
pub fn embed_all(model: &Model, paths: &[PathBuf], mode: Mode, preprocessor: Preprocessor) -> Result<Vec<f32>> {
    let (sender, list) = channel();
    for path in paths {
        let listed =
            Listed { name: name_of(path), place: Ok(Place::File(path.clone())), original: None, request: None };
        sender.send(listed).expect("the list is held below");
    }
    drop(sender);
    let counts = Counts { found: AtomicUsize::new(paths.len()), complete: AtomicBool::new(true), ..Default::default() };
    let mut progress = Progress::new(Arc::new(counts), "embedded", false);
    let ready = Pictures::start(list, Preparation { preprocessor, ignore_orientation: true });
    let most = model.pictures_at_once()?;
    let mut rows: Vec<Vec<f32>> = vec![Vec::new(); paths.len()];
    let mut waiting: Vec<(usize, PixelValues)> = Vec::new();
    loop {
        progress.show();
        let end = match ready.next(WAIT) {
            Next::Ready(picture) => {
                progress.count(&picture.listed.name, Ok(()));
                waiting.push((picture.number, picture.pixels?));
                false
            }
            Next::NotYet => false,
            Next::End => true,
        };
        if waiting.len() == most || (end && !waiting.is_empty()) {
            let (numbers, pixels): (Vec<usize>, Vec<PixelValues>) = waiting.drain(..).unzip();
            let found = embed(model, pixels, mode)?;
            let width = found.len() / numbers.len();
            numbers.into_iter().zip(found.chunks(width)).for_each(|(number, row)| rows[number] = row.to_vec());
        }
        if end {
            break;
        }
    }
    progress.summary();
    match rows.iter().any(Vec::is_empty) {
        true => Err(Error::State { reason: "a thread that reads pictures broke off".into() }),
        false => Ok(rows.concat()),
    }
}

fn embed(model: &Model, pixels: Vec<PixelValues>, mode: Mode) -> Result<Vec<f32>> {
    let pixels = PixelValues::join(pixels).expect("there is a picture at least");
    block_on(model.run(async |network| {
        let vision = network.vision(&pixels).await?;
        match mode {
            Mode::G => network.embed_images_g(&vision, &network.cross_states(&vision).await?).await,
            _ => network.embed_images_c(&vision).await,
        }
    }))
}
