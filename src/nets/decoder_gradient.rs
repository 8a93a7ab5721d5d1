//! The gradient of QLLaMA, written down from the formulas of [`decoder`](crate::nets::decoder), last layer first.
//!
//! Of the forward pass each layer's input is kept; what else its gradient needs is computed again just before. Scratch
//! memory is shared between layers, so that the full set of one layer lives at a time.

use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::nets::decoder::{CrossAttn, CrossKeyValues, Layer, LayerAdapters, Pass, Qllama};
use crate::nets::gradients::Places;
use crate::nets::lora::{LoraGradient, adapted, adapted_gradient};
use crate::ops::Rows;
use crate::ops::attention::heads::Heads;
use crate::ops::attention::{Attention, Keys, Mask, View, attention};
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::cache::rope::rope_into_cache;
use crate::ops::gradients::attention_gradient::{AttentionGradient, attention_gradient, query_gradient};
use crate::ops::gradients::column_sums::Factors;
use crate::ops::gradients::linear_gradient::linear_gradient;
use crate::ops::gradients::rms_norm_gradient::{Normed, rms_norm_gradient};
use crate::ops::gradients::rope_gradient::rope_gradient;
use crate::ops::gradients::silu_gate_gradient::silu_gate_gradient;
use crate::ops::linear::silu_gate::silu_gate;
use crate::ops::linear::{Epilogue, linear};
use crate::ops::norms::rms_norm::rms_norm;
use crate::ops::rows::add_rows::add_rows;
use crate::ops::rows::copy_rows::copy_rows;

/// Memory for the gradients of one layer's adapters.
#[derive(Clone, Copy, Default, Debug)]
pub struct LayerGradients {
    pub qkv: Option<LoraGradient>,
    pub o: Option<LoraGradient>,
    pub gate_up: Option<LoraGradient>,
    pub down: Option<LoraGradient>,
}

/// What is trained in a decoder, and behind its cross-attention.
#[derive(Default)]
pub struct DecoderGradients {
    /// One a layer.
    pub layers: Vec<LayerGradients>,
    /// Of the checkpoint's tensors, by their names without the prefix of a whole InternVL.
    pub places: Places,
}

/// The vision side of cross-attention, where its gradient is wanted.
#[derive(Clone, Copy)]
pub struct VisionSide<'a> {
    pub key_values: &'a CrossKeyValues,
    /// What keys and values were made of: [images * rows, vision_hidden_size].
    pub vision: Tensor,
    /// Its gradient, to which every layer that cross-attends adds.
    pub gradient: Tensor,
}

/// What a forward pass leaves for its gradient.
pub struct KeptPass {
    /// Each layer's input.
    inputs: Vec<Tensor>,
    /// The last layer's output.
    output: Tensor,
    /// After the final norm: [batch * rows, hidden_size].
    pub last_hidden_state: Tensor,
}

/// What one layer computes.
struct KeptLayer {
    /// Its input, normalised.
    h: Tensor,
    qkv: Attended,
    /// Behind self-attention.
    attended: Tensor,
    cross: Option<KeptCross>,
    /// Behind cross-attention.
    middle: Tensor,
    middle_normed: Tensor,
    gate_up: Tensor,
    inner: Tensor,
    out: Tensor,
}

/// An attention's operands and result.
#[derive(Clone, Copy)]
struct Attended {
    call: Attention,
    out: Tensor,
}

struct KeptCross {
    h: Tensor,
    attended: Attended,
}

impl Qllama {
    /// As [`Qllama::record`], keeping each layer's input. The pass has keys in rows; its caches are not used.
    pub fn record_kept(&self, r: &mut Recording, pass: &Pass) -> KeptPass {
        let mut x = pass.embeddings;
        let mut inputs = Vec::with_capacity(self.layers.len());
        for i in 0..self.layers.len() {
            inputs.push(x);
            x = self.kept_layer(r, pass, i, x).out;
        }
        let last_hidden_state = rms_norm(r, x, Rows::all(x), 0, self.norm, self.config.rms_norm_eps);
        KeptPass { inputs, output: x, last_hidden_state }
    }

    /// Layer `i`, with all that its gradient needs.
    fn kept_layer(&self, r: &mut Recording, pass: &Pass, i: usize, x: Tensor) -> KeptLayer {
        let (layer, adapters) = (&self.layers[i], self.layer_adapters(i));
        let eps = self.config.rms_norm_eps;
        let h = rms_norm(r, x, Rows::all(x), 0, layer.input_layernorm, eps);
        let qkv = self.kept_attention(r, pass, layer, adapters, h);
        let attended = adapted(r, qkv.out, &layer.o_proj, adapters.o.as_ref(), Epilogue::residual(x));
        let cross = match (&layer.cross_attn, pass.cross) {
            (Some(cross_attn), Some(states)) => Some(self.kept_cross(r, pass, cross_attn, states.keys(i), attended)),
            _ => None,
        };
        let middle = match (&cross, &layer.cross_attn) {
            (Some(cross), Some(cross_attn)) => {
                let middle = r.scratch_f32(attended.shape());
                copy_rows(r, attended, Rows::all(attended), middle, Rows::all(middle));
                let out = linear(r, cross.attended.out, &cross_attn.o_proj, Epilogue::default());
                add_rows(r, middle, self.query_rows(pass), out);
                middle
            }
            _ => attended,
        };
        let middle_normed = rms_norm(r, middle, Rows::all(middle), 0, layer.post_attention_layernorm, eps);
        let gate_up = adapted(r, middle_normed, &layer.gate_up_proj, adapters.gate_up.as_ref(), Epilogue::default());
        let inner = silu_gate(r, gate_up, crate::device::tensor::Storage::Buffer).tensor();
        let out = adapted(r, inner, &layer.down_proj, adapters.down.as_ref(), Epilogue::residual(middle));
        KeptLayer { h, qkv, attended, cross, middle, middle_normed, gate_up, inner, out }
    }

    /// `attention(rope(q), rope(k), v)` with `q, k, v = qkv_proj(h)`.
    fn kept_attention(
        &self,
        r: &mut Recording,
        pass: &Pass,
        layer: &Layer,
        adapters: &LayerAdapters,
        h: Tensor,
    ) -> Attended {
        let heads = self.heads();
        let qkv = adapted(r, h, &layer.qkv_proj, adapters.qkv.as_ref(), Epilogue::default());
        let cache = [(); 2].map(|()| r.scratch_f32(&[h.rows(), heads.kv_width()]));
        let cache = KvCache { k: cache[0], v: cache[1] };
        let q = rope_into_cache(r, qkv, heads, &self.rope, pass.positions, pass.slots, cache);
        let call = Attention {
            batch: pass.batch,
            rows: pass.rows,
            heads,
            q: View::all(q),
            k: View::all(cache.k),
            v: View::all(cache.v),
            keys: pass.keys,
            mask: pass.mask,
            scale: heads.scale(),
            probabilities: None,
        };
        Attended { call, out: attention(r, call) }
    }

    fn query_rows(&self, pass: &Pass) -> Rows {
        Rows { batch: pass.batch, rows: self.config.num_query_token, stride: pass.rows, first: 0 }
    }

    /// `attention(q_proj(norm1(x[:, :N])), keys, values)`.
    fn kept_cross(
        &self,
        r: &mut Recording,
        pass: &Pass,
        cross_attn: &CrossAttn,
        (key_values, keys): (Tensor, Keys),
        x: Tensor,
    ) -> KeptCross {
        let heads = Heads { kv_heads: self.config.num_attention_heads, ..self.heads() };
        let h = rms_norm(r, x, self.query_rows(pass), 0, cross_attn.norm1, self.config.rms_norm_eps);
        let q = linear(r, h, &cross_attn.q_proj, Epilogue::default());
        let call = Attention {
            batch: pass.batch,
            rows: self.config.num_query_token,
            heads,
            q: View::all(q),
            k: View { tensor: key_values, column: 0 },
            v: View { tensor: key_values, column: self.config.hidden_size },
            keys,
            mask: Mask::None,
            scale: heads.scale(),
            probabilities: None,
        };
        KeptCross { h, attended: Attended { call, out: attention(r, call) } }
    }
}

/// A backward pass: what went forward, and where gradients go.
pub struct Backward<'a> {
    pub decoder: &'a Qllama,
    pub pass: &'a Pass<'a>,
    pub kept: &'a KeptPass,
    pub to: &'a DecoderGradients,
    /// Where the vision rows' gradient is wanted.
    pub vision: Option<VisionSide<'a>>,
}

/// A norm: its weight, the weight's name, and which rows it was taken of.
#[derive(Clone, Copy)]
struct Norm<'a> {
    weight: Tensor,
    name: &'a str,
    rows: Rows,
}

impl Backward<'_> {
    /// From the gradient of `last_hidden_state`, those of all that there is room for, down to layer `lowest`; returns the
    /// gradient of that layer's input: the embeddings', for layer 0.
    pub fn record(&self, r: &mut Recording, d_last: Tensor, lowest: usize) -> Tensor {
        let (decoder, x) = (self.decoder, self.kept.output);
        let dx = r.scratch_f32(x.shape());
        let norm = Norm { weight: decoder.norm, name: "model.norm.weight", rows: Rows::all(x) };
        self.norm(r, d_last, x, norm, dx, false);
        for i in (lowest..decoder.layers.len()).rev() {
            let layer = decoder.kept_layer(r, self.pass, i, self.kept.inputs[i]);
            let gradients = self.to.layers.get(i).copied().unwrap_or_default();
            self.mlp(r, i, &layer, gradients, dx);
            if let Some(cross) = &layer.cross {
                self.cross_attention(r, i, layer.attended, cross, dx);
            }
            self.self_attention(r, i, &layer, gradients, dx);
        }
        dx
    }

    /// The gradient of a norm's rows, into `dx` or added to it, and of its weight.
    fn norm(&self, r: &mut Recording, dy: Tensor, x: Tensor, norm: Norm, dx: Tensor, add: bool) {
        let Norm { weight, name, rows } = norm;
        let normed = Normed { x: View::all(x), rows, weight, eps: self.decoder.config.rms_norm_eps };
        let inverses = rms_norm_gradient(r, View::all(dy), normed, View::all(dx), add);
        if self.to.places.get(name).is_some() {
            // The rows that were normalised, one behind the other, as dy has them.
            let compact = r.scratch_f32(&[rows.count(), x.width()]);
            copy_rows(r, x, rows, compact, Rows::all(compact));
            let factors = Factors { elements: Some(View::all(compact)), rows: Some(inverses) };
            self.to.places.vector(r, name, dy, factors);
        }
    }

    /// Of `x + down_proj(silu(gate) * up)`: adds to `dx`, which is the gradient of that already.
    fn mlp(&self, r: &mut Recording, i: usize, kept: &KeptLayer, gradients: LayerGradients, dx: Tensor) {
        let (layer, adapters) = (&self.decoder.layers[i], self.decoder.layer_adapters(i));
        let (places, inner) = (&self.to.places, self.decoder.config.intermediate_size);
        let at = |name: &str| format!("model.layers.{i}.{name}");
        let (gate, up, down) = (at("mlp.gate_proj"), at("mlp.up_proj"), at("mlp.down_proj"));
        places.linear(r, &[(&down, layer.down_proj.rows)], dx, kept.inner, None);
        let lora = adapters.down.as_ref().map(|lora| (lora, gradients.down));
        let d_inner = adapted_gradient(r, dx, kept.inner, &layer.down_proj, lora, places.add);
        let d_gate_up = silu_gate_gradient(r, kept.gate_up, d_inner);
        places.linear(r, &[(&gate, inner), (&up, inner)], d_gate_up, kept.middle_normed, None);
        let lora = adapters.gate_up.as_ref().map(|lora| (lora, gradients.gate_up));
        let dh = adapted_gradient(r, d_gate_up, kept.middle_normed, &layer.gate_up_proj, lora, places.add);
        let (weight, name) = (layer.post_attention_layernorm, at("post_attention_layernorm.weight"));
        self.norm(r, dh, kept.middle, Norm { weight, name: &name, rows: Rows::all(kept.middle) }, dx, true);
    }

    /// Of `x[:, :N] + o_proj(attention(q_proj(norm1(x[:, :N])), keys, values))`: adds to the first rows of `dx`, and to the
    /// gradient of the vision rows where that is wanted.
    fn cross_attention(&self, r: &mut Recording, i: usize, x: Tensor, kept: &KeptCross, dx: Tensor) {
        let cross_attn = self.decoder.layers[i].cross_attn.as_ref().expect("the layer cross-attends");
        let (places, hidden) = (&self.to.places, self.decoder.config.hidden_size);
        let at = |name: &str| format!("model.layers.{i}.cross_attn.{name}");
        let rows = self.decoder.query_rows(self.pass);
        let d_out = r.scratch_f32(&[rows.count(), hidden]);
        copy_rows(r, dx, rows, d_out, Rows::all(d_out));
        let Attended { call, out } = kept.attended;
        places.linear(r, &[(&at("o_proj"), hidden)], d_out, out, None);
        let d_attended = linear_gradient(r, d_out, &cross_attn.o_proj, None);
        let dq = match self.vision {
            Some(vision) => {
                let AttentionGradient { dq, dkv } = attention_gradient(r, call, out, d_attended);
                self.keys_and_values(r, i, dkv, vision);
                dq
            }
            None => query_gradient(r, call, out, d_attended),
        };
        places.linear(r, &[(&at("q_proj"), hidden)], dq, kept.h, None);
        let dh = linear_gradient(r, dq, &cross_attn.q_proj, None);
        self.norm(r, dh, x, Norm { weight: cross_attn.norm1, name: &at("norm1.weight"), rows }, dx, true);
    }

    /// Of `k, v = k_proj(norm2(vision)), v_proj(norm2(vision))`: adds to the gradient of the vision rows.
    fn keys_and_values(&self, r: &mut Recording, i: usize, dkv: Tensor, side: VisionSide) {
        let VisionSide { key_values, vision, gradient } = side;
        let (weight, key_value) = key_values.of_layer(i).expect("the layer cross-attends, and is on the device");
        let (places, hidden) = (&self.to.places, self.decoder.config.hidden_size);
        let at = |name: &str| format!("model.layers.{i}.cross_attn.{name}");
        let (k_proj, v_proj) = (at("k_proj"), at("v_proj"));
        if places.has(&k_proj) || places.has(&v_proj) {
            let h = rms_norm(r, vision, Rows::all(vision), 0, weight, self.decoder.config.rms_norm_eps);
            places.linear(r, &[(&k_proj, hidden), (&v_proj, hidden)], dkv, h, None);
        }
        let dh = linear_gradient(r, dkv, key_value, None);
        let norm = Norm { weight, name: &at("norm2.weight"), rows: Rows::all(vision) };
        self.norm(r, dh, vision, norm, gradient, true);
    }

    /// Of `x + o_proj(attention(rope(q), rope(k), v))`: adds to `dx`.
    fn self_attention(&self, r: &mut Recording, i: usize, kept: &KeptLayer, gradients: LayerGradients, dx: Tensor) {
        let (decoder, places) = (self.decoder, &self.to.places);
        let (layer, adapters, heads) = (&decoder.layers[i], decoder.layer_adapters(i), decoder.heads());
        let at = |name: &str| format!("model.layers.{i}.{name}");
        let o_proj = at("self_attn.o_proj");
        let (q, k, v) = (at("self_attn.q_proj"), at("self_attn.k_proj"), at("self_attn.v_proj"));
        let Attended { call, out } = kept.qkv;
        places.linear(r, &[(&o_proj, layer.o_proj.rows)], dx, out, None);
        let lora = adapters.o.as_ref().map(|lora| (lora, gradients.o));
        let d_attended = adapted_gradient(r, dx, out, &layer.o_proj, lora, places.add);
        let AttentionGradient { dq, dkv } = attention_gradient(r, call, out, d_attended);
        let dqkv = rope_gradient(r, dq, dkv, heads, &decoder.rope, self.pass.positions);
        let modules = [(&q[..], heads.q_width()), (&k, heads.kv_width()), (&v, heads.kv_width())];
        places.linear(r, &modules, dqkv, kept.h, None);
        let lora = adapters.qkv.as_ref().map(|lora| (lora, gradients.qkv));
        let dh = adapted_gradient(r, dqkv, kept.h, &layer.qkv_proj, lora, places.add);
        let (weight, name, x) = (layer.input_layernorm, at("input_layernorm.weight"), self.kept.inputs[i]);
        self.norm(r, dh, x, Norm { weight, name: &name, rows: Rows::all(x) }, dx, true);
    }
}
