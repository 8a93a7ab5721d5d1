//! `qllama caption`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use qllama::{CAPTION_PROMPT, Error, GenerateInputs, Generation, Result};

use crate::common::{Common, Pictures, prompt_ids};
use crate::generation::GenerationArgs;
use crate::out::{self, say};

/// Say what is in pictures.
///
/// One beam is greedy search and prints text as it is made. The published InternVL-14B was used with
/// `--num-beams 5 --min-new-tokens 8`.
#[derive(clap::Args)]
pub struct Args {
    /// PNG, JPEG or WebP files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// What the caption continues.
    #[arg(long, default_value = CAPTION_PROMPT)]
    prompt: String,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let options = args.generation.options()?;
    if options.num_return_sequences > 1 {
        let reason = "a picture gets one caption: `qllama generate --image` writes several sequences".into();
        return Err(Error::Input { reason });
    }
    let opened = args.common.open()?;
    let prompt = prompt_ids(&opened, &args.prompt)?;
    let pictures = Pictures::open(&opened, &args.images, args.ignore_orientation)?;
    let mut inputs = GenerateInputs { input_ids: Some(prompt), ..Default::default() };
    inputs.pixel_values = pictures.first();
    opened.check_generate(&inputs, &options)?;
    let model = opened.load()?;
    // Text appears as it is made, where greedy search makes it and a person reads it.
    let live = !args.common.json && options.num_beams == 1;
    for picture in pictures.iter() {
        let (name, pixels) = picture?;
        inputs.pixel_values = Some(pixels);
        if live && args.images.len() > 1 {
            out::piece(&format!("{name}: "));
        }
        let found = model.generate_from(&inputs, &options, &mut |piece| {
            if live {
                out::piece(piece.text);
            }
            ControlFlow::Continue(())
        })?;
        print(&args, &name, &found[0], live);
    }
    Ok(())
}

fn print(args: &Args, name: &str, caption: &Generation, live: bool) {
    let Generation { text, ids, .. } = caption;
    let text = text.as_deref().unwrap_or_default();
    if args.common.json {
        say!("{}", serde_json::json!({ "image": name, "text": text, "ids": ids }));
    } else if live {
        say!();
    } else if args.images.len() > 1 {
        say!("{name}: {text}");
    } else {
        say!("{text}");
    }
}
