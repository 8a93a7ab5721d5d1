//! Captions of many pictures at once are those of one at a time.

use std::time::Instant;

use crate::common::engine::{
    Array, CAPTION_PROMPT, Device, GenerateInputs, GenerateOptions, KvCacheType, Model, PixelValues, Prompt,
};
use crate::common::{EMOJI, code, expected_captions, gpu, load, new_gpu, picture_step, pixels};

/// The pictures and their captions' ids as the published modules made them.
fn expected(model: &Model, step: usize, key: &str) -> (Vec<PixelValues>, Vec<Vec<u32>>) {
    let expected = expected_captions(EMOJI);
    let pictures: Vec<_> = expected["pictures"].as_array().unwrap().iter().step_by(step).collect();
    let ids = |e: &serde_json::Value| serde_json::from_value(e[key].clone()).unwrap();
    (
        pictures.iter().map(|e| pixels(model, e["file"].as_str().unwrap())).collect(),
        pictures.iter().map(|e| ids(e)).collect(),
    )
}

/// Captions of all pictures by a batch that is kept full; ids without those that ended them.
fn by_batch(model: &Model, pictures: &[PixelValues], options: &GenerateOptions, size: usize) -> Vec<Vec<u32>> {
    let mut batch = model.batch(CAPTION_PROMPT, options, size).unwrap();
    let mut found = vec![None; pictures.len()];
    let mut next = pictures.iter().cloned().enumerate();
    loop {
        let new: Vec<_> = next.by_ref().take(batch.room()).collect();
        let mut ended = batch.add(new).unwrap();
        ended.extend(batch.step().unwrap());
        for (key, caption) in ended {
            assert!(found[key].replace(caption.unwrap().ids).is_none(), "picture {key} ended twice");
        }
        if next.len() == 0 && batch.open() == 0 {
            return found.into_iter().map(Option::unwrap).collect();
        }
    }
}

/// The same, one picture after another.
fn one_by_one(model: &Model, pictures: &[PixelValues], options: &GenerateOptions) -> Vec<Vec<u32>> {
    let ids: Vec<i64> = model.tokenizer().unwrap().encode_prompt(CAPTION_PROMPT).into_iter().map(i64::from).collect();
    let caption = |picture: &PixelValues| {
        let input_ids = Some(Array::new(&[1, ids.len()], ids.clone()));
        let inputs = GenerateInputs { input_ids, pixel_values: Some(picture.clone()), ..Default::default() };
        model.generate_from(&inputs, options, &mut crate::common::go_on).unwrap().swap_remove(0).ids
    };
    pictures.iter().map(caption).collect()
}

fn check(device: &Device, step: usize, num_beams: usize, size: usize) {
    let model = load(EMOJI, device);
    let (pictures, wanted) = expected(&model, step, if num_beams == 1 { "greedy_ids" } else { "beam5_ids" });
    let options = GenerateOptions { num_beams, max_new_tokens: 20, ..Default::default() };
    assert_eq!(by_batch(&model, &pictures, &options, size), wanted);
}

#[test]
fn greedy() {
    check(&gpu(), picture_step(), 1, 7);
}

#[test]
fn five_beams() {
    check(&gpu(), picture_step(), 5, 6);
}

#[test]
fn of_the_cpu_executor() {
    check(&Device::cpu(), 100, 1, 3);
    check(&Device::cpu(), 200, 5, 2);
}

/// Penalties see each text's own history; draws are those of a picture alone; other storage of keys.
#[test]
fn options_hold_for_each_text() {
    let model = load(EMOJI, &gpu());
    let pictures = expected(&model, 40, "greedy_ids").0;
    let longer = GenerateOptions { min_new_tokens: 8, max_new_tokens: 12, ..Default::default() };
    for options in [
        GenerateOptions { num_beams: 5, ..longer.clone() },
        GenerateOptions { repetition_penalty: 1.5, no_repeat_ngram_size: 2, ..longer.clone() },
        GenerateOptions { kv_cache: Some(KvCacheType::F16), ..longer.clone() },
        GenerateOptions { max_new_tokens: 1, ..Default::default() },
    ] {
        assert_eq!(by_batch(&model, &pictures, &options, 4), one_by_one(&model, &pictures, &options), "{options:?}");
    }
    let drawn = GenerateOptions { sampling: Some(Default::default()), ..longer };
    assert_eq!(by_batch(&model, &pictures[..3], &drawn, 1), one_by_one(&model, &pictures[..3], &drawn));

    let refused = |options: &GenerateOptions, size| code(model.batch(CAPTION_PROMPT, options, size).map(|_| ()));
    assert_eq!(refused(&drawn, 2), "E_INPUT");
    assert_eq!(refused(&Default::default(), 0), "E_INPUT");
    assert_eq!(refused(&GenerateOptions { num_beams: 2, num_return_sequences: 2, ..Default::default() }, 2), "E_INPUT");
    assert_eq!(refused(&GenerateOptions { max_new_tokens: 1000, ..Default::default() }, 2), "E_CONTEXT");
    let mut batch = model.batch(Prompt::default(), &Default::default(), 1).unwrap();
    assert_eq!(code(batch.add(pictures.iter().cloned().enumerate().collect()).map(|_| ())), "E_INPUT");
}

/// A size that suits fits the budget, and one that does not is refused.
#[test]
fn a_budget_bounds_the_size() {
    let device = new_gpu();
    let model = load(EMOJI, &device);
    let prompt = Prompt::from(CAPTION_PROMPT);
    let options = GenerateOptions { num_beams: 5, ..Default::default() };
    let free = model.batch_size(&prompt, &options).unwrap();
    device.set_memory_budget(model.memory().0 + (32 << 20));
    let bound = model.batch_size(&prompt, &options).unwrap();
    assert!((1..free).contains(&bound), "{bound} of {free}");
    let pictures = expected(&model, 40, "beam5_ids").0;
    by_batch(&model, &pictures, &options, bound);
    assert!(model.memory().1 <= device.memory_budget());
    device.set_memory_budget(model.memory().0 + (1 << 20));
    assert_eq!(code(model.batch(CAPTION_PROMPT, &options, 64).map(|_| ())), "E_LIMIT");
}

/// A device that is lost in the middle: what was open is begun again, and ends once.
#[test]
fn a_lost_device_costs_no_picture() {
    let model = load(EMOJI, &new_gpu());
    let (pictures, wanted) = expected(&model, 50, "greedy_ids");
    let mut batch = model.batch(CAPTION_PROMPT, &Default::default(), 4).unwrap();
    let mut found = vec![None; pictures.len()];
    let mut next = pictures.into_iter().enumerate();
    for moment in 0.. {
        let destroy = || model.network().device().as_gpu().unwrap().destroy();
        if moment == 1 {
            destroy();
        }
        let mut ended = batch.add(next.by_ref().take(batch.room()).collect()).unwrap();
        if moment == 3 {
            destroy();
        }
        ended.extend(batch.step().unwrap());
        for (key, caption) in ended {
            assert!(found[key].replace(caption.unwrap().ids).is_none(), "picture {key} ended twice");
        }
        if next.len() == 0 && batch.open() == 0 {
            assert!(moment > 3, "ended too early to be lost");
            break;
        }
    }
    assert_eq!(found.into_iter().map(Option::unwrap).collect::<Vec<_>>(), wanted);
}

/// Rates of a batch and of a loop over single captions, by turns: `cargo test --release --test main batch::rate --
/// --ignored --nocapture`.
#[test]
#[ignore = "it measures"]
fn rate() {
    let model = load("models/emoji-tiny-w4", &gpu());
    let (pictures, _) = expected(&model, 1, "greedy_ids");
    for num_beams in [1, 5] {
        let options = GenerateOptions { num_beams, ..Default::default() };
        let size = model.batch_size(&Prompt::from(CAPTION_PROMPT), &options).unwrap();
        for turn in 0..3 {
            let begun = Instant::now();
            let singles = one_by_one(&model, &pictures, &options);
            let single = begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            let batched = by_batch(&model, &pictures, &options, size);
            let batch = begun.elapsed().as_secs_f64();
            assert_eq!(singles, batched);
            let rate = |seconds: f64| pictures.len() as f64 / seconds;
            println!(
                "{num_beams} beams, turn {turn}: one by one {:.1} a second, {size} at once {:.1}: {:.2} times",
                rate(single),
                rate(batch),
                single / batch
            );
        }
    }
}
