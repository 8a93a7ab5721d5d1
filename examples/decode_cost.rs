//! What a cached decode step costs at several lengths of the context: one layer of qllama-8B's shape with BF16 and
//! with 4-bit weights, and attention alone, also in the shape of SmolLM2-135M.
//!
//! `cargo run --release --example decode_cost [-- ADAPTER_INDEX]`; times are the shortest of several.

use std::time::Instant;

use qllama::internals::{
    Attention, DType, Format, Gpu, Heads, Keys, KvCache, Layer, Layout, Mask, Matrix, Observed, Part, Pass, Places,
    Pool, Qllama, Recording, RopeTables, Tensor, View, attention, candidates, write_rows,
};
use qllama::{Config, Device, Error, Result};

const ROUNDS: usize = 12;
/// Attentions a recording, so that starting it counts little.
const ATTENTIONS: usize = 20;

fn main() -> Result<()> {
    pollster::block_on(async {
        let index = std::env::args().nth(1).map_or(Ok(0), |text| text.parse::<usize>());
        let index = index.map_err(|e| Error::Input { reason: format!("the adapter's index: {e}") })?;
        let adapter = candidates().await.into_iter().nth(index);
        let adapter = adapter.ok_or_else(|| Error::Adapter { reason: format!("there is no adapter {index}") })?;
        println!("adapter {}", adapter.name());
        let device = Device::gpu(Gpu::open(adapter).await?);

        println!("\none layer of qllama-8B (hidden 4096, inner 11008), one step");
        for (weights, format) in [("BF16", Format::BF16), ("4-bit", Format::Int { bits: 4, group: 128 })] {
            for dtype in [DType::F32, DType::F16] {
                let short = layer_seconds(&device, format, dtype, 100).await?;
                let long = layer_seconds(&device, format, dtype, 1500).await?;
                let (short_ms, long_ms) = (short * 1e3, long * 1e3);
                println!(
                    "{weights} weights, {dtype:?} cache: {short_ms:.2} ms at 100 rows, {long_ms:.2} ms at 1500: {:.3} times",
                    long / short
                );
            }
        }
        println!("\nattention alone, a dispatch");
        let qllama = Heads { heads: 32, kv_heads: 32, head_dim: 128 };
        let smol = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
        let shapes = [("SmolLM2-135M", smol, [20, 40, 80, 500]), ("qllama-8B", qllama, [20, 100, 500, 1500])];
        for (name, heads, lengths) in shapes {
            for dtype in [DType::F32, DType::F16] {
                let mut times = Vec::new();
                for rows in lengths {
                    let seconds = attention_seconds(&device, heads, dtype, rows).await?;
                    times.push(format!("{rows}: {:.3} ms", seconds * 1e3));
                }
                println!("{name:13} {dtype:?} cache, rows {}", times.join(", "));
            }
        }
        Ok(())
    })
}

/// Words that look random.
fn words(count: usize) -> Vec<u32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state ^ state >> 15
    };
    (0..count).map(|_| next()).collect()
}

/// Floats from -1 to 1.
fn floats(count: usize) -> Vec<f32> {
    words(count).into_iter().map(|word| word as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

/// `rows` keys of `heads` in a cache, behind a table that names each, and one more row to come.
struct Cached {
    table: Tensor,
    past: Tensor,
    cache: KvCache,
}

impl Cached {
    fn new(pool: &mut Pool, heads: Heads, dtype: DType, rows: usize) -> Result<Cached> {
        let table: Vec<u32> = (0..=rows as u32).collect();
        let (table, past) = (pool.u32(&[1, rows + 1], &table)?, pool.u32(&[1], &[rows as u32])?);
        let cache = KvCache::alloc(pool, dtype, rows + 1, heads)?;
        let values = floats((rows + 1) * heads.kv_width());
        let halves: Vec<_> = values.iter().copied().map(half::f16::from_f32).collect();
        let bytes = if dtype == DType::F16 { bytemuck::cast_slice(&halves) } else { bytemuck::cast_slice(&values) };
        for tensor in [cache.k, cache.v] {
            pool.device().write(tensor, 0, bytes)?;
        }
        Ok(Cached { table, past, cache })
    }

    fn keys(&self) -> Keys {
        Keys::Cached { table: self.table, past: self.past }
    }
}

async fn layer_seconds(device: &Device, format: Format, dtype: DType, rows: usize) -> Result<f64> {
    let text = include_str!("../tests/data/fixtures/qllama-base/config.json");
    let mut config = Config::from_bytes("config.json", text.as_bytes())?.text;
    let (hidden, inner) = (4096, 11008);
    (config.hidden_size, config.intermediate_size) = (hidden, inner);
    (config.num_attention_heads, config.num_key_value_heads, config.head_dim) = (32, 32, 128);
    let heads = Heads { heads: 32, kv_heads: 32, head_dim: 128 };
    let mut pool = device.pool();
    let storage = device.info().weights;
    let mut matrix = |rows: usize, cols: usize| {
        let scales = matches!(format, Format::Int { .. }).then_some(DType::F32);
        let layout = Layout { storage, cols, format, scales, offsets: false };
        let mut parts = Vec::new();
        // Parts of at most 11008 rows stay within every limit. The mask keeps 16-bit floats below 2.
        for first_row in (0..rows).step_by(11008) {
            let rows = (rows - first_row).min(11008);
            let part =
                Part::new(layout, first_row, rows, |storage, dtype, shape| pool.alloc_in(storage, dtype, shape))?;
            let words: Vec<_> = words(rows * format.row_words(cols)).iter().map(|w| w & 0x3fff_3fff).collect();
            write_rows(device, part.words, 0, bytemuck::cast_slice(&words))?;
            if let Some(scales) = part.scales {
                write_rows(device, scales, 0, bytemuck::cast_slice(&vec![0.002f32; rows * format.groups(cols)]))?;
            }
            parts.push(part);
        }
        Ok::<_, Error>(Matrix { rows, cols, parts })
    };
    let (qkv_proj, o_proj) = (matrix(3 * hidden, hidden)?, matrix(hidden, hidden)?);
    let (gate_up_proj, down_proj, unused) = (matrix(2 * inner, hidden)?, matrix(hidden, inner)?, matrix(1, hidden)?);
    let norm = pool.f32(&[hidden], &vec![1.0; hidden])?;
    let layer = Layer {
        input_layernorm: norm,
        qkv_proj,
        o_proj,
        cross_attn: None,
        post_attention_layernorm: norm,
        gate_up_proj,
        down_proj,
    };
    let model = Qllama {
        config,
        embed_tokens: unused.clone(),
        layers: vec![layer],
        norm,
        lm_head: unused,
        rope: RopeTables::new(&mut pool, 10000.0, heads.head_dim, rows + 1)?,
        learned: Default::default(),
    };
    let cached = Cached::new(&mut pool, heads, dtype, rows)?;
    let x = pool.f32(&[1, hidden], &floats(hidden))?;
    let last = pool.u32(&[1], &[rows as u32])?;
    let caches = [cached.cache];
    let places = Places { positions: last, slots: last, caches: &caches };
    let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
    let pass = Pass::step(x, places, cached.table, cached.past, mask);
    let mut r = Recording::new();
    let passed = model.record(&mut r, &pass, &Observed::default());
    let out = pool.keep(&mut r, passed.last_hidden_state)?;
    shortest_seconds(device, &r, out).await
}

async fn attention_seconds(device: &Device, heads: Heads, dtype: DType, rows: usize) -> Result<f64> {
    let mut pool = device.pool();
    let cached = Cached::new(&mut pool, heads, dtype, rows)?;
    let (k, v) = (View::all(cached.cache.k), View::all(cached.cache.v));
    let mut out = pool.f32(&[1, heads.q_width()], &floats(heads.q_width()))?;
    let mask = Mask::Causal { attention_mask: None, zero_queries: 0 };
    let mut r = Recording::new();
    for _ in 0..ATTENTIONS {
        let (q, keys) = (View::all(out), cached.keys());
        let a = Attention { batch: 1, rows: 1, heads, q, k, v, keys, mask, scale: 0.1, probabilities: None };
        out = attention(&mut r, a);
    }
    let out = pool.keep(&mut r, out)?;
    Ok(shortest_seconds(device, &r, out).await? / ATTENTIONS as f64)
}

/// Seconds that a recording takes.
async fn shortest_seconds(device: &Device, r: &Recording, out: Tensor) -> Result<f64> {
    let plan = device.prepare(r)?;
    let mut shortest = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        device.run(&plan)?;
        device.read_f32(out).await?;
        shortest = shortest.min(start.elapsed().as_secs_f64());
    }
    Ok(shortest)
}
