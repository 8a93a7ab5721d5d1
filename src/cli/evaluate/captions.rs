//! `qllama evaluate captions`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::channel;

use qllama::{CAPTION_PROMPT, Error, GenerateOptions, Generation, Preprocessor, Result};
use serde_json::{Value, json};

use super::annotations::{self, Annotated};
use super::published;
use super::scores::{Scored, bleu4, cider_d};
use super::tokens::words;
use crate::caption::engine::{Engine, Output, Texts};
use crate::common::Common;
use crate::many::list::{Counts, Listed, Place};
use crate::many::names::{base_name, name_of};
use crate::many::progress::Progress;
use crate::many::read::{Pictures, Preparation};
use crate::many::stop;
use crate::out::{self, say};
use crate::tensors::check_outputs;
use crate::whole::write_whole;

/// Caption the pictures of an annotated data set as the published evaluation does, and score them: BLEU-4 and CIDEr-D.
///
/// Pictures are resized to a square whole, without a crop; captions are by 5 beams, at least 8 tokens, behind
/// `English caption:`. Both scores are computed as pycocoevalcap does; where Python has that package, its own scores are
/// printed, too (QLLAMA_PYTHON names the Python). For the splits of the published table its figures stand beside them.
///
/// Annotations are a JSON file in COCO's format (captions_val2014.json, nocaps_val_4500_captions.json), one of Karpathy's
/// splits (dataset_coco.json, dataset_flickr30k.json), or a list of {"image", "caption": [...]}.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  qllama evaluate captions --model OpenGVLab/InternVL-14B-224px \\\n    \
    --annotations dataset_flickr30k.json --images flickr30k-images --output results.json")]
pub struct Args {
    /// The data set's texts.
    #[arg(long, value_name = "FILE.json")]
    annotations: PathBuf,
    /// The folder of its pictures.
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
    /// Write the captions to this file, as COCO's servers take them: [{"image_id", "caption"}].
    #[arg(long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    /// Score the captions of such a file, and write none.
    #[arg(long, value_name = "FILE.json", conflicts_with = "output")]
    results: Option<PathBuf>,
    /// How pictures become squares.
    #[arg(long, value_enum, default_value = "square")]
    resize: Resize,
    /// What the caption continues.
    #[arg(long, default_value = CAPTION_PROMPT)]
    prompt: String,
    /// Beams of the search.
    #[arg(long, default_value_t = 5, value_name = "N")]
    num_beams: usize,
    /// Tokens that a caption has at least.
    #[arg(long, default_value_t = 8, value_name = "N")]
    min_new_tokens: usize,
    /// Tokens that a caption has at most.
    #[arg(long, default_value_t = 30, value_name = "N")]
    max_new_tokens: usize,
    /// Captions that are written at once; what suits the model and the adapter unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    batch_size: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// How pictures become squares.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Resize {
    /// The whole picture, whatever its shape.
    Square,
    /// The short side, and the square in the middle, as the model is used.
    Short,
}

impl Resize {
    /// A model's preprocessor, with this way.
    pub fn of(self, preprocessor: &Preprocessor) -> Preprocessor {
        match self {
            Resize::Square => preprocessor.stretched(),
            Resize::Short => *preprocessor,
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    if let Some(output) = &args.output {
        check_outputs(output)?;
    }
    let pictures = annotations::read(&args.annotations, &args.images)?;
    let captions = match &args.results {
        Some(file) => results(file)?,
        None => write_captions(&args, &pictures)?,
    };
    if let Some(file) = &args.output {
        let list: Vec<Value> = pictures
            .iter()
            .map(|picture| json!({ "image_id": picture.id, "caption": captions[&picture.id.to_string()] }))
            .collect();
        let text = Value::from(list).to_string();
        write_whole(file, |file| std::io::Write::write_all(file, text.as_bytes()))?;
    }
    let mut all = Vec::with_capacity(pictures.len());
    for picture in &pictures {
        let caption = captions
            .get(&picture.id.to_string())
            .ok_or_else(|| Error::Input { reason: format!("there is no caption of picture {}", picture.id) })?;
        all.push(Scored {
            caption: words(caption),
            references: picture.texts.iter().map(|text| words(text)).collect(),
        });
    }
    let known = published::captions(&args.annotations, &pictures);
    let python = by_python(args.results.as_ref().or(args.output.as_ref()), &pictures);
    tell(&args, all.len(), (bleu4(&all), cider_d(&all)), python, known);
    Ok(())
}

fn tell(
    args: &Args,
    count: usize,
    (bleu4, cider_d): (f64, f64),
    python: Option<(f64, f64)>,
    known: Option<&published::Captions>,
) {
    if args.common.json {
        let python = python.map(|(bleu4, cider_d)| json!({ "bleu4": bleu4, "cider_d": cider_d }));
        let published =
            known.map(|known| json!({ "split": known.split, "bleu4": known.bleu4, "cider_d": known.cider }));
        say!(
            "{}",
            json!({ "pictures": count, "bleu4": bleu4, "cider_d": cider_d, "pycocoevalcap": python, "published": published })
        );
        return;
    }
    say!("{count} pictures");
    let column = |number: Option<f64>| number.map_or(String::new(), |n| format!("{n:>16.1}"));
    let head = if python.is_some() { "   pycocoevalcap" } else { "" };
    say!("{:>20}{head}{}", "here", if known.is_some() { "       published" } else { "" });
    let percent = |score: f64| score * 100.0;
    let rows = [
        ("BLEU-4", bleu4, python.map(|p| p.0), known.map(|k| k.bleu4)),
        ("CIDEr-D", cider_d, python.map(|p| p.1), known.map(|k| k.cider)),
    ];
    for (name, here, theirs, published) in rows {
        say!("{name:<10}{:>10.1}{}{}", percent(here), column(theirs.map(percent)), column(published));
    }
    if let Some(known) = known {
        say!("published: InternVL-G on {}", known.split);
    }
}

/// Captions of a file of COCO's results, by the id of the picture.
fn results(file: &Path) -> Result<HashMap<String, String>> {
    let name = base_name(file);
    let bytes = std::fs::read(file).map_err(|e| Error::System { file: name.clone(), cause: e.into() })?;
    let list: Option<Vec<Value>> = serde_json::from_slice(&bytes).ok();
    let entry = |entry: &Value| Some((entry.get("image_id")?.to_string(), entry["caption"].as_str()?.to_string()));
    let found = list.and_then(|list| list.iter().map(entry).collect());
    found.ok_or_else(|| Error::Input { reason: format!("{name}: expected [{{\"image_id\", \"caption\"}}]") })
}

/// Captions of all pictures, by their ids.
fn write_captions(args: &Args, pictures: &[Annotated]) -> Result<HashMap<String, String>> {
    let opened = args.common.open()?;
    opened.tokenizer()?;
    if opened.config().vision.is_none() {
        let reason = "this checkpoint has no InternViT (vision_model), which pictures need".into();
        return Err(Error::State { reason });
    }
    let options = GenerateOptions {
        num_beams: args.num_beams,
        min_new_tokens: args.min_new_tokens,
        max_new_tokens: args.max_new_tokens,
        ..Default::default()
    };
    let preprocessor = args.resize.of(opened.preprocessor());
    let (sender, list) = channel();
    for picture in pictures {
        let place = Ok(Place::File(picture.path.clone()));
        let listed = Listed { name: name_of(&picture.path), place, original: None, request: None };
        sender.send(listed).expect("the list is held below");
    }
    drop(sender);
    let counts =
        Counts { found: AtomicUsize::new(pictures.len()), complete: AtomicBool::new(true), ..Default::default() };
    let progress = Progress::new(Arc::new(counts), "captioned", false);
    // As published, pictures are taken as they are stored.
    let ready = Pictures::start(list, Preparation { preprocessor, ignore_orientation: true });
    let stop = stop::asked();
    let output = Collected { progress, captions: vec![None; pictures.len()] };
    let mut engine = Engine { pictures: ready, output, stop };
    let texts = Texts { prompt: args.prompt.clone(), options, batch_size: args.batch_size.map(|size| size as usize) };
    let ended = engine.run(opened, texts);
    let summary = engine.output.progress.summary();
    ended?;
    let found = engine.output.captions.into_iter().zip(pictures);
    let found = found.map(|(text, picture)| Some((picture.id.to_string(), text?))).collect::<Option<_>>();
    found.ok_or_else(|| Error::State { reason: format!("{summary}: scores are of all pictures") })
}

/// Captions as they come.
struct Collected {
    progress: Progress,
    captions: Vec<Option<String>>,
}

impl Output for Collected {
    fn begin(&mut self) {
        self.progress.begin();
    }

    fn show(&mut self) {
        self.progress.show();
    }

    fn take(&mut self, number: usize, listed: Listed, result: Result<Generation>) -> Result<()> {
        self.progress.count(&listed.name, result.as_ref().map(|_| ()));
        self.captions[number] = result.ok().and_then(|caption| caption.text);
        Ok(())
    }
}

const SCRIPT: &str = r#"
import contextlib, json, sys
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
given = json.load(sys.stdin)
with contextlib.redirect_stdout(sys.stderr):
    of = PTBTokenizer().tokenize
    references = of({k: [{"caption": t} for t in v] for k, v in given["references"].items()})
    captions = of({k: [{"caption": t}] for k, t in given["captions"].items()})
    bleu = Bleu(4).compute_score(references, captions, verbose=0)[0][3]
    cider = Cider().compute_score(references, captions)[0]
print(json.dumps([float(bleu), float(cider)]))
"#;

/// The scores of Python's pycocoevalcap, where it is there, for the captions of a file of results.
fn by_python(file: Option<&PathBuf>, pictures: &[Annotated]) -> Option<(f64, f64)> {
    let captions = results(file?).ok()?;
    let python = std::env::var("QLLAMA_PYTHON").unwrap_or_else(|_| "python3".into());
    let references: HashMap<String, &Vec<String>> = pictures.iter().map(|p| (p.id.to_string(), &p.texts)).collect();
    let input = json!({ "references": references, "captions": captions }).to_string();
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .ok()?;
    let written = std::io::Write::write_all(&mut child.stdin.take()?, input.as_bytes());
    let output = child.wait_with_output().ok()?;
    let scores: Option<(f64, f64)> = serde_json::from_slice(&output.stdout).ok();
    if scores.is_none() || written.is_err() {
        out::note(format_args!("qllama: Python has no pycocoevalcap that works: its scores are left out"));
    }
    scores
}
