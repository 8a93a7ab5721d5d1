//! The CLIP heads: attention pooling of vision rows (mode C) and of QLLaMA's query tokens (mode G), and the
//! image-text matching head (InternVL, Chen et al., 2023).

use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::error::Result;
use crate::ops::attention::heads::Heads;
use crate::ops::attention::{Attention, Keys, Mask, View, attention_for};
use crate::ops::linear::{Epilogue, linear};
use crate::ops::norms::layer_norm::layer_norm;
use crate::ops::rows::mean_rows::mean_rows;
use crate::weights::loader::Loader;
use crate::weights::matrix::Matrix;

/// The eps of the pools' LayerNorms; the published code has it as PyTorch's default.
const EPS: f32 = 1e-5;

/// AttentionPoolingBlock: the mean row attends to all rows.
pub struct AttentionPool {
    heads: usize,
    q: Branch,
    k: Branch,
    v: Branch,
    proj: Matrix,
    proj_bias: Tensor,
}

/// `linear(layer_norm(x)) + bias`.
struct Branch {
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Matrix,
    bias: Tensor,
}

impl Branch {
    async fn load(loader: &mut Loader<'_>, pool: &str, name: &str, width: usize) -> Result<Branch> {
        Ok(Branch {
            norm_weight: loader.f32(&format!("{pool}.norm1_{name}.weight"), &[width]).await?,
            norm_bias: loader.f32(&format!("{pool}.norm1_{name}.bias"), &[width]).await?,
            weight: loader.linear(&[(&format!("{pool}.cross_attn.{name}"), width)], width).await?,
            bias: loader.f32(&format!("{pool}.cross_attn.{name}_bias"), &[width]).await?,
        })
    }

    fn record(&self, r: &mut Recording, x: Tensor) -> Tensor {
        let h = layer_norm(r, x, self.norm_weight, self.norm_bias, EPS);
        linear(r, h, &self.weight, Epilogue::bias(self.bias))
    }
}

impl AttentionPool {
    /// Loads, or plans to load, `clip_projector` or `clip_projector2`.
    pub async fn load(
        loader: &mut Loader<'_>,
        name: &str,
        width: usize,
        heads: usize,
        outputs: usize,
    ) -> Result<AttentionPool> {
        Ok(AttentionPool {
            heads,
            q: Branch::load(loader, name, "q", width).await?,
            k: Branch::load(loader, name, "k", width).await?,
            v: Branch::load(loader, name, "v", width).await?,
            proj: loader.linear(&[(&format!("{name}.cross_attn.proj"), outputs)], width).await?,
            proj_bias: loader.f32(&format!("{name}.cross_attn.proj.bias"), &[outputs]).await?,
        })
    }

    /// `x` [batch * rows, width] -> [batch, clip_embed_dim].
    pub fn record(&self, r: &mut Recording, x: Tensor, batch: usize) -> Tensor {
        let count = x.rows() / batch;
        let heads = Heads { heads: self.heads, kv_heads: self.heads, head_dim: x.width() / self.heads };
        let mean = mean_rows(r, x, batch);
        let q = self.q.record(r, mean);
        let k = self.k.record(r, x);
        let v = self.v.record(r, x);
        let keys = Keys::Rows { count, batches: batch };
        let scale = heads.scale();
        let (q, k, v) = (View::all(q), View::all(k), View::all(v));
        let a = Attention { batch, rows: 1, heads, q, k, v, keys, mask: Mask::None, scale, probabilities: None };
        let pooled = attention_for(r, a, &self.proj);
        linear(r, pooled, &self.proj, Epilogue::bias(self.proj_bias))
    }
}

/// `itm_head`: two logits a row of the query tokens, averaged over them.
pub struct ItmHead {
    weight: Matrix,
    bias: Tensor,
}

impl ItmHead {
    pub async fn load(loader: &mut Loader<'_>, width: usize) -> Result<ItmHead> {
        Ok(ItmHead {
            weight: loader.linear(&[("itm_head", 2)], width).await?,
            bias: loader.f32("itm_head.bias", &[2]).await?,
        })
    }

    /// `queries` [batch * num_query_token, hidden_size] -> [batch, 2]; the second means that picture and text match.
    pub fn record(&self, r: &mut Recording, queries: Tensor, batch: usize) -> Tensor {
        let logits = linear(r, queries, &self.weight, Epilogue::bias(self.bias));
        mean_rows(r, logits, batch)
    }
}
