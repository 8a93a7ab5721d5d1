//! Models within a memory budget: the same numbers to the bit, no more memory, and clear refusals.

use std::cell::Cell;

use crate::common::engine::{
    Builder, Checkpoint, Device, Folder, Footprint, GenerateOptions, Location, Model, Residency, Result,
};
use crate::common::{
    all_ids, generate, go_on, load_from, new_gpu, path, pixels, printed, program, prompt, prompt_about,
};
use pollster::block_on;
use serde_json::Value;

const FOLDER: &str = "models/emoji-tiny";

fn folder() -> Folder {
    Folder::open(path(FOLDER)).unwrap()
}

fn footprint_of(device: &Device) -> Footprint {
    let checkpoint = block_on(Checkpoint::open(Box::new(folder()))).unwrap();
    block_on(Footprint::of(&checkpoint, &checkpoint.config, &device.info())).unwrap()
}

fn load(device: &Device) -> Result<Model> {
    load_from(folder(), device)
}

fn builder(device: &Device) -> Builder<'_> {
    Builder::new(Location::Folder(Box::new(folder()))).device(device)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Everything that two pictures go through, as bits.
fn results(model: &Model) -> Vec<Vec<u32>> {
    let options = |num_beams| GenerateOptions { num_beams, max_new_tokens: 20, ..Default::default() };
    let ids = model.tokenizer().unwrap().encode_prompt("English caption:");
    let network = model.network();
    let mut all = Vec::new();
    for file in ["noto-cat.png", "noto-sunflower.png"] {
        block_on(async {
            let pixels = pixels(model, file);
            let vision = network.vision(&pixels).await.unwrap();
            all.push(bits(&network.device().read_f32(vision.states).await.unwrap()));
            let crossed = network.cross_states(&vision).await.unwrap();
            for layer in crossed.states.layers.iter().flatten() {
                all.push(bits(&network.device().read_f32(*layer).await.unwrap()));
            }
            for num_beams in [1, 5] {
                let inputs = prompt_about(&crossed, &ids);
                let found =
                    model.generate_from_async(&inputs, &options(num_beams), &mut go_on).await.unwrap().remove(0);
                assert!(!found.ids.is_empty());
                let score = found.score.to_bits();
                all.push([all_ids(found), vec![score]].concat());
            }
            all.push(bits(&network.embed_images_g(&vision, &crossed).await.unwrap()));
            for states in network.vision_hidden_states(&pixels).await.unwrap() {
                all.push(bits(&states.values));
            }
        });
    }
    all
}

fn check_budgets(make: impl Fn() -> Device) {
    let everything = {
        let device = make();
        let all = results(&load(&device).unwrap());
        assert_eq!(device.memory().0, 0, "a model that went holds nothing");
        all
    };
    let footprint = footprint_of(&make());
    assert!(footprint.vision.layers > footprint.cross.layers && footprint.cross.layers > 0);
    for (vision, cross) in [(true, true), (true, false), (false, true), (false, false)] {
        let stays = Residency { vision, cross };
        let budget = footprint.peak(stays);
        let device = make();
        assert_eq!(footprint.fit(&device.info(), budget).unwrap(), stays);
        device.set_memory_budget(budget);
        let loaded = Cell::new(0);
        let model = builder(&device).on_progress(|p| {
            assert!(p.bytes <= p.total);
            loaded.set(p.total - p.bytes);
        });
        let model = model.load().unwrap();
        assert_eq!(loaded.get(), 0, "{stays:?}: the progress ends at its total");
        assert_eq!(device.memory().0, footprint.resident(stays), "{stays:?}: weights that stay");
        assert_eq!(results(&model), everything, "{stays:?}");
        let (held, peak) = device.memory();
        assert_eq!(held, footprint.resident(stays), "{stays:?}: what is left of pictures");
        assert!(peak <= budget, "{stays:?}: {peak} bytes of {budget}");
        // The plan is no wild guess.
        assert!(peak * 10 > budget * 8, "{stays:?}: {peak} bytes of {budget} planned");
        println!("{stays:?}: {held} bytes stay, {peak} at most, {budget} planned");
    }
}

#[test]
fn results_are_the_same_within_any_budget() {
    check_budgets(new_gpu);
}

#[test]
fn results_are_the_same_within_any_budget_of_the_cpu_executor() {
    check_budgets(Device::cpu);
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = new_gpu();
    let footprint = footprint_of(&device);
    device.set_memory_budget(footprint.least_budget() - 1);
    let mut read = 0;
    let refused = builder(&device).on_progress(|p| read = p.bytes).load();
    let error = refused.err().expect("one byte is missing");
    assert_eq!((error.code(), read, device.memory().1), ("E_LIMIT", 0, 0));
    let message = error.to_string();
    for word in
        [format!("{}", footprint.least_budget()), format!("{}", footprint.least_budget() - 1), "4 or 8 bits".into()]
    {
        assert!(message.contains(&word), "{message}");
    }

    // What a call needs beyond the budget, when it is known; the model goes on afterwards.
    device.set_memory_budget(footprint.least_budget());
    let model = load(&device).unwrap();
    let inputs = prompt(&model.tokenizer().unwrap().encode_prompt("English caption:"));
    let generate = |num_beams| {
        let options = GenerateOptions { num_beams, max_new_tokens: 200, ..Default::default() };
        generate(&model, &inputs, &options)
    };
    let error = generate(16).unwrap_err();
    assert_eq!(error.code(), "E_LIMIT");
    assert!(error.to_string().contains("for this input"), "{error}");
    generate(1).unwrap();
    assert_eq!(device.memory().0, footprint.least_budget() - footprint.decoder_activations);

    // What other models hold counts.
    let error = load(&device).err().expect("there is no room for two");
    assert_eq!(error.code(), "E_LIMIT");
}

#[test]
fn the_command_line_takes_a_budget() {
    let picture = path(&format!("{FOLDER}/pictures/noto-cat.png"));
    let (picture, model) = (picture.to_str().unwrap(), path(FOLDER));
    let caption = ["caption", picture, "--model", model.to_str().unwrap()];
    let info = |budget: &[&str]| -> Value {
        let args = [&["info", "--json", "--model", model.to_str().unwrap()], budget].concat();
        serde_json::from_str(&printed(&args)).unwrap()
    };
    let all = info(&[]);
    let least = all["least_budget_bytes"].as_u64().unwrap();
    assert_eq!(all["streamed"], serde_json::json!([]));
    assert_eq!(all["adapters"][0]["fits"], true);
    assert_eq!(printed(&[&caption[..], &["--memory-budget", &least.to_string()]].concat()), "cat\n");
    assert_eq!(printed(&[&caption[..], &["--memory-budget", "0.5GiB"]].concat()), "cat\n");

    // Each adapter has a least budget of its own; the CPU is the last.
    let adapters = all["adapters"].as_array().unwrap();
    assert_eq!(adapters[0]["least_budget_bytes"], least);
    let cpu = adapters.last().unwrap()["least_budget_bytes"].to_string();
    assert_eq!(printed(&[&caption[..], &["--adapter", "cpu", "--memory-budget", &cpu]].concat()), "cat\n");
    let words = printed(&["info", "--model", model.to_str().unwrap()]);
    assert!(words.contains(&format!("least --memory-budget {cpu}\n")), "{words}");

    let budget = ["--memory-budget", &least.to_string()];
    let tight = info(&budget);
    assert_eq!(tight["streamed"], serde_json::json!(["InternViT", "cross-attention keys and values"]));
    assert_eq!((&tight["adapters"][0]["fits"], &tight["peak_bytes"]), (&true.into(), &least.into()));
    assert!(tight["resident_bytes"].as_u64() < all["resident_bytes"].as_u64());
    let args = [&["info", "--model", model.to_str().unwrap()], &budget[..]].concat();
    let words = printed(&args);
    assert!(words.contains("plan, InternViT and cross-attention keys and values read again"), "{words}");

    let budget = (least - 1).to_string();
    let refused = info(&["--memory-budget", &budget]);
    assert_eq!(refused["adapters"][0]["fits"], false);
    assert!(refused["adapters"][0]["why_not"].as_str().unwrap().contains(&least.to_string()));
    for (budget, code) in [(budget.as_str(), "E_LIMIT"), ("1MB", "E_LIMIT"), ("0", ""), ("5 GB!", ""), ("-1", "")] {
        let budget = format!("--memory-budget={budget}");
        let args = [&caption[..], &[&budget]].concat();
        let out = program(&args).output().unwrap();
        let message = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{budget}: {message}");
        let said = if code.is_empty() { "--memory-budget" } else { code };
        assert!(message.contains(said) && out.stdout.is_empty(), "{budget}: {message}");
    }
}
