//! The calls of kernels that a model's tasks make, found by recording its passes without its weights.

use std::collections::HashSet;

use crate::device::recording::{Dispatch, PipelineKey, Recording, fresh_id};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::{Device, DeviceInfo};
use crate::error::Result;
use crate::files::checkpoint::Checkpoint;
use crate::files::config::{Config, LlamaConfig};
use crate::generate::beams::candidates;
use crate::generate::options::{KvCacheType, Resolved};
use crate::model::footprint::{
    Footprint, MOST_GRID, MOST_ROWS, PLANNED_BEAMS, PLANNED_NEW, PLANNED_PROMPT, PLANNED_ROWS,
};
use crate::model::nets::{Heads, Nets, Residency};
use crate::nets::decoder::{CrossStates, Observed, Pass, Passed, Places};
use crate::ops::Rows;
use crate::ops::attention::{Keys, Mask};
use crate::ops::cache::advance::advance;
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::cache::reorder::reorder;
use crate::ops::linear::{Epilogue, linear};
use crate::ops::logits::argmax::argmax;
use crate::ops::logits::log_softmax::log_softmax;
use crate::ops::logits::penalize::{Penalties, penalize};
use crate::ops::logits::remember::remember;
use crate::ops::logits::sample::sample;
use crate::ops::logits::sampling::Sampling;
use crate::ops::logits::top_k::top_k;
use crate::ops::norms::normalize::normalize;
use crate::ops::rows::add_rows::add_rows;
use crate::ops::rows::copy_rows::copy_rows;
use crate::ops::rows::embed::embed;
use crate::ops::rows::gather_rows::gather_rows;
use crate::weights::loader::Loader;

/// Texts that are matched at a time, and their rows.
const TEXTS: usize = 2;
const TEXT_ROWS: usize = 7;

/// A model without weights.
pub(crate) struct Sketch {
    nets: Nets,
    config: Config,
    info: DeviceInfo,
}

/// # Errors
/// As [`Footprint::of`], and `E_LIMIT` where the model does not fit the device.
pub(crate) async fn fits(checkpoint: &Checkpoint, device: &Device) -> Result<()> {
    let info = device.info();
    let footprint = Footprint::of(checkpoint, &checkpoint.config, &info).await?;
    footprint.fit(&info, device.memory_budget().saturating_sub(device.memory().0)).map(|_| ())
}

impl Sketch {
    /// # Errors
    /// As [`Footprint::of`].
    pub(crate) async fn of(checkpoint: &Checkpoint, device: &Device) -> Result<Sketch> {
        let (config, info) = (checkpoint.config.clone(), device.info());
        let mut loader = Loader::plan(checkpoint, config.quantization.as_ref(), &info);
        let nets = Nets::load(&mut loader, &config, Residency::ALL, &mut |_, _| {}).await?;
        Ok(Sketch { nets, config, info })
    }

    /// The calls of some tasks on a device that chooses as `device` does now; each kind of call once.
    pub(crate) fn calls(&self, device: &Device, tasks: &[Task]) -> Result<Vec<Dispatch>> {
        let recorder = Recorder { sketch: self, device };
        let (vision, rows) = recorder.vision()?;
        let crossed = recorder.crossed(rows);
        let mut recordings = Vec::new();
        let mut pictures = Some([vision, recorder.cross(&crossed)]);
        for &task in tasks {
            match (task, &self.nets.heads) {
                (Task::Pictures, _) => recordings.extend(pictures.take().into_iter().flatten()),
                (Task::Text(text), _) => recordings.extend([recorder.prefill(&crossed, text), recorder.step(text)]),
                (Task::Batch(text), _) => recordings.extend([recorder.cached(&crossed, task), recorder.step(text)]),
                (Task::Forward { .. }, _) => recordings.push(recorder.cached(&crossed, task)),
                (Task::EmbedPictures, Some(heads)) => recordings.push(recorder.pictures(heads, &crossed)),
                (Task::EmbedTexts, Some(heads)) => recordings.push(recorder.texts(heads)),
                (Task::Matching, Some(heads)) => recordings.push(recorder.matching(heads, &crossed)),
                // Its callers are told that the model has no heads.
                (Task::EmbedPictures | Task::EmbedTexts | Task::Matching, None) => {}
            }
        }
        let mut known = HashSet::new();
        let calls = recordings.into_iter().flat_map(|r| r.dispatches);
        Ok(calls.filter(|c| known.insert((PipelineKey::of(c), c.params.clone(), c.workgroups))).collect())
    }
}

/// What a model may be asked for, as far as kernels differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Task {
    /// InternViT, and cross-attention's keys and values.
    Pictures,
    Text(Text),
    /// Texts that begin and end at different times.
    Batch(Text),
    /// The published forward pass, with attention's probabilities or without.
    Forward {
        attention: bool,
    },
    EmbedPictures,
    EmbedTexts,
    /// Image-text matching.
    Matching,
}

/// A text behind a picture, or without one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Text {
    /// Sequences that are written side by side.
    pub rows: usize,
    pub kv_cache: KvCacheType,
    /// Those of each prompt that are searched together; 1 without a search.
    pub beams: usize,
    pub sampled: bool,
    pub penalised: bool,
}

impl Text {
    fn of(batch: usize, options: &Resolved) -> Text {
        Text {
            rows: batch * options.copies(),
            kv_cache: options.kv_cache,
            beams: options.num_beams,
            sampled: options.sampling.is_some(),
            penalised: options.penalised(),
        }
    }
}

impl Task {
    /// A text by greedy search.
    pub(crate) fn text(kv_cache: KvCacheType) -> Task {
        Task::Text(Text { rows: 1, kv_cache, beams: 1, sampled: false, penalised: false })
    }

    /// Texts of `batch` prompts.
    pub(crate) fn texts(batch: usize, options: &Resolved) -> Task {
        Task::Text(Text::of(batch, options))
    }

    /// Texts of a batch.
    pub(crate) fn batch(size: usize, options: &Resolved) -> Task {
        Task::Batch(Text::of(size, options))
    }

    /// All that a model with or without pictures is asked for.
    pub(crate) fn all() -> Vec<Task> {
        let mut tasks = vec![Task::Pictures];
        for kv_cache in [KvCacheType::F32, KvCacheType::F16] {
            tasks.push(Task::text(kv_cache));
            let chosen = Text { rows: 1, kv_cache, beams: 1, sampled: true, penalised: true };
            tasks.push(Task::Text(chosen));
            let beams = Text { rows: PLANNED_BEAMS, beams: PLANNED_BEAMS, sampled: false, ..chosen };
            tasks.extend([Task::Text(beams), Task::Batch(beams)]);
        }
        tasks.extend([Task::EmbedPictures, Task::EmbedTexts, Task::Matching, Task::Forward { attention: true }]);
        tasks
    }
}

fn tensor(dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::new(fresh_id(), dtype, shape)
}

fn f32(shape: &[usize]) -> Tensor {
    tensor(DType::F32, shape)
}

fn u32(shape: &[usize]) -> Tensor {
    tensor(DType::U32, shape)
}

struct Recorder<'a> {
    sketch: &'a Sketch,
    device: &'a Device,
}

impl Recorder<'_> {
    fn text(&self) -> &LlamaConfig {
        &self.sketch.config.text
    }

    /// InternViT over a picture, and the rows that it makes of one.
    fn vision(&self) -> Result<(Recording, usize)> {
        let mut r = self.device.recording();
        let Some(vit) = &self.sketch.nets.vision else {
            return Ok((r, if self.text().cross_attention { PLANNED_ROWS } else { 0 }));
        };
        let side = (vit.config.image_size / vit.config.patch_size).clamp(1, MOST_GRID) * vit.config.patch_size;
        // The positions are made on the host.
        let mut x = vit.embed(&mut r, &mut Device::cpu().pool(), f32(&[1, 3, side, side]))?;
        for layer in vit.layers.kept.iter().flatten() {
            x = vit.layer(&mut r, layer, x, 1);
        }
        Ok((r, x.rows()))
    }

    /// Cross-attention's keys and values of a picture of `rows` rows.
    fn crossed(&self, rows: usize) -> CrossStates {
        let text = self.text();
        let crosses = (0..text.num_hidden_layers).map(|i| rows > 0 && text.cross_attends(i));
        let layers = crosses.map(|yes| yes.then(|| f32(&[rows, 2 * text.hidden_size]))).collect();
        CrossStates { layers, images: 1, rows }
    }

    fn cross(&self, crossed: &CrossStates) -> Recording {
        let mut r = self.device.recording();
        let (cross, seen) = (&self.sketch.nets.cross, f32(&[crossed.rows, self.text().vision_hidden_size]));
        for (i, layer) in cross.layers.kept.iter().flatten().enumerate().filter(|(i, _)| crossed.layers[*i].is_some()) {
            cross.record(&mut r, i, layer, seen, crossed);
        }
        r
    }

    fn caches(&self, rows: usize, dtype: DType) -> Vec<KvCache> {
        let heads = self.sketch.nets.decoder.heads();
        self.caches_in(KvCache::storage(self.sketch.info.weights, dtype, rows, heads), rows, dtype)
    }

    fn caches_in(&self, storage: Storage, rows: usize, dtype: DType) -> Vec<KvCache> {
        let heads = self.sketch.nets.decoder.heads();
        let cache = || tensor(dtype, &[rows, heads.kv_width()]).stored(storage);
        (0..self.text().num_hidden_layers).map(|_| KvCache { k: cache(), v: cache() }).collect()
    }

    /// The query tokens, where there are any, into the first rows of `x`; returns how many.
    fn queries(&self, r: &mut Recording, x: Tensor, batch: usize) -> usize {
        let Some(tokens) = self.sketch.nets.query_tokens else { return 0 };
        let (queries, stride) = (self.text().num_query_token, x.rows() / batch);
        let tokens = f32(tokens.shape());
        copy_rows(r, tokens, Rows::all(tokens), x, Rows { batch, rows: queries, stride, first: 0 });
        queries
    }

    /// The ids of a text, behind the first `first` rows of each sequence of `x`.
    fn ids(&self, r: &mut Recording, x: Tensor, batch: usize, first: usize) {
        let stride = x.rows() / batch;
        let to = Rows { batch, rows: stride - first, stride, first };
        embed(r, &self.sketch.nets.decoder.embed_tokens, u32(&[to.count()]), x, to);
    }

    /// A pass over `batch` sequences whose keys are their own rows.
    fn pass(
        &self,
        r: &mut Recording,
        x: Tensor,
        batch: usize,
        mask: Mask,
        crossed: Option<&CrossStates>,
        dtype: DType,
    ) -> Passed {
        let (decoder, rows) = (&self.sketch.nets.decoder, x.rows());
        let caches = self.caches(rows + PLANNED_BEAMS * PLANNED_NEW, dtype);
        let places = Places { positions: u32(&[rows]), slots: u32(&[rows]), caches: &caches };
        let crossed = crossed.filter(|c| c.rows > 0 && rows / batch >= self.text().num_query_token);
        decoder.record(r, &Pass::prefill(x, batch, places, mask, crossed), &Observed::default())
    }

    /// A prompt behind a picture, and the choice of a token of each sequence.
    fn prefill(&self, crossed: &CrossStates, text: Text) -> Recording {
        let mut r = self.device.recording();
        let x = self.prompt(&mut r, crossed);
        let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
        let passed = self.pass(&mut r, x, 1, mask, Some(crossed), text.kv_cache.dtype());
        let hidden = gather_rows(&mut r, passed.last_hidden_state, u32(&[1]));
        let mut logits = self.sketch.nets.decoder.logits(&mut r, hidden);
        if text.rows > 1 {
            logits = gather_rows(&mut r, logits, u32(&[text.rows]));
        }
        self.choose(&mut r, logits, text);
        r
    }

    /// Query tokens and a prompt.
    fn prompt(&self, r: &mut Recording, crossed: &CrossStates) -> Tensor {
        let text = self.text();
        let queries = if crossed.rows > 0 { text.num_query_token } else { 0 };
        let rows = (queries + PLANNED_PROMPT).min(text.max_position_embeddings).min(MOST_ROWS);
        let x = f32(&[rows, text.hidden_size]);
        let first = if queries < rows { self.queries(r, x, 1) } else { 0 };
        self.ids(r, x, 1, first);
        x
    }

    /// A token more of each sequence.
    fn step(&self, of: Text) -> Recording {
        let (text, decoder, mut r) = (self.text(), &self.sketch.nets.decoder, self.device.recording());
        let (rows, dtype) = (of.rows, of.kv_cache.dtype());
        let length = (text.num_query_token + PLANNED_PROMPT).min(text.max_position_embeddings).min(MOST_ROWS);
        let capacity = length + PLANNED_NEW;
        let (table, past, positions, slots) = (u32(&[rows, capacity]), u32(&[1]), u32(&[rows]), u32(&[rows]));
        if of.beams > 1 {
            reorder(&mut r, table, u32(&[rows]), past, length, of.beams);
        }
        let x = f32(&[rows, text.hidden_size]);
        self.ids(&mut r, x, 1, 0);
        let caches = self.caches(length + rows * PLANNED_NEW, dtype);
        let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
        let pass = Pass::step(x, Places { positions, slots, caches: &caches }, table, past, mask);
        let passed = decoder.record(&mut r, &pass, &Observed::default());
        let logits = decoder.logits(&mut r, passed.last_hidden_state);
        self.choose(&mut r, logits, of);
        advance(&mut r, table, past, positions, slots);
        r
    }

    /// The choice of a token a row.
    fn choose(&self, r: &mut Recording, logits: Tensor, text: Text) {
        let rows = logits.rows();
        let tokens = u32(&[rows]);
        let scores = if text.beams > 1 { log_softmax(r, logits) } else { logits };
        let (history, lengths) = (u32(&[rows, PLANNED_NEW]), u32(&[2]));
        if text.penalised {
            let penalties = Penalties { repetition_penalty: 1.5, no_repeat_ngram_size: 3, min_new_tokens: 8 };
            penalize(r, scores, history, lengths, u32(&[1]), penalties);
        }
        match text {
            Text { beams: 2.., .. } => drop(top_k(r, scores, candidates(1, text.beams))),
            Text { sampled: true, .. } => {
                sample(r, scores, u32(&[1]), Sampling { temperature: 0.7, top_k: 50, top_p: 0.9, seed: 7 }, tokens);
            }
            _ => argmax(r, scores, tokens),
        }
        if text.penalised && text.beams == 1 {
            remember(r, tokens, history, lengths);
        }
    }

    /// A prompt whose keys and values go to a cache that it reads them from: a batch's, or, with `forward`, one in buffers.
    fn cached(&self, crossed: &CrossStates, task: Task) -> Recording {
        let (text, decoder, mut r) = (self.text(), &self.sketch.nets.decoder, self.device.recording());
        let x = self.prompt(&mut r, crossed);
        let (rows, heads) = (x.rows(), text.num_attention_heads);
        let crossed = Some(crossed).filter(|crossed| crossed.rows > 0 && rows >= text.num_query_token);
        let caches = match task {
            Task::Batch(text) => self.caches(rows + PLANNED_NEW, text.kv_cache.dtype()),
            _ => self.caches_in(Storage::Buffer, rows, DType::F32),
        };
        let mut observed = Observed::default();
        if task == (Task::Forward { attention: true }) {
            observed.attentions = (0..text.num_hidden_layers).map(|_| f32(&[1, heads, rows, rows])).collect();
            let probabilities = |crossed: &CrossStates| f32(&[1, heads, text.num_query_token, crossed.rows]);
            let crossing = crossed.iter().flat_map(|crossed| crossed.layers.iter().flatten().map(|_| *crossed));
            observed.cross_attentions = crossing.map(probabilities).collect();
        }
        let places = Places { positions: u32(&[rows]), slots: u32(&[rows]), caches: &caches };
        let mask = Mask::Causal { attention_mask: None, zero_queries: text.num_query_token.min(rows) };
        let keys = Keys::Cached { table: u32(&[1, rows]), past: u32(&[1]) };
        let pass = Pass { keys, ..Pass::prefill(x, 1, places, mask, crossed) };
        let passed = decoder.record(&mut r, &pass, &observed);
        match task {
            Task::Batch(text) => {
                let hidden = gather_rows(&mut r, passed.last_hidden_state, u32(&[text.rows]));
                let logits = decoder.logits(&mut r, hidden);
                self.choose(&mut r, logits, text);
            }
            _ => drop(decoder.logits(&mut r, passed.last_hidden_state)),
        }
        r
    }

    /// Embeddings of pictures.
    fn pictures(&self, heads: &Heads, crossed: &CrossStates) -> Recording {
        let mut r = self.device.recording();
        let vision = f32(&[crossed.rows, self.text().vision_hidden_size]);
        let c = heads.clip_projector.as_ref().map(|projector| projector.record(&mut r, vision, 1));
        if let Some(projector) = &heads.clip_projector2 {
            let x = f32(&[self.text().num_query_token, self.text().hidden_size]);
            self.queries(&mut r, x, 1);
            let passed = self.pass(&mut r, x, 1, Mask::None, Some(crossed), DType::F32);
            let g = projector.record(&mut r, passed.last_hidden_state, 1);
            let g = normalize(&mut r, g);
            let out = c.map_or(g, |c| normalize(&mut r, c));
            add_rows(&mut r, out, Rows::all(out), g);
        }
        r
    }

    /// Embeddings of texts.
    fn texts(&self, heads: &Heads) -> Recording {
        let mut r = self.device.recording();
        let Some(projection) = &heads.text_projection else { return r };
        let x = f32(&[TEXTS * TEXT_ROWS, self.text().hidden_size]);
        self.ids(&mut r, x, TEXTS, 0);
        let attention_mask = Some(u32(&[TEXTS, TEXT_ROWS]));
        let passed = self.pass(&mut r, x, TEXTS, Mask::Causal { attention_mask, zero_queries: 0 }, None, DType::F32);
        let last = gather_rows(&mut r, passed.last_hidden_state, u32(&[TEXTS]));
        linear(&mut r, last, projection, Epilogue::default());
        r
    }

    /// A picture beside texts.
    fn matching(&self, heads: &Heads, crossed: &CrossStates) -> Recording {
        let mut r = self.device.recording();
        let Some(head) = &heads.itm else { return r };
        let rows = self.text().num_query_token + TEXT_ROWS;
        let x = f32(&[TEXTS * rows, self.text().hidden_size]);
        let first = self.queries(&mut r, x, TEXTS);
        self.ids(&mut r, x, TEXTS, first);
        let mask = Mask::Additive(f32(&[TEXTS, rows, rows]));
        let passed = self.pass(&mut r, x, TEXTS, mask, Some(crossed), DType::F32);
        let queries = f32(&[TEXTS * first.max(1), self.text().hidden_size]);
        let from = Rows { batch: TEXTS, rows: first.max(1), stride: rows, first: 0 };
        copy_rows(&mut r, passed.last_hidden_state, from, queries, Rows::all(queries));
        head.record(&mut r, queries, TEXTS);
        r
    }
}
