//! `qllama search`.

use std::path::{Path, PathBuf};

use qllama::{Error, Mode, Picture, Result};

use super::file::{Index, find};
use super::page::{self, Found};
use super::product::{normalise, top};
use super::{file, fingerprint};
use crate::common::{Common, modes};
use crate::many::names::base_name;
use crate::many::names::name_of;
use crate::out::{self, say};
use crate::tensors::check_outputs;
use crate::whole::write_whole;

/// Find pictures of an index by a text, or by a picture that they should be like.
///
/// Prints the best ones with the cosine of the two embeddings, best first.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  qllama search photos 'a red car'\n  \
    qllama search photos.index.safetensors --image like.png --top 30 --html found.html")]
pub struct Args {
    /// What `qllama index` wrote, or the folder that it was made of.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    /// What should be on the pictures.
    #[arg(value_name = "TEXT", required_unless_present = "image")]
    text: Option<String>,
    /// A picture that they should be like.
    #[arg(long, value_name = "IMAGE", conflicts_with = "text")]
    image: Option<PathBuf>,
    /// How many to print.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    top: u64,
    /// Which embeddings to compare.
    #[arg(long, value_parser = modes(&[Mode::C, Mode::G]), default_value = "c")]
    mode: Mode,
    /// Also write a page with the pictures, to look at in a browser: one file that loads nothing.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let path = find(&args.index);
    if let Some(html) = &args.html {
        check_outputs(html)?;
    }
    let opened = args.common.open()?;
    let index = Index::read(&path, &[args.mode])?;
    let about = file::About {
        model: fingerprint::name(&args.common)?,
        weights: fingerprint::weights(&args.common, &opened)?,
        ..index.about.clone()
    };
    index.check(&path, &about)?;
    let rows = index.rows(&path, args.mode)?;
    let picture =
        args.image.as_ref().map(|path| Picture::open_as_stored(path, !args.ignore_orientation)).transpose()?;
    let model = opened.load()?;
    let mut query = match (&picture, &args.text) {
        (Some(picture), _) => model.embed_picture(picture, args.mode)?,
        (None, Some(text)) => model.embed_text(text)?,
        (None, None) => return Err(Error::Input { reason: "give a text or --image to search for".into() }),
    };
    let width = query.len();
    if !index.entries.is_empty() && width != index.width {
        let reason = format!("{}: rows of {width} numbers were expected, found {}", base_name(&path), index.width);
        return Err(Error::State { reason });
    }
    normalise(&mut query, width);
    let here = std::env::current_dir().ok();
    let found: Vec<Found> = top(rows, &query, args.top as usize)
        .into_iter()
        .map(|hit| Found { path: shown(&index.path(&path, hit.row), here.as_deref()), score: hit.score })
        .collect();
    for Found { path, score } in &found {
        match args.common.json {
            true => say!("{}", serde_json::json!({ "image": name_of(path), "score": score })),
            false => say!("{score:.4}  {}", out::name(&name_of(path))),
        }
    }
    if let Some(html) = &args.html {
        let asked = args.text.clone().unwrap_or_else(|| args.image.as_deref().map(name_of).unwrap_or_default());
        let page = page::html(&asked, args.image.as_deref(), &found, !args.ignore_orientation);
        write_whole(html, |file| std::io::Write::write_all(file, page.as_bytes()))?;
    }
    Ok(())
}

/// A path for people: from where they are, where it is below that.
pub fn shown(path: &Path, here: Option<&Path>) -> PathBuf {
    let whole = match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => return path.into(),
    };
    let below = here.and_then(|here| whole.strip_prefix(here.canonicalize().ok()?).ok());
    below.map_or(whole.clone(), PathBuf::from)
}
