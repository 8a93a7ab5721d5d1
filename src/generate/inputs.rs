//! What generation starts from: tensors of the host, checked, for one sequence or many.

use crate::device::Array;
use crate::error::{Error, Result};
use crate::files::config::Config;
use crate::generate::check::{CheckedRows, GivenRows, check_images, check_mask, check_vision, input};
use crate::generate::options::Resolved;
use crate::image::PixelValues;
use crate::nets::decoder::CrossStates;

/// What generation starts from. B is the batch. The rows of a sequence are, in this order: the model's own query tokens
/// where there is a picture (`pixel_values` or `crossed`), `query_embeds`, then `input_ids` or `inputs_embeds`.
///
/// Positions count the ones of the mask. Query tokens (the first `num_query_token` rows of a prompt with embeddings or
/// a picture, in a model with cross-attention) see each other both ways; all other rows see what is before them.
#[derive(Default)]
pub struct GenerateInputs<'a> {
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
    pub crossed: Option<&'a CrossStates>,
    /// Sequence b looks at image b % images; B = repeat_time * images, or one image serves all. Default 1.
    pub repeat_time: Option<usize>,
}

/// What the checks found out.
pub(crate) struct CheckedInputs {
    pub batch: usize,
    pub rows: usize,
    /// The model's own query tokens in front.
    pub learned: usize,
    /// Rows of `query_embeds`.
    pub queries: usize,
    pub ids: Vec<u32>,
    pub attention_mask: Vec<u32>,
    pub zero_queries: usize,
    pub history: Vec<u32>,
}

/// What stands for the pictures, and how many there are.
struct Pictures {
    what: &'static str,
    images: usize,
    /// Whether they bring the model's own query tokens.
    own_queries: bool,
}

impl GenerateInputs<'_> {
    /// Checks everything that can be checked without the weights.
    ///
    /// # Errors
    /// `E_INPUT`, `E_INPUT_SHAPE`, `E_TOKEN`, `E_CONTEXT` and `E_NONFINITE` for inputs that are wrong, `E_STATE` for
    /// pictures where the checkpoint has no InternViT.
    pub(crate) fn check(&self, config: &Config, options: &Resolved) -> Result<CheckedInputs> {
        let text = &config.text;
        let pictures = self.check_pictures(config)?;
        let own_queries = pictures.as_ref().is_some_and(|p| p.own_queries);
        let learned = if own_queries { text.num_query_token } else { 0 };
        for (given, name) in
            [(self.query_embeds.is_some(), "query_embeds"), (self.inputs_embeds.is_some(), "inputs_embeds")]
        {
            if given && own_queries {
                return input(format!(
                    "{name} and a picture were given: a picture brings the model's own query tokens"
                ));
            }
        }
        let given = GivenRows {
            input_ids: self.input_ids.as_ref(),
            inputs_embeds: self.inputs_embeds.as_ref(),
            query_embeds: self.query_embeds.as_ref(),
        };
        let of_pictures = pictures.as_ref().filter(|p| p.own_queries);
        let or_batch = of_pictures.map(|p| p.images.checked_mul(self.repeat_time.unwrap_or(1)).unwrap_or(0));
        let CheckedRows { batch, queries, given, ids } =
            given.check(text, "input_ids, inputs_embeds or a picture", or_batch)?;
        let rows = learned + queries + given;
        if batch == 0 || rows == 0 {
            return input("the prompt is empty");
        }
        if let Some(pictures) = &pictures {
            check_images(pictures.what, pictures.images, self.repeat_time, batch)?;
        }
        let attention_mask = self.mask(batch, rows, learned)?;
        let longest = attention_mask.chunks(rows).map(|m| m.iter().sum::<u32>() as usize).max().unwrap_or(0);
        options.check_rows(text, longest)?;

        let embedded = learned > 0 || self.query_embeds.is_some() || self.inputs_embeds.is_some();
        let zero = text.cross_attention && (embedded || pictures.is_some());
        Ok(CheckedInputs {
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

    fn check_pictures(&self, config: &Config) -> Result<Option<Pictures>> {
        let of = |what, images, own_queries| Pictures { what, images, own_queries };
        let given = [
            self.vision_hidden_states
                .as_ref()
                .map(|v| of("vision_hidden_states", v.shape.first().copied().unwrap_or(0), false)),
            self.pixel_values.as_ref().map(|p| of("pixel_values", p.batch, true)),
            self.crossed.map(|c| of("the picture", c.images, true)),
        ];
        let mut given = given.into_iter().flatten();
        let pictures = given.next();
        if let (Some(a), Some(b)) = (&pictures, given.next()) {
            return input(format!("{} and {} were given: give one of them", a.what, b.what));
        }
        if let Some(vision) = &self.vision_hidden_states {
            check_vision(&config.text, vision)?;
        }
        if let Some(pixels) = &self.pixel_values {
            let Some(vision) = &config.vision else {
                let reason = "this checkpoint has no InternViT (vision_model), which pictures need".into();
                return Err(Error::State { reason });
            };
            pixels.check(vision)?;
        }
        Ok(pictures)
    }

    /// The mask of all rows [batch, rows]; rows that the caller's leaves out are seen.
    fn mask(&self, batch: usize, rows: usize, learned: usize) -> Result<Vec<u32>> {
        let mut all = vec![1u32; batch * rows];
        if let Some(mask) = &self.attention_mask {
            let widths = if learned > 0 { &[rows, rows - learned][..] } else { &[rows] };
            let width = check_mask(mask, batch, widths)?;
            for (out, row) in all.chunks_mut(rows).zip(mask.values.chunks(width)) {
                out[rows - width..].iter_mut().zip(row).for_each(|(out, &m)| *out = m as u32);
            }
        }
        Ok(all)
    }
}
