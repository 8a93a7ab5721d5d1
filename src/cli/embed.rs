//! `qllama embed`.

use std::path::{Path, PathBuf};

use pollster::block_on;
use qllama::internals::{NamedTensor, Network, SUMMARIZE, check_ids, write_tensors};
use qllama::{Error, Mode, Opened, PixelValues, Result};

use crate::common::{Common, Pictures, modes};
use crate::tensors::{TensorFile, check_outputs};

/// Write embeddings of pictures and texts to a safetensors file.
///
/// With --image and --text the prepared `pixel_values` and `text_ids` are written too. With --inputs, tensors from
/// other tools are read: `pixel_values` [B,3,h,w] and/or `text_ids` [B,S], used as they stand. Written are
/// `vision_hidden_states`, `image_embeds.C`, `image_embeds.G`, `text_embeds`, `logits_per_image.C` and
/// `logits_per_image.G`: what the inputs allow.
#[derive(clap::Args)]
pub struct Args {
    /// Pictures: PNG, JPEG or WebP files.
    #[arg(long = "image", num_args = 1.., value_name = "IMAGE", conflicts_with = "inputs")]
    images: Vec<PathBuf>,
    /// Texts.
    #[arg(long = "text", num_args = 1.., value_name = "TEXT", conflicts_with = "inputs")]
    texts: Vec<String>,
    /// Read `pixel_values` and/or `text_ids` from this safetensors file.
    #[arg(long, value_name = "F.safetensors")]
    inputs: Option<PathBuf>,
    /// Write to this safetensors file.
    #[arg(long, required = true, value_name = "G.safetensors")]
    outputs: PathBuf,
    /// Image embedding to write; default both.
    #[arg(long, value_parser = modes(&[Mode::C, Mode::G]))]
    mode: Option<Mode>,
    /// Also write `itm_logits` [images, texts, 2].
    #[arg(long)]
    itm: bool,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

/// Text ids [texts, rows].
struct Texts {
    count: usize,
    ids: Vec<u32>,
}

pub fn run(args: Args) -> Result<()> {
    if args.inputs.is_none() && args.images.is_empty() && args.texts.is_empty() {
        return Err(Error::Input { reason: "give --image, --text or --inputs: there is nothing to embed".into() });
    }
    check_outputs(&args.outputs)?;
    let opened = args.common.open()?;
    let (pixels, texts) = match &args.inputs {
        Some(path) => from_tensors(path, &opened)?,
        None => from_files(&args, &opened)?,
    };
    let model = opened.load()?;
    let mut out = Vec::new();
    if args.inputs.is_none() {
        if let Some(p) = &pixels {
            out.push(NamedTensor::f32("pixel_values", &[p.batch, 3, p.height, p.width], &p.values));
        }
        if let Some(t) = &texts {
            let ids: Vec<i64> = t.ids.iter().map(|&id| id.into()).collect();
            out.push(NamedTensor::i64("text_ids", &[t.count, ids.len() / t.count], &ids));
        }
    }
    let made = model.run(async |network| embed(&args, network, pixels.as_ref(), texts.as_ref()).await);
    out.extend(block_on(made)?);
    write_tensors(&args.outputs, &out)
}

fn from_files(args: &Args, opened: &Opened<'_>) -> Result<(Option<PixelValues>, Option<Texts>)> {
    let pictures = Pictures::open(opened, &args.images, args.ignore_orientation)?;
    let pixels = pictures.iter().map(|picture| Ok(picture?.1)).collect::<Result<Vec<_>>>()?;
    let mut texts = None;
    if !args.texts.is_empty() {
        let tokenizer = opened.tokenizer()?;
        let encode = |t: &String| tokenizer.encode_text(&format!("{SUMMARIZE}{t}"));
        texts = Some(Texts { count: args.texts.len(), ids: args.texts.iter().flat_map(encode).collect() });
    }
    Ok((PixelValues::join(pixels), texts))
}

fn from_tensors(path: &Path, opened: &Opened<'_>) -> Result<(Option<PixelValues>, Option<Texts>)> {
    let mut file = TensorFile::read(path)?;
    let pixels = file.pixel_values()?;
    if let (Some(pixels), Some(vision)) = (&pixels, &opened.config().vision) {
        pixels.check(vision)?;
    }
    let texts = match file.ids("text_ids")? {
        None => None,
        Some(array) => {
            let (count, rows) = match array.shape[..] {
                [count, rows] if count > 0 && rows > 0 => (count, rows),
                _ => {
                    let expected = "[texts, rows] with at least one of each".into();
                    let found = format!("{:?}", array.shape);
                    return Err(Error::InputShape { what: "text_ids".into(), expected, found });
                }
            };
            let text = &opened.config().text;
            let max = text.max_position_embeddings;
            if rows > max {
                return Err(Error::Context { need: rows, max });
            }
            Some(Texts { count, ids: check_ids(text, &array.values)? })
        }
    };
    if pixels.is_none() && texts.is_none() {
        return Err(file.lacks("pixel_values", "no text_ids: one of them is needed"));
    }
    file.note_unused();
    Ok((pixels, texts))
}

async fn embed(
    args: &Args,
    network: &Network,
    pixels: Option<&PixelValues>,
    texts: Option<&Texts>,
) -> Result<Vec<NamedTensor>> {
    let mut out = Vec::new();
    let width = network.config.clip.as_ref().map_or(0, |c| c.clip_embed_dim);
    let mut text_embeds = None;
    if let Some(t) = texts {
        let values = network.embed_text(&t.ids, t.count).await?;
        out.push(NamedTensor::f32("text_embeds", &[t.count, width], &values));
        text_embeds = Some(values);
    }
    let Some(pixels) = pixels else { return Ok(out) };
    let vision = network.vision(pixels).await?;
    let states = network.vision_rows(&vision).await?;
    out.push(NamedTensor::f32("vision_hidden_states", &states.shape, &states.values));
    let crossed = network.cross_states(&vision).await?;
    for (mode, name) in [(Mode::C, "C"), (Mode::G, "G")] {
        if args.mode.is_some_and(|wanted| wanted != mode) {
            continue;
        }
        let images = match mode {
            Mode::G => network.embed_images_g(&vision, &crossed).await?,
            _ => network.embed_images_c(&vision).await?,
        };
        out.push(NamedTensor::f32(format!("image_embeds.{name}"), &[pixels.batch, width], &images));
        if let (Some(t), Some(embeds)) = (texts, &text_embeds) {
            let logits = network.logits_per_image(&images, embeds)?;
            out.push(NamedTensor::f32(format!("logits_per_image.{name}"), &[pixels.batch, t.count], &logits));
        }
    }
    if let (true, Some(t)) = (args.itm, texts) {
        let mut logits = Vec::new();
        for one in pixels.each() {
            let crossed = network.cross_states(&network.vision(&one).await?).await?;
            logits.extend(network.itm(&[&crossed], &t.ids, t.count).await?);
        }
        out.push(NamedTensor::f32("itm_logits", &[pixels.batch, t.count, 2], &logits));
    }
    Ok(out)
}
