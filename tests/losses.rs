//! A device lost at submissions and waits of a task, by `destroy()`, which stands for a driver's fault: the same results as
//! without, to the bit, and nothing told twice. At a few of them, and with `QLLAMA_ALL_FAULTS=1` at every one.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::common::engine::{
    Array, Builder, Device, Error, Folder, ForwardInputs, GenerateOptions, Location, Mode, Model, PastKeyValues,
    Picture, Piece, Prompt, Result, Sampling,
};
use crate::common::{EMOJI, new_gpu, path};

const MODEL: &str = "models/emoji-tiny-w4";

/// How often a model recovered, and the longest that it took.
type Recoveries = Rc<Cell<usize>>;

fn builder(device: &Device, recoveries: &Recoveries) -> Builder<'static> {
    builder_of(MODEL, device, recoveries)
}

fn builder_of(folder: &str, device: &Device, recoveries: &Recoveries) -> Builder<'static> {
    let recoveries = recoveries.clone();
    let location = Location::Folder(Box::new(Folder::open(path(folder)).unwrap()));
    Builder::new(location).device(device).on_recovered(move |_| recoveries.set(recoveries.get() + 1))
}

/// The moments of a task at which the device is lost, of so many.
fn moments(all: u64) -> impl Iterator<Item = u64> {
    let step = if std::env::var_os("QLLAMA_ALL_FAULTS").is_some() { 1 } else { all.div_ceil(5) };
    (1..=all).step_by(step as usize)
}

fn picture(file: &str) -> Picture {
    Picture::open(path("models/emoji-tiny/pictures").join(file)).unwrap()
}

/// Whether a device came to a moment. How much goes into a submission follows the adapter's speed, so that a task may
/// have fewer of them than it had before.
fn reached(device: &Device, moment: u64) -> bool {
    device.as_gpu().unwrap().moments() >= moment
}

/// What a task gives: everything that a caller sees of it.
type Seen = Vec<String>;

/// Sequences as they were told and as they came back.
fn write(model: &Model, options: &GenerateOptions) -> Result<Seen> {
    let picture = picture("noto-cat.png");
    let options = GenerateOptions { max_new_tokens: 5, eos_token_ids: Some(Vec::new()), ..options.clone() };
    let prompt = Prompt { picture: Some(&picture), text: Some("English caption:"), ids: None };
    let mut seen = Vec::new();
    let all = model.generate_with(prompt, &options, &mut |piece: Piece<'_>| {
        seen.push(format!("{piece:?}"));
        ControlFlow::Continue(())
    })?;
    seen.push(format!("{all:?}"));
    Ok(seen)
}

fn greedy(model: &Model) -> Result<Seen> {
    write(model, &GenerateOptions::default())
}

fn beams(model: &Model) -> Result<Seen> {
    write(model, &GenerateOptions { num_beams: 5, repetition_penalty: 1.2, ..Default::default() })
}

fn sampled(model: &Model) -> Result<Seen> {
    let sampling = Some(Sampling { seed: 7, ..Default::default() });
    write(model, &GenerateOptions { sampling, num_return_sequences: 2, ..Default::default() })
}

fn matched(model: &Model) -> Result<Seen> {
    let pictures = ["noto-cat.png", "noto-sunflower.png"].map(picture);
    let table = |mode| model.match_texts(&pictures, &["a cat", "a flower"], mode);
    Ok(vec![format!("{:?}", [table(Mode::C)?, table(Mode::G)?, table(Mode::Itm)?])])
}

fn embedded(model: &Model) -> Result<Seen> {
    let picture = picture("noto-cat.png");
    let map = model.attention_map(&picture, None)?;
    Ok(vec![format!("{:?} {:?} {map:?}", model.embed_picture(&picture, Mode::G)?, model.embed_text("a cat")?)])
}

fn ids(ids: &[i64]) -> Option<Array<i64>> {
    Some(Array::new(&[1, ids.len()], ids.to_vec()))
}

/// Calls with a cache: padding, a step, rows that are taken back, and what the cache holds at the end.
fn cached(model: &Model) -> Result<Seen> {
    let asked = || ForwardInputs { use_cache: true, output_logits: true, ..Default::default() };
    let mask = Some(Array::new(&[1, 4], vec![0, 1, 1, 1]));
    let first = model.forward(&mut ForwardInputs { input_ids: ids(&[0, 1, 5, 9]), attention_mask: mask, ..asked() })?;
    let mut seen = vec![format!("{:?}", first.logits)];
    let mut past_key_values = first.past_key_values;
    for step in 0..4 {
        if step == 2 {
            past_key_values.as_mut().unwrap().truncate(4);
        }
        let mut inputs = ForwardInputs { input_ids: ids(&[20 + step]), past_key_values, ..asked() };
        let outputs = model.forward(&mut inputs)?;
        seen.push(format!("{:?}", outputs.logits));
        past_key_values = outputs.past_key_values;
    }
    let mut past = past_key_values.unwrap();
    let arrays = past.to_arrays(model)?;
    let mut other = PastKeyValues::from_arrays(model, &arrays)?;
    other.truncate(5);
    let mut inputs = ForwardInputs { input_ids: ids(&[7]), past_key_values: Some(other), ..asked() };
    seen.push(format!("{arrays:?} {:?}", model.forward(&mut inputs)?.logits));
    Ok(seen)
}

/// Runs a task with its device lost at its submissions and waits in turn.
fn check(name: &str, task: fn(&Model) -> Result<Seen>) {
    let undisturbed = {
        let device = new_gpu();
        let model = builder(&device, &Recoveries::default()).load().unwrap();
        // The first time, kernels are checked.
        task(&model).unwrap();
        device.as_gpu().unwrap().lose_at(0);
        let seen = task(&model).unwrap();
        (seen, device.as_gpu().unwrap().moments())
    };
    let (expected, all) = undisturbed;
    assert!(all > 4, "{name}: {all} submissions and waits");
    let (mut slowest, mut losses) = (Duration::ZERO, 0);
    for moment in moments(all) {
        let (device, recoveries) = (new_gpu(), Recoveries::default());
        let model = builder(&device, &recoveries).load().unwrap();
        device.as_gpu().unwrap().lose_at(moment);
        let started = Instant::now();
        let seen = task(&model).unwrap_or_else(|e| panic!("{name}, lost at {moment} of {all}: {e}"));
        slowest = slowest.max(started.elapsed());
        assert_eq!(seen, expected, "{name}, lost at {moment} of {all}");
        let reached = usize::from(reached(&device, moment));
        assert_eq!(recoveries.get(), reached, "{name}, lost at {moment} of {all}");
        losses += reached;
    }
    assert!(losses > moments(all).count() / 2, "{name}: lost at {losses} of {all} moments");
    println!("{name}: lost at {losses} of {all} moments, the slowest run took {slowest:.1?}");
}

#[test]
fn captions_survive_losses() {
    check("greedy", greedy);
    check("5 beams", beams);
    check("sampled", sampled);
}

#[test]
fn tables_and_embeddings_survive_losses() {
    check("match", matched);
    check("embed", embedded);
}

#[test]
fn caches_survive_losses() {
    check("forward with a cache", cached);
}

#[test]
fn loading_survives_losses() {
    let device = new_gpu();
    device.as_gpu().unwrap().lose_at(0);
    let expected = greedy(&builder_of(EMOJI, &device, &Recoveries::default()).load().unwrap()).unwrap();
    let all = {
        let device = new_gpu();
        device.as_gpu().unwrap().lose_at(0);
        builder_of(EMOJI, &device, &Recoveries::default()).load().unwrap();
        device.as_gpu().unwrap().moments()
    };
    assert!(all > 4, "{all} submissions and waits");
    let mut losses = 0;
    for moment in moments(all) {
        let (device, recoveries) = (new_gpu(), Recoveries::default());
        device.as_gpu().unwrap().lose_at(moment);
        let told = RefCell::new(Vec::new());
        let model =
            builder_of(EMOJI, &device, &recoveries).on_progress(|p| told.borrow_mut().push(p.bytes)).load().unwrap();
        assert!(told.borrow().is_sorted(), "progress goes back");
        assert_eq!(greedy(&model).unwrap(), expected, "lost at {moment} of {all}");
        let reached = usize::from(reached(&device, moment));
        assert_eq!(recoveries.get(), reached, "lost at {moment} of {all}");
        losses += reached;
    }
    assert!(losses > moments(all).count() / 2, "loading: lost at {losses} of {all} moments");
    println!("loading: lost at {losses} of {all} moments");
}

/// A device that is lost again and again ends the call with what was done, and the next one works.
#[test]
fn three_losses_without_progress_end_a_call() {
    let device = Rc::new(RefCell::new(new_gpu()));
    let destroy = |device: &Device| device.as_gpu().unwrap().destroy();
    let model = builder(&device.borrow(), &Recoveries::default()).load().unwrap();
    let expected = greedy(&model).unwrap();
    let runs = Cell::new(0);
    let lost = pollster::block_on(model.run(async |network| -> Result<()> {
        runs.set(runs.get() + 1);
        destroy(network.device());
        Err(Error::DeviceLost { reason: "by request".into() })
    }));
    let error = lost.unwrap_err();
    assert_eq!((error.code(), runs.get()), ("E_DEVICE_LOST", 3));
    assert!(error.to_string().contains("opened again 2 times"), "{error}");
    assert_eq!(greedy(&model).unwrap(), expected);

    // Pieces that were told are progress: a loss after each is not one too many.
    let mut calls = 0;
    let options = GenerateOptions { max_new_tokens: 5, eos_token_ids: Some(Vec::new()), ..Default::default() };
    let found = model.generate_with("The", &options, &mut |_| {
        calls += 1;
        destroy(model.network().device());
        ControlFlow::Continue(())
    });
    assert_eq!(found.unwrap()[0].ids.len(), 5);
    assert!(calls >= 5, "{calls} pieces");
}

/// Without recovery all is as the device left it.
#[test]
fn recovery_can_be_turned_off() {
    let (device, recoveries) = (new_gpu(), Recoveries::default());
    let model = builder(&device, &recoveries).recover(false).load().unwrap();
    device.as_gpu().unwrap().lose_at(3);
    assert_eq!(greedy(&model).unwrap_err().code(), "E_DEVICE_LOST");
    assert_eq!(greedy(&model).unwrap_err().code(), "E_DEVICE_LOST");
    let again = builder(&device, &recoveries).recover(false).load();
    assert_eq!((again.err().unwrap().code(), recoveries.get()), ("E_DEVICE_LOST", 0));
}

/// Two models on one device share what takes its place, and its budget.
#[test]
fn models_of_one_device_go_on_together() {
    let device = new_gpu();
    device.set_memory_budget(1 << 30);
    let [one, two] = [(); 2].map(|()| builder(&device, &Recoveries::default()).load().unwrap());
    let expected = greedy(&one).unwrap();
    let held = one.memory().0;
    device.as_gpu().unwrap().destroy();
    assert_eq!(greedy(&one).unwrap(), expected);
    assert_eq!(greedy(&two).unwrap(), expected);
    assert_eq!(one.memory().0, held);
    assert_eq!(one.memory(), two.memory());
    assert_eq!(one.network().device().memory_budget(), 1 << 30);
    drop((one, two));
    assert_eq!(device.memory().0, 0, "the lost device holds nothing");
}
