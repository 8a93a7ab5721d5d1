//! The published model's full size with random weights, in 4 bits and within 5 GiB of GPU memory; and the tool that
//! writes such checkpoints, at toy size.

use std::path::Path;
use std::time::Instant;

use crate::common::engine::{Device, GenerateOptions, Model, Piece, PixelValues};
use crate::common::{Temp, all_ids, go_on, new_gpu, path, prompt_about, random};
use pollster::block_on;
use serde_json::Value;

/// Writes a checkpoint with emoji-tiny's tokenizer: ids beyond its pieces decode to nothing.
fn write(folder: &Path, config: &Value, group: usize) {
    let start = Instant::now();
    let bytes = random::write(folder, config, group);
    std::fs::copy(path("models/emoji-tiny/tokenizer.model"), folder.join("tokenizer.model")).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("written: {bytes} bytes in {seconds:.1} s");
}

/// Captions a picture within a budget and prints the time of each phase. Returns the ids.
fn caption(folder: &Path, device: &Device, tokens: usize) -> Vec<u32> {
    let start = Instant::now();
    let mut lap = start;
    let mut lap = |what: &str| {
        println!(
            "{what}: {:.2} s; {} bytes held, {} at most",
            lap.elapsed().as_secs_f64(),
            device.memory().0,
            device.memory().1
        );
        lap = Instant::now();
    };
    let mut bytes = 0;
    let model = Model::builder(folder).device(device).on_progress(|p| bytes = p.total).load().unwrap();
    let network = model.network();
    let seconds = start.elapsed().as_secs_f64();
    println!("loaded {bytes} bytes at {:.2} GB/s", bytes as f64 / seconds / 1e9);
    lap("load");
    let side = model.preprocessor().size() as usize;
    let values = (0..3 * side * side).map(|i| (i % 255) as f32 / 64.0 - 2.0).collect();
    let pixels = PixelValues { batch: 1, height: side, width: side, values };
    let prompt = model.tokenizer().unwrap().encode_prompt("English caption:");
    let options = GenerateOptions { max_new_tokens: tokens, eos_token_ids: Some(Vec::new()), ..Default::default() };
    block_on(async {
        let vision = network.vision(&pixels).await.unwrap();
        device.finish().await.unwrap();
        lap("vision");
        let crossed = network.cross_states(&vision).await.unwrap();
        drop(vision);
        device.finish().await.unwrap();
        lap("cross-attention keys and values");
        let mut first = true;
        let on_piece = &mut |piece: Piece<'_>| {
            if std::mem::take(&mut first) {
                lap("prefill");
            }
            go_on(piece)
        };
        let inputs = prompt_about(&crossed, &prompt);
        let found = model.generate_from_async(&inputs, &options, on_piece).await.unwrap().remove(0);
        lap("decode");
        all_ids(found)
    })
}

#[test]
fn random_checkpoints_run() {
    let temp = Temp::new();
    let text = std::fs::read_to_string(path("models/emoji-tiny/config.json")).unwrap();
    let config = serde_json::from_str(&text).unwrap();
    let folder = Path::new(temp.folder());
    write(folder, &config, 32);
    let device = new_gpu();
    device.set_memory_budget(5_300_000);
    let ids = caption(folder, &device, 4);
    assert_eq!(ids.len(), 4);
    assert!(device.memory().1 <= 5_300_000);
    // Without a budget, or written again, it says the same.
    let again = Temp::new();
    write(Path::new(again.folder()), &config, 32);
    let unlimited = new_gpu();
    assert_eq!(caption(Path::new(again.folder()), &unlimited, 4), ids);
    assert!(unlimited.memory().1 > device.memory().1, "the budget changed nothing");
}

/// Writes 7 GB to the folder for temporary files, and takes minutes with a software adapter:
/// `cargo test --release --test main published -- --ignored --nocapture`.
#[test]
#[ignore = "writes 7 GB and takes minutes"]
fn the_published_size_within_5_gib() {
    const BUDGET: u64 = 5 << 30;
    let temp = Temp::new();
    let folder = Path::new(temp.folder());
    write(folder, &random::published(), 128);
    let device = new_gpu();
    device.set_memory_budget(BUDGET);
    assert_eq!(caption(folder, &device, 4).len(), 4);
    let peak = device.memory().1;
    let longest = device.as_gpu().unwrap().submitted().longest.as_millis();
    println!("the longest submission: {longest} ms");
    assert!(longest <= 400);
    println!("GPU memory at most: {:.3} GiB", peak as f64 / (1u64 << 30) as f64);
    assert!(peak <= BUDGET);
    // A software adapter's buffers are host memory.
    if let (true, Ok(status)) = (device.info().software, std::fs::read_to_string("/proc/self/status")) {
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let resident = line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024;
        let besides = resident.saturating_sub(peak) >> 20;
        println!("host memory at most: {} MiB, {besides} MiB of it besides buffers", resident >> 20);
        assert!(besides <= 512);
    }
}
