//! Generation from tensors of the host: what stands before the generated ids, checked, for one sequence or many.

use crate::device::Array;
use crate::device::recording::Recording;
use crate::device::tensor::DType;
use crate::error::{Error, Result};
use crate::files::config::Config;
use crate::generate::session::{GenerateOptions, Generated, Prompt, generate};
use crate::model::forward::{check_images, check_vision};
use crate::model::{Crossed, Model, PixelValues, check_finite};
use crate::ops::Rows;
use crate::ops::rows::copy_rows::copy_rows;
use crate::ops::rows::embed::embed;

/// What generation starts from. B is the batch. The rows of a sequence are, in this order: the model's own query tokens
/// where there is a picture (`pixel_values` or `crossed`), `query_embeds`, then `input_ids` or `inputs_embeds`.
///
/// Positions count the ones of the mask. Query tokens (the first `num_query_token` rows of a prompt with embeddings or
/// a picture, in a model with cross-attention) see each other both ways; all other rows see what is before them.
#[derive(Default)]
pub struct PromptInputs<'a> {
    /// [B, N, H]: query tokens of the caller's, in front of `input_ids`.
    pub query_embeds: Option<Array<f32>>,
    /// [B, S, H], in place of `query_embeds` and `input_ids`.
    pub inputs_embeds: Option<Array<f32>>,
    /// [B, S].
    pub input_ids: Option<Array<i64>>,
    /// [B, all rows], or [B, S] beside the model's own query tokens, which are always seen. 1 for rows that may be seen,
    /// 0 for padding, which belongs on the left. Default all ones.
    pub attention_mask: Option<Array<i64>>,
    /// [images, rows, vision_hidden_size]: what the first `num_query_token` rows cross-attend to.
    pub vision_hidden_states: Option<Array<f32>>,
    /// Pictures, in place of `vision_hidden_states` and `query_embeds`: the published `InternVLModel.generate`.
    pub pixel_values: Option<PixelValues>,
    /// As `pixel_values`, for pictures whose keys and values are there already.
    pub crossed: Option<&'a Crossed>,
    /// Sequence b looks at image b % images; B = repeat_time * images, or one image serves all. Default 1.
    pub repeat_time: Option<usize>,
}

/// What the checks found out.
struct Checked {
    batch: usize,
    rows: usize,
    /// The model's own query tokens in front.
    learned: usize,
    /// Rows of `query_embeds`.
    queries: usize,
    ids: Vec<u32>,
    attention_mask: Vec<u32>,
    zero_queries: usize,
    history: Vec<u32>,
}

impl PromptInputs<'_> {
    /// Checks everything that can be checked without the weights.
    ///
    /// # Errors
    /// Those of [`Model::generate_from`].
    pub fn check(&self, config: &Config, options: &GenerateOptions) -> Result<()> {
        self.checked(config, options).map(|_| ())
    }

    fn checked(&self, config: &Config, options: &GenerateOptions) -> Result<Checked> {
        let text = &config.text;
        let fail = |reason: String| Err(Error::Input { reason });
        let wrong = |what: &str, expected: String, found: &[usize]| {
            Err(Error::InputShape { what: what.into(), expected, found: format!("{found:?}") })
        };
        options.check()?;

        // Pictures.
        let pictures = [
            self.vision_hidden_states.as_ref().map(|v| ("vision_hidden_states", v.shape.first().copied().unwrap_or(0))),
            self.pixel_values.as_ref().map(|p| ("pixel_values", p.batch)),
            self.crossed.map(|c| ("the picture", c.states.images)),
        ];
        let mut pictures = pictures.into_iter().flatten();
        let picture = pictures.next();
        if let (Some((a, _)), Some((b, _))) = (picture, pictures.next()) {
            return fail(format!("{a} and {b} were given: give one of them"));
        }
        if let Some(vision) = &self.vision_hidden_states {
            check_vision(text, vision)?;
        }
        if let Some(pixels) = &self.pixel_values {
            let Some(vision) = &config.vision else {
                let reason = "this checkpoint has no InternViT (vision_model), which pictures need".into();
                return Err(Error::State { reason });
            };
            pixels.check(vision)?;
        }
        let own_queries = self.pixel_values.is_some() || self.crossed.is_some();
        let learned = if own_queries { text.num_query_token } else { 0 };
        for (given, name) in
            [(self.query_embeds.is_some(), "query_embeds"), (self.inputs_embeds.is_some(), "inputs_embeds")]
        {
            if given && own_queries {
                return fail(format!("{name} and a picture were given: a picture brings the model's own query tokens"));
            }
            if given && name == "query_embeds" && self.inputs_embeds.is_some() {
                return fail("query_embeds go with input_ids, not with inputs_embeds".into());
            }
        }

        // Rows.
        let h = text.hidden_size;
        let (batch, given) = match (&self.input_ids, &self.inputs_embeds) {
            (Some(_), Some(_)) => return fail("give either input_ids or inputs_embeds, not both".into()),
            (Some(ids), None) => match ids.shape[..] {
                [batch, rows] => (batch, rows),
                _ => return wrong("input_ids", "[batch, rows]".into(), &ids.shape),
            },
            (None, Some(embeds)) => match embeds.shape[..] {
                [batch, rows, width] if width == h => (batch, rows),
                _ => return wrong("inputs_embeds", format!("[batch, rows, {h}]"), &embeds.shape),
            },
            (None, None) => match (&self.query_embeds, picture) {
                (Some(queries), _) => (queries.shape.first().copied().unwrap_or(0), 0),
                (None, Some((_, images))) if own_queries => {
                    (images.checked_mul(self.repeat_time.unwrap_or(1)).unwrap_or(0), 0)
                }
                _ => return fail("give input_ids, inputs_embeds or a picture".into()),
            },
        };
        let queries = match &self.query_embeds {
            None => 0,
            Some(queries) => match queries.shape[..] {
                [b, n, width] if b == batch && width == h => n,
                _ => return wrong("query_embeds", format!("[{batch}, rows, {h}]"), &queries.shape),
            },
        };
        let rows = learned + queries + given;
        if batch == 0 || rows == 0 {
            return fail("the prompt is empty".into());
        }
        for (what, array) in [("query_embeds", &self.query_embeds), ("inputs_embeds", &self.inputs_embeds)] {
            if let Some(array) = array {
                check_finite(what, &array.values)?;
            }
        }
        if let Some((what, images)) = picture {
            check_images(what, images, self.repeat_time, batch)?;
        }
        let vocab = text.vocab_size;
        let mut ids = Vec::new();
        if let Some(array) = &self.input_ids {
            for (index, &id) in array.values.iter().enumerate() {
                match u32::try_from(id) {
                    Ok(small) if (small as usize) < vocab => ids.push(small),
                    _ => return Err(Error::Token { index, id, vocab }),
                }
            }
        }

        // The mask.
        let mut attention_mask = vec![1u32; batch * rows];
        if let Some(mask) = &self.attention_mask {
            let width = match mask.shape[..] {
                [b, width] if b == batch && (width == rows || width == rows - learned) && width > 0 => width,
                _ if learned > 0 => {
                    return wrong("attention_mask", format!("[{batch}, {rows}] or [{batch}, {given}]"), &mask.shape);
                }
                _ => return wrong("attention_mask", format!("[{batch}, {rows}]"), &mask.shape),
            };
            if let Some(index) = mask.values.iter().position(|m| !(0..=1).contains(m)) {
                return fail(format!("attention_mask: element {index} is {}, expected 0 or 1", mask.values[index]));
            }
            for (out, row) in attention_mask.chunks_mut(rows).zip(mask.values.chunks(width)) {
                out[rows - width..].iter_mut().zip(row).for_each(|(out, &m)| *out = m as u32);
            }
        }
        let longest = attention_mask.chunks(rows).map(|m| m.iter().sum::<u32>() as usize).max().unwrap_or(0);
        options.check_for(text, longest)?;

        let embedded = learned > 0 || self.query_embeds.is_some() || self.inputs_embeds.is_some();
        let zero = text.cross_attention && (embedded || picture.is_some());
        Ok(Checked {
            batch,
            rows,
            learned,
            queries,
            attention_mask,
            zero_queries: if zero { text.num_query_token } else { 0 },
            history: if embedded { vec![text.bos_token_id; batch] } else { ids.clone() },
            ids,
        })
    }
}

impl Model {
    /// Generates from tensors, a sequence of its own for each row of the batch. `on_token` as for [`generate`].
    /// Returns `num_return_sequences` sequences for each row of the batch, best first.
    ///
    /// # Errors
    /// `E_INPUT`, `E_INPUT_SHAPE`, `E_TOKEN`, `E_CONTEXT` and `E_NONFINITE` for inputs or options that are wrong,
    /// `E_STATE` for pictures where the checkpoint has no InternViT, all before anything runs; `E_ABORTED` when
    /// `on_token` returned false; the device's errors.
    pub async fn generate_from(
        &self,
        inputs: &PromptInputs<'_>,
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(Option<(usize, u32)>) -> bool,
    ) -> Result<Vec<Vec<Generated>>> {
        let checked = inputs.checked(&self.config, options)?;
        let Checked { batch, rows, learned, queries, .. } = checked;
        let text = &self.config.text;
        let vision = match (&inputs.pixel_values, &inputs.vision_hidden_states) {
            (Some(pixels), _) => Some(self.vision(pixels).await?),
            // Cross-attention is of the first num_query_token rows, and skipped where there are fewer.
            (None, Some(v)) if rows >= text.num_query_token => {
                Some(self.vision_from(v.shape[0], v.shape[1], &v.values)?)
            }
            _ => None,
        };
        let made = match vision {
            Some(vision) => Some(self.cross_states(&vision).await?),
            None => None,
        };
        let crossed = inputs.crossed.or(made.as_ref());

        let mut pool = self.device().pool();
        let embeddings = pool.alloc(DType::F32, &[batch * rows, text.hidden_size])?;
        let mut r = Recording::new();
        if let Some(embeds) = &inputs.inputs_embeds {
            self.device().write_all(embeddings, &embeds.values)?;
        }
        if learned > 0 {
            self.record_queries(&mut r, embeddings, batch, rows)?;
        }
        if let Some(embeds) = &inputs.query_embeds
            && queries > 0
        {
            let from = pool.f32(&[batch * queries, text.hidden_size], &embeds.values)?;
            let to = Rows { batch, rows: queries, stride: rows, first: learned };
            copy_rows(&mut r, from, Rows::all(from), embeddings, to);
        }
        if !checked.ids.is_empty() {
            let ids = pool.u32(&[checked.ids.len()], &checked.ids)?;
            let first = learned + queries;
            embed(
                &mut r,
                &self.decoder().embed_tokens,
                ids,
                embeddings,
                Rows { batch, rows: rows - first, stride: rows, first },
            );
        }
        self.device().play(&r)?;
        let prompt = Prompt {
            embeddings,
            batch,
            rows,
            attention_mask: &checked.attention_mask,
            zero_queries: checked.zero_queries,
            cross: crossed.map(|c| &c.states),
            history: &checked.history,
        };
        generate(self.decoder(), self.device(), &prompt, options, on_token).await
    }

    /// Generates from the query tokens (where there are pictures) followed by a prompt's ids: one prompt for all
    /// pictures, or one a picture; shorter ones are padded on the left. See [`Model::generate_from`] for `on_token` and
    /// errors.
    pub async fn generate(
        &self,
        crossed: Option<&Crossed>,
        prompts: &[&[u32]],
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(Option<(usize, u32)>) -> bool,
    ) -> Result<Vec<Vec<Generated>>> {
        let batch = crossed.map_or(prompts.len(), |c| c.states.images);
        if batch == 0 || (prompts.len() != 1 && prompts.len() != batch) {
            return Err(Error::InputShape {
                what: "prompts".into(),
                expected: format!("one prompt, or one for each of {batch} picture(s)"),
                found: format!("{} prompts", prompts.len()),
            });
        }
        let length = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let mut ids = vec![i64::from(self.config.text.pad_token_id); batch * length];
        let mut mask = vec![1; batch * length];
        for b in 0..batch {
            let prompt = prompts[b % prompts.len()];
            let padding = length - prompt.len();
            ids[b * length + padding..][..prompt.len()].iter_mut().zip(prompt).for_each(|(to, &id)| *to = id.into());
            mask[b * length..][..padding].fill(0);
        }
        let mut inputs = PromptInputs { crossed, ..Default::default() };
        if length > 0 {
            inputs.input_ids = Some(Array::new(&[batch, length], ids));
            inputs.attention_mask = Some(Array::new(&[batch, length], mask));
        }
        self.generate_from(&inputs, options, on_token).await
    }
}
