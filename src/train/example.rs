//! From pictures with texts to what a step takes.

use std::ops::ControlFlow;

use crate::device::Array;
use crate::error::{Error, Result};
use crate::generate::inputs::GenerateInputs;
use crate::generate::options::GenerateOptions;
use crate::image::PixelValues;
use crate::model::{CAPTION_PROMPT, IGNORED_LABEL, Model, Piece};
use crate::train::step::Batch;

/// A picture's vision rows and the text that it is to be called.
#[derive(Clone, Debug)]
pub struct Example<'a> {
    /// [rows, vision_hidden_size]
    pub vision: &'a Array<f32>,
    pub text: &'a str,
}

/// The most ids of a prompt and its text, as the published training cuts them.
const MAX_IDS: usize = 80;
/// Texts are padded to a multiple of so many ids: each length is a recording of its own.
const LENGTHS: usize = 4;

impl Model {
    /// InternViT's rows of each of some pictures: [rows, vision_hidden_size] each. Where InternViT is frozen, they are made
    /// once for all steps.
    ///
    /// # Errors
    /// `E_STATE` where the model has no InternViT; the device's.
    pub async fn vision_rows_async(&self, pixels: &PixelValues) -> Result<Vec<Array<f32>>> {
        let rows = self
            .run(async |network| {
                let vision = network.vision(pixels).await?;
                network.vision_rows(&vision).await
            })
            .await?;
        let (count, width) = (rows.shape[1], rows.shape[2]);
        Ok(rows.values.chunks(count * width).map(|values| Array::new(&[count, width], values.to_vec())).collect())
    }

    /// The caption of a picture that is given as InternViT's rows, by greedy search: for pictures that are looked at again and
    /// again while a model learns.
    ///
    /// # Errors
    /// As [`Model::generate_async`].
    pub async fn caption_rows_async(&self, vision: &Array<f32>) -> Result<String> {
        let tokenizer = self.tokenizer()?;
        let prompt: Vec<i64> = tokenizer.encode_prompt(CAPTION_PROMPT).into_iter().map(i64::from).collect();
        let crossed = self
            .run(async |network| {
                let rows = network.vision_from(1, vision.shape[0], &vision.values)?;
                network.cross_states(&rows).await
            })
            .await?;
        let inputs = GenerateInputs {
            input_ids: Some(Array::new(&[1, prompt.len()], prompt)),
            crossed: Some(&crossed.states),
            ..Default::default()
        };
        let go_on = &mut |_: Piece<'_>| ControlFlow::Continue(());
        let found = self.generate_from_async(&inputs, &GenerateOptions::default(), go_on).await?;
        Ok(found[0].text.clone().unwrap_or_default())
    }

    /// A batch of captions: the query tokens, the prompt `English caption:`, each text and the id that ends it; labels are
    /// -100 but at texts.
    ///
    /// # Errors
    /// `E_INPUT` without examples, and for a text of no ids; `E_IO` where the model has no tokenizer.
    pub fn caption_batch(&self, examples: &[Example<'_>]) -> Result<Batch> {
        let tokenizer = self.tokenizer()?;
        let prompt = tokenizer.encode_prompt(CAPTION_PROMPT);
        let queries = self.config().text.num_query_token;
        let mut ids = Vec::with_capacity(examples.len());
        for example in examples {
            let mut text = tokenizer.encode(example.text);
            if text.is_empty() {
                let reason = format!("the text {:?} has no ids to learn", example.text);
                return Err(Error::Input { reason });
            }
            text.truncate(MAX_IDS.saturating_sub(prompt.len() + 1));
            text.push(tokenizer.eos_id());
            ids.push([&prompt[..], &text].concat());
        }
        let Some(longest) = ids.iter().map(Vec::len).max() else {
            return Err(Error::Input { reason: "a batch needs an example".into() });
        };
        let width = longest.next_multiple_of(LENGTHS);
        let (batch, rows) = (examples.len(), queries + width);
        let mut input_ids = vec![0; batch * width];
        let (mut mask, mut labels) = (vec![0; batch * rows], vec![IGNORED_LABEL; batch * rows]);
        for (b, ids) in ids.iter().enumerate() {
            mask[b * rows..][..queries + ids.len()].fill(1);
            for (i, &id) in ids.iter().enumerate() {
                input_ids[b * width + i] = id.into();
                if i >= prompt.len() {
                    labels[b * rows + queries + i] = id.into();
                }
            }
        }
        let shape = &examples[0].vision.shape;
        let vision = examples.iter().flat_map(|example| example.vision.values.iter().copied()).collect();
        Ok(Batch {
            input_ids: Array::new(&[batch, width], input_ids),
            attention_mask: Array::new(&[batch, rows], mask),
            labels: Array::new(&[batch, rows], labels),
            query_embeds: None,
            vision_hidden_states: Some(Array::new(&[batch, shape[0], shape[1]], vision)),
        })
    }
}
