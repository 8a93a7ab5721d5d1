//! A checkpoint's weights on one device, and the passes over them: tensors in, tensors out.

use std::cell::Cell;
use std::rc::Rc;

use crate::device::array::check_finite;
use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Array, Device, Pool};
use crate::error::{Error, Result};
use crate::files::checkpoint::Checkpoint;
use crate::files::config::Config;
use crate::generate::check::check_ids;
use crate::generate::inputs::{CheckedInputs, GenerateInputs};
use crate::generate::options::Resolved;
use crate::generate::session::{self, OnEvent, Sequence};
use crate::image::PixelValues;
use crate::model::footprint::Footprint;
use crate::model::nets::Nets;
use crate::nets::decoder::{
    CrossKeyValue, CrossKeyValues, CrossStates, Learned, Observed, Pass, Passed, Places, Qllama,
};
use crate::nets::intern_vit::Layer;
use crate::ops::Rows;
use crate::ops::attention::Mask;
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::linear::{Epilogue, linear};
use crate::ops::norms::normalize::normalize;
use crate::ops::rows::add_rows::add_rows;
use crate::ops::rows::copy_rows::copy_rows;
use crate::ops::rows::embed::embed;
use crate::ops::rows::gather_rows::gather_rows;
use crate::room::zeros;
use crate::weights::loader::{Layers, Loader, OnBytes};

/// InternViT's rows of some pictures, on the device.
pub struct Vision {
    _pool: Pool,
    /// [images * rows, vision_hidden_size]
    pub states: Tensor,
    pub images: usize,
    pub rows: usize,
}

/// Cross-attention's keys and values of some pictures, on the device.
pub struct Crossed {
    _pool: Pool,
    pub states: CrossStates,
}

/// Weights on a device.
pub struct Network {
    pub config: Config,
    device: Device,
    checkpoint: Rc<Checkpoint>,
    /// The model that it belongs to.
    model: u32,
    nets: Nets,
    /// Of the last generation.
    dispatches_per_token: Cell<usize>,
    /// The memory of the adapter in use.
    _learned: Option<Pool>,
    _pool: Pool,
}

/// How much of a decoder pass [`Model::pass_alone`] needs to know.
struct Alone<'a> {
    batch: usize,
    rows: usize,
    mask: Mask,
    cross: Option<&'a CrossStates>,
}

impl Network {
    /// Brings a checkpoint's weights to a device: all, or as many as its [memory
    /// budget](Device::set_memory_budget) allows. Names, shapes, types and memory are checked before the first is read.
    ///
    /// # Errors
    /// `E_LIMIT` where the model does not fit; the files' and the device's.
    pub(super) async fn load(
        checkpoint: Rc<Checkpoint>,
        device: &Device,
        model: u32,
        on_progress: OnProgress<'_>,
    ) -> Result<Network> {
        let config = checkpoint.config.clone();
        let footprint = Footprint::of(&checkpoint, &config, &device.info()).await?;
        let stays = footprint.fit(&device.info(), device.memory_budget().saturating_sub(device.memory().0))?;
        let quantization = config.quantization.as_ref();
        let mut progress = Progress { bytes: 0, total: footprint.stored_bytes(stays) };
        let mut pool = device.pool();
        let on_bytes: OnBytes = &mut |bytes| {
            progress.bytes += bytes;
            on_progress(progress);
        };
        let mut loader = Loader::load(&checkpoint, quantization, &mut pool, on_bytes);
        let nets = Nets::load(&mut loader, &config, stays, &mut |_, _| {}).await?;
        let dispatches_per_token = Cell::new(0);
        Ok(Network {
            config,
            device: device.clone(),
            checkpoint,
            model,
            nets,
            dispatches_per_token,
            _learned: None,
            _pool: pool,
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The id of the model that it belongs to.
    pub(super) fn model(&self) -> u32 {
        self.model
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The decoder, for callers that record passes of their own.
    pub fn decoder(&self) -> &Qllama {
        &self.nets.decoder
    }

    /// The weights that make cross-attention's keys and values.
    pub(crate) fn cross_key_values(&self) -> &CrossKeyValues {
        &self.nets.cross
    }

    /// Uses this beside the weights from now on, with its memory; what was used before goes.
    pub(crate) fn set_learned(&mut self, learned: Learned, pool: Option<Pool>) {
        self.nets.decoder.learned = learned;
        self._learned = pool;
    }

    /// Dispatches of a decode step of the last generation.
    pub fn dispatches_per_token(&self) -> usize {
        self.dispatches_per_token.get()
    }

    /// InternViT over some pictures of one size.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for a size that patches do not divide, `E_NONFINITE`, and the device's errors.
    pub async fn vision(&self, pixels: &PixelValues) -> Result<Vision> {
        let mut pool = self.device.pool();
        let states = *self.run_vision(pixels, &mut pool, false).await?.last().expect("embeddings at least");
        let rows = states.rows() / pixels.batch;
        Ok(Vision { _pool: pool, states, images: pixels.batch, rows })
    }

    /// The embeddings and each layer's output of InternViT: [images, rows, vision_hidden_size] each.
    pub async fn vision_hidden_states(&self, pixels: &PixelValues) -> Result<Vec<Array<f32>>> {
        let mut pool = self.device.pool();
        let mut out = Vec::new();
        for states in self.run_vision(pixels, &mut pool, true).await? {
            let shape = [pixels.batch, states.rows() / pixels.batch, states.width()];
            out.push(Array::new(&shape, self.device.read_numbers("vision_hidden_states", states).await?));
        }
        Ok(out)
    }

    /// Runs InternViT and keeps its last states, or all of them, in `pool`.
    async fn run_vision(&self, pixels: &PixelValues, pool: &mut Pool, keep_all: bool) -> Result<Vec<Tensor>> {
        let vit = self.part(&self.nets.vision, "InternViT (vision_model)")?;
        pixels.check(&vit.config)?;
        let mut work = self.device.pool();
        let input = work.f32(&[pixels.batch, 3, pixels.height, pixels.width], &pixels.values)?;
        let mut r = self.device.recording();
        let mut x = vit.embed(&mut r, &mut work, input)?;
        let mut states = Vec::new();
        if keep_all {
            states.push(pool.keep(&mut r, x)?);
        }
        let streamed = vit.layers.kept.is_none();
        // Between layers that are played apart: the input of this one, and of the next.
        let mut between = [self.device.pool(), self.device.pool()];
        let load = async |loader: &mut Loader<'_>, i| Layer::load(loader, &vit.config, i).await;
        self.play_layers(r, &vit.layers, load, |r, i, layer| {
            x = vit.layer(r, layer, x, pixels.batch);
            if keep_all || i + 1 == vit.layers.count {
                states.push(pool.keep(r, x)?);
            } else if streamed {
                between[i % 2] = self.device.pool();
                between[i % 2].keep(r, x)?;
            }
            Ok(())
        })
        .await?;
        Ok(states)
    }

    /// Records each layer behind `r` and plays that: together where the layers are on the device; else one by one, each
    /// read before by `load` and gone behind.
    async fn play_layers<L>(
        &self,
        mut r: Recording,
        layers: &Layers<L>,
        load: impl AsyncFn(&mut Loader<'_>, usize) -> Result<L>,
        mut record: impl FnMut(&mut Recording, usize, &L) -> Result<()>,
    ) -> Result<()> {
        if let Some(kept) = &layers.kept {
            for (i, layer) in kept.iter().enumerate() {
                record(&mut r, i, layer)?;
            }
            return self.device.play_long(&r).await;
        }
        for i in 0..layers.count {
            let mut pool = self.device.pool();
            let on_bytes: OnBytes = &mut |_| {};
            let quantization = self.config.quantization.as_ref();
            let layer = load(&mut Loader::load(&self.checkpoint, quantization, &mut pool, on_bytes), i).await?;
            record(&mut r, i, &layer)?;
            self.device.play_long(&r).await?;
            self.device.finish().await?;
            r = self.device.recording();
        }
        Ok(())
    }

    /// Vision rows that another tool made: f32 [images, rows, vision_hidden_size].
    pub fn vision_from(&self, images: usize, rows: usize, values: &[f32]) -> Result<Vision> {
        let width = self.config.text.vision_hidden_size;
        if images == 0 || rows == 0 || values.len() != images * rows * width {
            return Err(Error::InputShape {
                what: "vision_hidden_states".into(),
                expected: format!("[pictures, rows, {width}]"),
                found: format!("{} values for {images} picture(s) of {rows} row(s)", values.len()),
            });
        }
        check_finite("vision_hidden_states", values)?;
        let mut pool = self.device.pool();
        let states = pool.f32(&[images * rows, width], values)?;
        Ok(Vision { _pool: pool, states, images, rows })
    }

    /// The rows of [`Network::vision`], brought back: [images, rows, vision_hidden_size].
    ///
    /// # Errors
    /// The device's.
    pub async fn vision_rows(&self, vision: &Vision) -> Result<Array<f32>> {
        let shape = [vision.images, vision.rows, vision.states.width()];
        Ok(Array::new(&shape, self.device.read_numbers("vision_hidden_states", vision.states).await?))
    }

    /// Cross-attention's keys and values of some pictures: once a picture, whatever is asked of it then.
    pub async fn cross_states(&self, vision: &Vision) -> Result<Crossed> {
        let text = &self.config.text;
        let mut pool = self.device.pool();
        let mut layers = Vec::with_capacity(text.num_hidden_layers);
        for i in 0..text.num_hidden_layers {
            layers.push(if text.cross_attends(i) {
                Some(pool.alloc(DType::F32, &[vision.images * vision.rows, 2 * text.hidden_size])?)
            } else {
                None
            });
        }
        let states = CrossStates { layers, images: vision.images, rows: vision.rows };
        let (cross, prefix) = (&self.nets.cross, self.config.prefix());
        let load = async |loader: &mut Loader<'_>, i| CrossKeyValue::load(loader, prefix, text, i).await;
        self.play_layers(self.device.recording(), &cross.layers, load, |r, i, layer| {
            cross.record(r, i, layer, vision.states, &states);
            Ok(())
        })
        .await?;
        Ok(Crossed { _pool: pool, states })
    }

    /// Image embeddings of the vision rows alone (InternVL-C), not normalised: [images, clip_embed_dim].
    ///
    /// # Errors
    /// `E_STATE` when the checkpoint lacks the heads.
    pub async fn embed_images_c(&self, vision: &Vision) -> Result<Vec<f32>> {
        let mut r = self.device.recording();
        let out = self.record_c(&mut r, vision)?;
        self.play_and_read(r, out, "image embeddings").await
    }

    /// Image embeddings with QLLaMA's query tokens (InternVL-G), not normalised: [images, clip_embed_dim]. `crossed` is
    /// of the same pictures.
    ///
    /// # Errors
    /// `E_STATE` when the checkpoint lacks the heads.
    pub async fn embed_images_g(&self, vision: &Vision, crossed: &Crossed) -> Result<Vec<f32>> {
        let heads = self.part(&self.nets.heads, "the CLIP heads")?;
        let projector = self.part(&heads.clip_projector2, "clip_projector2")?;
        let (images, queries) = (vision.images, self.config.text.num_query_token);
        let mut r = self.device.recording();
        let mut pool = self.device.pool();
        let c = self.record_c(&mut r, vision)?;
        let x = r.scratch_f32(&[images * queries, self.config.text.hidden_size]);
        self.record_queries(&mut r, x, images, queries)?;
        let alone = Alone { batch: images, rows: queries, mask: Mask::None, cross: Some(&crossed.states) };
        let passed = self.pass_alone(&mut r, &mut pool, x, alone)?;
        let pooled = projector.record(&mut r, passed.last_hidden_state, images);
        let out = normalize(&mut r, c);
        let g = normalize(&mut r, pooled);
        add_rows(&mut r, out, Rows::all(out), g);
        self.play_and_read(r, out, "image embeddings").await
    }

    fn record_c(&self, r: &mut Recording, vision: &Vision) -> Result<Tensor> {
        let heads = self.part(&self.nets.heads, "the CLIP heads")?;
        let projector = self.part(&heads.clip_projector, "clip_projector")?;
        Ok(projector.record(r, vision.states, vision.images))
    }

    /// Plays a recording and brings one of its scratch tensors back, `what` for messages.
    ///
    /// # Errors
    /// `E_NONFINITE` where the device computed no numbers; its own.
    async fn play_and_read(&self, mut r: Recording, out: Tensor, what: &str) -> Result<Vec<f32>> {
        let mut pool = self.device.pool();
        let out = pool.keep(&mut r, out)?;
        self.device.play(&r)?;
        self.device.read_numbers(what, out).await
    }

    /// Text embeddings, not normalised: [texts, clip_embed_dim]. `ids` is [texts, rows]: with BOS and EOS, padded on
    /// the right with 0.
    pub async fn embed_text(&self, ids: &[u32], texts: usize) -> Result<Vec<f32>> {
        let heads = self.part(&self.nets.heads, "the CLIP heads")?;
        let projection = self.part(&heads.text_projection, "text_projection")?;
        let rows = self.check_texts(ids, texts)?;
        let mut pool = self.device.pool();
        let mut r = self.device.recording();
        let x = r.scratch_f32(&[texts * rows, self.config.text.hidden_size]);
        let ids_tensor = pool.u32(&[texts * rows], ids)?;
        embed(&mut r, &self.nets.decoder.embed_tokens, ids_tensor, x, Rows::all(x));
        let kept: Vec<u32> = ids.iter().map(|&id| u32::from(id > 0)).collect();
        let mask = pool.u32(&[texts, rows], &kept)?;
        let mask = Mask::Causal { attention_mask: Some(mask), zero_queries: 0 };
        let passed = self.pass_alone(&mut r, &mut pool, x, Alone { batch: texts, rows, mask, cross: None })?;
        let last: Vec<u32> = kept
            .chunks(rows)
            .enumerate()
            .map(|(text, kept)| (text * rows) as u32 + kept.iter().sum::<u32>().max(1) - 1)
            .collect();
        let last = pool.u32(&[texts], &last)?;
        let hidden = gather_rows(&mut r, passed.last_hidden_state, last);
        let out = linear(&mut r, hidden, projection, Epilogue::default());
        self.play_and_read(r, out, "text embeddings").await
    }

    /// `logits_per_image = exp(logit_scale) * normalise(image) @ normalise(text)^T`: [images, texts].
    ///
    /// # Errors
    /// `E_STATE` when the checkpoint lacks the heads, `E_NONFINITE`.
    pub fn logits_per_image(&self, images: &[f32], texts: &[f32]) -> Result<Vec<f32>> {
        let heads = self.part(&self.nets.heads, "the CLIP heads")?;
        let width = self.config.clip.as_ref().map_or(1, |c| c.clip_embed_dim);
        let unit = |row: &[f32]| {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter().map(|v| v / norm).collect::<Vec<_>>()
        };
        let texts: Vec<Vec<f32>> = texts.chunks(width).map(unit).collect();
        let scale = heads.logit_scale.exp();
        let row = |image: &[f32]| {
            let image = unit(image);
            texts.iter().map(|t| scale * image.iter().zip(t).map(|(a, b)| a * b).sum::<f32>()).collect::<Vec<_>>()
        };
        let logits: Vec<f32> = images.chunks(width).flat_map(row).collect();
        // An embedding of zeros has no direction.
        check_finite("logits per image", &logits)?;
        Ok(logits)
    }

    /// Image-text matching: `[images, texts, 2]` logits, the second for "they match". `ids` as in
    /// [`Network::embed_text`]. Every text is compared with every picture.
    pub async fn itm(&self, crossed: &[&Crossed], ids: &[u32], texts: usize) -> Result<Vec<f32>> {
        let heads = self.part(&self.nets.heads, "the CLIP heads")?;
        let head = self.part(&heads.itm, "itm_head")?;
        let text_rows = self.check_texts(ids, texts)?;
        let queries = self.config.text.num_query_token;
        let rows = queries + text_rows;
        let mut pool = self.device.pool();
        let ids_tensor = pool.u32(&[texts * text_rows], ids)?;
        // Padding only, and no causal part: queries and text see each other both ways.
        let mut mask = zeros::<f32>("the mask of the texts", texts * rows * rows)?;
        for (text, ids) in ids.chunks(text_rows).enumerate() {
            for row in mask[text * rows * rows..][..rows * rows].chunks_mut(rows) {
                row[queries..].iter_mut().zip(ids).for_each(|(m, &id)| *m = if id > 0 { 0.0 } else { f32::MIN });
            }
        }
        let mask = Mask::Additive(pool.f32(&[texts, rows, rows], &mask)?);
        let mut logits = Vec::with_capacity(crossed.len() * texts * 2);
        for picture in crossed {
            let mut r = self.device.recording();
            let x = r.scratch_f32(&[texts * rows, self.config.text.hidden_size]);
            self.record_queries(&mut r, x, texts, rows)?;
            let to = Rows { batch: texts, rows: text_rows, stride: rows, first: queries };
            embed(&mut r, &self.nets.decoder.embed_tokens, ids_tensor, x, to);
            let alone = Alone { batch: texts, rows, mask, cross: Some(&picture.states) };
            let passed = self.pass_alone(&mut r, &mut pool, x, alone)?;
            let of_queries = r.scratch_f32(&[texts * queries, self.config.text.hidden_size]);
            let from = Rows { batch: texts, rows: queries, stride: rows, first: 0 };
            copy_rows(&mut r, passed.last_hidden_state, from, of_queries, Rows::all(of_queries));
            let out = head.record(&mut r, of_queries, texts);
            logits.extend(self.play_and_read(r, out, "matching logits").await?);
        }
        Ok(logits)
    }

    /// The learned query tokens: [1, num_query_token, hidden_size].
    ///
    /// # Errors
    /// `E_STATE` when the checkpoint has none.
    pub async fn query_tokens(&self) -> Result<Array<f32>> {
        let tokens = *self.part(&self.nets.query_tokens, "query_tokens")?;
        Ok(Array::new(&[1, tokens.rows(), tokens.width()], self.device.read_numbers("query_tokens", tokens).await?))
    }

    /// The learned query tokens, into the first rows of each sequence of `x`.
    pub(crate) fn record_queries(&self, r: &mut Recording, x: Tensor, batch: usize, stride: usize) -> Result<()> {
        let tokens = *self.part(&self.nets.query_tokens, "query_tokens")?;
        let to = Rows { batch, rows: self.config.text.num_query_token, stride, first: 0 };
        copy_rows(r, tokens, Rows::all(tokens), x, to);
        Ok(())
    }

    /// `forward_train`: a pass without a cache to keep; positions count from 0.
    fn pass_alone(&self, r: &mut Recording, pool: &mut Pool, x: Tensor, alone: Alone) -> Result<Passed> {
        let Alone { batch, rows, mask, cross } = alone;
        let decoder = &self.nets.decoder;
        let heads = decoder.heads();
        let limit = decoder.config.max_position_embeddings;
        if rows > limit {
            return Err(Error::Context { need: rows, max: limit });
        }
        let storage = KvCache::storage(self.device.info().weights, DType::F32, batch * rows, heads);
        let mut scratch = || r.scratch_in(storage, DType::F32, &[batch * rows, heads.kv_width()]);
        let caches: Vec<_> = decoder.layers.iter().map(|_| KvCache { k: scratch(), v: scratch() }).collect();
        let positions: Vec<u32> = (0..batch).flat_map(|_| 0..rows as u32).collect();
        let slots: Vec<u32> = (0..(batch * rows) as u32).collect();
        let places = Places {
            positions: pool.u32(&[batch * rows], &positions)?,
            slots: pool.u32(&[batch * rows], &slots)?,
            caches: &caches,
        };
        let pass = Pass::prefill(x, batch, places, mask, cross);
        Ok(decoder.record(r, &pass, &Observed::default()))
    }

    /// Rows per text of `ids` [texts, rows].
    fn check_texts(&self, ids: &[u32], texts: usize) -> Result<usize> {
        if texts == 0 || ids.is_empty() || !ids.len().is_multiple_of(texts) {
            return Err(Error::InputShape {
                what: "text_ids".into(),
                expected: "[texts, rows] with at least one of each".into(),
                found: format!("{} ids for {texts} text(s)", ids.len()),
            });
        }
        check_ids(&self.config.text, ids)?;
        Ok(ids.len() / texts)
    }

    fn part<'p, T>(&self, part: &'p Option<T>, name: &str) -> Result<&'p T> {
        part.as_ref().ok_or_else(|| Error::State { reason: format!("this checkpoint has no {name}, which this needs") })
    }
}

/// What loading has to report.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes of weights that were read.
    pub bytes: u64,
    /// Bytes that will be read in all.
    pub total: u64,
}

/// Hears how far loading is.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

impl Network {
    /// Generates from tensors, a sequence of its own for each row of the batch. Returns `num_return_sequences` sequences
    /// for each row of the batch, best first.
    ///
    /// # Errors
    /// Those of [`GenerateInputs::check`], all before anything runs; `E_NONFINITE` for logits that are not numbers;
    /// `E_ABORTED` where `on_event` broke off; the device's errors.
    pub(crate) async fn generate(
        &self,
        inputs: &GenerateInputs<'_>,
        options: &Resolved,
        on_event: OnEvent<'_>,
    ) -> Result<Vec<Vec<Sequence>>> {
        let checked = inputs.check(&self.config, options)?;
        let CheckedInputs { batch, rows, learned, queries, .. } = checked;
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

        let mut pool = self.device.pool();
        let embeddings = pool.alloc(DType::F32, &[batch * rows, text.hidden_size])?;
        let mut r = self.device.recording();
        if let Some(embeds) = &inputs.inputs_embeds {
            self.device.write_all(embeddings, &embeds.values)?;
        }
        if learned > 0 {
            self.record_queries(&mut r, embeddings, batch, rows)?;
        }
        if let Some(embeds) = inputs.query_embeds.as_ref().filter(|_| queries > 0) {
            let from = pool.f32(&[batch * queries, text.hidden_size], &embeds.values)?;
            let to = Rows { batch, rows: queries, stride: rows, first: learned };
            copy_rows(&mut r, from, Rows::all(from), embeddings, to);
        }
        if !checked.ids.is_empty() {
            let ids = pool.u32(&[checked.ids.len()], &checked.ids)?;
            let first = learned + queries;
            let to = Rows { batch, rows: rows - first, stride: rows, first };
            embed(&mut r, &self.nets.decoder.embed_tokens, ids, embeddings, to);
        }
        self.device.play(&r)?;
        let prompt = session::Prompt {
            embeddings,
            batch,
            rows,
            attention_mask: &checked.attention_mask,
            zero_queries: checked.zero_queries,
            cross: inputs.crossed.or(made.as_ref().map(|crossed| &crossed.states)),
            history: &checked.history,
        };
        let made = session::generate(&self.nets.decoder, &self.device, &prompt, options, on_event).await?;
        self.dispatches_per_token.set(made.dispatches_per_token);
        Ok(made.sequences)
    }
}
