//! `qllama generate`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::ArgGroup;
use qllama::internals::{NamedTensor, PAD, write_tensors};
use qllama::{Error, GenerateInputs, GenerateOptions, Generation, Opened, Piece, Result};

use crate::common::{Common, Pictures, prompt_ids};
use crate::generation::GenerationArgs;
use crate::out::{self, say};
use crate::tensors::{TensorFile, check_outputs};

const HELP: &str = "\
IN holds, with batch B:
  input_ids             [B,S] integers below the vocabulary's size; or inputs_embeds; or both query_embeds and
                        input_ids, which are joined in that order
  inputs_embeds         [B,S,hidden_size] floats
  query_embeds          [B,N,hidden_size] floats
  attention_mask        [B,all rows] 1 for rows that may be seen, 0 for padding, which belongs on the left; default all 1
  vision_hidden_states  [images,rows,vision_hidden_size] floats; sequence b looks at image b % images
  pixel_values          [images,3,h,w] floats, in place of vision rows and query embeddings: the model's own query tokens
                        stand in front, and attention_mask may leave them out
Integers are I64, I32 or U32, masks also BOOL, floats F32, F16 or BF16. No tokenizer is needed: without one, ids are
printed, and `text` is null. Positions count the ones of the mask; query tokens see each other both ways.

OUT holds `sequences` [sequences,longest] I64: new ids only, the end id included, padded with id 0; and `scores` F32:
beam search's (sum of log-probabilities / length^length_penalty), 0 for greedy search and sampling. The sequences of a
prompt stand together, best first.

Examples:
  qllama generate --image cat.png --prompt 'English caption:' --num-beams 5 --min-new-tokens 8
  qllama generate --prompt 'The sea' --do-sample --top-p 0.9 --seed 7 --num-return-sequences 3
  qllama generate --inputs in.safetensors --outputs out.safetensors --json";

/// Generate text from a prompt, a picture, or tensors of other tools.
///
/// Greedy search by default; beam search with --num-beams, sampling with --do-sample. The options are Hugging
/// Face's, with its names, its rules and its defaults but for --max-new-tokens and --seed. With --image, the model's
/// query tokens stand before the prompt. Each sequence is printed on a line of its own; --json prints one object a
/// sequence with `text`, `ids` (new ones, the end id left out) and `score`.
#[derive(clap::Args)]
#[command(after_help = HELP, group = ArgGroup::new("start").required(true))]
pub struct Args {
    /// Text to continue.
    #[arg(long, value_name = "TEXT", group = "start")]
    prompt: Option<String>,
    /// Tensors to start from; see below.
    #[arg(long, value_name = "IN.safetensors", group = "start")]
    inputs: Option<PathBuf>,
    /// A picture to look at: a PNG, JPEG or WebP file, in place of IN's pixel_values.
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,
    /// Write `sequences` and `scores` to this file; it appears whole or not at all.
    #[arg(long, value_name = "OUT.safetensors")]
    outputs: Option<PathBuf>,
    /// Print text as it is made; with --json, an object a token with `sequence`, `id` and `text` before the others. Not
    /// with beams.
    #[arg(long)]
    stream: bool,
    /// Sequences for each image of IN: B = R * images. One image serves all where R is 1.
    #[arg(long, default_value_t = 1, value_name = "R")]
    repeat_time: usize,
    /// Take the picture as it is stored, without turning it as its EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    common: Common,
}

pub fn run(args: Args) -> Result<()> {
    let options = args.generation.options()?;
    check_stream(&args, &options)?;
    if let Some(path) = &args.outputs {
        check_outputs(path)?;
    }
    let mut inputs = match &args.inputs {
        Some(path) => from_tensors(TensorFile::read(path)?)?,
        None => GenerateInputs::default(),
    };
    let opened = args.common.open()?;
    complete(&args, &opened, &mut inputs)?;
    opened.check_generate(&inputs, &options)?;

    let model = opened.load()?;
    let mut begun = false;
    let all = model.generate_from(&inputs, &options, &mut |piece| {
        print_piece(&args, model.tokenizer().is_ok(), piece, &mut begun);
        ControlFlow::Continue(())
    })?;
    if args.stream && !args.common.json {
        say!();
    }
    if let Some(path) = &args.outputs {
        write_tensors(path, &tensors(&all))?;
    }
    print(&args, &all);
    Ok(())
}

/// What `--stream` can show.
fn check_stream(args: &Args, options: &GenerateOptions) -> Result<()> {
    let fail = |reason: &str| Err(Error::Input { reason: reason.into() });
    if args.stream && options.num_beams > 1 {
        return fail("--stream needs --num-beams 1: beam search knows its text only at the end");
    }
    if args.stream && options.num_return_sequences > 1 && !args.common.json {
        return fail("--stream prints one sequence as text: give --json too, or --num-return-sequences 1");
    }
    Ok(())
}

fn from_tensors(mut file: TensorFile) -> Result<GenerateInputs<'static>> {
    let inputs = GenerateInputs {
        query_embeds: file.floats("query_embeds")?,
        inputs_embeds: file.floats("inputs_embeds")?,
        input_ids: file.ids("input_ids")?,
        attention_mask: file.mask("attention_mask")?,
        vision_hidden_states: file.floats("vision_hidden_states")?,
        pixel_values: file.pixel_values()?,
        ..Default::default()
    };
    file.note_unused();
    Ok(inputs)
}

/// Adds the picture and the prompt of the command line.
fn complete(args: &Args, opened: &Opened<'_>, inputs: &mut GenerateInputs<'_>) -> Result<()> {
    if let Some(path) = &args.image {
        if inputs.pixel_values.is_some() {
            return Err(Error::Input { reason: "--image and pixel_values were given: give one of them".into() });
        }
        let pictures = Pictures::open(opened, std::slice::from_ref(path), args.ignore_orientation)?;
        inputs.pixel_values = pictures.first();
    }
    if let Some(prompt) = &args.prompt {
        inputs.input_ids = Some(prompt_ids(opened, prompt)?);
    }
    let pictures = inputs.pixel_values.is_some() || inputs.vision_hidden_states.is_some();
    if args.repeat_time != 1 && !pictures {
        return Err(Error::Input { reason: "--repeat-time is about pictures, and there is none".into() });
    }
    inputs.repeat_time = Some(args.repeat_time);
    let batch = [
        inputs.input_ids.as_ref().map(|a| &a.shape),
        inputs.inputs_embeds.as_ref().map(|a| &a.shape),
        inputs.query_embeds.as_ref().map(|a| &a.shape),
    ];
    let batch = batch.into_iter().flatten().filter_map(|shape| shape.first()).max().copied();
    let batch = batch.or(inputs.pixel_values.as_ref().map(|p| p.batch * args.repeat_time)).unwrap_or(1);
    if args.stream && batch > 1 && !args.common.json {
        let reason = format!("--stream prints one sequence as text, and there are {batch}: give --json too");
        return Err(Error::Input { reason });
    }
    Ok(())
}

/// Prints a token as it is made, where that was asked for.
fn print_piece(args: &Args, has_text: bool, piece: Piece<'_>, begun: &mut bool) {
    if !args.stream {
        return;
    }
    let Piece { sequence, text, id } = piece;
    match id {
        Some(id) if args.common.json => {
            let text = has_text.then_some(text);
            say!("{}", serde_json::json!({ "sequence": sequence, "id": id, "text": text }));
        }
        // The last object has the whole text.
        None if args.common.json => {}
        Some(id) if !has_text => out::piece(&format!("{}{id}", if *begun { " " } else { "" })),
        _ => out::piece(text),
    }
    *begun = true;
}

/// `sequences` I64 [sequences, longest], padded with 0 behind, and `scores` F32 [sequences].
fn tensors(all: &[Generation]) -> [NamedTensor; 2] {
    let longest = all.iter().map(|g| g.ids.len() + g.end_id.iter().len()).max().unwrap_or(0);
    let padded = |g: &Generation| {
        let ids = g.ids.iter().copied().chain(g.end_id).chain(std::iter::repeat(PAD));
        ids.take(longest).map(i64::from).collect::<Vec<_>>()
    };
    let ids: Vec<i64> = all.iter().flat_map(padded).collect();
    let scores: Vec<f32> = all.iter().map(|g| g.score).collect();
    [NamedTensor::i64("sequences", &[all.len(), longest], &ids), NamedTensor::f32("scores", &[scores.len()], &scores)]
}

fn print(args: &Args, all: &[Generation]) {
    for Generation { text, ids, score, .. } in all {
        if args.common.json {
            say!("{}", serde_json::json!({ "text": text, "ids": ids, "score": score }));
        } else if !args.stream {
            let numbers = || ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            say!("{}", text.clone().unwrap_or_else(numbers));
        }
    }
}
