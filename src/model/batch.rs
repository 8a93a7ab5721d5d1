//! Captions of many pictures at once: vision and prompts for several pictures in one pass, and a step for all captions
//! that are not at their end.

use std::collections::BTreeMap;

use crate::device::tensor::DType;
use crate::error::{Error, Result};
use crate::generate::batch::{self, Ended, Shared, bytes_of_place, check_places};
use crate::generate::check::check_ids;
use crate::generate::options::{GenerateOptions, Resolved};
use crate::image::PixelValues;
use crate::model::calls::Task;
use crate::model::front::{Generation, Model, Prompt};
use crate::model::network::Network;
use crate::ops::Rows;
use crate::ops::rows::embed::embed;

/// The most captions at once that [`Model::batch_size`] gives: more is slower only.
const MOST: usize = 32;
/// As [`MOST`], on adapters that are the CPU: a few rows keep it busy.
const MOST_ON_SOFTWARE: usize = 16;
/// Bytes for caches and activations where no memory budget tells.
const USUAL_BYTES: u64 = 2 << 30;

/// Captions that are being written: see [`Model::batch`].
pub struct CaptionBatch<'m> {
    model: &'m Model,
    options: Resolved,
    tasks: [Task; 2],
    /// The prompt behind the query tokens.
    ids: Vec<u32>,
    /// Captions at once, and pictures of one pass of InternViT.
    size: usize,
    group: usize,
    texts: batch::Batch,
    /// Those whose captions are not at their end: where the device is lost, they are begun again.
    pictures: BTreeMap<usize, PixelValues>,
    /// The texts are in the middle of a pass, or lie on a device that was lost.
    broken: bool,
}

/// A caption that ended: the number that the caller gave its picture, and the caption; an error where its logits were
/// not numbers.
pub type Captioned = (usize, Result<Generation>);

impl Model {
    /// Room for `size` captions that are written at once, each by the same prompt and options; ids are those of captions
    /// one at a time.
    ///
    /// # Errors
    /// As [`Model::generate_async`]; `E_INPUT` for a prompt with a picture, a size of 0, several sequences for a picture, and for draws several at
    /// once; `E_LIMIT` or `E_OOM` where memory is too little for so many.
    pub async fn batch_async(
        &self,
        prompt: &Prompt<'_>,
        options: &GenerateOptions,
        size: usize,
    ) -> Result<CaptionBatch<'_>> {
        let (ids, resolved) = self.prompt_of_batch(prompt, options)?;
        check_places(&resolved, size)?;
        let tasks = [Task::Pictures, Task::batch(size, &resolved)];
        let texts = self.loaded().run(&tasks, async |network| begin(network, &ids, &resolved, size)).await?;
        let group = self.group()?.min(size);
        let (pictures, broken) = (BTreeMap::new(), false);
        Ok(CaptionBatch { model: self, options: resolved, tasks, ids, size, group, texts, pictures, broken })
    }

    /// How many captions at once suit this model, its memory budget and its adapter.
    ///
    /// # Errors
    /// As [`Model::batch_async`].
    pub fn batch_size(&self, prompt: &Prompt<'_>, options: &GenerateOptions) -> Result<usize> {
        let (ids, resolved) = self.prompt_of_batch(prompt, options)?;
        if resolved.sampling.is_some() {
            return Ok(1);
        }
        let (network, text) = (self.network(), &self.config().text);
        let rows = text.num_query_token + ids.len();
        let bytes = bytes_of_place(network.decoder(), rows, &resolved) + self.bytes_of_picture()?;
        Ok((self.free_bytes() / bytes.max(1)).clamp(1, self.most_at_once() as u64) as usize)
    }

    fn prompt_of_batch(&self, prompt: &Prompt<'_>, options: &GenerateOptions) -> Result<(Vec<u32>, Resolved)> {
        if prompt.picture.is_some() {
            return Err(Error::Input { reason: "the pictures of a batch are added to it one by one".into() });
        }
        let ids = check_ids(&self.config().text, &self.ids_of(prompt)?)?;
        let resolved = self.resolve(options)?;
        if resolved.num_return_sequences > 1 {
            return Err(Error::Input { reason: "a picture of a batch gets one caption".into() });
        }
        Ok((ids, resolved))
    }

    /// Bytes of the widest tensor that InternViT makes of a picture, and of a picture's keys and values.
    fn widest(&self) -> Result<(u64, u64)> {
        let config = self.config();
        let Some(vision) = &config.vision else {
            let reason = "this checkpoint has no InternViT (vision_model), which pictures need".into();
            return Err(Error::State { reason });
        };
        let side = self.preprocessor().size() as usize / vision.patch_size;
        let rows = (1 + side * side) as u64;
        let width = vision.intermediate_size.max(3 * vision.hidden_size).max(2 * config.text.hidden_size) as u64;
        let crossing = (0..config.text.num_hidden_layers).filter(|&i| config.text.cross_attends(i)).count() as u64;
        Ok((4 * rows * width, 4 * crossing * rows * 2 * config.text.hidden_size as u64))
    }

    /// Bytes that a picture takes on its way to a caption.
    fn bytes_of_picture(&self) -> Result<u64> {
        let (widest, crossed) = self.widest()?;
        Ok(3 * widest + crossed)
    }

    /// Pictures whose widest tensor fits a binding.
    fn group(&self) -> Result<usize> {
        let info = self.device_info();
        let limit = info.max_binding_bytes.min(info.max_buffer_bytes);
        Ok((limit / self.widest()?.0.max(1)).clamp(1, MOST as u64) as usize)
    }

    /// How many pictures suit one pass that embeds them.
    ///
    /// # Errors
    /// `E_STATE` where the model has no InternViT.
    #[doc(hidden)]
    pub fn pictures_at_once(&self) -> Result<usize> {
        let fit = (self.free_bytes() / self.bytes_of_picture()?.max(1)).clamp(1, self.most_at_once() as u64);
        Ok(self.group()?.min(fit as usize))
    }

    /// Bytes for caches and activations.
    fn free_bytes(&self) -> u64 {
        let network = self.network();
        match network.device().memory_budget() {
            u64::MAX => USUAL_BYTES,
            // Passes over one picture have room in any budget: a half of the rest is for others.
            budget => budget.saturating_sub(network.device().memory().0) / 2,
        }
    }

    fn most_at_once(&self) -> usize {
        if self.device_info().software { MOST_ON_SOFTWARE } else { MOST }
    }
}

impl CaptionBatch<'_> {
    /// Pictures that can be added now.
    pub fn room(&self) -> usize {
        self.texts.room()
    }

    /// Captions that are not at their end.
    pub fn open(&self) -> usize {
        self.texts.open()
    }

    /// Adds pictures of one size, each with a number of the caller's that no open one has, at most [`CaptionBatch::room`] of them. Returns captions
    /// that ended at once.
    ///
    /// # Errors
    /// `E_INPUT` for more pictures than there is room for, `E_INPUT_SHAPE`, `E_NONFINITE`; the device's.
    pub async fn add_async(&mut self, pictures: Vec<(usize, PixelValues)>) -> Result<Vec<Captioned>> {
        if pictures.len() > self.room() {
            let reason = format!("{} pictures for a batch with room for {}", pictures.len(), self.room());
            return Err(Error::Input { reason });
        }
        let keys: Vec<usize> = pictures.iter().map(|(key, _)| *key).collect();
        self.pictures.extend(pictures);
        let (model, tasks) = (self.model, self.tasks);
        let ended = model.loaded().run(&tasks, async |network| self.attempt(network, &keys, false).await).await?;
        Ok(self.captions(ended))
    }

    /// Adds pictures, or takes a step; where an attempt before was broken off, behind all that was lost.
    async fn attempt(&mut self, network: &Network, keys: &[usize], step: bool) -> Result<Vec<Ended>> {
        let mut keys = keys.to_vec();
        if self.broken {
            self.texts = begin(network, &self.ids, &self.options, self.size)?;
            keys = self.pictures.keys().copied().collect();
        }
        self.broken = true;
        let mut ended = Vec::new();
        for keys in keys.chunks(self.group) {
            let pixels = keys.iter().map(|key| self.pictures[key].clone());
            let pixels = PixelValues::join(pixels).expect("there is a picture at least");
            ended.extend(self.add_group(network, keys, &pixels).await?);
        }
        if step {
            ended.extend(self.texts.step(network.decoder()).await?);
        }
        self.broken = false;
        Ok(ended)
    }

    async fn add_group(&mut self, network: &Network, keys: &[usize], pixels: &PixelValues) -> Result<Vec<Ended>> {
        let vision = network.vision(pixels).await?;
        let crossed = network.cross_states(&vision).await?;
        let (count, text) = (keys.len(), &network.config.text);
        let (learned, rows) = (text.num_query_token, text.num_query_token + self.ids.len());
        let mut pool = network.device().pool();
        let embeddings = pool.alloc(DType::F32, &[count * rows, text.hidden_size])?;
        let mut r = network.device().recording();
        network.record_queries(&mut r, embeddings, count, rows)?;
        if !self.ids.is_empty() {
            let ids = pool.u32(&[count * self.ids.len()], &self.ids.repeat(count))?;
            let to = Rows { batch: count, rows: self.ids.len(), stride: rows, first: learned };
            embed(&mut r, &network.decoder().embed_tokens, ids, embeddings, to);
        }
        network.device().play(&r)?;
        self.texts.add(network.decoder(), keys, embeddings, Some(&crossed.states)).await
    }

    /// One more token of all captions that are not at their end. Returns those that ended.
    ///
    /// # Errors
    /// The device's.
    pub async fn step_async(&mut self) -> Result<Vec<Captioned>> {
        let (model, tasks) = (self.model, self.tasks);
        let ended = model.loaded().run(&tasks, async |network| self.attempt(network, &[], true).await).await?;
        Ok(self.captions(ended))
    }

    fn captions(&mut self, ended: Vec<Ended>) -> Vec<Captioned> {
        ended.iter().for_each(|(key, _)| drop(self.pictures.remove(key)));
        let caption = |(key, found): Ended| (key, found.map(|found| self.model.generation(found, &self.options)));
        ended.into_iter().map(caption).collect()
    }
}

/// Room for texts on a network's device.
fn begin(network: &Network, ids: &[u32], options: &Resolved, size: usize) -> Result<batch::Batch> {
    let text = &network.config.text;
    let prompt = Shared {
        rows: text.num_query_token + ids.len(),
        zero_queries: if text.cross_attention { text.num_query_token } else { 0 },
        history: vec![text.bos_token_id],
    };
    batch::Batch::new(network.decoder(), network.device(), prompt, options.clone(), size)
}
