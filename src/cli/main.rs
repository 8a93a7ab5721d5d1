//! The command line: parses arguments, calls the library, prints.

mod bench;
mod caption;
mod common;
mod compare;
mod device;
mod embed;
mod forward;
mod generate;
mod info;
mod quantize;
mod tensors;
mod tokenize;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use qllama::device::tensor::DType;

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
    /// Most GPU memory to use: bytes, or a number with KiB, MiB, GiB, KB, MB or GB. Where it is too little for all weights,
    /// those that only pictures need are read again for every picture.
    #[arg(long, value_name = "BYTES", value_parser = common::bytes)]
    memory_budget: Option<u64>,
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
    /// Generate text from a prompt, a picture, or tensors of other tools.
    ///
    /// Greedy search by default; beam search with --num-beams, sampling with --do-sample. The options are Hugging
    /// Face's, with its names, its rules and its defaults but for --max-new-tokens and --seed. With --image, the model's
    /// query tokens stand before the prompt. Each sequence is printed on a line of its own; --json prints one object a
    /// sequence with `text`, `ids` (new ones, the end id left out) and `score`.
    #[command(after_help = GENERATE_HELP)]
    Generate(GenerateArgs),
    /// Run the decoder once over tensors of other tools: the published `forward` and `forward_train`.
    ///
    /// Reads and writes safetensors files, and needs config.json and the weights only, no tokenizer. Prints the names
    /// and shapes of what it wrote.
    #[command(after_help = FORWARD_HELP)]
    Forward(ForwardArgs),
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
    /// Storage of cached keys and values; f16 takes half the memory and rounds them.
    #[arg(long, value_enum, default_value = "f32", value_name = "TYPE")]
    kv_cache: KvCache,
    /// Take pictures as they are stored, without turning them as their EXIF orientation says.
    #[arg(long)]
    ignore_orientation: bool,
    #[command(flatten)]
    common: Common,
}

/// How cached keys and values are stored.
#[derive(Clone, Copy, ValueEnum)]
enum KvCache {
    F32,
    F16,
}

impl From<KvCache> for DType {
    fn from(cache: KvCache) -> DType {
        match cache {
            KvCache::F32 => DType::F32,
            KvCache::F16 => DType::F16,
        }
    }
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

const FORWARD_HELP: &str = "\
IN holds, with batch B, rows S of this call, P rows of the cache and T = P + S:
  input_ids             [B,S] integers below the vocabulary's size; or inputs_embeds; or both query_embeds and
                        input_ids, which are joined in that order (S counts both)
  inputs_embeds         [B,S,hidden_size] floats
  query_embeds          [B,N,hidden_size] floats
  attention_mask        [B,T] 1 for keys that may be seen, 0 for others; default all 1
  position_ids          [B,S] integers below max_position_embeddings; default P .. P+S-1
  vision_hidden_states  [images,rows,vision_hidden_size] floats; text row b looks at image b % images; without it,
                        with fewer than num_query_token rows, or on top of a cache, cross-attention is skipped
  labels                [B,S] integers, -100 for those that do not count
  past_key.N, past_value.N  [B,heads,P,head_dim] floats for every layer N: a cache that --return cache wrote
  additive_mask         [B,1,S,S] floats, with --train: added to the scores; without it every row sees every key
Integers are I64, I32 or U32, masks also BOOL, floats F32, F16 or BF16. Other tensors are not used; a note says so.

OUT holds what --return lists, in F32: last_hidden_state [B,S,hidden_size], logits [B,S,vocabulary], loss [1],
hidden_states.N (the embeddings, then each layer's output, the last after the final norm), attentions.N [B,heads,S,T],
cross_attentions.N (of the N-th layer that cross-attends) [B,heads,num_query_token,vision rows], and for `cache`
past_key.N and past_value.N.

One deviation from the published code is deliberate: there, a chunk of num_query_token or more rows on top of a cache
cross-attends to the wrong keys. Here a call on top of a cache never cross-attends.

Example:
  qllama forward --model InternVL-14B-224px --inputs in.safetensors --outputs out.safetensors --return logits,cache";

const GENERATE_HELP: &str = "\
IN holds, with batch B:
  input_ids             [B,S] integers below the vocabulary's size; or inputs_embeds; or both query_embeds and
                        input_ids, which are joined in that order
  inputs_embeds         [B,S,hidden_size] floats
  query_embeds          [B,N,hidden_size] floats
  attention_mask        [B,all rows] 1 for rows that may be seen, 0 for padding, which belongs on the left; default all 1
  vision_hidden_states  [images,rows,vision_hidden_size] floats; sequence b looks at image b % images
  pixel_values          [images,3,h,w] floats, in place of vision rows and query embeddings: the model's own query tokens
                        stand in front, and attention_mask may leave them out
Integers are I64, I32 or U32, masks also BOOL, floats F32, F16 or BF16. No tokenizer is needed: without one, ids are
printed, and `text` is null. Positions count the ones of the mask; query tokens see each other both ways.

OUT holds `sequences` [sequences,longest] I64: new ids only, the end id included, padded with id 0; and `scores` F32:
beam search's (sum of log-probabilities / length^length_penalty), 0 for greedy search and sampling. The sequences of a
prompt stand together, best first.

Examples:
  qllama generate --image cat.png --prompt 'English caption:' --num-beams 5 --min-new-tokens 8
  qllama generate --prompt 'The sea' --do-sample --top-p 0.9 --seed 7 --num-return-sequences 3
  qllama generate --inputs in.safetensors --outputs out.safetensors --json";

/// What `forward` can return.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Returned {
    LastHiddenState,
    Logits,
    Loss,
    HiddenStates,
    Attentions,
    CrossAttentions,
    Cache,
}

#[derive(Args)]
struct ForwardArgs {
    /// Tensors to read; see below.
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,
    /// File to write; it appears whole or not at all.
    #[arg(long, value_name = "OUT.safetensors")]
    outputs: PathBuf,
    /// Run `forward_train`: with IN's additive_mask, or without any mask; no attention_mask and no cache.
    #[arg(long)]
    train: bool,
    /// Let the query tokens, rows 0 .. num_query_token - 1, see each other both ways, whatever the mask says
    /// (`use_zero_attention_mask`).
    #[arg(long)]
    zero_query_mask: bool,
    /// Text rows for each image: B = R * images. One image serves all where R is 1.
    #[arg(long, default_value_t = 1, value_name = "R")]
    repeat_time: usize,
    /// What to return, separated by commas.
    #[arg(long = "return", value_name = "LIST", value_enum, value_delimiter = ',', default_value = "logits")]
    returned: Vec<Returned>,
    #[command(flatten)]
    common: Common,
}

/// When beam search with enough finished sequences stops.
#[derive(Clone, Copy, ValueEnum)]
enum Stopping {
    /// When no open beam is likely to become better.
    False,
    /// As soon as there are as many finished sequences as beams.
    True,
    /// When no open beam can become better.
    Never,
}

#[derive(Args)]
#[command(group = ArgGroup::new("start").required(true))]
struct GenerateArgs {
    /// Text to continue.
    #[arg(long, value_name = "TEXT", group = "start")]
    prompt: Option<String>,
    /// Tensors to start from; see below.
    #[arg(long, value_name = "IN.safetensors", group = "start")]
    inputs: Option<PathBuf>,
    /// A picture to look at: a PNG, JPEG or WebP file, in place of IN's pixel_values.
    #[arg(long, value_name = "IMAGE")]
    image: Option<PathBuf>,
    /// Write `sequences` and `scores` to this file; it appears whole or not at all.
    #[arg(long, value_name = "OUT.safetensors")]
    outputs: Option<PathBuf>,
    /// Most new tokens of a sequence, the end id included.
    #[arg(long, default_value_t = 32, value_name = "N")]
    max_new_tokens: usize,
    /// Fewest new tokens of a sequence before the end id.
    #[arg(long, default_value_t = 0, value_name = "N")]
    min_new_tokens: usize,
    /// Beams of the search, from 1 to 16; 1 is greedy search, or sampling.
    #[arg(long, default_value_t = 1, value_name = "N")]
    num_beams: usize,
    /// Sequences a prompt: at most --num-beams, or up to 256 with --do-sample.
    #[arg(long, default_value_t = 1, value_name = "N")]
    num_return_sequences: usize,
    /// Beam search divides a sequence's score by length^P: above 0 favours long ones.
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    length_penalty: f32,
    /// When beam search stops once it has as many finished sequences as beams.
    #[arg(long, value_enum, default_value = "false")]
    early_stopping: Stopping,
    /// Above 1 makes ids that are there already less likely.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    repetition_penalty: f32,
    /// No N ids in a row occur twice; 0 allows all.
    #[arg(long, default_value_t = 0, value_name = "N")]
    no_repeat_ngram_size: usize,
    /// Ids that end a sequence, separated by commas. Default: config.json's eos_token_id.
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    eos_token_id: Vec<u32>,
    /// Draw tokens at random instead of taking the most likely; not together with beams.
    #[arg(long)]
    do_sample: bool,
    /// With --do-sample: below 1 favours likely tokens, above 1 evens them out. Default 1.
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// With --do-sample: draw among the K most likely tokens; 0 is all. Default 50.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// With --do-sample: draw among the most likely tokens that together have this probability. Default 1.
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// With --do-sample: the same seed draws the same numbers on every adapter. Default 0.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Print text as it is made; with --json, an object a token with `sequence`, `id` and `text` before the others. Not
    /// with beams.
    #[arg(long)]
    stream: bool,
    /// Sequences for each image of IN: B = R * images. One image serves all where R is 1.
    #[arg(long, default_value_t = 1, value_name = "R")]
    repeat_time: usize,
    /// Storage of cached keys and values; f16 takes half the memory and rounds them.
    #[arg(long, value_enum, default_value = "f32", value_name = "TYPE")]
    kv_cache: KvCache,
    /// Take the picture as it is stored, without turning it as its EXIF orientation says.
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
    /// Tokens of the prompt; without it, the prompt is `English caption:`.
    #[arg(long, value_name = "N")]
    prompt_tokens: Option<usize>,
    /// Tokens to decode a round.
    #[arg(long, default_value_t = 32, value_name = "N")]
    tokens: usize,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Storage of cached keys and values; f16 takes half the memory and rounds them.
    #[arg(long, value_enum, default_value = "f32", value_name = "TYPE")]
    kv_cache: KvCache,
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
    silence_device_select();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let done = pollster::block_on(async {
        if cli.list_adapters {
            return device::list().await;
        }
        match cli.command {
            Some(Command::Caption(args)) => caption::run(args).await,
            Some(Command::Match(args)) => compare::run(args).await,
            Some(Command::Embed(args)) => embed::run(args).await,
            Some(Command::Generate(args)) => generate::run(args).await,
            Some(Command::Forward(args)) => forward::run(args).await,
            Some(Command::Tokenize(args)) => tokenize::run(args).await,
            Some(Command::Info(args)) => info::run(args).await,
            Some(Command::Bench(args)) => bench::run(args, started).await,
            Some(Command::Quantize(args)) => quantize::run(args).await,
            None => Err(qllama::Error::Input { reason: "no subcommand was given; `qllama --help` lists them".into() }),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qllama: {} [{}]", common::one_line(&error.to_string()), error.code());
            ExitCode::FAILURE
        }
    }
}

/// Without a desktop session, Mesa's layer that puts the desktop's GPU first complains on standard error about each
/// instance that is made. There is no desktop's GPU then, so the layer is left out, unless it was told what to select.
fn silence_device_select() {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !set("XDG_RUNTIME_DIR") && !set("MESA_VK_DEVICE_SELECT") {
        // SAFETY: main calls this before it starts a thread, so nothing reads the environment at the same time.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
