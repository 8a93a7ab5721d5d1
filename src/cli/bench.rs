//! `qllama bench`: what the model reaches on an adapter, beside what the adapter can do at best.

use std::ops::ControlFlow;
use std::time::Instant;

use clap::builder::RangedU64ValueParser;
use pollster::block_on;
use qllama::internals::{DType, Recording, fmas_per_round, invocations, roof_fma, roof_read};
use qllama::{Array, CAPTION_PROMPT, Device, GenerateInputs, GenerateOptions, Model, PixelValues, Result};

use crate::common::Common;
use crate::generation::words;
use crate::info::size;
use crate::out::say;

/// Measure prefill, decode and time to the first token, beside what the adapter can do at best.
#[derive(clap::Args)]
pub struct Args {
    /// Tokens of the prompt; without it, the prompt is `English caption:`.
    #[arg(long, value_parser = at_least_one(), value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Tokens to decode a round.
    #[arg(long, default_value_t = 32, value_parser = at_least_one(), value_name = "N")]
    tokens: usize,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 5, value_parser = at_least_one(), value_name = "N")]
    rounds: usize,
    /// Storage of cached keys and values; f16 takes half the memory and rounds them.
    #[arg(long, value_parser = words("kv_cache"), default_value = "f32", value_name = "TYPE")]
    kv_cache: String,
    #[command(flatten)]
    common: Common,
}

/// Whole numbers of what there must be one of.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1 << 31)
}

/// Bytes of the buffer that the reading roof reads: within the portable binding limit, beyond usual caches.
const ROOF_BYTES: usize = 96 << 20;
const ROOF_ROUNDS: u32 = 4096;

pub fn run(args: Args, started: Instant) -> Result<()> {
    block_on(measure(args, started))
}

async fn measure(args: Args, started: Instant) -> Result<()> {
    let model = args.common.open()?.load()?;
    let loaded = started.elapsed().as_secs_f64();
    let network = model.network();
    let text = &network.config.text;
    let options = GenerateOptions {
        max_new_tokens: args.tokens,
        // No end: every round decodes as many tokens.
        eos_token_ids: Some(Vec::new()),
        ..GenerateOptions::parse([("kv_cache", args.kv_cache.as_str())])?
    };
    let prompt = match (args.prompt_tokens, model.tokenizer()) {
        // Any ids do.
        (Some(tokens), _) => (0..tokens).map(|i| (i % text.vocab_size) as u32).collect(),
        (None, Ok(tokenizer)) => tokenizer.encode_prompt(CAPTION_PROMPT),
        (None, Err(_)) => vec![text.bos_token_id],
    };
    let mut rounds = Vec::new();
    // The first round makes pipelines, as every run of the program does: it is part of the time to the first word.
    let first = round(&model, &prompt, &options).await?;
    let first_word = started.elapsed().as_secs_f64() - first.decode;
    for _ in 0..args.rounds {
        rounds.push(round(&model, &prompt, &options).await?);
    }
    let median = |of: &dyn Fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (vision, prefill, decode) = (median(&|r| r.vision), median(&|r| r.prefill), median(&|r| r.decode));
    // Before the roofs take memory of their own.
    let (held, peak) = network.device().memory();
    let roofs = roofs(network.device()).await?;
    let rows = prompt.len() + if network.config.vision.is_some() { text.num_query_token } else { 0 };
    let steps = (args.tokens - 1).max(1) as f64;
    let weights = network.decoder().weights_per_token();
    let prefill_rate = rows as f64 / prefill;
    let decode_rate = steps / decode;
    let read = weights.bytes as f64 * decode_rate;
    let fma = weights.multiply_adds as f64 * prefill_rate;
    let info = network.device().info();
    let json = serde_json::json!({
        "adapter": info.name, "backend": info.backend,
        "load_seconds": loaded, "first_word_seconds": first_word,
        "vision_seconds": vision, "prefill_rows": rows, "prefill_rows_per_second": prefill_rate,
        "decode_tokens_per_second": decode_rate, "time_to_first_token_seconds": vision + prefill,
        "dispatches_per_token": rounds[0].dispatches, "weight_bytes_per_token": weights.bytes,
        "gpu_bytes_held": held, "gpu_bytes_peak": peak,
        "roof_read_bytes_per_second": roofs.0, "roof_multiply_adds_per_second": roofs.1,
        "decode_share_of_read_roof": read / roofs.0, "prefill_share_of_arithmetic_roof": fma / roofs.1,
    });
    if args.common.json {
        say!("{json}");
        return Ok(());
    }
    say!("adapter              {} ({})", info.name, info.backend);
    say!("from process start   {loaded:.2} s to the model ready, {first_word:.2} s to the first token");
    say!("vision               {vision:.3} s a picture");
    say!("prefill              {prefill_rate:.1} rows/s ({rows} rows)");
    say!("decode               {decode_rate:.1} tokens/s");
    say!("time to first token  {:.3} s (vision and prefill, model ready)", vision + prefill);
    say!("a token              {} dispatches, {} of weights read", rounds[0].dispatches, size(weights.bytes));
    say!("GPU memory           {} held, {} at most", size(held), size(peak));
    say!("roof, reading        {}/s; decode reads at {:.1} % of it", size(roofs.0 as u64), 100.0 * read / roofs.0);
    say!(
        "roof, arithmetic     {:.2} G multiply-adds/s; prefill runs at {:.1} % of it",
        roofs.1 / 1e9,
        100.0 * fma / roofs.1
    );
    Ok(())
}

/// Seconds of each phase.
struct Round {
    vision: f64,
    prefill: f64,
    decode: f64,
    dispatches: usize,
}

async fn round(model: &Model, prompt: &[u32], options: &GenerateOptions) -> Result<Round> {
    let network = model.network();
    let start = Instant::now();
    let mut crossed = None;
    if network.config.vision.is_some() {
        let side = model.preprocessor().size() as usize;
        let values = (0..3 * side * side).map(|i| (i % 255) as f32 / 64.0 - 2.0).collect();
        let vision = network.vision(&PixelValues { batch: 1, height: side, width: side, values }).await?;
        crossed = Some(network.cross_states(&vision).await?);
        // Waits for the work, so that the phases are told apart.
        network.device().finish().await?;
    }
    let vision = start.elapsed().as_secs_f64();
    let ids = prompt.iter().map(|&id| id.into()).collect();
    let inputs = GenerateInputs {
        input_ids: Some(Array::new(&[1, prompt.len()], ids)),
        crossed: crossed.as_ref().map(|crossed| &crossed.states),
        ..Default::default()
    };
    let mut first = None;
    let generated = Instant::now();
    model
        .generate_from_async(&inputs, options, &mut |_| {
            first.get_or_insert(generated.elapsed().as_secs_f64());
            ControlFlow::Continue(())
        })
        .await?;
    let prefill = first.unwrap_or(0.0);
    let decode = generated.elapsed().as_secs_f64() - prefill;
    Ok(Round { vision, prefill, decode, dispatches: network.dispatches_per_token() })
}

/// Bytes read a second, and multiply-adds a second, at best of three.
async fn roofs(device: &Device) -> Result<(f64, f64)> {
    let mut pool = device.pool();
    let out = pool.alloc(DType::U32, &[invocations()])?;
    let sums = pool.alloc(DType::F32, &[invocations()])?;
    let words = pool.alloc(DType::U32, &[ROOF_BYTES / 4])?;
    let rounds = if device.as_gpu().is_some() { ROOF_ROUNDS } else { ROOF_ROUNDS / 64 };
    let mut best = (f64::MAX, f64::MAX);
    for _ in 0..4 {
        let mut r = Recording::new();
        roof_read(&mut r, words, out);
        best.0 = best.0.min(timed(device, &r).await?);
        let mut r = Recording::new();
        roof_fma(&mut r, sums, rounds);
        best.1 = best.1.min(timed(device, &r).await?);
    }
    Ok((ROOF_BYTES as f64 / best.0, (fmas_per_round() * u64::from(rounds)) as f64 / best.1))
}

async fn timed(device: &Device, recording: &Recording) -> Result<f64> {
    let plan = device.prepare(recording)?;
    let start = Instant::now();
    device.run(&plan)?;
    device.finish().await?;
    Ok(start.elapsed().as_secs_f64())
}
