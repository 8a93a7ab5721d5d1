//! The demo model on the first adapter, and on the same with faults.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pollster::block_on;

use super::*;
use crate::device::choices::Choices;
use crate::device::gpu::{Gpu, LeftOut, candidates};
use crate::files::random::{RandomCheckpoint, RandomFormat, published};
use crate::files::source::LocalFuture;
use crate::generate::options::{GenerateOptions, KvCacheType};
use crate::image::Picture;
use crate::model::{CAPTION_PROMPT, CaptionOptions, Mode, Model};
use crate::ops::logits::sampling::Sampling;
use crate::ops::testing::open_gpu;

/// Notes that are kept as long as the test runs.
#[derive(Clone, Default)]
struct Memo(Rc<RefCell<HashMap<String, Vec<u8>>>>);

impl Notes for Memo {
    fn read<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Option<Vec<u8>>> {
        Box::pin(std::future::ready(self.0.borrow().get(name).cloned()))
    }

    fn write<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> LocalFuture<'a, ()> {
        self.0.borrow_mut().insert(name.into(), bytes.into());
        Box::pin(std::future::ready(()))
    }
}

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn load(device: &Device, check: Check, memo: &Memo) -> Result<Model> {
    Model::builder(path("models/emoji-tiny-w4")).device(device).check(check).notes(memo.clone()).load()
}

fn cat() -> Picture {
    Picture::open(path("models/emoji-tiny/pictures/noto-cat.png")).unwrap()
}

/// Each task asks for what it needs and was not asked before: all that it uses was tried.
#[test]
fn a_right_adapter_is_asked_once() {
    let (device, memo) = (open_gpu(), Memo::default());
    let first = load(&device, Check::On, &memo).unwrap();
    let at_load = first.check_report().tried.len();
    assert!(at_load > 20, "{at_load}");
    first.caption(&cat(), &Default::default()).unwrap();
    assert_eq!(first.check_report().tried.len(), at_load, "captions are asked for when the model is loaded");
    let tried = || first.check_report().tried.into_iter().map(|tried| tried.pipeline).collect::<HashSet<_>>();
    let used = || device.as_gpu().unwrap().pipelines().iter().map(PipelineKey::to_string).collect::<HashSet<_>>();
    assert_eq!(used(), tried());
    let beams = GenerateOptions { num_beams: 3, min_new_tokens: 2, ..Default::default() };
    let drawn = GenerateOptions { sampling: Some(Sampling::default()), repetition_penalty: 1.2, ..Default::default() };
    let halves = GenerateOptions { kv_cache: Some(KvCacheType::F16), ..Default::default() };
    for generate in [beams.clone(), drawn, halves] {
        first.caption(&cat(), &CaptionOptions { generate, ..Default::default() }).unwrap();
    }
    for mode in [Mode::C, Mode::G, Mode::Itm] {
        first.match_texts(&[cat()], &["a cat", "an apple"], mode).unwrap();
    }
    first.attention_map(&cat(), None).unwrap();
    let mut batch = first.batch(CAPTION_PROMPT, &beams, 2).unwrap();
    batch.add([0, 1].map(|key| (key, first.pixel_values(&cat()))).into()).unwrap();
    while batch.open() > 0 {
        batch.step().unwrap();
    }
    let report = first.check_report();
    assert_eq!((report.wrong.len(), report.text()), (0, None), "{report:?}");
    let (used, tried) = (used(), tried());
    let missed: Vec<_> = used.difference(&tried).collect();
    assert!(missed.is_empty(), "used, but never tried: {missed:#?}");

    let count = |check| load(&device, check, &memo).unwrap().check_report().tried.len();
    assert_eq!([count(Check::On), count(Check::Off), count(Check::Again)], [0, 0, at_load]);
    // What is damaged, or of another version, counts for nothing.
    let (name, kept) = memo.0.borrow().iter().next().map(|(n, b)| (n.clone(), b.clone())).unwrap();
    let mut other: Verdict = serde_json::from_slice(&kept).unwrap();
    other.shaders ^= 1;
    for bytes in [b"{".to_vec(), kept[..kept.len() / 2].to_vec(), serde_json::to_vec(&other).unwrap()] {
        memo.0.borrow_mut().insert(name.clone(), bytes);
        assert_eq!(count(Check::On), at_load);
    }
}

/// As on GPUs, whose weights lie in buffers: other kernels.
#[test]
fn weights_in_buffers_are_right_too() {
    let report = block_on(async {
        let first = candidates().await.into_iter().next().unwrap().limited(u64::MAX, u64::MAX);
        let device = Device::gpu(Gpu::open(first).await.unwrap());
        let opened = Model::builder(path("models/emoji-tiny-w4"))
            .device(&device)
            .check(Check::Again)
            .notes(Memo::default())
            .open_async()
            .await;
        opened.unwrap().check_async(&mut |_| {}).await.unwrap()
    });
    assert!(report.tried.len() > 20 && report.wrong.is_empty(), "{report:?}");
    assert!(report.tried.iter().any(|tried| tried.pipeline.starts_with("linear_few ")), "{report:?}");
}

/// Each kernel's work left out, or the second half of it: the caption is right, or there is an error with a code.
#[test]
fn work_left_out_is_never_a_wrong_caption() {
    let device = open_gpu();
    let gpu = device.as_gpu().unwrap();
    let told = Rc::new(RefCell::new(String::new()));
    let load = |check| {
        let on_wrong = {
            let told = told.clone();
            move |report: &CheckReport| *told.borrow_mut() = report.text().unwrap()
        };
        let builder = Model::builder(path("models/emoji-tiny-w4")).device(&device).on_wrong(on_wrong);
        builder.check(check).notes(Memo::default()).load()
    };
    let caption = |model: Model| model.caption(&cat(), &Default::default()).map(|caption| caption.text);
    let right = caption(load(Check::Off).unwrap()).unwrap();
    let mut used: Vec<_> = gpu.pipelines().iter().map(|key| key.kernel.name).collect();
    used.sort_unstable();
    used.dedup();
    // Captions that are wrong without a check; loads that end in an error; kernels that others stand in for.
    let (mut unnoticed, mut refused, mut mended) = (0, 0, Vec::new());
    for (kernel, half) in used.iter().flat_map(|kernel| [(*kernel, false), (*kernel, true)]) {
        gpu.leave_out(Some(LeftOut { kernel, half }));
        device.set_choices(Choices::default());
        unnoticed += usize::from(caption(load(Check::Off).unwrap()).is_ok_and(|c| c != right));
        match load(Check::On) {
            Err(error) => {
                assert_eq!(error.code(), "E_ADAPTER", "{error}");
                assert!(error.to_string().contains(&format!("kernel {kernel} ")), "{error}");
                refused += 1;
            }
            Ok(model) => {
                let told = told.borrow().clone();
                assert!(told.contains(&format!("  {kernel} ")), "{kernel}, half {half}: told {told:?}");
                assert_eq!(caption(model).unwrap(), right, "{kernel}, half {half}");
                mended.push(kernel);
            }
        }
    }
    gpu.leave_out(None);
    mended.dedup();
    assert_eq!(mended, ["attention_keys", "attention_rows", "attention_tiles", "linear_tile", "stage"]);
    assert_eq!(refused + 2 * mended.len(), 2 * used.len());
    eprintln!("{} tries, {unnoticed} wrong captions without a check, {refused} refused with one", 2 * used.len());
    assert!(unnoticed > used.len(), "without a check, only {unnoticed} captions are wrong");
}

/// A device that computes nothing: no caption and no table.
#[test]
fn a_device_that_computes_nothing_is_refused() {
    let device = open_gpu();
    device.as_gpu().unwrap().leave_out(Some(LeftOut { kernel: LeftOut::ALL, half: false }));
    let error = load(&device, Check::On, &Memo::default()).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "E_ADAPTER");
    assert!(error.to_string().contains("computes wrongly"), "{error}");
}

/// The published size, of which no weight is made; what it prints has the seconds.
#[test]
#[ignore = "compiles every kernel of the published size"]
fn the_published_size_is_right_too() {
    let format = RandomFormat::Int { bits: 4, group: 128 };
    let source = RandomCheckpoint::new(&published(), format).unwrap();
    let device = open_gpu();
    let checkpoint = Rc::new(block_on(Checkpoint::open(Box::new(source))).unwrap());
    let checks = Checks::new(checkpoint, Check::Again, None, None);
    let started = Instant::now();
    block_on(checks.ensure(&device, &[Task::Pictures, Task::text(KvCacheType::F32)], &mut |_| {})).unwrap();
    let report = checks.report(&device.info());
    eprintln!("{} tried in {:.2} s", report.tried.len(), started.elapsed().as_secs_f64());
    assert!(report.tried.len() > 20 && report.wrong.is_empty(), "{report:?}");
}
