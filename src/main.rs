//! The command line: parses arguments, calls the library, prints.

mod cli;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "qllama",
    version,
    about = "Caption, match and search pictures with InternVL's QLLaMA on any GPU, or none",
    after_help = "Without --model, the demo model inside this program is used: it names emoji pictures.\n\n\
        Examples:\n  qllama caption picture.png\n  \
        qllama caption --model InternVL-14B-224px --num-beams 5 --min-new-tokens 8 photo.jpg\n  \
        qllama match --image cat.png dog.png --text cat dog\n  \
        qllama info --model InternVL-14B-224px"
)]
struct Cli {
    /// List the adapters of this machine, and end.
    #[arg(long, global = true)]
    list_adapters: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What every subcommand takes.
#[derive(Args, Clone)]
struct Common {
    /// Folder of the checkpoint: config.json, model.safetensors or its shards, tokenizer.model; or, for texts, a GGUF file
    /// of the LLaMA family. Default: the demo model.
    #[arg(long, value_name = "DIR|FILE.gguf")]
    model: Option<PathBuf>,
    /// Adapter to run on: part of its name, its number in --list-adapters, or `cpu` for the CPU executor.
    /// Default: the first that --list-adapters shows.
    #[arg(long, value_name = "NAME|INDEX")]
    adapter: Option<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Say what is in pictures.
    ///
    /// One beam is greedy search and prints text as it is made. The published InternVL-14B was used with
    /// `--num-beams 5 --min-new-tokens 8`.
    Caption(CaptionArgs),
    /// Compare pictures with texts: a table of probabilities, a row a picture, that sums to 1 over the texts.
    Match(MatchArgs),
    /// Write embeddings of pictures and texts to a safetensors file.
    ///
    /// With --image and --text the prepared `pixel_values` and `text_ids` are written too. With --inputs, tensors from
    /// other tools are read: `pixel_values` [B,3,h,w] and/or `text_ids` [B,S], used as they stand. Written are
    /// `vision_hidden_states`, `image_embeds.C`, `image_embeds.G`, `text_embeds`, `logits_per_image.C` and
    /// `logits_per_image.G`: what the inputs allow.
    Embed(EmbedArgs),
    /// Show the ids, the pieces and the decoded text of texts; needs no weights.
    Tokenize(TokenizeArgs),
    /// Show a checkpoint's sizes, the memory that it needs, and whether it fits this machine's adapters.
    Info(InfoArgs),
    /// Measure prefill, decode and time to the first token, beside what the adapter can do at best.
    Bench(BenchArgs),
    /// Write a checkpoint with 4-bit or 8-bit weights (safetensors, compressed-tensors' pack-quantized layout).
    ///
    /// Packed are the matrices of linear layers; embeddings, norms and the like stay as they are. Scales are chosen by
    /// least squared error, which is printed for each matrix. Until it is complete, the result is called DST.part; the
    /// same command goes on where an interrupted one stopped.
    Quantize(QuantizeArgs),
}

#[derive(Args)]
struct CaptionArgs {
    /// PNG, JPEG or WebP files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// What the caption continues.
    #[arg(long, default_value = "English caption:")]
    prompt: String,
    /// Beams of the search; 1 is greedy search.
    #[arg(long, default_value_t = 1, value_name = "N")]
    num_beams: usize,
    /// Most tokens of a caption.
    #[arg(long, default_value_t = 32, value_name = "N")]
    max_new_tokens: usize,
    /// Fewest tokens of a caption.
    #[arg(long, default_value_t = 0, value_name = "N")]
    min_new_tokens: usize,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

/// Which image embedding is compared with texts.
#[derive(Clone, Copy, ValueEnum)]
enum MatchMode {
    /// InternVL-C: of the vision encoder alone.
    C,
    /// InternVL-G: with QLLaMA's query tokens.
    G,
    /// Image-text matching: each pair's own probability.
    Itm,
}

#[derive(Args)]
struct MatchArgs {
    /// Pictures: PNG, JPEG or WebP files.
    #[arg(long = "image", required = true, num_args = 1.., value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Texts to compare with.
    #[arg(long = "text", required = true, num_args = 1.., value_name = "TEXT")]
    texts: Vec<String>,
    /// How to compare.
    #[arg(long, value_enum, default_value = "c")]
    mode: MatchMode,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct EmbedArgs {
    /// Pictures: PNG, JPEG or WebP files.
    #[arg(long = "image", num_args = 1.., value_name = "IMAGE", conflicts_with = "inputs")]
    images: Vec<PathBuf>,
    /// Texts.
    #[arg(long = "text", num_args = 1.., value_name = "TEXT", conflicts_with = "inputs")]
    texts: Vec<String>,
    /// Read `pixel_values` and/or `text_ids` from this safetensors file.
    #[arg(long, value_name = "F.safetensors")]
    inputs: Option<PathBuf>,
    /// Write to this safetensors file.
    #[arg(long, required = true, value_name = "G.safetensors")]
    outputs: PathBuf,
    /// Image embedding to write; default both.
    #[arg(long, value_enum)]
    mode: Option<MatchMode>,
    /// Also write `itm_logits` [images, texts, 2].
    #[arg(long)]
    itm: bool,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct TokenizeArgs {
    /// Texts.
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct InfoArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct BenchArgs {
    /// Tokens to decode a round.
    #[arg(long, default_value_t = 32, value_name = "N")]
    tokens: usize,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct QuantizeArgs {
    /// Folder of the checkpoint with float weights.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Folder to write; it must not be there, or be empty.
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// Bits a weight.
    #[arg(long, default_value = "4", value_parser = ["4", "8"], value_name = "4|8")]
    bits: String,
    /// Neighbours of a row that share a scale; `channel` is the whole row.
    #[arg(long, default_value = "32", value_parser = ["32", "64", "128", "channel"], value_name = "32|64|128|channel")]
    group_size: String,
    /// Give each group a zero point of its own.
    #[arg(long)]
    asymmetric: bool,
    /// Leave a module as it is: its name (`lm_head`), or `re:` and a pattern that its name begins with
    /// (`re:vision_model`). May be given several times.
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<String>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    let cli = Cli::parse();
    let done = pollster::block_on(async {
        if cli.list_adapters {
            return cli::device::list().await;
        }
        match cli.command {
            Some(Command::Caption(args)) => cli::caption::run(args).await,
            Some(Command::Match(args)) => cli::compare::run(args).await,
            Some(Command::Embed(args)) => cli::embed::run(args).await,
            Some(Command::Tokenize(args)) => cli::tokenize::run(args).await,
            Some(Command::Info(args)) => cli::info::run(args).await,
            Some(Command::Bench(args)) => cli::bench::run(args, started).await,
            Some(Command::Quantize(args)) => cli::quantize::run(args).await,
            None => Err(qllama::Error::Input { reason: "no subcommand was given; `qllama --help` lists them".into() }),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qllama: {} [{}]", cli::one_line(&error.to_string()), error.code());
            ExitCode::FAILURE
        }
    }
}
