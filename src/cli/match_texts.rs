//! `qllama match`.

use std::path::PathBuf;

use qllama::{Mode, Result};

use crate::common::{Common, Pictures, modes};
use crate::out::{self, say};

/// Compare pictures with texts: a table of probabilities, a row a picture, that sums to 1 over the texts.
#[derive(clap::Args)]
pub struct Args {
    /// Pictures: PNG, JPEG or WebP files.
    #[arg(long = "image", required = true, num_args = 1.., value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Texts to compare with.
    #[arg(long = "text", required = true, num_args = 1.., value_name = "TEXT")]
    texts: Vec<String>,
    /// How to compare.
    #[arg(long, value_parser = modes(&[Mode::C, Mode::G, Mode::Itm]), default_value = "c")]
    mode: Mode,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let opened = args.common.open()?;
    opened.tokenizer()?;
    let pictures = Pictures::open(&opened, &args.images, args.ignore_orientation)?;
    let model = opened.load()?;
    let texts: Vec<&str> = args.texts.iter().map(String::as_str).collect();
    let matcher = model.matcher(&texts, args.mode)?;
    let mut rows = Vec::new();
    for picture in pictures.iter() {
        let (name, pixels) = picture?;
        let probabilities = matcher.row_of_pixels(&pixels)?;
        if args.common.json {
            say!("{}", serde_json::json!({ "image": name, "texts": args.texts, "probabilities": probabilities }));
        }
        rows.push((name, probabilities));
    }
    if !args.common.json {
        print_table(&args.texts, &rows);
    }
    Ok(())
}

fn print_table(texts: &[String], rows: &[(String, Vec<f32>)]) {
    let names = || rows.iter().map(|(name, _)| out::name(name));
    let first = names().map(|name| name.chars().count()).max().unwrap_or(0);
    let width = |text: &str| text.chars().count().max(6);
    let head: String = texts.iter().map(|t| format!("  {t:>w$}", w = width(t))).collect();
    say!("{:first$}{head}", "");
    for (name, (_, probabilities)) in names().zip(rows) {
        let cells: String =
            probabilities.iter().zip(texts).map(|(p, t)| format!("  {p:>w$.4}", w = width(t))).collect();
        say!("{name:first$}{cells}");
    }
}
