//! What a model is made of, what that takes of a device, and which weights stay there.
//!
//! Only pictures need InternViT and the weights that make cross-attention's keys and values. Where the memory budget is
//! too small for everything, the layers of one or both are streamed: read for every picture, one at a time, and freed
//! behind. That reads no more than loading such a part as a whole for every picture would, and holds one layer of it.
//! The decoder and the heads stay.

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::{Device, DeviceInfo};
use crate::error::{Error, Result};
use crate::files::checkpoint::Checkpoint;
use crate::files::config::Config;
use crate::nets::clip::{AttentionPool, ItmHead};
use crate::nets::decoder::{CrossKeyValues, CrossStates, Observed, Pass, Qllama};
use crate::nets::intern_vit::InternVit;
use crate::ops::Rows;
use crate::ops::attention::{Keys, MAX_HEAD_DIM, Mask};
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::rows::embed::embed;
use crate::weights::loader::{Layers, Loader};
use crate::weights::matrix::Matrix;

/// What activations are planned for: a caption by as many beams, with a prompt and new tokens of these lengths.
const PLANNED_BEAMS: usize = 5;
const PLANNED_PROMPT: usize = 16;
const PLANNED_NEW: usize = 32;
/// Vision rows of a picture where another tool makes them: as many as the published InternViT's.
const PLANNED_ROWS: usize = 257;
/// Longer prompts and larger grids are planned as these: dispatches have limits, which hostile files may exceed.
const MOST_ROWS: usize = 1 << 12;
const MOST_GRID: usize = 1 << 6;

/// The names of the parts that can be streamed.
pub const INTERN_VIT: &str = "InternViT";
pub const CROSS: &str = "cross-attention keys and values";

/// Whose layers stay on the device, instead of being streamed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Residency {
    pub vision: bool,
    pub cross: bool,
}

impl Residency {
    /// Everything stays.
    pub const ALL: Residency = Residency { vision: true, cross: true };
}

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

/// The CLIP and matching heads; each is there if the checkpoint has it.
pub(crate) struct Heads {
    pub clip_projector: Option<AttentionPool>,
    pub clip_projector2: Option<AttentionPool>,
    /// [clip_embed_dim, hidden_size]
    pub text_projection: Option<Matrix>,
    pub itm: Option<ItmHead>,
    pub logit_scale: f32,
}

/// The weights of a model.
pub(crate) struct Nets {
    pub vision: Option<InternVit>,
    pub decoder: Qllama,
    pub cross: CrossKeyValues,
    pub heads: Option<Heads>,
    /// [num_query_token, hidden_size]
    pub query_tokens: Option<Tensor>,
}

impl Nets {
    /// Loads, or plans to load, what stays on the device. `after_part` is told of each part with the bytes loaded so far.
    pub async fn load(
        loader: &mut Loader<'_>,
        config: &Config,
        stays: Residency,
        after_part: &mut dyn FnMut(&'static str, u64),
    ) -> Result<Nets> {
        let prefix = config.prefix();
        let text = &config.text;
        let vision = match &config.vision {
            Some(vision) => Some(InternVit::load(loader, vision, !stays.vision).await?),
            None => None,
        };
        after_part(INTERN_VIT, loader.device_bytes);
        let cross = CrossKeyValues::load(loader, prefix, text, !stays.cross).await?;
        after_part(CROSS, loader.device_bytes);
        let decoder = Qllama::load(loader, prefix, text).await?;
        after_part("QLLaMA", loader.device_bytes);
        let (mut heads, mut query_tokens) = (None, None);
        if let (Some(clip), Some(vision)) = (&config.clip, &config.vision) {
            let shape = [1, text.num_query_token, text.hidden_size];
            query_tokens = Some(loader.f32("query_tokens", &shape).await?.reshape(&shape[1..]));
            let (outputs, pool_heads) = (clip.clip_embed_dim, clip.attn_pool_num_heads);
            heads = Some(Heads {
                clip_projector: if loader.has("clip_projector.norm1_q.weight") {
                    let width = vision.hidden_size;
                    Some(AttentionPool::load(loader, "clip_projector", width, pool_heads, outputs).await?)
                } else {
                    None
                },
                clip_projector2: if loader.has("clip_projector2.norm1_q.weight") {
                    let width = text.hidden_size;
                    Some(AttentionPool::load(loader, "clip_projector2", width, pool_heads, outputs).await?)
                } else {
                    None
                },
                text_projection: if loader.has("text_projection") {
                    Some(loader.transposed("text_projection", text.hidden_size, outputs).await?)
                } else {
                    None
                },
                itm: if loader.has_linear("itm_head") {
                    Some(ItmHead::load(loader, text.hidden_size).await?)
                } else {
                    None
                },
                logit_scale: if loader.has("logit_scale") {
                    loader.host_f32("logit_scale", &[]).await?[0]
                } else {
                    0.0
                },
            });
        }
        after_part("CLIP heads", loader.device_bytes);
        Ok(Nets { vision, decoder, cross, heads, query_tokens })
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
        let text = &config.text;
        if let (field, Some(dim)) = too_wide(config) {
            let rule = format!("heads of {dim} columns: attention takes at most {MAX_HEAD_DIM}");
            return Err(Error::Config { file: "config.json".into(), pointer: field.into(), rule });
        }
        let mut largest = 0;
        let mut scratch = |r: &Recording| {
            let buffers = r.scratch.iter().filter(|t| t.storage == Storage::Buffer);
            let sizes = buffers.map(|t| t.size_bytes() as u64);
            largest = sizes.max().unwrap_or(0).max(largest);
            info.scratch_bytes(r)
        };
        let bytes = |tensor: Tensor| tensor.held_bytes() as u64;
        let stand_in = |dtype, shape: &[usize]| Tensor::new(0, dtype, shape);
        let f32 = |shape: &[usize]| stand_in(DType::F32, shape);
        let u32 = |shape: &[usize]| stand_in(DType::U32, shape);

        let mut vision = 0;
        let mut rows = if text.cross_attention { PLANNED_ROWS } else { 0 };
        if let Some(vit) = &nets.vision {
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
            rows = x.rows();
            // Where layers are streamed, the input of a layer and of the next stand apart.
            vision = bytes(input) + pool.bytes() + 2 * bytes(x) + scratch(&r);
        }
        let seen = f32(&[rows, text.vision_hidden_size]);
        let states = bytes(seen);

        let crossing: Vec<bool> = (0..text.num_hidden_layers).map(|i| rows > 0 && text.cross_attends(i)).collect();
        let layers = crossing.iter().map(|yes| yes.then(|| f32(&[rows, 2 * text.hidden_size]))).collect();
        let crossed = CrossStates { layers, images: 1, rows };
        let crossed_bytes = crossed.layers.iter().flatten().map(|t| bytes(*t)).sum::<u64>();
        let mut r = Recording::new();
        for (i, layer) in nets.cross.layers.kept.iter().flatten().enumerate().filter(|(i, _)| crossing[*i]) {
            nets.cross.record(&mut r, i, layer, seen, &crossed);
        }
        let cross = states + crossed_bytes + scratch(&r);

        let queries = if rows > 0 { text.num_query_token } else { 0 };
        let prompt = (queries + PLANNED_PROMPT).min(text.max_position_embeddings).min(MOST_ROWS);
        let decoder = &nets.decoder;
        let rows = prompt + PLANNED_BEAMS * PLANNED_NEW;
        let storage = KvCache::storage(info.weights, DType::F32, rows, decoder.heads());
        let cache = f32(&[rows, decoder.heads().kv_width()]).stored(storage);
        let caches = vec![KvCache { k: cache, v: cache }; text.num_hidden_layers];
        let table = u32(&[PLANNED_BEAMS, prompt + PLANNED_NEW]);
        let mut passes = 0;
        for is_prefill in [true, false] {
            let rows = if is_prefill { prompt } else { PLANNED_BEAMS };
            let mut r = Recording::new();
            let x = r.scratch_f32(&[rows, text.hidden_size]);
            let each = u32(&[rows]);
            embed(&mut r, &decoder.embed_tokens, each, x, Rows::all(x));
            let pass = if is_prefill {
                let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
                Pass::prefill(x, 1, each, each, &caches, mask, (queries <= prompt).then_some(&crossed))
            } else {
                Pass::step(x, each, each, &caches, Keys::Cached { table, past: u32(&[1]) }, None)
            };
            decoder.record(&mut r, &pass, &Observed::default());
            // The logits of each beam, and what beam search makes of them.
            passes += scratch(&r) + 3 * bytes(f32(&[PLANNED_BEAMS, text.vocab_size]));
        }
        let buffers = crossed.layers.iter().flatten().chain([&cache]).filter(|t| t.storage == Storage::Buffer);
        largest = buffers.map(|t| bytes(*t)).fold(largest, u64::max);
        let kept = 2 * text.num_hidden_layers as u64 * bytes(cache) + 4 * bytes(table);
        Ok(Activations { vision, cross, decoder: states + crossed_bytes + kept + passes, largest })
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
