//! What a model is made of, and which weights stay on the device.
//!
//! Only pictures need InternViT and the weights that make cross-attention's keys and values. Where the memory budget is
//! too small for everything, the layers of one or both are streamed: read for every picture, one at a time, and freed
//! behind. That reads no more than loading such a part as a whole for every picture would, and holds one layer of it.
//! The decoder and the heads stay.

use crate::device::tensor::Tensor;
use crate::error::Result;
use crate::files::config::Config;
use crate::nets::clip::{AttentionPool, ItmHead};
use crate::nets::decoder::{CrossKeyValues, Qllama};
use crate::nets::intern_vit::InternVit;
use crate::weights::loader::Loader;
use crate::weights::matrix::Matrix;

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
