//! `qllama match`.

use qllama::Result;
use qllama::model::{Crossed, Mode};
use qllama::text::SUMMARIZE;

use crate::common::{Pictures, load, open};
use crate::{MatchArgs, MatchMode};

pub async fn run(args: MatchArgs) -> Result<()> {
    let opened = open(&args.common).await?;
    let tokenizer = opened.tokenizer()?;
    let prefix = if let MatchMode::Itm = args.mode { "" } else { SUMMARIZE };
    let ids: Vec<u32> = args.texts.iter().flat_map(|t| tokenizer.encode_text(&format!("{prefix}{t}"))).collect();
    let count = args.texts.len();
    let pictures = Pictures::open(&opened, &args.images, args.ignore_orientation)?;
    let model = load(&args.common, opened).await?;
    let texts = match args.mode {
        MatchMode::Itm => Vec::new(),
        _ => model.embed_text(&ids, count).await?,
    };
    let mut rows = Vec::new();
    for picture in pictures.iter() {
        let (name, pixels) = picture?;
        let vision = model.vision(&pixels).await?;
        let probabilities = match args.mode {
            MatchMode::Itm => {
                let crossed: [Crossed; 1] = [model.cross_states(&vision).await?];
                let logits = model.itm(&crossed, &ids, count).await?;
                logits.chunks(2).map(|pair| softmax(pair)[1]).collect()
            }
            MatchMode::C => {
                softmax(&model.logits_per_image(&model.embed_image(&vision, None, Mode::C).await?, &texts)?)
            }
            MatchMode::G => {
                let crossed = model.cross_states(&vision).await?;
                softmax(&model.logits_per_image(&model.embed_image(&vision, Some(&crossed), Mode::G).await?, &texts)?)
            }
        };
        if args.common.json {
            println!("{}", serde_json::json!({ "image": name, "texts": args.texts, "probabilities": probabilities }));
        }
        rows.push((name, probabilities));
    }
    if !args.common.json {
        print_table(&args.texts, &rows);
    }
    Ok(())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let powers: Vec<f32> = logits.iter().map(|l| (l - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

fn print_table(texts: &[String], rows: &[(String, Vec<f32>)]) {
    let first = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let width = |text: &str| text.chars().count().max(6);
    let head: String = texts.iter().map(|t| format!("  {t:>w$}", w = width(t))).collect();
    println!("{:first$}{head}", "");
    for (name, probabilities) in rows {
        let cells: String =
            probabilities.iter().zip(texts).map(|(p, t)| format!("  {p:>w$.4}", w = width(t))).collect();
        println!("{name:first$}{cells}");
    }
}
