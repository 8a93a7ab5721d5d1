//! `past_key_values`: the keys and values of earlier calls of `forward`.
//!
//! They lie on the device, and on the host there is what made them: the arguments of those calls, which are small beside
//! them. Where the device is lost they are made again of that. Those of another tool stay on the host too.

use crate::device::array::check_finite;
use crate::device::tensor::DType;
use crate::device::{Array, Pool};
use crate::error::{Error, Result};
use crate::files::config::LlamaConfig;
use crate::model::front::Model;
use crate::model::network::Network;
use crate::ops::Rows;
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::rows::copy_rows::copy_rows;

/// Self-attention's keys (after RoPE) and values of the rows so far.
pub struct PastKeyValues {
    pub(super) batch: usize,
    pub(super) len: usize,
    /// What made the rows, in its order.
    pub(super) written: Vec<Written>,
    /// The model that it belongs to.
    model: u32,
    /// `None` for what another tool made, until it is used.
    held: Option<Held>,
}

/// The rows on a device.
pub(super) struct Held {
    _pool: Pool,
    pub caches: Vec<KvCache>,
    pub capacity: usize,
    /// The network whose device it is: the id of memory that is its own.
    network: u32,
}

/// What wrote rows, behind `past` rows that were there.
pub(super) struct Written {
    pub past: usize,
    pub by: Writer,
}

/// What writes rows.
pub(super) enum Writer {
    /// Another tool: per layer k and v, as they lie in the cache.
    Arrays(Vec<[Vec<f32>; 2]>),
    Forward(Box<Arguments>),
}

/// The arguments of `forward` that keys and values depend on.
#[derive(Clone)]
pub(super) struct Arguments {
    pub input_ids: Option<Array<i64>>,
    pub inputs_embeds: Option<Array<f32>>,
    pub query_embeds: Option<Array<f32>>,
    pub attention_mask: Option<Array<i64>>,
    pub position_ids: Option<Array<i64>>,
    pub vision_hidden_states: Option<Array<f32>>,
    pub repeat_time: Option<usize>,
    pub use_zero_attention_mask: bool,
}

impl PastKeyValues {
    pub(super) fn empty(network: &Network, batch: usize, capacity: usize) -> Result<PastKeyValues> {
        let held = Some(Held::new(network, batch, capacity)?);
        Ok(PastKeyValues { batch, len: 0, written: Vec::new(), model: network.model(), held })
    }

    /// Whether it belongs to another model than this network.
    pub(super) fn is_foreign(&self, network: &Network) -> bool {
        self.model != network.model()
    }

    /// The rows on this network's device, where they are there.
    pub(super) fn held_by(&self, network: &Network) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.network == network.decoder().norm.id)
    }

    /// Takes the memory of another cache, which holds the same rows.
    pub(super) fn take_held(&mut self, other: PastKeyValues) {
        self.held = other.held;
    }

    /// Notes what wrote the rows behind `past`; what was there of them before counts no more.
    pub(super) fn note(&mut self, past: usize, by: Arguments) {
        self.written.retain(|written| written.past < past);
        self.written.push(Written { past, by: Writer::Forward(Box::new(by)) });
    }

    /// Rows in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets the rows behind the first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        self.len = self.len.min(rows);
    }

    /// Checks `past_key_values` of another tool for [`PastKeyValues::from_arrays`], without the weights; returns the
    /// batch and the rows of the cache.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for another model's cache, `E_NONFINITE`.
    pub fn check_arrays(config: &LlamaConfig, layers: &[(Array<f32>, Array<f32>)]) -> Result<(usize, usize)> {
        let wrong = |what: String, expected: String, found: String| Err(Error::InputShape { what, expected, found });
        if layers.len() != config.num_hidden_layers {
            let expected = format!("{} layers", config.num_hidden_layers);
            return wrong("past_key_values".into(), expected, format!("{} layers", layers.len()));
        }
        let first = layers[0].0.shape.clone();
        let (heads, width) = (config.num_key_value_heads, config.head_dim);
        for (layer, (k, v)) in layers.iter().enumerate() {
            for (name, array) in [("key", k), ("value", v)] {
                let what = format!("past_{name}.{layer}");
                let fits = matches!(array.shape[..], [batch, h, _, w] if batch > 0 && h == heads && w == width);
                if !fits || array.shape != first {
                    let expected = format!("[batch, {heads}, rows, {width}], the same in every layer");
                    return wrong(what, expected, format!("{:?}", array.shape));
                }
                check_finite(&what, &array.values)?;
            }
        }
        Ok((first[0], first[2]))
    }

    /// A cache from `past_key_values` of another tool: per layer k and v, [B, A, P, D], keys after RoPE.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for another model's cache, `E_NONFINITE`.
    pub fn from_arrays(model: &Model, layers: &[(Array<f32>, Array<f32>)]) -> Result<PastKeyValues> {
        let text = &model.config().text;
        let (batch, len) = PastKeyValues::check_arrays(text, layers)?;
        let rows = |a: &Array<f32>| swap_middle(&a.values, batch, text.num_key_value_heads, len, text.head_dim);
        let arrays = layers.iter().map(|(k, v)| [rows(k), rows(v)]).collect();
        let written = vec![Written { past: 0, by: Writer::Arrays(arrays) }];
        Ok(PastKeyValues { batch, len, written, model: model.id(), held: None })
    }

    /// Fills a new cache with what [`PastKeyValues::from_arrays`] was given.
    pub(super) fn fill(&mut self, network: &Network, arrays: &[[Vec<f32>; 2]]) -> Result<()> {
        let (batch, width) = (self.batch, network.decoder().heads().kv_width());
        let rows = arrays.first().map_or(0, |[k, _]| k.len() / (batch * width));
        let held = self.reserve(network, rows)?;
        for (cache, [k, v]) in held.caches.iter().zip(arrays) {
            for (tensor, values) in [(cache.k, k), (cache.v, v)] {
                for (b, sequence) in values.chunks((rows * width).max(1)).enumerate() {
                    let at = 4 * b * held.capacity * width;
                    network.device().write(tensor, at, bytemuck::cast_slice(sequence))?;
                }
            }
        }
        self.len = rows;
        Ok(())
    }

    /// Per layer k and v as [B, A, T, D].
    pub(super) async fn read(&self, network: &Network) -> Result<Vec<(Array<f32>, Array<f32>)>> {
        let heads = network.decoder().heads();
        let held = self.held_by(network).expect("it is on this device");
        let mut layers = Vec::new();
        for cache in &held.caches {
            let mut pair = Vec::new();
            for tensor in [cache.k, cache.v] {
                let width = tensor.width();
                let all = network.device().read_f32(tensor).await?;
                let kept: Vec<f32> = all
                    .chunks(held.capacity * width)
                    .flat_map(|sequence| sequence[..self.len * width].iter().copied())
                    .collect();
                check_finite("past_key_values", &kept)?;
                let values = swap_middle(&kept, self.batch, self.len, heads.kv_heads, heads.head_dim);
                pair.push(Array::new(&[self.batch, heads.kv_heads, self.len, heads.head_dim], values));
            }
            let v = pair.pop().expect("two");
            layers.push((pair.pop().expect("two"), v));
        }
        Ok(layers)
    }

    /// Makes room for `rows` rows: twice as many as there are, so that growing costs little a row.
    pub(super) fn reserve(&mut self, network: &Network, rows: usize) -> Result<&Held> {
        let capacity = self.held_by(network).map_or(0, |held| held.capacity);
        if rows > capacity {
            let grown = Held::new(network, self.batch, rows.max(2 * capacity))?;
            if let Some(held) = self.held_by(network).filter(|_| self.len > 0) {
                let mut r = network.device().recording();
                let from = Rows { batch: self.batch, rows: self.len, stride: capacity, first: 0 };
                let to = Rows { stride: grown.capacity, ..from };
                for (old, new) in held.caches.iter().zip(&grown.caches) {
                    copy_rows(&mut r, old.k, from, new.k, to);
                    copy_rows(&mut r, old.v, from, new.v, to);
                }
                network.device().play(&r)?;
            }
            self.held = Some(grown);
        }
        Ok(self.held.as_ref().expect("it was made"))
    }
}

impl Held {
    fn new(network: &Network, batch: usize, capacity: usize) -> Result<Held> {
        let heads = network.decoder().heads();
        let shape = [batch * capacity, heads.kv_heads * heads.head_dim];
        let mut pool = network.device().pool();
        let mut caches = Vec::new();
        for _ in &network.decoder().layers {
            let k = pool.alloc(DType::F32, &shape)?;
            caches.push(KvCache { k, v: pool.alloc(DType::F32, &shape)? });
        }
        Ok(Held { _pool: pool, caches, capacity, network: network.decoder().norm.id })
    }
}

/// [a, b, c, d] -> [a, c, b, d].
fn swap_middle(values: &[f32], a: usize, b: usize, c: usize, d: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for i in 0..a {
        for k in 0..c {
            for j in 0..b {
                let at = ((i * b + j) * c + k) * d;
                out.extend_from_slice(&values[at..at + d]);
            }
        }
    }
    out
}
