//! The names of tensors, and what follows from them.

/// The name that a tensor of the LLaMA family has in the safetensors layout.
pub(super) fn safetensors_name(name: &str) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => {
            let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let layer: u32 = layer.parse().ok()?;
            let own = match rest {
                "attn_norm.weight" => "input_layernorm",
                "attn_q.weight" => "self_attn.q_proj",
                "attn_k.weight" => "self_attn.k_proj",
                "attn_v.weight" => "self_attn.v_proj",
                "attn_output.weight" => "self_attn.o_proj",
                "ffn_norm.weight" => "post_attention_layernorm",
                "ffn_gate.weight" => "mlp.gate_proj",
                "ffn_up.weight" => "mlp.up_proj",
                "ffn_down.weight" => "mlp.down_proj",
                _ => return None,
            };
            return Some(format!("model.layers.{layer}.{own}.weight"));
        }
    };
    Some(whole.into())
}

/// Whether the rows of each head of a tensor, by its name in the safetensors layout, are interleaved.
pub(super) fn is_interleaved(name: &str) -> bool {
    name.ends_with(".self_attn.q_proj.weight") || name.ends_with(".self_attn.k_proj.weight")
}
