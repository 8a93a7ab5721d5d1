//! Gradients and training steps against what PyTorch and `peft` computed: every key of the `train-*` fixtures.

use crate::common::engine::{AdapterWeights, Array, Device, Folder, ForwardInputs, Gradients, Model, Objective, Of};
use crate::common::{Checks, Expected, close, fixture, gpu, load};
use pollster::block_on;

/// Of losses and logits, of gradients, and of gradients on a base in 4 bits: what `training.md` allows.
const LOSS: f64 = 1e-9;
const DENSE: f64 = 1e-8;
const PACKED: f64 = 1e-6;

/// The model of a fixture with its adapter in use.
fn adapted(base: &str, folder: &str, device: &Device) -> Model {
    let mut model = load(&format!("tests/data/fixtures/{base}"), device);
    let source = Folder::open(fixture(folder).join("adapter")).unwrap();
    let weights = block_on(AdapterWeights::read(&source)).unwrap();
    model.use_adapter(&weights, 1.0).unwrap();
    model
}

/// The inputs that a fixture has under `prefix`.
fn inputs(e: &Expected, prefix: &str) -> ForwardInputs {
    let at = |name: &str| format!("{prefix}{name}");
    let floats = |name: &str| e.has(&at(name)).then(|| e.f32(&at(name)));
    let whole = |name: &str| e.has(&at(name)).then(|| e.i64(&at(name)));
    ForwardInputs {
        input_ids: whole("input_ids"),
        attention_mask: whole("attention_mask"),
        labels: whole("labels"),
        query_embeds: floats("query_embeds"),
        vision_hidden_states: floats("vision_hidden_states"),
        use_zero_attention_mask: prefix.is_empty() && e.has("query_embeds"),
        ..Default::default()
    }
}

/// Compares every gradient that a fixture has under `prefix`.
fn compare(checks: &Checks, e: &Expected, prefix: &str, found: &Gradients, limit: f64) {
    let start = format!("{prefix}grad.");
    for key in e.keys() {
        if let Some(name) = key.strip_prefix(&start)
            && name != "last_hidden_state"
        {
            checks.hold(&key, || close(&key, &e.f32(&key), of(found, name), limit));
        }
        let parts = ["grad_first_320_columns.", "grad_norm."].map(|part| format!("{prefix}{part}"));
        for (part, start) in parts.iter().enumerate() {
            let Some(name) = key.strip_prefix(start) else { continue };
            let whole = of(found, name);
            let found = match part {
                0 => {
                    let width = whole.shape[1];
                    let values: Vec<f32> = whole.values.chunks(width).flat_map(|row| &row[..320]).copied().collect();
                    Array::new(&[whole.shape[0], 320], values)
                }
                _ => {
                    let square: f64 = whole.values.iter().map(|v| f64::from(*v).powi(2)).sum();
                    Array::new(&e.f32(&key).shape, vec![square.sqrt() as f32])
                }
            };
            checks.hold(&key, || close(&key, &e.f32(&key), &found, limit));
        }
    }
}

fn of<'g>(found: &'g Gradients, name: &str) -> &'g Array<f32> {
    found.tensors.get(name).unwrap_or_else(|| panic!("no gradient of {name}"))
}

/// A call of `forward` with labels.
fn labels(base: &str, folder: &str, device: &Device, wanted: Of, limit: f64) {
    let model = adapted(base, folder, device);
    let e = Expected::open(folder);
    let checks = Checks::default();
    for prefix in ["", "text."] {
        if !e.has(&format!("{prefix}loss")) {
            continue;
        }
        let given = inputs(&e, prefix);
        checks.run(&format!("{folder} {prefix}"), || {
            let found = block_on(model.gradients_async(&given, Objective::Labels, wanted))?;
            let loss = Array::new(&[1], vec![found.loss]);
            checks.close(&format!("{folder} {prefix}loss"), &e.f32(&format!("{prefix}loss")), &loss, LOSS);
            compare(&checks, &e, prefix, &found, limit);
            Ok(())
        });
        if e.has(&format!("{prefix}logits")) {
            checks.run(&format!("{folder} {prefix}logits"), || {
                let mut given = ForwardInputs { output_logits: true, labels: None, ..inputs(&e, prefix) };
                let outputs = model.forward(&mut given)?;
                let key = format!("{prefix}logits");
                checks.close(&format!("{folder} {key}"), &e.f32(&key), &outputs.logits.unwrap(), LOSS);
                Ok(())
            });
        }
    }
    checks.finish();
}

#[test]
fn gradients_of_every_weight() {
    for device in [gpu(), Device::cpu()] {
        labels("qllama-base", "train-qllama", &device, Of::All, DENSE);
    }
}

#[test]
fn gradients_beside_weights_of_4_bits() {
    for device in [gpu(), Device::cpu()] {
        labels("qllama-w4-g32-sym", "train-w4-g32-sym", &device, Of::Inputs, PACKED);
        labels("qllama-w4-g64-asym", "train-w4-g64-asym", &device, Of::Inputs, PACKED);
    }
}

#[test]
fn gradients_of_grouped_keys_and_a_tied_embedding() {
    for device in [gpu(), Device::cpu()] {
        labels("train-llama-gqa", "train-llama-gqa", &device, Of::All, DENSE);
    }
}

#[test]
fn gradients_of_a_given_one() {
    let folder = "train-repeat";
    for device in [gpu(), Device::cpu()] {
        let model = adapted("qllama-repeat", folder, &device);
        let e = Expected::open(folder);
        let mut given = inputs(&e, "");
        given.attention_mask = None;
        given.use_zero_attention_mask = false;
        given.repeat_time = Some(3);
        let (gradient, mask) = (e.f32("grad.last_hidden_state"), e.f32("additive_mask"));
        let objective = Objective::Given { gradient: &gradient, additive_mask: Some(&mask) };
        let found = block_on(model.gradients_async(&given, objective, Of::All)).unwrap();
        let checks = Checks::default();
        compare(&checks, &e, "", &found, DENSE);
        checks.finish();
    }
}
