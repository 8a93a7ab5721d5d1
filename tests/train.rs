//! Gradients and training steps against what PyTorch and `peft` computed: every key of the `train-*` fixtures.

use crate::common::engine::{
    AdapterWeights, Array, Batch, Device, Folder, ForwardInputs, Gradients, Model, Objective, Of, TensorType,
    TrainerOptions, TrainingState, read_tensors,
};
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

/// A fixture's inputs of a step.
fn batch_of(e: &Expected) -> Batch {
    Batch {
        input_ids: e.i64("input_ids"),
        attention_mask: e.i64("attention_mask"),
        labels: e.i64("labels"),
        query_embeds: Some(e.f32("query_embeds")),
        vision_hidden_states: Some(e.f32("vision_hidden_states")),
    }
}

/// Ten steps of AdamW from the published adapter: losses, norms, rates, weights and moments.
#[test]
fn ten_steps() {
    let folder = "train-qllama";
    let bytes = std::fs::read(fixture(folder).join("steps.safetensors")).unwrap();
    let tensors = read_tensors("steps.safetensors", &bytes).unwrap();
    let expected = |name: &str| {
        let tensor = tensors.get(name).unwrap_or_else(|| panic!("no {name}"));
        let values = match tensor.dtype {
            TensorType::F64 => tensor.data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            _ => tensor.to_f32().unwrap(),
        };
        Array::new(&tensor.shape, values)
    };
    let source = Folder::open(fixture(folder).join("adapter")).unwrap();
    let start = block_on(AdapterWeights::read(&source)).unwrap();
    let e = Expected::open(folder);
    let batch = batch_of(&e);
    for device in [gpu(), Device::cpu()] {
        let mut model = load("tests/data/fixtures/qllama-base", &device);
        let options = TrainerOptions { first_step: 0, steps: 10, warmup: 3, ..Default::default() };
        let mut trainer = block_on(model.trainer_async(options, Some(start.clone()))).unwrap();
        let checks = Checks::default();
        let (mut losses, mut norms, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for step in 1..=10 {
            let report = block_on(trainer.step(std::slice::from_ref(&batch))).unwrap();
            assert!(!report.skipped && report.step == step);
            losses.push(report.loss);
            norms.push(report.grad_norm);
            rates.push(report.learning_rate);
            if tensors.keys().any(|name| name.starts_with(&format!("step_{step}."))) {
                let learned = block_on(trainer.adapter()).unwrap();
                for (module, found) in &learned.modules {
                    let before = &start.modules[module];
                    for (half, before, found) in [("A", &before.a, &found.a), ("B", &before.b, &found.b)] {
                        let name = format!("step_{step}.{}.lora_{half}.weight", before_name(&start, module));
                        let wanted = expected(&name);
                        checks.close(&name, &wanted, found, 1e-8);
                        if step == 10 {
                            let moved = |array: &Array<f32>| {
                                let values = array.values.iter().zip(&before.values).map(|(now, then)| now - then);
                                Array::new(&array.shape, values.collect())
                            };
                            checks.close(&format!("{name}, moved"), &moved(&wanted), &moved(found), 1e-6);
                        }
                    }
                }
            }
        }
        losses.push(block_on(trainer.evaluate(&batch)).unwrap());
        for (name, found) in [("losses", losses), ("grad_norms", norms), ("learning_rates", rates)] {
            checks.close(name, &expected(name), &Array::new(&[found.len()], found), 1e-8);
        }
        checks.finish();
    }
}

/// A module's name in the adapter's file.
fn before_name<'a>(weights: &'a AdapterWeights, module: &str) -> &'a str {
    &weights.modules[module].stored_name
}

/// A run that stops and goes on ends where an uninterrupted one does, to the bit.
#[test]
fn a_run_goes_on_as_if_it_had_not_stopped() {
    let e = Expected::open("train-qllama");
    let batch = batch_of(&e);
    let device = gpu();
    let options = TrainerOptions { rank: 2, steps: 4, warmup: 1, ..Default::default() };
    let mut model = load("tests/data/fixtures/qllama-base", &device);
    let learn = |model: &mut Model, from: Option<&TrainingState>, steps: usize| {
        let mut trainer = block_on(model.trainer_async(options.clone(), None)).unwrap();
        if let Some(state) = from {
            trainer.restore(state).unwrap();
        }
        let mut losses = Vec::new();
        for _ in 0..steps {
            losses.push(block_on(trainer.step(std::slice::from_ref(&batch))).unwrap().loss);
        }
        (losses, block_on(trainer.state()).unwrap())
    };
    let (losses, whole) = learn(&mut model, None, 4);
    assert!(losses[3] < losses[0], "nothing was learned: {losses:?}");
    let (_, half) = learn(&mut model, None, 2);
    assert_eq!((half.steps, half.moves), (2, 2));
    let (rest, resumed) = learn(&mut model, Some(&half), 2);
    assert_eq!(rest, losses[2..]);
    assert!(resumed == whole, "weights and moments differ");
}

/// New adapters change nothing, a strength of 0 takes everything away, and what does not fit is named.
#[test]
fn adapters_come_and_go() {
    let device = Device::cpu();
    let e = Expected::open("train-qllama");
    let plain = load("tests/data/fixtures/qllama-base", &device);
    let logits = |model: &Model| {
        let mut given = ForwardInputs { output_logits: true, labels: None, ..inputs(&e, "") };
        model.forward(&mut given).unwrap().logits.unwrap().values
    };
    let before = logits(&plain);
    let mut model = adapted("qllama-base", "train-qllama", &device);
    assert_ne!(logits(&model), before);
    let source = Folder::open(fixture("train-qllama").join("adapter")).unwrap();
    let weights = block_on(AdapterWeights::read(&source)).unwrap();
    model.use_adapter(&weights, 0.5).unwrap();
    assert_eq!(model.adapter().unwrap().1, 0.5);
    let half = logits(&model);
    assert!(half != before && half != e.f32("logits").values);
    let mut foreign = weights.clone();
    let (_, low_rank) = foreign.modules.pop_first().unwrap();
    foreign.modules.insert("model.layers.9.mlp.up_proj".into(), low_rank);
    let error = model.use_adapter(&foreign, 1.0).unwrap_err();
    assert!(error.code() == "E_INPUT" && error.to_string().contains("model.layers.9"), "{error}");
    assert_eq!(logits(&model), half, "the adapter before stays in use");
    model.use_adapter(&weights, 0.0).unwrap();
    assert_eq!(logits(&model), before);
    assert!(model.adapter().is_none());
}
