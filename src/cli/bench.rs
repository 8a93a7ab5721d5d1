//! `qllama bench`: what the model reaches on an adapter, beside what the adapter can do at best.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use pollster::block_on;
use qllama::internals::{Figures, RandomCheckpoint, RandomFormat, html, measure as measure_steps, published};
use qllama::{
    Array, CAPTION_PROMPT, Error, GenerateInputs, GenerateOptions, KvCacheType, Location, Model, Opened, PixelValues,
    Result,
};
use serde_json::Value;

use crate::amounts::size;
use crate::common::Common;
use crate::generation::words;
use crate::many::names::base_name;
use crate::out::say;

/// Measure loading, vision, prefill, decode and each of its kernels, beside what the adapter can do at best.
///
/// With --shape 14b no checkpoint is needed: the published sizes with random weights. Where the adapter has not enough
/// memory for them, --memory-budget leaves those that only pictures need to be made again for every picture.
#[derive(clap::Args)]
pub struct Args {
    /// Measure these sizes with random weights, instead of a checkpoint.
    #[arg(long, value_enum, value_name = "SIZES", conflicts_with = "model")]
    shape: Option<ShapeArg>,
    /// How the weights of --shape are stored.
    #[arg(long, value_enum, default_value = "w4", value_name = "FORMAT", requires = "shape")]
    format: FormatArg,
    /// Also write a page with plots, in one file that can be sent.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
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

/// Sizes that need no checkpoint.
#[derive(Clone, Copy, ValueEnum)]
enum ShapeArg {
    /// InternVL-14B-224px, as published.
    #[value(name = "14b")]
    Published,
}

/// How linear layers are stored.
#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    /// 4 bits, in groups of 128.
    W4,
    /// 8 bits, in groups of 128.
    W8,
    /// BF16, as published.
    Bf16,
}

impl From<FormatArg> for RandomFormat {
    fn from(format: FormatArg) -> RandomFormat {
        match format {
            FormatArg::W4 => RandomFormat::Int { bits: 4, group: 128 },
            FormatArg::W8 => RandomFormat::Int { bits: 8, group: 128 },
            FormatArg::Bf16 => RandomFormat::BF16,
        }
    }
}

pub fn run(args: Args, started: Instant) -> Result<()> {
    block_on(measure(args, started))
}

async fn measure(args: Args, started: Instant) -> Result<()> {
    let report = args.report.as_deref().map(create).transpose()?;
    let model = open(&args)?.load()?;
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
    // Before the rest takes memory of its own.
    let (held, peak) = network.device().memory();
    let tells = std::io::stderr().is_terminal();
    let figures = measure_steps(&model, options.kv_cache.unwrap_or(KvCacheType::F32), &mut |stage| {
        if tells {
            eprint!("\r\x1b[Kmeasuring {stage}");
        }
    })
    .await?;
    if tells {
        eprint!("\r\x1b[K");
    }
    let roofs = (figures.roofs.read_bytes, figures.roofs.multiply_adds);
    let rows = prompt.len() + if network.config.vision.is_some() { text.num_query_token } else { 0 };
    let steps = (args.tokens - 1).max(1) as f64;
    let weights = network.decoder().weights_per_token();
    let prefill_rate = rows as f64 / prefill;
    let decode_rate = steps / decode;
    let read = weights.bytes as f64 * decode_rate;
    let fma = weights.multiply_adds as f64 * prefill_rate;
    let info = network.device().info();
    let name = match (args.shape, &args.common.model) {
        (Some(ShapeArg::Published), _) => "InternVL-14B-224px with random weights".into(),
        (None, Some(path)) => base_name(path),
        (None, None) => "the demo model".into(),
    };
    let mut json = serde_json::json!({
        "model": name, "has_vision": network.config.vision.is_some(),
        "adapter": info.name, "backend": info.backend,
        "load_seconds": loaded, "first_word_seconds": first_word,
        "vision_seconds": vision, "prefill_rows": rows, "prefill_rows_per_second": prefill_rate,
        "decode_tokens_per_second": decode_rate, "time_to_first_token_seconds": vision + prefill,
        "dispatches_per_token": rounds[0].dispatches, "weight_bytes_per_token": weights.bytes,
        "gpu_bytes_held": held, "gpu_bytes_peak": peak,
        "decode_share_of_read_roof": read / roofs.0, "prefill_share_of_arithmetic_roof": fma / roofs.1,
    });
    if let (Value::Object(json), Value::Object(more)) = (&mut json, figures.json()) {
        json.extend(more);
    }
    if let (Some(mut file), Some(path)) = (report, &args.report) {
        let written = file.write_all(html(&json).as_bytes()).and_then(|()| file.flush());
        written.map_err(|e| Error::Io { file: base_name(path), reason: e.to_string() })?;
    }
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
    say_figures(&figures);
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

/// The model that is measured: the command line's, or random weights of published sizes.
fn open(args: &Args) -> Result<Opened<'static>> {
    match args.shape {
        None => args.common.open(),
        Some(ShapeArg::Published) => {
            let source = RandomCheckpoint::new(&published(), args.format.into())?;
            args.common.open_at(Location::Folder(Box::new(source)))
        }
    }
}

/// A file for the report, made before minutes are spent on what is in it.
fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|e| Error::Io { file: base_name(path), reason: e.to_string() })
}

fn say_figures(figures: &Figures) {
    for step in &figures.steps {
        let beams = if step.beams == 1 { "greedy".into() } else { format!("{} beams", step.beams) };
        say!("steps                {:.2} a second, {beams}, behind {} rows", 1.0 / step.seconds, step.rows);
    }
    say!();
    say!("kernels of a step behind {} rows, which takes {:.2} ms:", figures.kernel_rows, figures.kernel_step * 1e3);
    say!("     ms  share  calls      GB/s  G multiply-adds/s  % of roof  kernel");
    for line in &figures.kernels {
        say!(
            "{:7.3} {:5.1}% {:6} {:9.2} {:18.2} {:10.1}  {} {}",
            line.seconds * 1e3,
            100.0 * figures.share(line),
            line.dispatches,
            line.work.bytes as f64 / line.seconds / 1e9,
            line.work.multiply_adds as f64 / line.seconds / 1e9,
            100.0 * figures.roofs.share(line.work, line.seconds),
            line.name,
            line.shape
        );
    }
}
