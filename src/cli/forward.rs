//! `qllama forward`.

use qllama::device::Array;
use qllama::files::safetensors::{NamedTensor, write_tensors};
use qllama::model::Model;
use qllama::model::forward::{Inputs, Outputs, PastKeyValues};
use qllama::{Error, Result};

use crate::common::{load, open};
use crate::tensors::{TensorFile, check_outputs};
use crate::{ForwardArgs, Returned};

pub async fn run(args: ForwardArgs) -> Result<()> {
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
    let mut inputs = Inputs {
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

    let opened = open(&args.common).await?;
    let text = &opened.config.text;
    let cache = if past.is_empty() { None } else { Some(PastKeyValues::check_arrays(text, &past)?) };
    if args.train {
        inputs.check_train(text, additive_mask.as_ref())?;
    } else {
        inputs.check(text, cache)?;
    }

    let model = load(&args.common, opened).await?;
    if cache.is_some() {
        inputs.past_key_values = Some(PastKeyValues::from_arrays(&model, &past)?);
    }
    let outputs = if args.train {
        model.forward_train(inputs, additive_mask.as_ref()).await?
    } else {
        model.forward(inputs).await?
    };
    let tensors = named(&model, outputs).await?;
    write_tensors(&args.outputs, &tensors)?;
    for tensor in &tensors {
        if args.common.json {
            println!("{}", serde_json::json!({ "tensor": tensor.name, "shape": tensor.shape }));
        } else {
            println!("{} {:?}", tensor.name, tensor.shape);
        }
    }
    Ok(())
}

/// What was asked for, under the names of the fixtures.
async fn named(model: &Model, outputs: Outputs) -> Result<Vec<NamedTensor>> {
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
    if let Some(past) = &outputs.past_key_values {
        for (i, (k, v)) in past.to_arrays(model).await?.iter().enumerate() {
            tensors.push(tensor(format!("past_key.{i}"), k));
            tensors.push(tensor(format!("past_value.{i}"), v));
        }
    }
    Ok(tensors)
}
