//! `qllama forward`.

use std::path::PathBuf;

use clap::ValueEnum;
use pollster::block_on;
use qllama::internals::{NamedTensor, write_tensors};
use qllama::{Array, Error, ForwardInputs, ForwardOutputs, Model, PastKeyValues, Result};

use crate::common::Common;
use crate::out::say;
use crate::tensors::{TensorFile, check_outputs};

const HELP: &str = "\
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

/// Run the decoder once over tensors of other tools: the published `forward` and `forward_train`.
///
/// Reads and writes safetensors files, and needs config.json and the weights only, no tokenizer. Prints the names
/// and shapes of what it wrote.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
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

pub fn run(args: Args) -> Result<()> {
    let asks = |what: Returned| args.returned.contains(&what);
    let fail = |reason: &str| Err(Error::Input { reason: reason.into() });
    if args.train && args.zero_query_mask {
        return fail("--zero-query-mask changes forward's own mask, and --train has none: use one of them");
    }
    if args.train && asks(Returned::Cache) {
        return fail("--train keeps no cache: leave `cache` out of --return");
    }
    check_outputs(&args.outputs)?;
    let mut file = TensorFile::read(&args.inputs)?;
    let mut inputs = ForwardInputs {
        input_ids: file.ids("input_ids")?,
        inputs_embeds: file.floats("inputs_embeds")?,
        query_embeds: file.floats("query_embeds")?,
        attention_mask: file.mask("attention_mask")?,
        position_ids: file.ids("position_ids")?,
        past_key_values: None,
        vision_hidden_states: file.floats("vision_hidden_states")?,
        repeat_time: Some(args.repeat_time),
        labels: file.ids("labels")?,
        use_cache: asks(Returned::Cache),
        use_zero_attention_mask: args.zero_query_mask,
        output_attentions: asks(Returned::Attentions),
        output_cross_attentions: asks(Returned::CrossAttentions),
        output_hidden_states: asks(Returned::HiddenStates),
        output_logits: asks(Returned::Logits),
        output_last_hidden_state: asks(Returned::LastHiddenState),
    };
    let additive_mask = file.floats("additive_mask")?;
    let past = file.past()?;
    if asks(Returned::Loss) && inputs.labels.is_none() {
        return Err(file.lacks("labels", "the loss needs it"));
    }
    if !asks(Returned::Loss) {
        inputs.labels = None;
    }
    if additive_mask.is_some() && !args.train {
        return fail("additive_mask needs --train: forward makes its mask of attention_mask");
    }
    if !past.is_empty() && args.train {
        return fail("past_key.0: --train takes no cache");
    }
    file.note_unused();

    let opened = args.common.open()?;
    let text = &opened.config().text;
    let cache = if past.is_empty() { None } else { Some(PastKeyValues::check_arrays(text, &past)?) };
    if args.train {
        inputs.check_train(text, additive_mask.as_ref())?;
    } else {
        inputs.check(text, cache)?;
    }

    let model = opened.load()?;
    if cache.is_some() {
        inputs.past_key_values = Some(PastKeyValues::from_arrays(&model, &past)?);
    }
    let outputs = if args.train {
        model.forward_train(&mut inputs, additive_mask.as_ref())?
    } else {
        model.forward(&mut inputs)?
    };
    let tensors = block_on(named(&model, outputs))?;
    write_tensors(&args.outputs, &tensors)?;
    for tensor in &tensors {
        if args.common.json {
            say!("{}", serde_json::json!({ "tensor": tensor.name, "shape": tensor.shape }));
        } else {
            say!("{} {:?}", tensor.name, tensor.shape);
        }
    }
    Ok(())
}

/// What was asked for, under the names of the fixtures.
async fn named(model: &Model, mut outputs: ForwardOutputs) -> Result<Vec<NamedTensor>> {
    let tensor = |name: String, array: &Array<f32>| NamedTensor::f32(name, &array.shape, &array.values);
    let mut tensors = Vec::new();
    for (name, array) in [("last_hidden_state", &outputs.last_hidden_state), ("logits", &outputs.logits)] {
        tensors.extend(array.iter().map(|array| tensor(name.into(), array)));
    }
    tensors.extend(outputs.loss.map(|loss| NamedTensor::f32("loss", &[1], &[loss])));
    for (name, list) in [
        ("hidden_states", &outputs.hidden_states),
        ("attentions", &outputs.attentions),
        ("cross_attentions", &outputs.cross_attentions),
    ] {
        tensors.extend(list.iter().enumerate().map(|(i, array)| tensor(format!("{name}.{i}"), array)));
    }
    if let Some(past) = &mut outputs.past_key_values {
        for (i, (k, v)) in past.to_arrays_async(model).await?.iter().enumerate() {
            tensors.push(tensor(format!("past_key.{i}"), k));
            tensors.push(tensor(format!("past_value.{i}"), v));
        }
    }
    Ok(tensors)
}
