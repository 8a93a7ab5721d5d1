//! `qllama embed`.

use qllama::checkpoint::{NamedTensor, read_tensors, write_tensors};
use qllama::model::{Mode, Model, PixelValues};
use qllama::text::SUMMARIZE;
use qllama::{Error, Result};

use crate::cli::{base_name, load, picture, reason};
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
    let model = load(&args.common).await?;
    let (pixels, texts) = match &args.inputs {
        Some(_) => from_tensors(&args, &model)?,
        None => from_files(&args, &model)?,
    };
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

fn from_files(args: &EmbedArgs, model: &Model) -> Result<(Option<PixelValues>, Option<Texts>)> {
    let mut pixels: Option<PixelValues> = None;
    for path in &args.images {
        let one = picture(model, path, args.ignore_orientation)?;
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
        let tokenizer = model.tokenizer()?;
        let encode = |t: &String| tokenizer.encode_text(&format!("{SUMMARIZE}{t}"));
        texts = Some(Texts { count: args.texts.len(), ids: args.texts.iter().flat_map(encode).collect() });
    }
    Ok((pixels, texts))
}

fn from_tensors(args: &EmbedArgs, model: &Model) -> Result<(Option<PixelValues>, Option<Texts>)> {
    let path = args.inputs.as_ref().expect("called with --inputs");
    let name = base_name(path);
    let bytes = std::fs::read(path).map_err(|e| Error::Io { file: name.clone(), reason: reason(&e) })?;
    let tensors = read_tensors(&name, &bytes)?;
    let find = |wanted: &str| tensors.get(wanted);
    let pixels = match find("pixel_values") {
        None => None,
        Some(t) => {
            let [batch, 3, height, width] = t.shape[..] else {
                return Err(shape_error("pixel_values", "[pictures, 3, height, width]", &t.shape));
            };
            Some(PixelValues { batch, height, width, values: t.to_f32()? })
        }
    };
    let texts = match find("text_ids") {
        None => None,
        Some(t) => {
            let [count, _] = t.shape[..] else { return Err(shape_error("text_ids", "[texts, rows]", &t.shape)) };
            let vocab = model.config.text.vocab_size;
            let id = |(index, id): (usize, i64)| {
                u32::try_from(id).ok().filter(|&id| (id as usize) < vocab).ok_or(Error::Token { index, id, vocab })
            };
            Some(Texts { count, ids: t.to_i64()?.into_iter().enumerate().map(id).collect::<Result<_>>()? })
        }
    };
    if pixels.is_none() && texts.is_none() {
        return Err(Error::Input {
            reason: format!("{name}: expected a tensor `pixel_values` or `text_ids`, found neither"),
        });
    }
    Ok((pixels, texts))
}

fn shape_error(what: &str, expected: &str, found: &[usize]) -> Error {
    Error::InputShape { what: what.into(), expected: expected.into(), found: format!("{found:?}") }
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
    let crossed = model.cross_states(&vision)?;
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
            let crossed = model.cross_states(&model.vision(&one).await?)?;
            logits.extend(model.itm(&[crossed], &t.ids, t.count).await?);
        }
        out.push(NamedTensor::f32("itm_logits", &[pixels.batch, t.count, 2], &logits));
    }
    Ok(())
}
