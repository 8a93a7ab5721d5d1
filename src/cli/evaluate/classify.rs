//! `qllama evaluate classify`.

use std::path::{Path, PathBuf};

use qllama::{Error, Mode, Result};
use serde_json::{Value, json};
use walkdir::WalkDir;

use super::captions::Resize;
use super::pictures::embed_all;
use super::retrieval::embed_texts;
use super::templates::IMAGENET;
use crate::common::{Common, modes};
use crate::index::product::{normalise, top};
use crate::many::names::base_name;
use crate::out::{self, say};

/// Name the classes of pictures without training: top-1 and top-5.
///
/// The pictures of each class lie in a folder of its own, as ImageNet's do. A class is the mean of the embeddings of its
/// name in all templates, which are the 80 that were published for ImageNet.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  qllama evaluate classify --model OpenGVLab/InternVL-14B-224px \\\n    \
    --images imagenet/val --classes names.json")]
pub struct Args {
    /// Folder of folders of pictures.
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
    /// Names of the classes: {"folder": "name"}. Default: the folders' own names.
    #[arg(long, value_name = "FILE.json")]
    classes: Option<PathBuf>,
    /// Templates, one a line, with {} for the name. Default: those for ImageNet.
    #[arg(long, value_name = "FILE.txt")]
    templates: Option<PathBuf>,
    /// Which embeddings to compare.
    #[arg(long, value_parser = modes(&[Mode::C, Mode::G]), default_value = "c")]
    mode: Mode,
    /// How pictures become squares.
    #[arg(long, value_enum, default_value = "short")]
    resize: Resize,
    #[command(flatten)]
    common: Common,
}

/// Endings of pictures.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "jfif", "webp"];

pub fn run(args: Args) -> Result<()> {
    let templates = templates(args.templates.as_deref())?;
    let (classes, pictures) = folders(&args.images)?;
    let names = names(args.classes.as_deref(), &classes)?;
    let opened = args.common.open()?;
    opened.tokenizer()?;
    let preprocessor = args.resize.of(opened.preprocessor());
    let model = opened.load()?;
    let mut columns = Vec::new();
    for (class, name) in names.iter().enumerate() {
        if class > 0 && class.is_multiple_of(100) {
            out::note(format_args!("qllama: {class} of {} classes embedded", names.len()));
        }
        let texts: Vec<String> = templates.iter().map(|template| template.replace("{}", name)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut rows = embed_texts(&model, &texts)?;
        let width = rows.len() / texts.len();
        normalise(&mut rows, width);
        let mut mean: Vec<f32> = (0..width).map(|i| rows.iter().skip(i).step_by(width).sum()).collect();
        normalise(&mut mean, width);
        columns.extend(mean);
    }
    let paths: Vec<PathBuf> = pictures.iter().map(|(path, _)| path.clone()).collect();
    let mut rows = embed_all(&model, &paths, args.mode, preprocessor)?;
    let width = columns.len() / names.len();
    normalise(&mut rows, width);
    let (mut first, mut among) = (0, 0);
    for (row, (_, class)) in rows.chunks(width).zip(&pictures) {
        let best = top(&columns, row, 5);
        first += usize::from(best.first().is_some_and(|hit| hit.row == *class));
        among += usize::from(best.iter().any(|hit| hit.row == *class));
    }
    let percent = |count: usize| 100.0 * count as f64 / pictures.len() as f64;
    let (count, classes, templates) = (pictures.len(), names.len(), templates.len());
    if args.common.json {
        say!(
            "{}",
            json!({ "pictures": count, "classes": classes, "templates": templates, "top1": percent(first), "top5": percent(among) })
        );
    } else {
        say!("{count} pictures, {classes} classes, {templates} templates");
        say!("top-1  {:.1}\ntop-5  {:.1}", percent(first), percent(among));
    }
    Ok(())
}

fn templates(file: Option<&Path>) -> Result<Vec<String>> {
    let Some(file) = file else { return Ok(IMAGENET.map(String::from).to_vec()) };
    let name = base_name(file);
    let text = std::fs::read_to_string(file).map_err(|e| Error::System { file: name.clone(), cause: e.into() })?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    match lines.iter().position(|line| !line.contains("{}")) {
        Some(at) => Err(Error::Input { reason: format!("{name}: line {}: expected a template with {{}}", at + 1) }),
        None if lines.is_empty() => Err(Error::Input { reason: format!("{name}: there are no templates in it") }),
        None => Ok(lines),
    }
}

/// Pictures, each with the number of its class.
type Classed = Vec<(PathBuf, usize)>;

/// Classes, which are folders, by name, and their pictures.
fn folders(images: &Path) -> Result<(Vec<String>, Classed)> {
    let fail = |e: std::io::Error| Error::System { file: base_name(images), cause: e.into() };
    let entries = std::fs::read_dir(images).map_err(fail)?;
    let entries = entries.map(|entry| Ok(entry.map_err(fail)?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let mut classes: Vec<PathBuf> = entries.into_iter().filter(|path| path.is_dir()).collect();
    classes.sort();
    let is_picture =
        |path: &Path| path.extension().is_some_and(|e| ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known)));
    let mut pictures = Vec::new();
    for (class, folder) in classes.iter().enumerate() {
        let files =
            WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter().filter_map(|entry| entry.ok());
        let files = files.filter(|entry| entry.file_type().is_file() && is_picture(entry.path()));
        pictures.extend(files.map(|entry| (entry.into_path(), class)));
    }
    if pictures.is_empty() {
        let reason = "expected folders with pictures in it, one for each class";
        return Err(Error::Input { reason: format!("{}: {reason}", base_name(images)) });
    }
    Ok((classes.iter().map(|folder| base_name(folder)).collect(), pictures))
}

/// The names of the classes.
fn names(file: Option<&Path>, classes: &[String]) -> Result<Vec<String>> {
    let Some(file) = file else { return Ok(classes.iter().map(|class| class.replace('_', " ")).collect()) };
    let name = base_name(file);
    let bytes = std::fs::read(file).map_err(|e| Error::System { file: name.clone(), cause: e.into() })?;
    let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let of = |class: &String| {
        let reason = || format!("{name}: expected {{\"folder\": \"name\"}} with the name of {class}");
        json[class].as_str().map(String::from).ok_or_else(|| Error::Input { reason: reason() })
    };
    classes.iter().map(of).collect()
}
