//! `qllama gradients`.

use std::path::PathBuf;

use clap::ValueEnum;
use pollster::block_on;
use qllama::internals::{NamedTensor, write_tensors};
use qllama::{Error, ForwardInputs, Objective, Of, Result};

use crate::common::Common;
use crate::out::say;
use crate::tensors::{TensorFile, check_outputs};

const HELP: &str = "\
IN holds, with batch B and S rows, of which N are query tokens:
  input_ids             [B,S] integers below the vocabulary's size; or inputs_embeds [B,S,hidden_size]; or both
                        query_embeds [B,N,hidden_size] and input_ids, which are joined in that order
  attention_mask        [B,S] 1 for keys that may be seen, 0 for others; default all 1 (--loss caption)
  position_ids          [B,S] integers below max_position_embeddings; default 0 .. S-1
  vision_hidden_states  [images,rows,vision_hidden_size] floats; text row b looks at image b % images, where B is a
                        multiple of images
  labels                [B,S] integers, -100 for those that do not count (--loss caption)
  additive_mask         [B,1,S,S] floats, added to the scores; without it every row sees every key (--loss given)
  grad.last_hidden_state  [B,S,hidden_size]: the loss is the sum of its product with last_hidden_state (--loss given)

OUT holds loss [1] and, under `grad.` and a name: the adapters' A and B as --adapter-weights names them; with --of inputs
also inputs_embeds, query_embeds and vision_hidden_states; with --of all also every weight of the decoder, by the names of
the checkpoint. Weights stored in 4 or 8 bits have no gradient.

With query_embeds, query tokens see each other both ways (use_zero_attention_mask), as captions have it.

Example:
  qllama gradients --model BASE --adapter-weights ADAPTER --loss caption --inputs in.safetensors --outputs out.safetensors";

/// Compute the gradients of a loss: of adapters, of the inputs, and of weights.
///
/// Reads and writes safetensors files, to compare with other tools; `forward` does the same for outputs.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Tensors to read; see below.
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,
    /// File to write; it appears whole or not at all.
    #[arg(long, value_name = "OUT.safetensors")]
    outputs: PathBuf,
    /// What is differentiated.
    #[arg(long, value_enum, default_value = "caption")]
    loss: Loss,
    /// Whose gradients to write.
    #[arg(long, value_enum, default_value = "adapters")]
    of: Wanted,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Loss {
    /// Cross-entropy of the labels, as `forward` has it
    Caption,
    /// The sum of last_hidden_state times grad.last_hidden_state
    Given,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wanted {
    /// The adapters'
    Adapters,
    /// Those, and the inputs'
    Inputs,
    /// Those, and every weight's of the decoder
    All,
}

pub fn run(args: Args) -> Result<()> {
    check_outputs(&args.outputs)?;
    let of = match args.of {
        Wanted::Adapters => Of::Adapters,
        Wanted::Inputs => Of::Inputs,
        Wanted::All => Of::All,
    };
    if of == Of::Adapters && args.common.adapter_weights.is_empty() {
        let reason = "there is no adapter to have gradients: name one by --adapter-weights, or ask --of inputs";
        return Err(Error::Input { reason: reason.into() });
    }
    let mut file = TensorFile::read(&args.inputs)?;
    let mut inputs = ForwardInputs {
        input_ids: file.ids("input_ids")?,
        inputs_embeds: file.floats("inputs_embeds")?,
        query_embeds: file.floats("query_embeds")?,
        position_ids: file.ids("position_ids")?,
        vision_hidden_states: file.floats("vision_hidden_states")?,
        ..Default::default()
    };
    let batch = [&inputs.input_ids.as_ref().map(|a| &a.shape), &inputs.inputs_embeds.as_ref().map(|a| &a.shape)]
        .into_iter()
        .find_map(|shape| shape.and_then(|shape| shape.first().copied()));
    if let (Some(batch), Some(vision)) = (batch, &inputs.vision_hidden_states) {
        inputs.repeat_time = vision.shape.first().filter(|images| **images > 0).map(|images| batch / images);
    }
    let (gradient, mask) = (file.floats("grad.last_hidden_state")?, file.floats("additive_mask")?);
    let objective = match args.loss {
        Loss::Caption => {
            inputs.attention_mask = file.mask("attention_mask")?;
            inputs.labels = file.ids("labels")?;
            inputs.use_zero_attention_mask = inputs.query_embeds.is_some();
            if inputs.labels.is_none() {
                return Err(file.lacks("labels", "the loss needs it"));
            }
            Objective::Labels
        }
        Loss::Given => match &gradient {
            Some(gradient) => Objective::Given { gradient, additive_mask: mask.as_ref() },
            None => return Err(file.lacks("grad.last_hidden_state", "--loss given starts from it")),
        },
    };
    file.note_unused();

    let opened = args.common.open()?;
    let text = &opened.config().text;
    match args.loss {
        Loss::Caption => inputs.check(text, None)?,
        Loss::Given => inputs.check_train(text, mask.as_ref())?,
    }
    let model = opened.load()?;
    let found = block_on(model.gradients_async(&inputs, objective, of))?;
    let mut tensors = vec![NamedTensor::f32("loss", &[1], &[found.loss])];
    tensors.extend(
        found.tensors.iter().map(|(name, array)| NamedTensor::f32(format!("grad.{name}"), &array.shape, &array.values)),
    );
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
