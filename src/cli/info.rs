//! `qllama info`.

use std::collections::BTreeMap;

use qllama::Result;
use qllama::executor::{Device, DeviceInfo};
use qllama::gpu::candidates;
use qllama::model::plan;

use crate::InfoArgs;
use crate::cli::checkpoint;

/// The portable limits: what a plan assumes where it is not made for one adapter.
const PORTABLE_BINDING_BYTES: u64 = 128 << 20;

pub async fn run(args: InfoArgs) -> Result<()> {
    let checkpoint = checkpoint(&args.common).await?;
    let config = checkpoint.config.clone();
    let portable = DeviceInfo { max_binding_bytes: PORTABLE_BINDING_BYTES, ..Device::cpu().info() };
    let needs = plan(&checkpoint, &config, &portable).await?;
    let bytes: u64 = needs.parts.iter().map(|(_, bytes)| bytes).sum();
    let text = &config.text;
    let mut kinds: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for info in checkpoint.tensors() {
        let kind = kinds.entry(info.dtype.to_string()).or_default();
        kind.0 += 1;
        kind.1 += info.bytes;
    }
    let unknown = checkpoint.unused(|name| needs.tensors.iter().any(|t| t == name));
    let cache = |rows: u64| rows * 8 * (text.num_key_value_heads * text.head_dim * text.num_hidden_layers) as u64;
    let rows = (text.num_query_token + 48) as u64;
    let found = candidates().await;
    let fits = |max_buffer: u64, max_binding: u64| {
        let largest = needs.largest_buffer.min(max_binding);
        if largest > max_buffer { "no: a weight is larger than its largest buffer" } else { "yes" }
    };
    if args.common.json {
        let adapters: Vec<_> = found
            .iter()
            .map(|c| {
                let i = c.info();
                serde_json::json!({ "name": i.name, "backend": i.backend, "software": i.software,
                    "max_binding_bytes": i.max_binding_bytes, "fits": fits(i.max_buffer_bytes, i.max_binding_bytes) })
            })
            .collect();
        let json = serde_json::json!({
            "weights_bytes": bytes, "parts": needs.parts.iter().map(|(n, b)| serde_json::json!({ "name": n, "bytes": b })).collect::<Vec<_>>(),
            "cache_bytes_a_row": cache(1), "kinds": kinds.iter().map(|(k, (n, b))| serde_json::json!({ "type": k, "tensors": n, "bytes": b })).collect::<Vec<_>>(),
            "unknown_tensors": unknown, "adapters": adapters,
        });
        println!("{json}");
        return Ok(());
    }
    if let Some(v) = &config.vision {
        println!(
            "InternViT    {} layers, width {}, {} heads, MLP {}, pictures of {} px in patches of {}",
            v.num_hidden_layers, v.hidden_size, v.num_attention_heads, v.intermediate_size, v.image_size, v.patch_size
        );
    }
    println!(
        "decoder      {} layers, width {}, {} heads ({} for keys), MLP {}, vocabulary {}, at most {} positions",
        text.num_hidden_layers,
        text.hidden_size,
        text.num_attention_heads,
        text.num_key_value_heads,
        text.intermediate_size,
        text.vocab_size,
        text.max_position_embeddings
    );
    if text.cross_attention {
        println!(
            "             cross-attention in every {}. layer from {} query tokens",
            text.cross_attention_frequency, text.num_query_token
        );
    }
    for (kind, (tensors, bytes)) in &kinds {
        println!("tensors      {tensors} of {kind}, {}", size(*bytes));
    }
    if !unknown.is_empty() {
        println!("not used     {} tensor(s): {}", unknown.len(), unknown.join(", "));
    }
    println!("\nGPU memory");
    for (name, bytes) in &needs.parts {
        println!("  {name:32} {:>12}", size(*bytes));
    }
    println!("  {:32} {:>12}", format!("keys and values of {rows} rows"), size(cache(rows)));
    println!("  {:32} {:>12}", "together", size(bytes + cache(rows)));
    println!("\nadapters");
    for (index, candidate) in found.iter().enumerate() {
        let i = candidate.info();
        println!(
            "  {index}: {}; fits: {}",
            crate::cli::device::describe(candidate),
            fits(i.max_buffer_bytes, i.max_binding_bytes)
        );
    }
    println!("  cpu: the CPU executor; fits: yes");
    Ok(())
}

/// A size in words.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", bytes as f64 / 1048576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1073741824.0),
    }
}
