//! Host memory that is refused: each large allocation of reading files, loading and captions in turn. All end with the right
//! text or with `E_OOM`, and the next call works.
//!
//! Small allocations are not tried: of those a refusal ends the program, as it does within decoders of pictures, which are
//! given what they may take or are not begun (`picture_memory.rs`).

use crate::common::engine::{Check, Device, Mode, Model, Picture, Result};
use crate::common::heap::{alone, refusing};
use crate::common::{BASE, EMOJI, gpu, path};

/// From so many bytes on an allocation is tried: of weights; where a tokenizer is read, above what its parser makes of a table
/// of 240 kB; and of a task.
const LARGE_IN_WEIGHTS: usize = 16 << 10;
const LARGE_IN_FILES: usize = 256 << 10;
const LARGE: usize = 64 << 10;

/// Of which so many are tried, and with `QLLAMA_ALL_FAULTS=1` all.
const TRIES: u64 = 20;

/// Runs something with each of its large allocations refused; how many were errors.
fn each(what: &str, least: usize, mut run: impl FnMut() -> Result<String>) -> u64 {
    // With pipelines that are there: what is made by compiling them is not asked for.
    let expected = run().unwrap();
    let (_, count) = refusing(least, 0, &mut run);
    let mut errors = 0;
    let step = if std::env::var_os("QLLAMA_ALL_FAULTS").is_some() { 1 } else { count.div_ceil(TRIES) };
    for n in (1..=count).step_by(step as usize) {
        match refusing(least, n, &mut run).0 {
            Ok(said) => assert_eq!(said, expected, "{what}, allocation {n} refused"),
            Err(error) => {
                assert_eq!(error.code(), "E_OOM", "{what}, allocation {n} refused: {error}");
                errors += 1;
            }
        }
    }
    assert_eq!(run(), Ok(expected), "{what}, behind all");
    println!("{what}: {count} large allocations, of which one in {step} was refused: {errors} errors");
    errors
}

fn load(folder: &str, device: &Device) -> Result<Model> {
    Model::builder(path(folder)).device(device).check(Check::Off).load()
}

/// Everything that a person asks of a model.
fn work(model: &Model, picture: &Picture) -> Result<String> {
    let caption = model.caption(picture, &Default::default())?;
    let table = model.match_texts(std::slice::from_ref(picture), &["a cat", "a flower"], Mode::Itm)?;
    Ok(format!("{caption:?} {table:?}"))
}

#[test]
fn refused_memory_is_an_error() {
    let _alone = alone();
    let picture = Picture::open(path("models/emoji-tiny/pictures/noto-cat.png")).unwrap();
    for (name, device) in [("CPU executor", Device::cpu()), ("first adapter", gpu())] {
        let errors = each(&format!("loading without a tokenizer, {name}"), LARGE_IN_WEIGHTS, || {
            load(BASE, &device).map(|_| String::new())
        });
        assert!(errors > 0, "loading without a tokenizer, {name}");
        let errors = each(&format!("loading, {name}"), LARGE_IN_FILES, || load(EMOJI, &device).map(|_| String::new()));
        assert!(errors > 0, "loading, {name}");
        let model = load(EMOJI, &device).unwrap();
        let held = device.memory().0;
        let errors = each(&format!("caption and match, {name}"), LARGE, || work(&model, &picture));
        assert!(errors > 0, "caption and match, {name}");
        assert_eq!(device.memory().0, held, "{name}: memory is left behind");
    }
}
