//! What the published sizes take of a GPU, counted without one: every bound is of the recordings that are played.

use crate::device::count::Count;
use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};
use crate::device::{Device, Pool};
use crate::files::checkpoint::Checkpoint;
use crate::files::random::{RandomCheckpoint, RandomFormat, published};
use crate::generate::options::{GenerateOptions, KvCacheType};
use crate::generate::probe::Probe;
use crate::nets::decoder::{CrossKeyValues, CrossStates, Qllama};
use crate::nets::intern_vit::InternVit;
use crate::weights::loader::Loader;

/// Multiply-adds of a submission: a tenth of a second where they are 1 to 100 G a second.
const LIMITS: [u64; 3] = [100_000_000, 1_000_000_000, 10_000_000_000];

/// The published sizes, in 4 bits, planned for a GPU that keeps weights in buffers.
fn planned<T>(load: impl AsyncFn(&mut Loader<'_>, &crate::files::config::Config) -> crate::error::Result<T>) -> T {
    pollster::block_on(async {
        let source = RandomCheckpoint::new(&published(), RandomFormat::Int { bits: 4, group: 128 }).unwrap();
        let checkpoint = Checkpoint::open(Box::new(source)).await.unwrap();
        let mut loader = Loader::plan(&checkpoint, checkpoint.config.quantization.as_ref(), &Device::cpu().info());
        load(&mut loader, &checkpoint.config).await.unwrap()
    })
}

fn decoder() -> Qllama {
    planned(async |loader, config| Qllama::load(loader, config.prefix(), &config.text).await)
}

/// A step of this many beams behind 112 rows.
fn step(decoder: &Qllama, num_beams: usize) -> Probe {
    let options = GenerateOptions { num_beams, max_new_tokens: 16, ..Default::default() };
    let options = options.resolve(&decoder.config, KvCacheType::F16).unwrap();
    Probe::new(decoder, &Device::cpu(), 112, &options).unwrap()
}

/// No submission is above its limit, whatever is in it, and cutting finer than that loses nothing.
fn assert_cut(what: &str, recording: &Recording) {
    let whole = Count::of(recording, u64::MAX);
    for limit in LIMITS {
        let count = Count::of(recording, limit);
        println!("{what}, at most {limit}: {count:?}");
        assert!(count.longest <= limit, "{what}: {count:?}");
        assert_eq!((count.work, count.dispatches), (whole.work, whole.dispatches));
        // Submissions are nearly full: each but the last is above half of what it may be.
        let least = whole.work.cost().div_ceil(limit) as usize;
        assert!(count.submissions <= 2 * least + whole.dispatches.div_ceil(512), "{what}: {count:?}");
    }
}

#[test]
fn a_token_takes_few_dispatches_one_submission_and_each_weight_once() {
    let decoder = decoder();
    let once = decoder.weights_per_token();
    let greedy = Count::of(&step(&decoder, 1).recording, u64::MAX);
    println!("{greedy:?}");
    assert_eq!(greedy.submissions, 1);
    assert!(greedy.dispatches <= 8 * decoder.layers.len() + 6, "{greedy:?}");
    assert_eq!(greedy.work.weight_bytes, once.bytes);
    assert!(greedy.work.multiply_adds >= once.multiply_adds);
    assert!(greedy.work.multiply_adds <= once.multiply_adds * 11 / 10, "{greedy:?}");
    let beams = Count::of(&step(&decoder, 5).recording, u64::MAX);
    println!("{beams:?}");
    assert_eq!(beams.submissions, 1);
    assert_eq!(beams.work.weight_bytes, once.bytes);
}

#[test]
fn no_submission_is_too_long() {
    let decoder = decoder();
    assert_cut("a token", &step(&decoder, 1).recording);
    assert_cut("a step of five beams", &step(&decoder, 5).recording);
}

#[test]
fn no_submission_of_a_picture_is_too_long() {
    let (vit, cross, config) = planned(async |loader, config| {
        let vision = config.vision.as_ref().expect("sizes of InternViT");
        let vit = InternVit::load(loader, vision, false).await?;
        let cross = CrossKeyValues::load(loader, config.prefix(), &config.text, false).await?;
        Ok((vit, cross, config.clone()))
    });
    let stand_in = |shape: &[usize]| Tensor::new(0, DType::F32, shape);
    let mut pool: Pool = Device::cpu().pool();
    for batch in [1, 3] {
        let side = vit.config.image_size;
        let mut r = Recording::new();
        let mut x = vit.embed(&mut r, &mut pool, stand_in(&[batch, 3, side, side])).unwrap();
        for layer in vit.layers.kept.iter().flatten() {
            x = vit.layer(&mut r, layer, x, batch);
        }
        assert_cut(&format!("{batch} pictures"), &r);
        let rows = x.rows() / batch;
        let text = &config.text;
        let keys = (0..text.num_hidden_layers)
            .map(|i| text.cross_attends(i).then(|| stand_in(&[x.rows(), 2 * text.hidden_size])));
        let states = CrossStates { layers: keys.collect(), images: batch, rows };
        let mut r = Recording::new();
        for (i, layer) in cross.layers.kept.iter().flatten().enumerate() {
            cross.record(&mut r, i, layer, x, &states);
        }
        assert_cut(&format!("cross-attention of {batch} pictures"), &r);
    }
}
