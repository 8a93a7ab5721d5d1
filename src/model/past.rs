//! `past_key_values`: the keys and values of earlier calls of `forward`.

use crate::device::array::check_finite;
use crate::device::tensor::DType;
use crate::device::{Array, Device, Pool};
use crate::error::{Error, Result};
use crate::files::config::LlamaConfig;
use crate::model::front::Model;
use crate::model::network::Network;
use crate::ops::Rows;
use crate::ops::attention::heads::Heads;
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::rows::copy_rows::copy_rows;

/// Self-attention's keys (after RoPE) and values of the rows so far, on the device.
pub struct PastKeyValues {
    _pool: Pool,
    pub(super) caches: Vec<KvCache>,
    pub(super) batch: usize,
    pub(super) capacity: usize,
    pub(super) len: usize,
    width: usize,
    heads: Heads,
    device: Device,
    /// The network that made it; see [`owner`].
    owner: u32,
}

/// What tells one loaded network from all others: the id of memory that is its own.
fn owner(network: &Network) -> u32 {
    network.decoder().norm.id
}

impl PastKeyValues {
    pub(super) fn empty(network: &Network, batch: usize, capacity: usize, dtype: DType) -> Result<PastKeyValues> {
        let heads = network.decoder().heads();
        let width = heads.kv_heads * heads.head_dim;
        let mut pool = network.device().pool();
        let mut caches = Vec::new();
        for _ in &network.decoder().layers {
            let k = pool.alloc(dtype, &[batch * capacity, width])?;
            caches.push(KvCache { k, v: pool.alloc(dtype, &[batch * capacity, width])? });
        }
        let device = network.device().clone();
        let owner = owner(network);
        Ok(PastKeyValues { _pool: pool, caches, batch, capacity, len: 0, width, heads, device, owner })
    }

    /// Whether another network than this made it.
    pub(super) fn is_foreign(&self, network: &Network) -> bool {
        self.owner != owner(network)
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
        let network = model.network();
        let heads = network.decoder().heads();
        let (batch, len) = PastKeyValues::check_arrays(&network.config.text, layers)?;
        let mut past = PastKeyValues::empty(network, batch, len.max(1), DType::F32)?;
        for ((k, v), cache) in layers.iter().zip(&past.caches) {
            if len > 0 {
                let rows = |array: &Array<f32>| swap_middle(&array.values, batch, heads.kv_heads, len, heads.head_dim);
                network.device().write_all(cache.k, &rows(k))?;
                network.device().write_all(cache.v, &rows(v))?;
            }
        }
        past.len = len;
        Ok(past)
    }

    /// Per layer k and v as [B, A, T, D].
    ///
    /// # Errors
    /// The device's.
    pub async fn to_arrays_async(&self) -> Result<Vec<(Array<f32>, Array<f32>)>> {
        let heads = self.heads;
        let mut layers = Vec::new();
        for cache in &self.caches {
            let mut pair = Vec::new();
            for tensor in [cache.k, cache.v] {
                let all = self.device.read_f32(tensor).await?;
                let kept: Vec<f32> = all
                    .chunks(self.capacity * self.width)
                    .flat_map(|sequence| sequence[..self.len * self.width].iter().copied())
                    .collect();
                let values = swap_middle(&kept, self.batch, self.len, heads.kv_heads, heads.head_dim);
                pair.push(Array::new(&[self.batch, heads.kv_heads, self.len, heads.head_dim], values));
            }
            let v = pair.pop().expect("two");
            layers.push((pair.pop().expect("two"), v));
        }
        Ok(layers)
    }

    /// Makes room for `rows` rows: twice as many as there are, so that growing costs little a row.
    pub(super) fn reserve(&mut self, network: &Network, rows: usize) -> Result<()> {
        if rows <= self.capacity {
            return Ok(());
        }
        let mut grown = PastKeyValues::empty(network, self.batch, rows.max(2 * self.capacity), DType::F32)?;
        if self.len > 0 {
            let mut r = network.device().recording();
            let from = Rows { batch: self.batch, rows: self.len, stride: self.capacity, first: 0 };
            let to = Rows { stride: grown.capacity, ..from };
            for (old, new) in self.caches.iter().zip(&grown.caches) {
                copy_rows(&mut r, old.k, from, new.k, to);
                copy_rows(&mut r, old.v, from, new.v, to);
            }
            network.device().play(&r)?;
        }
        grown.len = self.len;
        *self = grown;
        Ok(())
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
