//! `qllama evaluate retrieval`.

use std::path::PathBuf;

use pollster::block_on;
use qllama::internals::{Network, SUMMARIZE};
use qllama::{Error, Mode, Model, Result};
use serde_json::json;

use super::annotations::{self, Annotated};
use super::captions::Resize;
use super::pictures::embed_all;
use crate::common::{Common, modes};
use crate::index::product::{Hit, multiply, normalise, top};
use crate::out::say;

/// Find the texts of pictures, and the pictures of texts: recall at 1, 5 and 10, both ways.
///
/// A picture's texts count as found where one of them is among the first. With --mode itm the first of InternVL-G are
/// put into the order of image-text matching.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  qllama evaluate retrieval --model OpenGVLab/InternVL-14B-224px --mode g \\\n    \
    --annotations dataset_flickr30k.json --images flickr30k-images")]
pub struct Args {
    /// The data set's texts, in a format of `qllama evaluate captions`.
    #[arg(long, value_name = "FILE.json")]
    annotations: PathBuf,
    /// The folder of its pictures.
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
    /// How to compare.
    #[arg(long, value_parser = modes(&[Mode::C, Mode::G, Mode::Itm]), default_value = "c")]
    mode: Mode,
    /// How many of the first image-text matching looks at again.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    rerank: u64,
    /// How pictures become squares.
    #[arg(long, value_enum, default_value = "short")]
    resize: Resize,
    #[command(flatten)]
    common: Common,
}

/// Where recall is counted.
const AT: [usize; 3] = [1, 5, 10];
/// Texts that are embedded in one pass.
const TEXTS: usize = 32;
/// Rows whose products with all others are held at a time.
const BLOCK: usize = 64;

pub fn run(args: Args) -> Result<()> {
    let pictures = annotations::read(&args.annotations, &args.images)?;
    let opened = args.common.open()?;
    opened.tokenizer()?;
    let preprocessor = args.resize.of(opened.preprocessor());
    let model = opened.load()?;
    let by = if args.mode == Mode::C { Mode::C } else { Mode::G };
    let paths: Vec<PathBuf> = pictures.iter().map(|picture| picture.path.clone()).collect();
    let mut rows = embed_all(&model, &paths, by, preprocessor)?;
    let (texts, of): (Vec<&str>, Vec<usize>) =
        pictures.iter().enumerate().flat_map(|(row, p)| p.texts.iter().map(move |text| (text.as_str(), row))).unzip();
    let mut columns = embed_texts(&model, &texts)?;
    let width = rows.len() / pictures.len();
    normalise(&mut rows, width);
    normalise(&mut columns, width);
    let wanted = if args.mode == Mode::Itm { args.rerank as usize } else { AT[AT.len() - 1] };
    let mut texts_of = first(&rows, &columns, width, wanted);
    let mut pictures_of = first(&columns, &rows, width, wanted);
    if args.mode == Mode::Itm {
        let network = Reranking { model: &model, pictures: &pictures, texts: &texts, preprocessor };
        network.rerank(&mut texts_of, &mut pictures_of)?;
    }
    let to_texts = recall(&texts_of, |picture, text| of[text] == picture);
    let to_pictures = recall(&pictures_of, |text, picture| of[text] == picture);
    let percent = |all: [f64; 3]| all.map(|share| 100.0 * share);
    let (to_texts, to_pictures) = (percent(to_texts), percent(to_pictures));
    if args.common.json {
        say!(
            "{}",
            json!({ "pictures": pictures.len(), "texts": texts.len(), "recall_at": AT, "picture_to_text": to_texts,
                "text_to_picture": to_pictures })
        );
        return Ok(());
    }
    say!("{} pictures, {} texts", pictures.len(), texts.len());
    say!("{:<16}{:>8}{:>8}{:>8}", "recall at", 1, 5, 10);
    for (name, [one, five, ten]) in [("picture to text", to_texts), ("text to picture", to_pictures)] {
        say!("{name:<16}{one:>8.1}{five:>8.1}{ten:>8.1}");
    }
    Ok(())
}

/// Embeddings of texts, [texts, width].
pub fn embed_texts(model: &Model, texts: &[&str]) -> Result<Vec<f32>> {
    let tokenizer = model.tokenizer()?;
    let mut rows = Vec::new();
    for texts in texts.chunks(TEXTS) {
        let ids: Vec<u32> =
            texts.iter().flat_map(|text| tokenizer.encode_text(&format!("{SUMMARIZE}{text}"))).collect();
        rows.extend(block_on(model.run(async |network: &Network| network.embed_text(&ids, texts.len()).await))?);
    }
    Ok(rows)
}

/// The best columns of each row, best first.
fn first(rows: &[f32], columns: &[f32], width: usize, count: usize) -> Vec<Vec<usize>> {
    let all = columns.len() / width;
    let mut products = vec![0f32; BLOCK * all];
    let mut found = Vec::with_capacity(rows.len() / width);
    for rows in rows.chunks(BLOCK * width) {
        multiply(rows, columns, width, &mut products);
        for scores in products.chunks_exact(all).take(rows.len() / width) {
            found.push(top(scores, &[1.0], count).into_iter().map(|Hit { row, .. }| row).collect());
        }
    }
    found
}

/// The share of rows that have a right one among the first.
fn recall(first: &[Vec<usize>], right: impl Fn(usize, usize) -> bool) -> [f64; 3] {
    AT.map(|at| {
        let found = first.iter().enumerate().filter(|(row, best)| best.iter().take(at).any(|&one| right(*row, one)));
        found.count() as f64 / first.len() as f64
    })
}

/// Image-text matching of the pairs that are among the first of either side.
struct Reranking<'a> {
    model: &'a Model,
    pictures: &'a [Annotated],
    texts: &'a [&'a str],
    preprocessor: qllama::Preprocessor,
}

impl Reranking<'_> {
    fn rerank(&self, texts_of: &mut [Vec<usize>], pictures_of: &mut [Vec<usize>]) -> Result<()> {
        // Each picture is looked at once, with all texts that it is paired with.
        let mut pairs: Vec<Vec<usize>> = texts_of.to_vec();
        for (text, pictures) in pictures_of.iter().enumerate() {
            pictures.iter().for_each(|&picture| pairs[picture].push(text));
        }
        let mut scores = std::collections::HashMap::new();
        for (picture, mut texts) in pairs.into_iter().enumerate() {
            texts.sort_unstable();
            texts.dedup();
            for (text, score) in texts.iter().zip(self.scores(picture, &texts)?) {
                scores.insert((picture, *text), score);
            }
        }
        let by = |score: f32, other: f32| other.total_cmp(&score);
        for (picture, texts) in texts_of.iter_mut().enumerate() {
            texts.sort_by(|a, b| by(scores[&(picture, *a)], scores[&(picture, *b)]));
        }
        for (text, pictures) in pictures_of.iter_mut().enumerate() {
            pictures.sort_by(|a, b| by(scores[&(*a, text)], scores[&(*b, text)]));
        }
        Ok(())
    }

    /// How well some texts match a picture.
    fn scores(&self, picture: usize, texts: &[usize]) -> Result<Vec<f32>> {
        let read = qllama::Picture::open_as_stored(&self.pictures[picture].path, false)?;
        let pixels = self.preprocessor.pixel_values(&read);
        let tokenizer = self.model.tokenizer()?;
        let mut scores = Vec::with_capacity(texts.len());
        let chunks: Vec<(usize, Vec<u32>)> = texts
            .chunks(TEXTS)
            .map(|texts| {
                (texts.len(), texts.iter().flat_map(|&text| tokenizer.encode_text(self.texts[text])).collect())
            })
            .collect();
        let found = block_on(self.model.run(async |network| {
            let crossed = network.cross_states(&network.vision(&pixels).await?).await?;
            let mut all = Vec::new();
            for (count, ids) in &chunks {
                all.extend(network.itm(&[&crossed], ids, *count).await?);
            }
            Ok(all)
        }))?;
        // Against "they do not match".
        scores.extend(found.chunks(2).map(|pair| pair[1] - pair[0]));
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(Error::NonFinite { what: "itm_logits".into(), index: 0 });
        }
        Ok(scores)
    }
}
