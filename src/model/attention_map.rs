//! Where QLLaMA's query tokens look in a picture.

use crate::device::Array;
use crate::error::{Error, Result};
use crate::image::Picture;
use crate::model::forward::ForwardInputs;
use crate::model::front::Model;

/// Cross-attention's probabilities over a picture's patches, the mean over heads, without the class row.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMap {
    /// [num_query_token, rows of patches, columns of patches]; a query token's sum to at most 1.
    pub per_query: Array<f32>,
    /// Which it is of the layers that cross-attend.
    pub layer: usize,
    /// How many layers cross-attend.
    pub layers: usize,
}

impl AttentionMap {
    /// The mean over query tokens: [rows of patches, columns of patches], row-major.
    pub fn mean(&self) -> Vec<f32> {
        let queries = self.per_query.shape[0];
        mean_over(&self.per_query.values, queries)
    }
}

/// The mean over the first axis, which has `count` entries.
fn mean_over(values: &[f32], count: usize) -> Vec<f32> {
    let mut mean = vec![0.0; values.len() / count];
    for one in values.chunks(mean.len()) {
        mean.iter_mut().zip(one).for_each(|(mean, value)| *mean += value / count as f32);
    }
    mean
}

/// The last `patches` of each row of [heads, queries, rows], the mean over heads: [queries, patches].
fn over_patches(attention: &Array<f32>, patches: usize) -> Vec<f32> {
    let (heads, rows) = (attention.shape[1], attention.shape[3]);
    let mean = mean_over(&attention.values, heads);
    mean.chunks(rows).flat_map(|row| &row[rows - patches..]).copied().collect()
}

impl Model {
    /// As [`Model::attention_map`], to be awaited.
    ///
    /// # Errors
    /// As [`Model::attention_map`].
    pub async fn attention_map_async(&self, picture: &Picture, layer: Option<usize>) -> Result<AttentionMap> {
        let pixels = self.pixel_values(picture);
        let rows = self.run(async |network| {
            let vision = network.vision(&pixels).await?;
            Ok((network.vision_rows(&vision).await?, network.query_tokens().await?))
        });
        let (vision, queries) = rows.await?;
        let layers = self.config().text.cross_attention_layers();
        let layer = layer.unwrap_or(layers.saturating_sub(1));
        if layer >= layers {
            let reason = format!("layer {layer}: this model has {layers} layers that cross-attend");
            return Err(Error::Input { reason });
        }
        let mut inputs = ForwardInputs {
            inputs_embeds: Some(queries),
            vision_hidden_states: Some(vision),
            use_zero_attention_mask: true,
            output_cross_attentions: true,
            ..Default::default()
        };
        let attention = self.forward_async(&mut inputs).await?.cross_attentions.swap_remove(layer);
        let patch = self.config().vision.as_ref().map_or(1, |vision| vision.patch_size);
        let (height, width) = (pixels.height / patch, pixels.width / patch);
        let values = over_patches(&attention, height * width);
        Ok(AttentionMap { per_query: Array::new(&[attention.shape[2], height, width], values), layer, layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_row_is_left_out_and_heads_are_averaged() {
        // Two heads, two query tokens, a class row before three patches.
        let values = vec![9.0, 1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0, 9.0, 3.0, 4.0, 5.0, 9.0, 0.0, 1.0, 2.0];
        let per_query = over_patches(&Array::new(&[1, 2, 2, 4], values), 3);
        assert_eq!(per_query, [2.0, 3.0, 4.0, 2.0, 3.0, 4.0]);
        let map =
            AttentionMap { per_query: Array::new(&[2, 1, 3], vec![1.0, 2.0, 3.0, 3.0, 2.0, 1.0]), layer: 0, layers: 1 };
        assert_eq!(map.mean(), [2.0, 2.0, 2.0]);
    }
}
