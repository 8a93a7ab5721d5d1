//! QLLaMA: a LLaMA decoder whose every `cross_attention_frequency`-th layer also cross-attends, in its first
//! `num_query_token` rows, to a picture's features (InternVL, Chen et al., 2023; LLaMA, Touvron et al., 2023).

use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::error::Result;
use crate::files::config::LlamaConfig;
use crate::nets::lora::{Lora, Placing, adapted};
use crate::ops::Rows;
use crate::ops::attention::heads::Heads;
use crate::ops::attention::{Attention, Keys, Mask, View, attention_for};
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::cache::rope::{RopeTables, rope_into_cache};
use crate::ops::linear::linear_gate::linear_gate;
use crate::ops::linear::silu_gate::silu_gate;
use crate::ops::linear::stage::storage_for;
use crate::ops::linear::{Epilogue, linear, linear_into};
use crate::ops::norms::rms_norm::{rms_norm, rms_norm_for};
use crate::ops::rows::add_rows::add_rows;
use crate::weights::loader::{Layers, Loader};
use crate::weights::matrix::Matrix;

/// The decoder's weights, but for those that make cross-attention's keys and values.
pub struct Qllama {
    pub config: LlamaConfig,
    /// [vocab_size, hidden_size]
    pub embed_tokens: Matrix,
    pub layers: Vec<Layer>,
    pub norm: Tensor,
    /// [vocab_size, hidden_size]
    pub lm_head: Matrix,
    pub rope: RopeTables,
    /// What was learned beside the weights.
    pub learned: Learned,
}

/// What training added to a decoder.
#[derive(Default)]
pub struct Learned {
    /// One a layer; empty where nothing was.
    pub layers: Vec<LayerAdapters>,
    /// In place of `lm_head`: [vocab_size, hidden_size].
    pub lm_head: Option<Matrix>,
}

/// Adapters of one layer's matrices.
#[derive(Default)]
pub struct LayerAdapters {
    pub qkv: Option<Lora>,
    pub o: Option<Lora>,
    pub gate_up: Option<Lora>,
    pub down: Option<Lora>,
}

/// Those of a layer that has none.
static NO_ADAPTERS: LayerAdapters = LayerAdapters { qkv: None, o: None, gate_up: None, down: None };

/// One decoder layer.
pub struct Layer {
    pub input_layernorm: Tensor,
    /// q, k and v below each other: [(heads + 2 kv_heads) * head_dim, hidden_size].
    pub qkv_proj: Matrix,
    pub o_proj: Matrix,
    pub cross_attn: Option<CrossAttn>,
    pub post_attention_layernorm: Tensor,
    /// Gate and up below each other: [2 * intermediate_size, hidden_size].
    pub gate_up_proj: Matrix,
    pub down_proj: Matrix,
}

/// The part of cross-attention that the query tokens pass through.
pub struct CrossAttn {
    pub norm1: Tensor,
    pub q_proj: Matrix,
    pub o_proj: Matrix,
}

/// The weights that make cross-attention's keys and values of a picture's features: used once a picture, so they are
/// loaded, and can be released, apart.
pub struct CrossKeyValues {
    eps: f32,
    pub layers: Layers<CrossKeyValue>,
}

/// Those of one layer, where it has cross-attention: `norm2`, and k above v [2 * hidden_size, vision_hidden_size].
pub struct CrossKeyValue(Option<(Tensor, Matrix)>);

/// Cross-attention's keys and values of some pictures.
pub struct CrossStates {
    /// One a layer, where the layer has cross-attention: [images * rows, 2 * hidden_size], keys then values.
    pub layers: Vec<Option<Tensor>>,
    pub images: usize,
    /// Vision rows a picture.
    pub rows: usize,
}

/// One pass through the layers.
pub struct Pass<'a> {
    /// Embeddings [batch * rows, hidden_size].
    pub embeddings: Tensor,
    pub batch: usize,
    pub rows: usize,
    /// U32 [batch * rows].
    pub positions: Tensor,
    /// U32 [batch * rows]: the cache row that each row's key and value go to.
    pub slots: Tensor,
    /// One a layer.
    pub caches: &'a [KvCache],
    pub keys: Keys,
    pub mask: Mask,
    pub cross: Option<&'a CrossStates>,
}

/// Where the rows of a pass stand: what their positions are, and where their keys and values go.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// U32 [batch * rows].
    pub positions: Tensor,
    /// U32 [batch * rows]: rows of the caches.
    pub slots: Tensor,
    /// One a layer.
    pub caches: &'a [KvCache],
}

impl<'a> Pass<'a> {
    /// A pass over all rows of `batch` sequences, which see no others: a prompt, or a text alone.
    pub fn prefill(
        embeddings: Tensor,
        batch: usize,
        places: Places<'a>,
        mask: Mask,
        cross: Option<&'a CrossStates>,
    ) -> Pass<'a> {
        let rows = embeddings.rows() / batch;
        let keys = Keys::Rows { count: rows, batches: batch };
        let Places { positions, slots, caches } = places;
        Pass { embeddings, batch, rows, positions, slots, caches, keys, mask, cross }
    }

    /// A pass over one row of each sequence, on top of the keys that `table` names of the caches.
    pub fn step(embeddings: Tensor, places: Places<'a>, table: Tensor, past: Tensor, mask: Mask) -> Pass<'a> {
        let Places { positions, slots, caches } = places;
        let (batch, keys) = (embeddings.rows(), Keys::Cached { table, past });
        Pass { embeddings, batch, rows: 1, positions, slots, caches, keys, mask, cross: None }
    }
}

impl CrossStates {
    /// Keys and values of layer `i`, which has cross-attention, and where each picture's are.
    pub(super) fn keys(&self, i: usize) -> (Tensor, Keys) {
        let key_values = self.layers[i].expect("the layer's keys and values were recorded");
        (key_values, Keys::Rows { count: self.rows, batches: self.images })
    }
}

/// Where to put what a pass computes on its way; an empty list asks for none.
#[derive(Default)]
pub struct Observed {
    /// One a layer: F32 [batch, heads, rows, keys].
    pub attentions: Vec<Tensor>,
    /// One a layer that cross-attends in this pass: F32 [batch, heads, num_query_token, vision rows].
    pub cross_attentions: Vec<Tensor>,
}

/// Weights that one decoded token passes through.
#[derive(Clone, Copy, Debug)]
pub struct TokenCost {
    pub bytes: u64,
    pub multiply_adds: u64,
}

/// What a pass leaves.
pub struct Passed {
    /// After the final norm: [batch * rows, hidden_size].
    pub last_hidden_state: Tensor,
    /// The embeddings, then each layer's output but the last layer's.
    pub hidden_states: Vec<Tensor>,
}

impl Qllama {
    /// Loads, or plans to load, the decoder. `prefix` is `qllama.` in a whole InternVL and empty in a QLLaMA alone.
    pub async fn load(loader: &mut Loader<'_>, prefix: &str, config: &LlamaConfig) -> Result<Qllama> {
        let h = config.hidden_size;
        let (q, kv) = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let inner = config.intermediate_size;
        let embedding = format!("{prefix}model.embed_tokens.weight");
        let embed_tokens = loader.table(&embedding, &[config.vocab_size, h]).await?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let at = |name: &str| format!("{prefix}model.layers.{i}.{name}");
            let attn = at("self_attn");
            let (q_proj, k_proj, v_proj) =
                (format!("{attn}.q_proj"), format!("{attn}.k_proj"), format!("{attn}.v_proj"));
            let cross_attn = if config.cross_attends(i) {
                Some(CrossAttn {
                    norm1: loader.f32(&at("cross_attn.norm1.weight"), &[h]).await?,
                    q_proj: loader.linear(&[(&at("cross_attn.q_proj"), h)], h).await?,
                    o_proj: loader.linear(&[(&at("cross_attn.o_proj"), h)], h).await?,
                })
            } else {
                None
            };
            layers.push(Layer {
                input_layernorm: loader.f32(&at("input_layernorm.weight"), &[h]).await?,
                qkv_proj: loader.linear(&[(&q_proj, q), (&k_proj, kv), (&v_proj, kv)], h).await?,
                o_proj: loader.linear(&[(&at("self_attn.o_proj"), h)], q).await?,
                cross_attn,
                post_attention_layernorm: loader.f32(&at("post_attention_layernorm.weight"), &[h]).await?,
                gate_up_proj: loader.linear(&[(&at("mlp.gate_proj"), inner), (&at("mlp.up_proj"), inner)], h).await?,
                down_proj: loader.linear(&[(&at("mlp.down_proj"), h)], inner).await?,
            });
        }
        let norm = loader.f32(&format!("{prefix}model.norm.weight"), &[h]).await?;
        let head = format!("{prefix}lm_head");
        let lm_head = if loader.has_linear(&head) || !config.tie_word_embeddings {
            loader.linear(&[(&head, config.vocab_size)], h).await?
        } else {
            embed_tokens.clone()
        };
        let positions = config.max_position_embeddings;
        let rope = RopeTables::with(config.rope_theta, config.head_dim, positions, |shape, values| {
            loader.made_f32(shape, values)
        })?;
        let learned = Learned::default();
        Ok(Qllama { config: config.clone(), embed_tokens, layers, norm, lm_head, rope, learned })
    }

    /// Heads of self-attention.
    pub fn heads(&self) -> Heads {
        Heads {
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
        }
    }

    /// The adapters of layer `i`.
    pub(super) fn layer_adapters(&self, i: usize) -> &LayerAdapters {
        self.learned.layers.get(i).unwrap_or(&NO_ADAPTERS)
    }

    /// Records all layers and the final norm.
    pub fn record(&self, r: &mut Recording, pass: &Pass, observed: &Observed) -> Passed {
        let mut x = pass.embeddings;
        let mut hidden_states = Vec::with_capacity(self.layers.len());
        let mut cross_attentions = observed.cross_attentions.iter().copied();
        for (i, layer) in self.layers.iter().enumerate() {
            hidden_states.push(x);
            x = self.self_attention(r, pass, i, x, observed.attentions.get(i).copied());
            if let (Some(cross_attn), Some(states)) = (&layer.cross_attn, pass.cross) {
                self.cross_attention(r, pass, cross_attn, states.keys(i), x, cross_attentions.next());
            }
            x = self.mlp(r, i, x);
        }
        let last_hidden_state = rms_norm(r, x, Rows::all(x), 0, self.norm, self.config.rms_norm_eps);
        Passed { last_hidden_state, hidden_states }
    }

    /// `x + o_proj(attention(rope(q), keys, values))`, where `q, k, v = qkv_proj(input_layernorm(x))`, and `rope(k)` and
    /// `v` join the cache's keys and values.
    fn self_attention(
        &self,
        r: &mut Recording,
        pass: &Pass,
        i: usize,
        x: Tensor,
        probabilities: Option<Tensor>,
    ) -> Tensor {
        let (layer, adapters, cache, heads) = (&self.layers[i], self.layer_adapters(i), pass.caches[i], self.heads());
        let h = rms_norm_for(r, x, Rows::all(x), layer.input_layernorm, self.config.rms_norm_eps, &layer.qkv_proj);
        let qkv = adapted(r, h, &layer.qkv_proj, adapters.qkv.as_ref(), Epilogue::default());
        let q = rope_into_cache(r, qkv, heads, &self.rope, pass.positions, pass.slots, cache);
        let a = Attention {
            batch: pass.batch,
            rows: pass.rows,
            heads,
            q: View::all(q),
            k: View::all(cache.k),
            v: View::all(cache.v),
            keys: pass.keys,
            mask: pass.mask,
            scale: heads.scale(),
            probabilities,
        };
        let attended = attention_for(r, a, &layer.o_proj);
        adapted(r, attended, &layer.o_proj, adapters.o.as_ref(), Epilogue::residual(x))
    }

    /// `x[:, :N] += o_proj(attention(q_proj(norm1(x[:, :N])), keys, values))`; `key_values` has a layer's keys, then its
    /// values.
    fn cross_attention(
        &self,
        r: &mut Recording,
        pass: &Pass,
        cross_attn: &CrossAttn,
        (key_values, keys): (Tensor, Keys),
        x: Tensor,
        probabilities: Option<Tensor>,
    ) {
        let queries = self.config.num_query_token;
        let rows = Rows { batch: pass.batch, rows: queries, stride: pass.rows, first: 0 };
        let heads = Heads { kv_heads: self.config.num_attention_heads, ..self.heads() };
        let h = rms_norm(r, x, rows, 0, cross_attn.norm1, self.config.rms_norm_eps);
        let q = linear(r, h, &cross_attn.q_proj, Epilogue::default());
        let a = Attention {
            batch: pass.batch,
            rows: queries,
            heads,
            q: View::all(q),
            k: View { tensor: key_values, column: 0 },
            v: View { tensor: key_values, column: self.config.hidden_size },
            keys,
            mask: Mask::None,
            scale: heads.scale(),
            probabilities,
        };
        let attended = attention_for(r, a, &cross_attn.o_proj);
        let out = linear(r, attended, &cross_attn.o_proj, Epilogue::default());
        add_rows(r, x, rows, out);
    }

    /// `x + down_proj(silu(gate_proj(h)) * up_proj(h))`, where `h = post_attention_layernorm(x)`.
    fn mlp(&self, r: &mut Recording, i: usize, x: Tensor) -> Tensor {
        let (layer, adapters) = (&self.layers[i], self.layer_adapters(i));
        let (norm, eps) = (layer.post_attention_layernorm, self.config.rms_norm_eps);
        let h = rms_norm_for(r, x, Rows::all(x), norm, eps, &layer.gate_up_proj);
        let inner = match &adapters.gate_up {
            None => linear_gate(r, h, &layer.gate_up_proj, &layer.down_proj),
            lora => {
                let gate_up = adapted(r, h, &layer.gate_up_proj, lora.as_ref(), Epilogue::default());
                silu_gate(r, gate_up, storage_for(&layer.down_proj, h.rows()))
            }
        };
        adapted(r, inner, &layer.down_proj, adapters.down.as_ref(), Epilogue::residual(x))
    }

    /// What one decoded token costs in weights.
    pub fn weights_per_token(&self) -> TokenCost {
        let matrices = self.layers.iter().flat_map(|l| [&l.qkv_proj, &l.o_proj, &l.gate_up_proj, &l.down_proj]);
        let mut cost = TokenCost { bytes: 0, multiply_adds: 0 };
        for matrix in matrices.chain([&self.lm_head]) {
            cost.bytes += matrix.bytes();
            cost.multiply_adds += (matrix.rows * matrix.cols) as u64;
        }
        cost
    }

    /// `logits = lm_head(hidden)`: [rows, vocab_size].
    pub fn logits(&self, r: &mut Recording, hidden: Tensor) -> Tensor {
        linear(r, hidden, self.head(), Epilogue::default())
    }

    /// The matrix that makes logits: [vocab_size, hidden_size].
    pub fn head(&self) -> &Matrix {
        self.learned.lm_head.as_ref().unwrap_or(&self.lm_head)
    }

    /// Brings adapters of this decoder to the device.
    ///
    /// # Errors
    /// `E_SHAPE` naming a tensor that does not fit; those of the device.
    pub fn place_learned(&self, placing: &mut Placing) -> Result<Learned> {
        let c = &self.config;
        let (h, inner, heads) = (c.hidden_size, c.intermediate_size, self.heads());
        let mut learned = Learned::default();
        for i in 0..c.num_hidden_layers {
            let at = |name: &str| format!("model.layers.{i}.{name}");
            let [q, k, v, o] = ["q_proj", "k_proj", "v_proj", "o_proj"].map(|name| at(&format!("self_attn.{name}")));
            let [gate, up, down] = ["gate_proj", "up_proj", "down_proj"].map(|name| at(&format!("mlp.{name}")));
            let qkv = [(&q[..], heads.q_width()), (&k, heads.kv_width()), (&v, heads.kv_width())];
            learned.layers.push(LayerAdapters {
                qkv: placing.lora(&qkv, h)?,
                o: placing.lora(&[(&o, h)], heads.q_width())?,
                gate_up: placing.lora(&[(&gate, inner), (&up, inner)], h)?,
                down: placing.lora(&[(&down, h)], inner)?,
            });
        }
        learned.lm_head = placing.saved("lm_head.weight", c.vocab_size, h)?;
        Ok(learned)
    }
}

impl CrossKeyValues {
    /// Loads, or plans to load, `norm2`, `k_proj` and `v_proj` of every layer that cross-attends, or none yet.
    pub async fn load(
        loader: &mut Loader<'_>,
        prefix: &str,
        config: &LlamaConfig,
        stream: bool,
    ) -> Result<CrossKeyValues> {
        let layers = Layers::load(loader, config.num_hidden_layers, stream, async |loader: &mut Loader<'_>, i| {
            CrossKeyValue::load(loader, prefix, config, i).await
        })
        .await?;
        Ok(CrossKeyValues { eps: config.rms_norm_eps, layers })
    }

    /// `norm2` and the matrix of keys and values of layer `i`, where it cross-attends and is on the device.
    pub(super) fn of_layer(&self, i: usize) -> Option<(Tensor, &Matrix)> {
        self.layers.kept.as_ref()?.get(i)?.0.as_ref().map(|(norm2, key_value)| (*norm2, key_value))
    }

    /// `k, v = k_proj(norm2(vision)), v_proj(norm2(vision))` of layer `i`, into `states`.
    /// `vision` is [images * rows, vision_hidden_size].
    pub fn record(&self, r: &mut Recording, i: usize, layer: &CrossKeyValue, vision: Tensor, states: &CrossStates) {
        if let (Some((norm2, key_value)), Some(state)) = (&layer.0, states.layers[i]) {
            let h = rms_norm(r, vision, Rows::all(vision), 0, *norm2, self.eps);
            linear_into(r, h, key_value, Epilogue::default(), state);
        }
    }
}

impl CrossKeyValue {
    /// Loads, or plans to load, layer `i`.
    pub async fn load(loader: &mut Loader<'_>, prefix: &str, config: &LlamaConfig, i: usize) -> Result<CrossKeyValue> {
        if !config.cross_attends(i) {
            return Ok(CrossKeyValue(None));
        }
        let (h, vision) = (config.hidden_size, config.vision_hidden_size);
        let at = |name: &str| format!("{prefix}model.layers.{i}.cross_attn.{name}");
        let norm2 = loader.f32(&at("norm2.weight"), &[vision]).await?;
        let key_value = loader.linear(&[(&at("k_proj"), h), (&at("v_proj"), h)], vision).await?;
        Ok(CrossKeyValue(Some((norm2, key_value))))
    }
}
