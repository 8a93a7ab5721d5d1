//! What a model takes of a device, found by loading and recording without one.

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::{Device, DeviceInfo};
use crate::error::{Error, Result};
use crate::files::checkpoint::Checkpoint;
use crate::files::config::{Config, LlamaConfig};
use crate::model::nets::{Nets, Residency};
use crate::nets::decoder::{CrossStates, Observed, Pass, Places};
use crate::nets::intern_vit::InternVit;
use crate::ops::Rows;
use crate::ops::attention::{MAX_HEAD_DIM, Mask};
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::rows::embed::embed;
use crate::weights::loader::{Layers, Loader};

/// What activations are planned for: a caption by as many beams, with a prompt and new tokens of these lengths.
pub(super) const PLANNED_BEAMS: usize = 5;
pub(super) const PLANNED_PROMPT: usize = 16;
pub(super) const PLANNED_NEW: usize = 32;
/// Vision rows of a picture where another tool makes them: as many as the published InternViT's.
pub(super) const PLANNED_ROWS: usize = 257;
/// Longer prompts and larger grids are planned as these: dispatches have limits, which hostile files may exceed.
pub(super) const MOST_ROWS: usize = 1 << 12;
pub(super) const MOST_GRID: usize = 1 << 6;

/// A part that can be streamed: bytes of its layers' weights and of the largest layer's, and of what else it needs while
/// it runs.
#[derive(Clone, Copy, Default, Debug)]
pub struct Phase {
    pub layers: u64,
    pub largest_layer: u64,
    pub activations: u64,
    /// Bytes of the layers' weights in the checkpoint.
    pub stored: u64,
}

impl Phase {
    fn new<L>(layers: &Layers<L>, activations: u64) -> Phase {
        let (largest_layer, stored) = (layers.largest_bytes, layers.stored_bytes);
        Phase { layers: layers.bytes, largest_layer, activations, stored }
    }

    /// Bytes that are there always, and bytes that are there while it runs.
    fn bytes(&self, stays: bool) -> (u64, u64) {
        if stays { (self.layers, self.activations) } else { (0, self.largest_layer + self.activations) }
    }
}

/// What a checkpoint takes of a device.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Bytes of each part's weights on the device.
    pub parts: Vec<(&'static str, u64)>,
    /// Names of the tensors that the model reads.
    pub tensors: Vec<String>,
    /// Bytes of the largest buffer, which is bound as a whole. Matrices are split to fit a binding, but not within a row;
    /// other tensors are not split.
    pub largest_buffer: u64,
    pub vision: Phase,
    pub cross: Phase,
    /// Bytes of all weights in the checkpoint.
    pub stored: u64,
    /// Bytes that the decoder needs besides weights: a picture's keys and values, its own, and scratch memory.
    pub decoder_activations: u64,
}

impl Footprint {
    /// What a checkpoint takes of a device; reads no weights.
    ///
    /// # Errors
    /// `E_MISSING_TENSOR`, `E_SHAPE`, `E_DTYPE` and `E_CONFIG` where the checkpoint does not fit its `config.json`, or the
    /// kernels.
    pub async fn of(checkpoint: &Checkpoint, config: &Config, info: &DeviceInfo) -> Result<Footprint> {
        let mut loader = Loader::plan(checkpoint, config.quantization.as_ref(), info);
        let mut parts = Vec::new();
        let mut before = 0;
        let nets = Nets::load(&mut loader, config, Residency::ALL, &mut |name, bytes| {
            parts.push((name, bytes - before));
            before = bytes;
        })
        .await?;
        checkpoint.require(&loader.requirements)?;
        let (largest_buffer, stored) = (loader.largest_buffer, loader.stored_bytes);
        let tensors = loader.requirements.into_iter().map(|r| r.name).collect();
        let activations = Activations::plan(&nets, config, info)?;
        Ok(Footprint {
            parts,
            tensors,
            largest_buffer: activations.largest.max(largest_buffer),
            vision: nets.vision.as_ref().map_or(Phase::default(), |v| Phase::new(&v.layers, activations.vision)),
            cross: Phase::new(&nets.cross.layers, activations.cross),
            stored,
            decoder_activations: activations.decoder,
        })
    }

    /// Bytes of all weights.
    pub fn weights(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of the weights that are on the device all the time.
    pub fn resident(&self, stays: Residency) -> u64 {
        let streamed = self.vision.layers + self.cross.layers;
        self.weights() - streamed + self.vision.bytes(stays.vision).0 + self.cross.bytes(stays.cross).0
    }

    /// Bytes that loading reads: those of what stays.
    pub fn stored_bytes(&self, stays: Residency) -> u64 {
        let streamed = |phase: &Phase, stays: bool| if stays { 0 } else { phase.stored };
        self.stored - streamed(&self.vision, stays.vision) - streamed(&self.cross, stays.cross)
    }

    /// The most bytes that are on the device at any time of a caption.
    pub fn peak(&self, stays: Residency) -> u64 {
        let (vision, cross) = (self.vision.bytes(stays.vision).1, self.cross.bytes(stays.cross).1);
        self.resident(stays) + vision.max(cross).max(self.decoder_activations)
    }

    /// The smallest memory budget that the model runs in.
    pub fn least_budget(&self) -> u64 {
        self.peak(Residency { vision: false, cross: false })
    }

    /// What stays on a device with `budget` bytes for the model: everything where it fits, else what leaves the least to
    /// be read for every picture. Without a budget (`u64::MAX`), everything stays.
    ///
    /// # Errors
    /// `E_LIMIT` where the model does not fit the device or the budget.
    pub fn fit(&self, info: &DeviceInfo, budget: u64) -> Result<Residency> {
        let need = self.largest_buffer;
        let limits =
            [("maxBufferSize", info.max_buffer_bytes), ("maxStorageBufferBindingSize", info.max_binding_bytes)];
        if let Some((name, have)) = limits.into_iter().find(|(_, have)| need > *have) {
            return Err(Error::Limit { name: name.into(), need, have });
        }
        let all = [(false, false), (false, true), (true, false), (true, true)];
        let all = all.map(|(vision, cross)| Residency { vision, cross });
        let fitting = all.into_iter().filter(|stays| self.peak(*stays) <= budget);
        // The last of the best: of parts that a model lacks, none is streamed.
        fitting.max_by_key(|stays| self.resident(*stays)).ok_or(Error::Budget {
            what: " at least".into(),
            need: self.least_budget(),
            have: budget,
        })
    }
}

/// Bytes that a caption needs besides weights, found by recording its passes.
struct Activations {
    vision: u64,
    cross: u64,
    decoder: u64,
    /// The largest tensor.
    largest: u64,
}

impl Activations {
    fn plan(nets: &Nets, config: &Config, info: &DeviceInfo) -> Result<Activations> {
        if let (field, Some(dim)) = too_wide(config) {
            let rule = format!("heads of {dim} columns: attention takes at most {MAX_HEAD_DIM}");
            return Err(Error::Config { file: "config.json".into(), pointer: field.into(), rule });
        }
        let text = &config.text;
        let mut planner = Planner { nets, text, info, largest: 0 };
        let (vision, rows) = match &nets.vision {
            Some(vit) => planner.vision(vit)?,
            None => (0, if text.cross_attention { PLANNED_ROWS } else { 0 }),
        };
        let seen = f32(&[rows, text.vision_hidden_size]);
        let crossing = (0..text.num_hidden_layers).map(|i| rows > 0 && text.cross_attends(i));
        let layers = crossing.map(|yes| yes.then(|| f32(&[rows, 2 * text.hidden_size]))).collect();
        let crossed = CrossStates { layers, images: 1, rows };
        let states = bytes(seen) + crossed.layers.iter().flatten().map(|t| bytes(*t)).sum::<u64>();
        let cross = states + planner.cross(seen, &crossed);
        let decoder = states + planner.decoder(&crossed);
        Ok(Activations { vision, cross, decoder, largest: planner.largest })
    }
}

/// A tensor that stands in for one on a device.
fn stand_in(dtype: DType, shape: &[usize]) -> Tensor {
    Tensor::new(0, dtype, shape)
}

fn f32(shape: &[usize]) -> Tensor {
    stand_in(DType::F32, shape)
}

fn u32(shape: &[usize]) -> Tensor {
    stand_in(DType::U32, shape)
}

fn bytes(tensor: Tensor) -> u64 {
    tensor.held_bytes() as u64
}

/// Records passes over stand-ins and counts what they take.
struct Planner<'a> {
    nets: &'a Nets,
    text: &'a LlamaConfig,
    info: &'a DeviceInfo,
    /// Bytes of the largest buffer so far.
    largest: u64,
}

impl Planner<'_> {
    /// Bytes of a recording's scratch memory.
    fn scratch(&mut self, r: &Recording) -> u64 {
        self.note(r.scratch.iter().copied());
        self.info.scratch_bytes(r)
    }

    fn note(&mut self, tensors: impl IntoIterator<Item = Tensor>) {
        let buffers = tensors.into_iter().filter(|t| t.storage == Storage::Buffer);
        self.largest = buffers.map(|t| t.size_bytes() as u64).fold(self.largest, u64::max);
    }

    /// Bytes that InternViT takes besides weights, and the rows that it makes of a picture.
    fn vision(&mut self, vit: &InternVit) -> Result<(u64, usize)> {
        let grid = (vit.config.image_size / vit.config.patch_size).clamp(1, MOST_GRID);
        let side = grid * vit.config.patch_size;
        let input = f32(&[1, 3, side, side]);
        let mut r = Recording::new();
        // The positions are made on the host: no device is needed for them here.
        let mut pool = Device::cpu().pool();
        let mut x = vit.embed(&mut r, &mut pool, input)?;
        for layer in vit.layers.kept.iter().flatten() {
            x = vit.layer(&mut r, layer, x, 1);
        }
        // Where layers are streamed, the input of a layer and of the next stand apart.
        Ok((bytes(input) + pool.bytes() + 2 * bytes(x) + self.scratch(&r), x.rows()))
    }

    /// Bytes of scratch memory that making cross-attention's keys and values takes.
    fn cross(&mut self, seen: Tensor, crossed: &CrossStates) -> u64 {
        self.note(crossed.layers.iter().flatten().copied());
        let mut r = Recording::new();
        let layers = self.nets.cross.layers.kept.iter().flatten().enumerate();
        for (i, layer) in layers.filter(|(i, _)| crossed.layers[*i].is_some()) {
            self.nets.cross.record(&mut r, i, layer, seen, crossed);
        }
        self.scratch(&r)
    }

    /// Bytes that the decoder takes besides weights and a picture's keys and values.
    fn decoder(&mut self, crossed: &CrossStates) -> u64 {
        let (text, decoder) = (self.text, &self.nets.decoder);
        let queries = if crossed.rows > 0 { text.num_query_token } else { 0 };
        let prompt = (queries + PLANNED_PROMPT).min(text.max_position_embeddings).min(MOST_ROWS);
        let rows = prompt + PLANNED_BEAMS * PLANNED_NEW;
        let storage = KvCache::storage(self.info.weights, DType::F32, rows, decoder.heads());
        let cache = f32(&[rows, decoder.heads().kv_width()]).stored(storage);
        self.note([cache]);
        let caches = vec![KvCache { k: cache, v: cache }; text.num_hidden_layers];
        let table = u32(&[PLANNED_BEAMS, prompt + PLANNED_NEW]);
        let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
        let places = |rows| Places { positions: u32(&[rows]), slots: u32(&[rows]), caches: &caches };
        let mut taken = 2 * text.num_hidden_layers as u64 * bytes(cache) + 4 * bytes(table);
        for (rows, one_row_each) in [(prompt, false), (PLANNED_BEAMS, true)] {
            let mut r = Recording::new();
            let x = r.scratch_f32(&[rows, text.hidden_size]);
            embed(&mut r, &decoder.embed_tokens, u32(&[rows]), x, Rows::all(x));
            let pass = match one_row_each {
                true => Pass::step(x, places(rows), table, u32(&[1]), mask),
                false => Pass::prefill(x, 1, places(rows), mask, (queries <= prompt).then_some(crossed)),
            };
            decoder.record(&mut r, &pass, &Observed::default());
            // The logits of each beam, and what beam search makes of them.
            taken += self.scratch(&r) + 3 * bytes(f32(&[PLANNED_BEAMS, text.vocab_size]));
        }
        taken
    }
}

/// The field and the size of heads wider than attention takes, if there are.
fn too_wide(config: &Config) -> (&'static str, Option<usize>) {
    let vision = config.vision.as_ref().map_or(0, |v| v.hidden_size / v.num_attention_heads);
    if vision > MAX_HEAD_DIM {
        return ("/vision_config/num_attention_heads", Some(vision));
    }
    ("/num_attention_heads", Some(config.text.head_dim).filter(|&dim| dim > MAX_HEAD_DIM))
}
