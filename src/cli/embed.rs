//! `qllama embed`.

use std::path::Path;

use qllama::files::safetensors::{NamedTensor, write_tensors};
use qllama::model::{Mode, Model, Opened, PixelValues};
use qllama::text::SUMMARIZE;
use qllama::{Error, Result};

use crate::common::{Pictures, load, open};
use crate::tensors::{TensorFile, check_outputs};
use crate::{EmbedArgs, MatchMode};

/// Text ids [texts, rows].
struct Texts {
    count: usize,
    ids: Vec<u32>,
}

pub async fn run(args: EmbedArgs) -> Result<()> {
    if args.inputs.is_none() && args.images.is_empty() && args.texts.is_empty() {
        return Err(Error::Input { reason: "give --image, --text or --inputs: there is nothing to embed".into() });
    }
    check_outputs(&args.outputs)?;
    let opened = open(&args.common).await?;
    let (pixels, texts) = match &args.inputs {
        Some(path) => from_tensors(path, &opened)?,
        None => from_files(&args, &opened)?,
    };
    let model = load(&args.common, opened).await?;
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
    embed(&args, &model, pixels.as_ref(), texts.as_ref(), &mut out).await?;
    write_tensors(&args.outputs, &out)
}

fn from_files(args: &EmbedArgs, opened: &Opened) -> Result<(Option<PixelValues>, Option<Texts>)> {
    let mut pixels: Option<PixelValues> = None;
    for picture in Pictures::open(opened, &args.images, args.ignore_orientation)?.iter() {
        let (_, one) = picture?;
        match &mut pixels {
            None => pixels = Some(one),
            Some(all) => {
                all.batch += 1;
                all.values.extend(one.values);
            }
        }
    }
    let mut texts = None;
    if !args.texts.is_empty() {
        let tokenizer = opened.tokenizer()?;
        let encode = |t: &String| tokenizer.encode_text(&format!("{SUMMARIZE}{t}"));
        texts = Some(Texts { count: args.texts.len(), ids: args.texts.iter().flat_map(encode).collect() });
    }
    Ok((pixels, texts))
}

fn from_tensors(path: &Path, opened: &Opened) -> Result<(Option<PixelValues>, Option<Texts>)> {
    let mut file = TensorFile::read(path)?;
    let pixels = file.pixel_values()?;
    if let (Some(pixels), Some(vision)) = (&pixels, &opened.config.vision) {
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
            let text = &opened.config.text;
            let (vocab, max) = (text.vocab_size, text.max_position_embeddings);
            if rows > max {
                return Err(Error::Context { need: rows, max });
            }
            let id = |(index, id): (usize, i64)| {
                u32::try_from(id).ok().filter(|&id| (id as usize) < vocab).ok_or(Error::Token { index, id, vocab })
            };
            Some(Texts { count, ids: array.values.into_iter().enumerate().map(id).collect::<Result<_>>()? })
        }
    };
    if pixels.is_none() && texts.is_none() {
        return Err(file.lacks("pixel_values", "no text_ids: one of them is needed"));
    }
    file.note_unused();
    Ok((pixels, texts))
}

async fn embed(
    args: &EmbedArgs,
    model: &Model,
    pixels: Option<&PixelValues>,
    texts: Option<&Texts>,
    out: &mut Vec<NamedTensor>,
) -> Result<()> {
    let width = model.config.clip.as_ref().map_or(0, |c| c.clip_embed_dim);
    let mut text_embeds = None;
    if let Some(t) = texts {
        let values = model.embed_text(&t.ids, t.count).await?;
        out.push(NamedTensor::f32("text_embeds", &[t.count, width], &values));
        text_embeds = Some(values);
    }
    let Some(pixels) = pixels else { return Ok(()) };
    let vision = model.vision(pixels).await?;
    let states = model.device().read_f32(vision.states).await?;
    let shape = [vision.images, vision.rows, states.len() / (vision.images * vision.rows)];
    out.push(NamedTensor::f32("vision_hidden_states", &shape, &states));
    let crossed = model.cross_states(&vision).await?;
    for (mode, name, wanted) in [
        (Mode::C, "C", !matches!(args.mode, Some(MatchMode::G))),
        (Mode::G, "G", !matches!(args.mode, Some(MatchMode::C))),
    ] {
        if !wanted {
            continue;
        }
        let images = model.embed_image(&vision, Some(&crossed), mode).await?;
        out.push(NamedTensor::f32(format!("image_embeds.{name}"), &[pixels.batch, width], &images));
        if let (Some(t), Some(embeds)) = (texts, &text_embeds) {
            let logits = model.logits_per_image(&images, embeds)?;
            out.push(NamedTensor::f32(format!("logits_per_image.{name}"), &[pixels.batch, t.count], &logits));
        }
    }
    if let (true, Some(t)) = (args.itm, texts) {
        let mut logits = Vec::new();
        let per_picture = 3 * pixels.height * pixels.width;
        for values in pixels.values.chunks(per_picture) {
            let one = PixelValues { batch: 1, values: values.to_vec(), ..*pixels };
            let crossed = model.cross_states(&model.vision(&one).await?).await?;
            logits.extend(model.itm(&[crossed], &t.ids, t.count).await?);
        }
        out.push(NamedTensor::f32("itm_logits", &[pixels.batch, t.count, 2], &logits));
    }
    Ok(())
}
