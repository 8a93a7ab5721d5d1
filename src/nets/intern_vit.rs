//! InternViT: a vision transformer with RMSNorm, normalised queries and keys, and LayerScale
//! (InternVL, Chen et al., 2023).

use crate::device::Pool;
use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::error::{Error, Result};
use crate::files::config::VisionConfig;
use crate::ops::Rows;
use crate::ops::attention::heads::Heads;
use crate::ops::attention::{Attention, Keys, Mask, View, attention_for};
use crate::ops::linear::gelu::gelu;
use crate::ops::linear::{Epilogue, linear};
use crate::ops::norms::rms_norm::rms_norm;
use crate::ops::vision::patches::patches;
use crate::ops::vision::vision_embed::{resize_position_embedding, vision_embed};
use crate::weights::loader::{Layers, Loader};
use crate::weights::matrix::Matrix;

/// The encoder's weights.
pub struct InternVit {
    pub config: VisionConfig,
    class_embedding: Tensor,
    /// [hidden_size, 3 * patch_size * patch_size]
    patch_embedding: Matrix,
    patch_bias: Tensor,
    /// The trained position embedding [1 + grid * grid, hidden_size], on the host: other grids are resized from it.
    position_embedding: Vec<f32>,
    pub layers: Layers<Layer>,
}

/// One layer's weights.
pub struct Layer {
    norm1: Tensor,
    /// q, k and v below each other: [3 * hidden_size, hidden_size].
    qkv: Matrix,
    qkv_bias: Option<Tensor>,
    q_norm: Option<Tensor>,
    k_norm: Option<Tensor>,
    proj: Matrix,
    proj_bias: Tensor,
    ls1: Tensor,
    norm2: Tensor,
    fc1: Matrix,
    fc1_bias: Tensor,
    fc2: Matrix,
    fc2_bias: Tensor,
    ls2: Tensor,
}

impl Layer {
    /// Loads, or plans to load, layer `i`.
    pub async fn load(loader: &mut Loader<'_>, config: &VisionConfig, i: usize) -> Result<Layer> {
        let (w, inner, qk) = (config.hidden_size, config.intermediate_size, config.qk_normalization);
        let at = |name: &str| format!("vision_model.encoder.layers.{i}.{name}");
        Ok(Layer {
            norm1: loader.f32(&at("norm1.weight"), &[w]).await?,
            qkv: loader.linear(&[(&at("attn.qkv"), 3 * w)], w).await?,
            qkv_bias: if config.qkv_bias { Some(loader.f32(&at("attn.qkv.bias"), &[3 * w]).await?) } else { None },
            q_norm: if qk { Some(loader.f32(&at("attn.q_norm.weight"), &[w]).await?) } else { None },
            k_norm: if qk { Some(loader.f32(&at("attn.k_norm.weight"), &[w]).await?) } else { None },
            proj: loader.linear(&[(&at("attn.proj"), w)], w).await?,
            proj_bias: loader.f32(&at("attn.proj.bias"), &[w]).await?,
            ls1: loader.f32(&at("ls1"), &[w]).await?,
            norm2: loader.f32(&at("norm2.weight"), &[w]).await?,
            fc1: loader.linear(&[(&at("mlp.fc1"), inner)], w).await?,
            fc1_bias: loader.f32(&at("mlp.fc1.bias"), &[inner]).await?,
            fc2: loader.linear(&[(&at("mlp.fc2"), w)], inner).await?,
            fc2_bias: loader.f32(&at("mlp.fc2.bias"), &[w]).await?,
            ls2: loader.f32(&at("ls2"), &[w]).await?,
        })
    }
}

impl InternVit {
    /// Loads, or plans to load, the encoder of a whole InternVL, with or without its layers.
    pub async fn load(loader: &mut Loader<'_>, config: &VisionConfig, stream: bool) -> Result<InternVit> {
        let (w, patch) = (config.hidden_size, config.patch_size);
        let at = |name: &str| format!("vision_model.embeddings.{name}");
        let class_embedding = loader.f32(&at("class_embedding"), &[1, 1, w]).await?.reshape(&[w]);
        let patch_embedding = loader.table(&at("patch_embedding.weight"), &[w, 3, patch, patch]).await?;
        let patch_bias = loader.f32(&at("patch_embedding.bias"), &[w]).await?;
        let name = at("position_embedding");
        let rows = loader.second_axis(&name);
        let grid = rows.saturating_sub(1).isqrt();
        if rows == 1 || (rows != 0 && rows != 1 + grid * grid) {
            return Err(Error::Shape {
                what: name,
                expected: format!("[1, 1 + a square, {w}]"),
                found: format!("[1, {rows}, {w}]"),
            });
        }
        let position_embedding = loader.host_f32(&name, &[1, rows.max(1), w]).await?;
        let layers = Layers::load(loader, config.num_hidden_layers, stream, async |loader: &mut Loader<'_>, i| {
            Layer::load(loader, config, i).await
        })
        .await?;
        Ok(InternVit {
            config: config.clone(),
            class_embedding,
            patch_embedding,
            patch_bias,
            position_embedding,
            layers,
        })
    }

    /// Records what stands before the layers: `pixel_values` [batch, 3, height, width] to the first layer's input
    /// [batch * rows, hidden_size]. Small tensors that depend on the picture's size go to `pool`.
    pub fn embed(&self, r: &mut Recording, pool: &mut Pool, pixel_values: Tensor) -> Result<Tensor> {
        let &[batch, _, height, width] = pixel_values.shape() else { panic!("pixel_values {pixel_values:?}") };
        let c = &self.config;
        let (grid_h, grid_w) = (height / c.patch_size, width / c.patch_size);
        let rows = 1 + grid_h * grid_w;
        let positions = resize_position_embedding(&self.position_embedding, c.hidden_size, grid_h, grid_w);
        let positions = pool.f32(&[rows, c.hidden_size], &positions)?;
        let pieces = patches(r, pixel_values, c.patch_size);
        let embedded = linear(r, pieces, &self.patch_embedding, Epilogue::bias(self.patch_bias));
        Ok(vision_embed(r, embedded, self.class_embedding, positions, batch))
    }

    /// `x += ls1 * attn(norm1(x)); x += ls2 * mlp(norm2(x))`, [batch * rows, hidden_size]. The last layer's output are
    /// `vision_hidden_states`.
    pub fn layer(&self, r: &mut Recording, layer: &Layer, x: Tensor, batch: usize) -> Tensor {
        let c = &self.config;
        let rows = x.rows() / batch;
        let w = c.hidden_size;
        let heads = Heads {
            heads: c.num_attention_heads,
            kv_heads: c.num_attention_heads,
            head_dim: w / c.num_attention_heads,
        };
        let all = Rows::all(x);

        let h = rms_norm(r, x, all, 0, layer.norm1, c.layer_norm_eps);
        let qkv = linear(r, h, &layer.qkv, Epilogue { bias: layer.qkv_bias, ..Default::default() });
        let mut normed = |column: usize, weight: Option<Tensor>| match weight {
            Some(weight) => View::all(rms_norm(r, qkv, all, column, weight, c.layer_norm_eps)),
            None => View { tensor: qkv, column },
        };
        let q = normed(0, layer.q_norm);
        let k = normed(w, layer.k_norm);
        let v = View { tensor: qkv, column: 2 * w };
        let keys = Keys::Rows { count: rows, batches: batch };
        let scale = heads.scale();
        let a = Attention { batch, rows, heads, q, k, v, keys, mask: Mask::None, scale, probabilities: None };
        let attended = attention_for(r, a, &layer.proj);
        let epilogue = Epilogue { bias: Some(layer.proj_bias), layer_scale: Some(layer.ls1), residual: Some(x) };
        let x = linear(r, attended, &layer.proj, epilogue);

        let h = rms_norm(r, x, all, 0, layer.norm2, c.layer_norm_eps);
        let h = linear(r, h, &layer.fc1, Epilogue::bias(layer.fc1_bias));
        let h = gelu(r, h);
        let epilogue = Epilogue { bias: Some(layer.fc2_bias), layer_scale: Some(layer.ls2), residual: Some(x) };
        linear(r, h, &layer.fc2, epilogue)
    }
}
