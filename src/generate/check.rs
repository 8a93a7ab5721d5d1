//! The checks of what callers give: ids, embeddings, masks and pictures' rows, the same for `forward` and for generation.

use crate::device::Array;
use crate::device::array::check_finite;
use crate::error::{Error, Result};
use crate::files::config::LlamaConfig;

/// The rows of a call: `query_embeds`, then `input_ids` or `inputs_embeds`.
pub(crate) struct GivenRows<'a> {
    /// [B, S]
    pub input_ids: Option<&'a Array<i64>>,
    /// [B, S, H]
    pub inputs_embeds: Option<&'a Array<f32>>,
    /// [B, N, H]
    pub query_embeds: Option<&'a Array<f32>>,
}

/// What [`GivenRows::check`] found.
pub(crate) struct CheckedRows {
    pub batch: usize,
    /// Rows of `query_embeds`.
    pub queries: usize,
    /// Rows of `input_ids` or `inputs_embeds`.
    pub given: usize,
    pub ids: Vec<u32>,
}

impl GivenRows<'_> {
    /// The batch that the arguments name, where they name one.
    fn batch(&self) -> Option<usize> {
        let shapes = [
            self.input_ids.map(|a| &a.shape),
            self.inputs_embeds.map(|a| &a.shape),
            self.query_embeds.map(|a| &a.shape),
        ];
        shapes.into_iter().flatten().next().map(|shape| shape.first().copied().unwrap_or(0))
    }

    /// # Errors
    /// `E_INPUT` for arguments that exclude each other or are missing (`what` names what may be given; with `or_batch`,
    /// nothing needs to be), `E_INPUT_SHAPE`, `E_TOKEN`, `E_NONFINITE`.
    pub fn check(&self, text: &LlamaConfig, what: &str, or_batch: Option<usize>) -> Result<CheckedRows> {
        let h = text.hidden_size;
        let Some(batch) = self.batch().or(or_batch) else { return input(format!("give {what}")) };
        let given = match (self.input_ids, self.inputs_embeds) {
            (Some(_), Some(_)) => return input("give either input_ids or inputs_embeds, not both"),
            (Some(ids), None) => match ids.shape[..] {
                [_, rows] => rows,
                _ => return wrong_shape("input_ids", "[batch, rows]", &ids.shape),
            },
            (None, Some(embeds)) => match embeds.shape[..] {
                [_, rows, width] if width == h => rows,
                _ => return wrong_shape("inputs_embeds", format!("[batch, rows, {h}]"), &embeds.shape),
            },
            (None, None) => 0,
        };
        let queries = match self.query_embeds {
            None => 0,
            Some(_) if self.inputs_embeds.is_some() => {
                return input("query_embeds go with input_ids, not with inputs_embeds");
            }
            Some(q) => match q.shape[..] {
                [b, n, width] if b == batch && width == h => n,
                _ => return wrong_shape("query_embeds", format!("[{batch}, rows, {h}]"), &q.shape),
            },
        };
        for (what, array) in [("inputs_embeds", self.inputs_embeds), ("query_embeds", self.query_embeds)] {
            if let Some(array) = array {
                check_finite(what, &array.values)?;
            }
        }
        let ids = match self.input_ids {
            Some(array) => check_ids(text, &array.values)?,
            None => Vec::new(),
        };
        Ok(CheckedRows { batch, queries, given, ids })
    }
}

/// Ids within the vocabulary.
///
/// # Errors
/// `E_TOKEN`.
pub fn check_ids<I: Into<i64> + Copy>(text: &LlamaConfig, ids: &[I]) -> Result<Vec<u32>> {
    let vocab = text.vocab_size;
    let id = |(index, id): (usize, i64)| match u32::try_from(id) {
        Ok(small) if (small as usize) < vocab => Ok(small),
        _ => Err(Error::Token { index, id, vocab }),
    };
    ids.iter().map(|&id| id.into()).enumerate().map(id).collect()
}

/// A mask of zeros and ones whose shape is `[batch, w]` for one of `widths`. Returns the width.
///
/// # Errors
/// `E_INPUT_SHAPE`, `E_INPUT`.
pub(crate) fn check_mask(mask: &Array<i64>, batch: usize, widths: &[usize]) -> Result<usize> {
    let width = match mask.shape[..] {
        [b, width] if b == batch && width > 0 && widths.contains(&width) => width,
        _ => {
            let expected: Vec<String> = widths.iter().map(|width| format!("[{batch}, {width}]")).collect();
            return wrong_shape("attention_mask", expected.join(" or "), &mask.shape);
        }
    };
    match mask.values.iter().position(|m| !(0..=1).contains(m)) {
        Some(index) => input(format!("attention_mask: element {index} is {}, expected 0 or 1", mask.values[index])),
        None => Ok(width),
    }
}

/// Vision rows [images, rows, vision_hidden_size] of finite numbers, for a model that looks at them.
///
/// # Errors
/// `E_INPUT` where the model has no cross-attention, `E_INPUT_SHAPE`, `E_NONFINITE`.
pub(crate) fn check_vision(text: &LlamaConfig, vision: &Array<f32>) -> Result<()> {
    if !text.cross_attention {
        return input("vision_hidden_states: this model has no cross-attention that could use them");
    }
    match vision.shape[..] {
        [images, rows, width] if images > 0 && rows > 0 && width == text.vision_hidden_size => {
            check_finite("vision_hidden_states", &vision.values)
        }
        _ => {
            let expected = format!("[images, rows, {}]", text.vision_hidden_size);
            wrong_shape("vision_hidden_states", expected, &vision.shape)
        }
    }
}

/// One image for all, or `batch` = `repeat_time` * images.
///
/// # Errors
/// `E_INPUT_SHAPE`.
pub(crate) fn check_images(what: &str, images: usize, repeat_time: Option<usize>, batch: usize) -> Result<()> {
    let repeat = repeat_time.unwrap_or(1);
    let rows = images.checked_mul(repeat);
    if rows == Some(batch) || rows == Some(1) {
        return Ok(());
    }
    let expected = format!("one image, or images * repeat_time {repeat} = batch {batch}");
    Err(Error::InputShape { what: what.into(), expected, found: format!("{images} images") })
}

/// `E_INPUT`.
pub(crate) fn input<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::Input { reason: reason.into() })
}

/// `E_INPUT_SHAPE`.
pub(crate) fn wrong_shape<T>(what: &str, expected: impl Into<String>, found: &[usize]) -> Result<T> {
    Err(Error::InputShape { what: what.into(), expected: expected.into(), found: format!("{found:?}") })
}
