//! The decoder against what the published modules computed: every key of the `qllama-*` fixtures.

mod common;

use common::{Expected, close, gpu, load};
use pollster::block_on;
use qllama::device::Array;
use qllama::generate::beams::EarlyStopping;
use qllama::generate::prompt::PromptInputs;
use qllama::generate::session::GenerateOptions;
use qllama::model::Model;
use qllama::model::forward::{Inputs, Outputs};
use qllama::{Device, Result};

/// Query embeddings and ids in front of everything else.
fn joined(e: &Expected) -> Inputs {
    Inputs {
        query_embeds: Some(e.f32("query_embeds")),
        input_ids: Some(e.i64("input_ids")),
        attention_mask: Some(e.i64("attention_mask")),
        vision_hidden_states: Some(e.f32("vision_hidden_states")),
        use_zero_attention_mask: true,
        ..Default::default()
    }
}

fn forward(model: &Model, inputs: Inputs) -> Result<Outputs> {
    block_on(model.forward(inputs))
}

/// `a` with `b` behind it along axis 1.
fn append(a: &Array<i64>, b: &[i64]) -> Array<i64> {
    let (batch, width) = (a.shape[0], a.shape[1]);
    let more = b.len() / batch;
    let values = (0..batch).flat_map(|i| [&a.values[i * width..][..width], &b[i * more..][..more]].concat()).collect();
    Array::new(&[batch, width + more], values)
}

/// Everything that a `qllama-*` folder expects.
fn check(folder: &str, device: &Device, limit: f64, repeat_time: Option<usize>) {
    let e = Expected::open(folder);
    let model = load(&format!("tests/data/fixtures/{folder}"), device);
    let layers = model.config.text.num_hidden_layers;
    let with_repeat = |inputs: Inputs| Inputs { repeat_time, ..inputs };
    let near = |key: &str, found: &Option<Array<f32>>| {
        close(&format!("{folder} {key}"), &e.f32(key), found.as_ref().unwrap(), limit);
    };

    let prefill = || {
        let asked = Inputs {
            use_cache: true,
            output_attentions: e.has("prefill.attentions.0"),
            output_hidden_states: true,
            output_last_hidden_state: true,
            output_logits: true,
            ..with_repeat(joined(&e))
        };
        forward(&model, asked).unwrap()
    };
    let outputs = prefill();
    near("prefill.logits", &outputs.logits);
    if e.has("prefill.last_hidden_state") {
        near("prefill.last_hidden_state", &outputs.last_hidden_state);
    }
    for (i, state) in outputs.hidden_states.iter().enumerate() {
        let key = format!("prefill.hidden_states.{i}");
        if e.has(&key) {
            near(&key, &Some(state.clone()));
        }
    }
    for (i, attention) in outputs.attentions.iter().enumerate() {
        let key = format!("prefill.attentions.{i}");
        if e.has(&key) {
            near(&key, &Some(attention.clone()));
        }
    }
    let past = outputs.past_key_values.unwrap();
    let arrays = block_on(past.to_arrays(&model)).unwrap();
    for (i, (k, v)) in arrays.iter().enumerate().take(layers) {
        for (name, array) in [("key", k), ("value", v)] {
            let key = format!("prefill.past_{name}.{i}");
            if e.has(&key) {
                near(&key, &Some(array.clone()));
            }
        }
    }

    // Six steps on top of the cache.
    if e.has("decode.input_ids") {
        let ids = e.i64("decode.input_ids");
        let (batch, steps) = (ids.shape[0], ids.shape[1]);
        let mut past = Some(past);
        let mut mask = e.i64("attention_mask");
        for step in 0..steps {
            let column = (0..batch).map(|b| ids.values[b * steps + step]).collect();
            mask = append(&mask, &vec![1; batch]);
            let inputs = Inputs {
                input_ids: Some(Array::new(&[batch, 1], column)),
                attention_mask: Some(mask.clone()),
                position_ids: Some(e.i64(&format!("decode.position_ids.{step}"))),
                past_key_values: past.take(),
                vision_hidden_states: Some(e.f32("vision_hidden_states")),
                use_cache: true,
                use_zero_attention_mask: true,
                output_logits: true,
                ..with_repeat(Inputs::default())
            };
            let outputs = forward(&model, inputs).unwrap();
            near(&format!("decode.logits.{step}"), &outputs.logits);
            past = outputs.past_key_values;
        }
    }
    if e.has("chunk.input_ids") {
        let ids = e.i64("chunk.input_ids");
        let ones = vec![1; ids.values.len()];
        let inputs = Inputs {
            attention_mask: Some(append(&e.i64("attention_mask"), &ones)),
            input_ids: Some(ids),
            past_key_values: prefill().past_key_values,
            vision_hidden_states: Some(e.f32("vision_hidden_states")),
            use_zero_attention_mask: true,
            output_last_hidden_state: true,
            ..with_repeat(Inputs::default())
        };
        near("chunk.last_hidden_state", &forward(&model, inputs).unwrap().last_hidden_state);
    }
    if e.has("positions.logits") {
        let position_ids = Some(e.i64("positions.position_ids"));
        let inputs = Inputs { position_ids, output_logits: true, ..with_repeat(joined(&e)) };
        near("positions.logits", &forward(&model, inputs).unwrap().logits);
    }
    if e.has("loss.loss") {
        let inputs = Inputs {
            input_ids: Some(e.i64("loss.input_ids")),
            labels: Some(e.i64("loss.labels")),
            output_logits: true,
            ..Default::default()
        };
        let outputs = forward(&model, inputs).unwrap();
        near("loss.logits", &outputs.logits);
        let expected = e.f32("loss.loss").values[0];
        assert!((outputs.loss.unwrap() - expected).abs() <= 1e-5, "{folder} loss {:?} {expected}", outputs.loss);
    }
    if e.has("vision_loss.loss") {
        let inputs = Inputs { labels: Some(e.i64("vision_loss.labels")), ..with_repeat(joined(&e)) };
        let loss = forward(&model, inputs).unwrap().loss.unwrap();
        let expected = e.f32("vision_loss.loss").values[0];
        assert!((loss - expected).abs() <= 1e-5, "{folder} vision loss {loss} {expected}");
    }
    if e.has("forward_train.last_hidden_state") {
        // The text mask is what the additive mask was made of.
        let text_mask = e.i64("forward_train.text_mask");
        let inputs =
            Inputs { input_ids: Some(e.i64("loss.input_ids")), output_last_hidden_state: true, ..Default::default() };
        assert_eq!(text_mask.shape, inputs.input_ids.as_ref().unwrap().shape);
        let mask = e.f32("forward_train.additive_mask");
        let outputs = block_on(model.forward_train(inputs, Some(&mask))).unwrap();
        near("forward_train.last_hidden_state", &outputs.last_hidden_state);
    }
    if e.has("forward_train.image.last_hidden_state") {
        let inputs = Inputs {
            inputs_embeds: Some(e.f32("query_embeds")),
            vision_hidden_states: Some(e.f32("vision_hidden_states")),
            output_last_hidden_state: true,
            ..with_repeat(Inputs::default())
        };
        let outputs = block_on(model.forward_train(inputs, None)).unwrap();
        near("forward_train.image.last_hidden_state", &outputs.last_hidden_state);
    }
    if e.has("no_vision.last_hidden_state") {
        let inputs = Inputs { vision_hidden_states: None, output_last_hidden_state: true, ..joined(&e) };
        near("no_vision.last_hidden_state", &forward(&model, inputs).unwrap().last_hidden_state);
    }
    if e.has("short.last_hidden_state") {
        let all = e.f32("query_embeds");
        let (batch, rows, width) = (all.shape[0], all.shape[1], all.shape[2]);
        let first = all.values.chunks(rows * width).flat_map(|s| s[..(rows - 1) * width].to_vec()).collect();
        let inputs = Inputs {
            inputs_embeds: Some(Array::new(&[batch, rows - 1, width], first)),
            vision_hidden_states: Some(e.f32("vision_hidden_states")),
            output_last_hidden_state: true,
            ..with_repeat(Inputs::default())
        };
        near("short.last_hidden_state", &forward(&model, inputs).unwrap().last_hidden_state);
    }
    if e.has("left_pad.last_hidden_state") {
        let inputs = Inputs {
            input_ids: Some(e.i64("loss.input_ids")),
            attention_mask: Some(e.i64("left_pad.attention_mask")),
            output_attentions: true,
            output_last_hidden_state: true,
            ..Default::default()
        };
        let outputs = forward(&model, inputs).unwrap();
        near("left_pad.last_hidden_state", &outputs.last_hidden_state);
        near("left_pad.attentions.0", &Some(outputs.attentions[0].clone()));
    }
    check_generation(&e, &model, folder, repeat_time.unwrap_or(1));
    e.all_read();
}

/// The options that a key's name stands for.
fn options_of(e: &Expected, key: &str) -> GenerateOptions {
    let with_end = key.starts_with("generate_eos.");
    let mut options = GenerateOptions {
        max_new_tokens: if with_end { 16 } else { 12 },
        eos_token_ids: vec![if with_end { e.i64("generate_eos.eos_token_id").values[0] as u32 } else { 2 }],
        ..Default::default()
    };
    for word in key.split('.').skip(1).collect::<Vec<_>>().join(".").split('_') {
        let number = |prefix: &str| word.strip_prefix(prefix).and_then(|n| n.parse::<f32>().ok());
        match word {
            "early" => options.early_stopping = EarlyStopping::True,
            "never" => options.early_stopping = EarlyStopping::Never,
            "greedy" => {}
            _ => {
                if let Some(n) = number("beam") {
                    options.num_beams = n as usize;
                } else if let Some(n) = number("min") {
                    options.min_new_tokens = n as usize;
                } else if let Some(n) = number("lp") {
                    options.length_penalty = n;
                } else if let Some(n) = number("ret") {
                    options.num_return_sequences = n as usize;
                } else if let Some(n) = number("rep") {
                    options.repetition_penalty = n;
                } else if let Some(n) = number("ngram") {
                    options.no_repeat_ngram_size = n as usize;
                } else {
                    panic!("{key}: what is {word}?");
                }
            }
        }
    }
    options
}

fn check_generation(e: &Expected, model: &Model, folder: &str, repeat_time: usize) {
    let keys: Vec<String> = e.keys().into_iter().filter(|k| k.starts_with("generate") && !k.ends_with("_id")).collect();
    for key in keys {
        let expected = e.i64(&key);
        let found = generated(e, model, &options_of(e, &key), repeat_time);
        let width = expected.shape[1];
        assert_eq!(found.len(), expected.shape[0], "{folder} {key}");
        for (row, (ids, expected)) in found.iter().zip(expected.values.chunks(width)).enumerate() {
            // The library's BOS in front, padding behind.
            let mut padded = vec![1i64];
            padded.extend(ids.iter().map(|&id| i64::from(id)));
            padded.resize(width, 0);
            assert_eq!(padded, expected, "{folder} {key} row {row}");
        }
        println!("{folder} {key}: equal");
    }
}

fn generated(e: &Expected, model: &Model, options: &GenerateOptions, repeat_time: usize) -> Vec<Vec<u32>> {
    let inputs = PromptInputs {
        query_embeds: Some(e.f32("query_embeds")),
        input_ids: Some(e.i64("input_ids")),
        attention_mask: Some(e.i64("attention_mask")),
        vision_hidden_states: Some(e.f32("vision_hidden_states")),
        repeat_time: Some(repeat_time),
        ..Default::default()
    };
    let all = block_on(model.generate_from(&inputs, options, &mut |_| true)).unwrap();
    all.into_iter().flatten().map(|g| g.ids).collect()
}

#[test]
fn base() {
    check("qllama-base", &gpu(), 1e-9, None);
}

#[test]
fn ragged() {
    check("qllama-ragged", &gpu(), 1e-9, None);
}

#[test]
fn repeat() {
    check("qllama-repeat", &gpu(), 1e-9, Some(2));
}

#[test]
fn outliers() {
    check("qllama-outliers", &gpu(), 1e-9, None);
}

#[test]
fn packed_4_bits_symmetric() {
    check("qllama-w4-g32-sym", &gpu(), 1e-7, None);
}

#[test]
fn packed_4_bits_with_zero_points() {
    check("qllama-w4-g64-asym", &gpu(), 1e-7, None);
}

#[test]
fn packed_8_bits() {
    check("qllama-w8-channel", &gpu(), 1e-7, None);
}

#[test]
fn the_cpu_executor_agrees() {
    check("qllama-ragged", &Device::cpu(), 1e-9, None);
}
