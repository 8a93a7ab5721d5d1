//! The library after a call that failed, was cancelled or lost its device: caches and models are usable as before.

use std::ops::ControlFlow;

use crate::common::engine::{
    Array, Builder, Device, Error, Folder, ForwardInputs, GenerateInputs, GenerateOptions, Location, Model,
    PastKeyValues, Piece, PixelValues, Prompt, Result,
};
use crate::common::{BASE, Expected, TINY, generate, go_on, gpu, load, new_gpu, path, prompt};

fn array(e: &Expected, rows: usize) -> ForwardInputs {
    let ids = e.i64("loss.input_ids");
    let values = ids.values[..rows].to_vec();
    ForwardInputs { input_ids: Some(Array::new(&[1, rows], values)), output_logits: true, ..Default::default() }
}

/// Makes inputs wrong.
type Change = fn(&mut ForwardInputs);

/// A call that fails leaves the cache with the caller, as it was.
#[test]
fn the_cache_survives_errors() {
    let e = Expected::open("qllama-base");
    let model = load(BASE, &Device::cpu());
    let filled = || -> PastKeyValues {
        let mut inputs = ForwardInputs { use_cache: true, ..array(&e, 5) };
        model.forward(&mut inputs).unwrap().past_key_values.unwrap()
    };
    let step = |past| ForwardInputs { past_key_values: Some(past), ..array(&e, 3) };
    let expected = model.forward(&mut step(filled())).unwrap().logits.unwrap();

    let mut inputs = step(filled());
    let breaks: [(Change, &str); 5] = [
        (|i| i.input_ids.as_mut().unwrap().values[1] = -1, "E_TOKEN"),
        (|i| i.attention_mask = Some(Array::new(&[1, 3], vec![1; 3])), "E_INPUT_SHAPE"),
        (|i| i.position_ids = Some(Array::new(&[1, 3], vec![600; 3])), "E_CONTEXT"),
        (|i| i.vision_hidden_states = Some(Array::new(&[1, 1, 7], vec![0.0; 7])), "E_INPUT_SHAPE"),
        (|i| i.inputs_embeds = Some(Array::new(&[1, 1, 1], vec![f32::NAN])), "E_INPUT"),
    ];
    for (change, code) in breaks {
        change(&mut inputs);
        let error = model.forward(&mut inputs).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(inputs.past_key_values.as_ref().map(PastKeyValues::len), Some(5), "{error}");
        let past = inputs.past_key_values.take().unwrap();
        inputs = step(past);
    }
    assert_eq!(model.forward(&mut inputs).unwrap().logits.unwrap(), expected);
    // The call asked for no new cache, so the old one is there still.
    assert_eq!(model.forward(&mut inputs).unwrap().logits.unwrap(), expected);

    let other = load(BASE, &Device::cpu());
    let error = other.forward(&mut inputs).err().unwrap();
    assert!(error.to_string().contains("another model"), "{error}");
    assert!(inputs.past_key_values.is_some());
    let error = model.forward_train(&mut inputs, None).err().unwrap();
    assert!(error.to_string().contains("past_key_values"), "{error}");
    assert_eq!(model.forward(&mut inputs).unwrap().logits.unwrap(), expected);
}

/// What was not asked for is not computed, and what was does not change the rest by a bit.
#[test]
fn more_outputs_change_nothing() {
    let e = Expected::open("qllama-base");
    let model = load(BASE, &gpu());
    let plain = model.forward(&mut array(&e, 9)).unwrap();
    let mut all = ForwardInputs {
        output_attentions: true,
        output_cross_attentions: true,
        output_hidden_states: true,
        output_last_hidden_state: true,
        use_cache: true,
        ..array(&e, 9)
    };
    assert_eq!(plain.logits, model.forward(&mut all).unwrap().logits);
    assert!(plain.hidden_states.is_empty() && plain.attentions.is_empty() && plain.past_key_values.is_none());
}

/// `on_token` ends a generation within a step, and the model goes on working.
#[test]
fn cancelling() {
    for device in [Device::cpu(), gpu()] {
        let model = load(BASE, &device);
        let inputs = prompt(&[1, 17, 40, 5]);
        for num_beams in [1, 3] {
            let options =
                GenerateOptions { num_beams, max_new_tokens: 8, eos_token_ids: Some(Vec::new()), ..Default::default() };
            let whole = generate(&model, &inputs, &options).unwrap();
            assert_eq!(whole[0].len(), 8);
            for stop_after in [1, 3] {
                let mut calls = 0;
                let stopped = model.generate_from(&inputs, &options, &mut |_| {
                    calls += 1;
                    if calls < stop_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
                assert_eq!(stopped, Err(Error::Aborted));
                assert_eq!(calls, stop_after, "{num_beams} beams: a step more was taken");
            }
            let again = generate(&model, &inputs, &options).unwrap();
            assert_eq!(whole, again);
        }
    }
}

/// Bad input to the library, and the model usable after.
#[test]
fn bad_prompts() {
    let model = load(TINY, &Device::cpu());
    let options = GenerateOptions { max_new_tokens: 2, ..Default::default() };
    let generate = |inputs: &GenerateInputs| generate(&model, inputs, &options);
    let prompt = |values: Vec<i64>| GenerateInputs {
        input_ids: Some(Array::new(&[1, values.len()], values)),
        ..Default::default()
    };
    let whole = generate(&prompt(vec![1, 2])).unwrap();
    let pixels =
        |side: usize| Some(PixelValues { batch: 1, height: side, width: side, values: vec![0.0; 3 * side * side] });
    let cases = [
        (GenerateInputs::default(), "E_INPUT"),
        (prompt(vec![1 << 40]), "E_TOKEN"),
        (GenerateInputs { pixel_values: pixels(5), ..prompt(vec![1]) }, "E_INPUT_SHAPE"),
        (GenerateInputs { pixel_values: pixels(0), ..prompt(vec![1]) }, "E_INPUT_SHAPE"),
        (
            GenerateInputs { repeat_time: Some(usize::MAX), pixel_values: pixels(28), ..prompt(vec![1]) },
            "E_INPUT_SHAPE",
        ),
        (GenerateInputs { repeat_time: Some(0), pixel_values: pixels(28), ..Default::default() }, "E_INPUT"),
    ];
    for (inputs, code) in cases {
        let error = generate(&inputs).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let nothing: &[u32] = &[];
    let none = model.generate(Prompt { ids: Some(nothing), ..Default::default() }, &options).unwrap_err();
    assert_eq!(none.code(), "E_INPUT", "{none}");
    assert_eq!(generate(&prompt(vec![1, 2])).unwrap(), whole);
}

/// Without recovery, every call on a lost device says so, and the next load, on a device opened anew, works.
#[test]
fn a_lost_device() {
    let run = |model: &Model| -> Result<Vec<Vec<u32>>> {
        let options = GenerateOptions { max_new_tokens: 2, ..Default::default() };
        generate(model, &prompt(&[1, 2, 3]), &options)
    };
    let load = |device: &Device| {
        let location = Location::Folder(Box::new(Folder::open(path(BASE)).unwrap()));
        Builder::new(location).device(device).recover(false).load()
    };
    let device = new_gpu();
    let model = load(&device).unwrap();
    let expected = run(&model).unwrap();
    device.as_gpu().unwrap().destroy();
    assert_eq!(run(&model).unwrap_err().code(), "E_DEVICE_LOST");
    let e = Expected::open("qllama-base");
    assert_eq!(model.forward(&mut array(&e, 4)).err().unwrap().code(), "E_DEVICE_LOST");
    assert_eq!(load(&device).err().unwrap().code(), "E_DEVICE_LOST");
    drop(model);
    assert_eq!(run(&load(&new_gpu()).unwrap()).unwrap(), expected);

    // Lost between two tokens.
    let device = new_gpu();
    let model = load(&device).unwrap();
    let options = GenerateOptions { max_new_tokens: 5, eos_token_ids: Some(Vec::new()), ..Default::default() };
    let mut calls = 0;
    let lost = model.generate_from(&prompt(&[1, 2, 3]), &options, &mut |piece: Piece<'_>| {
        calls += 1;
        device.as_gpu().unwrap().destroy();
        go_on(piece)
    });
    assert_eq!((lost.unwrap_err().code(), calls), ("E_DEVICE_LOST", 1));
}
