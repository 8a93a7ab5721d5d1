//! Memory for the gradients that are wanted, and the way back from it to tensors under their names.

use std::collections::BTreeMap;

use crate::device::tensor::{DType, Tensor};
use crate::device::{Array, Device, Pool};
use crate::error::Result;
use crate::files::config::LlamaConfig;
use crate::nets::decoder::{LayerAdapters, Qllama};
use crate::nets::decoder_gradient::{DecoderGradients, LayerGradients};
use crate::nets::gradients::Places;
use crate::nets::lora::{Lora, LoraGradient, values_of};
use crate::weights::layout::float_index;

/// Room for the gradients of a decoder's adapters.
///
/// # Errors
/// Those of [`Pool::alloc`].
pub fn adapter_gradients(pool: &mut Pool, decoder: &Qllama) -> Result<Vec<LayerGradients>> {
    let mut room = |lora: &Option<Lora>| -> Result<Option<LoraGradient>> {
        let Some(lora) = lora else { return Ok(None) };
        let mut like = |matrix| pool.alloc(DType::F32, values_of(matrix).shape());
        Ok(Some(LoraGradient { a: like(&lora.a)?, b: like(&lora.b)? }))
    };
    let of_layer = |layer: &LayerAdapters| {
        let LayerAdapters { qkv, o, gate_up, down } = layer;
        Ok(LayerGradients { qkv: room(qkv)?, o: room(o)?, gate_up: room(gate_up)?, down: room(down)? })
    };
    decoder.learned.layers.iter().map(of_layer).collect()
}

/// Room for the gradients of every tensor of a decoder, by the checkpoint's names without a prefix. Those of layers that do
/// not cross-attend have no cross-attention's.
///
/// # Errors
/// Those of [`Pool::alloc`].
pub fn decoder_places(pool: &mut Pool, config: &LlamaConfig, crossed: bool) -> Result<Places> {
    let mut places = Places::default();
    for (name, shape) in decoder_shapes(config, crossed) {
        let tensor = pool.alloc(DType::F32, &shape)?;
        places.insert(name, tensor);
    }
    Ok(places)
}

/// Names and shapes of a decoder's tensors.
fn decoder_shapes(c: &LlamaConfig, crossed: bool) -> Vec<(String, Vec<usize>)> {
    let (h, inner, vision) = (c.hidden_size, c.intermediate_size, c.vision_hidden_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mut shapes = Vec::new();
    for i in 0..c.num_hidden_layers {
        let mut of_layer = |name: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{i}.{name}.weight"), shape.to_vec()));
        };
        of_layer("input_layernorm", &[h]);
        of_layer("self_attn.q_proj", &[q, h]);
        of_layer("self_attn.k_proj", &[kv, h]);
        of_layer("self_attn.v_proj", &[kv, h]);
        of_layer("self_attn.o_proj", &[h, q]);
        if crossed && c.cross_attends(i) {
            of_layer("cross_attn.norm1", &[h]);
            of_layer("cross_attn.norm2", &[vision]);
            of_layer("cross_attn.q_proj", &[h, h]);
            of_layer("cross_attn.k_proj", &[h, vision]);
            of_layer("cross_attn.v_proj", &[h, vision]);
            of_layer("cross_attn.o_proj", &[h, h]);
        }
        of_layer("post_attention_layernorm", &[h]);
        of_layer("mlp.gate_proj", &[inner, h]);
        of_layer("mlp.up_proj", &[inner, h]);
        of_layer("mlp.down_proj", &[h, inner]);
    }
    shapes.push(("model.norm.weight".into(), vec![h]));
    shapes
}

/// The gradients of a decoder's adapters, under `peft`'s names, which `stored_name` gives of a module.
///
/// # Errors
/// The device's.
pub async fn read_adapters(
    device: &Device,
    decoder: &Qllama,
    gradients: &[LayerGradients],
    stored_name: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, Array<f32>>> {
    let mut out = BTreeMap::new();
    for (adapters, gradients) in decoder.learned.layers.iter().zip(gradients) {
        for (lora, gradient) in [
            (&adapters.qkv, gradients.qkv),
            (&adapters.o, gradients.o),
            (&adapters.gate_up, gradients.gate_up),
            (&adapters.down, gradients.down),
        ] {
            let (Some(lora), Some(gradient)) = (lora, gradient) else { continue };
            for (module, a, b) in read_lora(device, lora, gradient.a, gradient.b).await? {
                let name = stored_name(&module);
                out.insert(format!("{name}.lora_A.weight"), a);
                out.insert(format!("{name}.lora_B.weight"), b);
            }
        }
    }
    Ok(out)
}

/// Each module's A and B of what is laid out as a [`Lora`]'s are: the weights themselves, or their gradients.
pub async fn read_lora(
    device: &Device,
    lora: &Lora,
    a: Tensor,
    b: Tensor,
) -> Result<Vec<(String, Array<f32>, Array<f32>)>> {
    let (all_a, all_b) = (device.read_numbers("A", a).await?, device.read_numbers("B", b).await?);
    let rectangle = |values: &[f32], width: usize, rows: (usize, usize), cols: (usize, usize)| {
        let element = |row: usize, column: usize| values[float_index(row, column, width)];
        let row = |row: usize| (cols.0..cols.0 + cols.1).map(move |column| element(row, column));
        Array::new(&[rows.1, cols.1], (rows.0..rows.0 + rows.1).flat_map(row).collect())
    };
    let of_block = |block: &crate::nets::lora::Block| {
        let a = rectangle(&all_a, a.width(), (block.first_rank, block.rank), (0, lora.a.cols));
        let b = rectangle(&all_b, b.width(), (block.first_row, block.rows), (block.first_rank, block.rank));
        (block.module.clone(), a, b)
    };
    Ok(lora.blocks.iter().map(of_block).collect())
}

/// What a decoder's places hold, under the checkpoint's names.
///
/// # Errors
/// The device's.
pub async fn read_places(device: &Device, gradients: &DecoderGradients) -> Result<BTreeMap<String, Array<f32>>> {
    let mut out = BTreeMap::new();
    for (name, tensor) in gradients.places.iter() {
        out.insert(name.to_string(), Array::new(tensor.shape(), device.read_numbers(name, tensor).await?));
    }
    Ok(out)
}
