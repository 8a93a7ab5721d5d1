//! The model's tasks, waited for. Each has an `_async` form, which browsers use.

use std::path::Path;

use pollster::block_on;

use crate::device::Array;
use crate::error::Result;
use crate::files::location::Location;
use crate::generate::inputs::GenerateInputs;
use crate::generate::options::GenerateOptions;
use crate::image::{Picture, PixelValues};
use crate::model::attention_map::AttentionMap;
use crate::model::batch::{CaptionBatch, Captioned};
use crate::model::builder::{Builder, Opened};
use crate::model::forward::{ForwardInputs, ForwardOutputs};
use crate::model::front::{Caption, CaptionOptions, Generation, Matcher, Mode, Model, OnPiece, Prompt};
use crate::model::past::PastKeyValues;

impl<'a> Builder<'a> {
    /// Opens the files and reads all but the weights.
    ///
    /// # Errors
    /// The files'; see [`Error`](crate::Error).
    pub fn open(self) -> Result<Opened<'a>> {
        block_on(self.open_async())
    }

    /// Opens the files, opens the adapter and brings the weights to it. Names, shapes, types and memory are checked
    /// before the first weight is read.
    ///
    /// # Errors
    /// The files'; `E_ADAPTER` where there is no such adapter; `E_LIMIT` where the model does not fit; the device's.
    pub fn load(self) -> Result<Model> {
        block_on(self.load_async())
    }
}

impl Opened<'_> {
    /// Opens the adapter and brings the weights to it.
    ///
    /// # Errors
    /// As [`Builder::load`].
    pub fn load(self) -> Result<Model> {
        block_on(self.load_async())
    }
}

impl Model {
    /// Loads the model at `path`, a folder in the published layout or a GGUF file of the LLaMA family, onto the best
    /// adapter of this machine.
    ///
    /// # Errors
    /// `E_IO` where there is no such folder or file, and the codes of files that are wrong; `E_ADAPTER` where there is no
    /// adapter; `E_LIMIT` where the model does not fit it; the device's.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::builder(path).load()
    }

    /// As [`Model::open`], to be awaited.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub async fn open_async(path: impl AsRef<Path>) -> Result<Model> {
        Model::builder(path).load_async().await
    }

    /// Tells how to load the model at `path`: adapter, memory budget, progress, storage of keys and values.
    pub fn builder<'a>(path: impl AsRef<Path>) -> Builder<'a> {
        Builder::of(Location::of_path(path.as_ref()))
    }

    /// Says what is in a picture.
    ///
    /// # Errors
    /// As [`Model::generate`].
    pub fn caption(&self, picture: &Picture, options: &CaptionOptions) -> Result<Caption> {
        block_on(self.caption_async(picture, options))
    }

    /// As [`Model::caption`], telling the text as it is made; beam search knows it at the end only.
    ///
    /// # Errors
    /// As [`Model::generate`]; `E_ABORTED` where `on_piece` broke off.
    pub fn caption_with(&self, picture: &Picture, options: &CaptionOptions, on_piece: OnPiece<'_>) -> Result<Caption> {
        block_on(self.caption_with_async(picture, options, on_piece))
    }

    /// Room for `size` captions that are written at once, each by the same prompt and options; ids are those of captions
    /// one at a time. [`Model::batch_size`] tells a size that suits.
    ///
    /// # Errors
    /// As [`Model::generate`]; `E_INPUT` for a prompt with a picture, a size of 0, several sequences for a picture, and for draws several at once;
    /// `E_LIMIT` or `E_OOM` where memory is too little for so many.
    pub fn batch<'p>(
        &self,
        prompt: impl Into<Prompt<'p>>,
        options: &GenerateOptions,
        size: usize,
    ) -> Result<CaptionBatch<'_>> {
        block_on(self.batch_async(&prompt.into(), options, size))
    }

    /// Continues a text, ids or a picture's query tokens. Returns `num_return_sequences` sequences, best first.
    ///
    /// # Errors
    /// `E_INPUT` for options that are wrong and for a prompt that is empty, `E_TOKEN`, `E_CONTEXT`, `E_STATE` for a
    /// picture where the model has no InternViT, `E_IO` for text where it has no tokenizer, all before anything runs;
    /// `E_NONFINITE` for logits that are not numbers; the device's errors.
    pub fn generate<'p>(&self, prompt: impl Into<Prompt<'p>>, options: &GenerateOptions) -> Result<Vec<Generation>> {
        block_on(self.generate_async(&prompt.into(), options))
    }

    /// As [`Model::generate`], telling the text as it is made.
    ///
    /// # Errors
    /// As [`Model::generate`]; `E_ABORTED` where `on_piece` broke off.
    pub fn generate_with<'p>(
        &self,
        prompt: impl Into<Prompt<'p>>,
        options: &GenerateOptions,
        on_piece: OnPiece<'_>,
    ) -> Result<Vec<Generation>> {
        block_on(self.generate_with_async(&prompt.into(), options, on_piece))
    }

    /// Generates from tensors: a sequence of its own for each row of the batch, `num_return_sequences` for each, best
    /// first, one behind the other.
    ///
    /// # Errors
    /// As [`Model::generate`]; `E_INPUT_SHAPE` for tensors of other shapes.
    pub fn generate_from(
        &self,
        inputs: &GenerateInputs<'_>,
        options: &GenerateOptions,
        on_piece: OnPiece<'_>,
    ) -> Result<Vec<Generation>> {
        block_on(self.generate_from_async(inputs, options, on_piece))
    }

    /// Probabilities of texts for pictures: a row a picture, which sums to 1; with [`Mode::Itm`] each pair's own.
    ///
    /// # Errors
    /// `E_INPUT` without texts; `E_STATE` where the checkpoint lacks the heads; `E_IO` without a tokenizer; the device's.
    pub fn match_texts(&self, pictures: &[Picture], texts: &[impl AsRef<str>], mode: Mode) -> Result<Vec<Vec<f32>>> {
        block_on(self.match_texts_async(pictures, texts, mode))
    }

    /// Texts to compare pictures with, one by one: see [`Matcher::row`].
    ///
    /// # Errors
    /// As [`Model::match_texts`].
    pub fn matcher(&self, texts: &[&str], mode: Mode) -> Result<Matcher<'_>> {
        block_on(self.matcher_async(texts, mode))
    }

    /// A picture's embedding, not normalised: `[clip_embed_dim]`.
    ///
    /// # Errors
    /// `E_STATE` where the checkpoint lacks the heads; `E_INPUT` for [`Mode::Itm`]; the device's.
    pub fn embed_picture(&self, picture: &Picture, mode: Mode) -> Result<Vec<f32>> {
        block_on(self.embed_picture_async(picture, mode))
    }

    /// A text's embedding with the prefix that matching uses, not normalised: `[clip_embed_dim]`.
    ///
    /// # Errors
    /// `E_STATE` where the checkpoint lacks the heads; `E_IO` without a tokenizer; the device's.
    pub fn embed_text(&self, text: &str) -> Result<Vec<f32>> {
        block_on(self.embed_text_async(text))
    }

    /// Where the query tokens look in a picture: cross-attention's probabilities of layer `layer`, counted over the layers
    /// that cross-attend; the last one for `None`.
    ///
    /// # Errors
    /// `E_INPUT` where there is no such layer; `E_STATE` where the model has no InternViT or no query tokens; the device's.
    pub fn attention_map(&self, picture: &Picture, layer: Option<usize>) -> Result<AttentionMap> {
        block_on(self.attention_map_async(picture, layer))
    }

    /// `LlamaForCausalLM.forward` of the published modules: causal, with an optional padding mask and cache. The cache
    /// moves from the inputs to the outputs where `use_cache` asks for one; it stays, as it was, when the call fails.
    ///
    /// # Errors
    /// `E_INPUT`, `E_INPUT_SHAPE`, `E_TOKEN`, `E_CONTEXT` and `E_NONFINITE` for arguments that are wrong, all before
    /// anything runs; the device's errors.
    pub fn forward(&self, inputs: &mut ForwardInputs) -> Result<ForwardOutputs> {
        block_on(self.forward_async(inputs))
    }

    /// `forward_train` of the published modules: without a cache; `additive_mask` is [B, 1, S, S] of any floats, added to
    /// the scores, or none at all: then every row sees every key.
    ///
    /// # Errors
    /// As [`Model::forward`]; `E_INPUT` for arguments that `forward_train` does not take.
    pub fn forward_train(
        &self,
        inputs: &mut ForwardInputs,
        additive_mask: Option<&Array<f32>>,
    ) -> Result<ForwardOutputs> {
        block_on(self.forward_train_async(inputs, additive_mask))
    }
}

impl PastKeyValues {
    /// Per layer k and v as [B, A, T, D], of the model that made it.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for another model; the device's.
    pub fn to_arrays(&mut self, model: &Model) -> Result<Vec<(Array<f32>, Array<f32>)>> {
        block_on(self.to_arrays_async(model))
    }
}

impl CaptionBatch<'_> {
    /// Adds pictures of one size, each with a number of the caller's, at most [`CaptionBatch::room`] of them. Returns captions
    /// that ended at once.
    ///
    /// # Errors
    /// `E_INPUT` for more pictures than there is room for, `E_INPUT_SHAPE`, `E_NONFINITE`; the device's.
    pub fn add(&mut self, pictures: Vec<(usize, PixelValues)>) -> Result<Vec<Captioned>> {
        block_on(self.add_async(pictures))
    }

    /// One more token of all captions that are not at their end. Returns those that ended.
    ///
    /// # Errors
    /// The device's.
    pub fn step(&mut self) -> Result<Vec<Captioned>> {
        block_on(self.step_async())
    }
}

impl Matcher<'_> {
    /// A picture's probabilities over the texts, which sum to 1; with [`Mode::Itm`] each pair's own.
    ///
    /// # Errors
    /// As [`Model::match_texts`]; `E_NONFINITE`.
    pub fn row(&self, picture: &Picture) -> Result<Vec<f32>> {
        block_on(self.row_async(picture))
    }

    /// As [`Matcher::row`], for a picture that was made ready before.
    ///
    /// # Errors
    /// As [`Matcher::row`].
    pub fn row_of_pixels(&self, pixels: &PixelValues) -> Result<Vec<f32>> {
        block_on(self.row_of_pixels_async(pixels))
    }
}
