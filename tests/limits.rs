//! Adapters with small limits, and models that are large for the host: what loading takes.

use std::cell::Cell;
use std::rc::Rc;

use crate::common::engine::{
    Array, Checkpoint, Device, DeviceInfo, Error, Folder, Footprint, ForwardInputs, GenerateOptions, Gpu, LocalFuture,
    Model, Result, Source, candidates,
};
use crate::common::{caption, load_from, path};
use pollster::block_on;

const EMOJI: &str = "models/emoji-tiny";
const WEIGHTS: &str = "model.safetensors";

/// The first adapter, as if its largest buffer and binding were no larger than these.
fn small_gpu(max_buffer_bytes: u64, max_binding_bytes: u64) -> Device {
    block_on(async {
        let first = candidates().await.into_iter().next().expect("no WebGPU adapter");
        let limited = first.limited(max_buffer_bytes, max_binding_bytes);
        assert!(limited.info().max_binding_bytes <= max_binding_bytes);
        Device::gpu(Gpu::open(limited).await.unwrap())
    })
}

/// A folder that counts the bytes of weights that are read.
struct Counting(Folder, Rc<Cell<u64>>);

impl Source for Counting {
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn size<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Option<u64>>> {
        self.0.size(name)
    }
    fn read<'a>(&'a self, name: &'a str, offset: u64, buf: &'a mut [u8]) -> LocalFuture<'a, Result<()>> {
        if name == WEIGHTS {
            self.1.set(self.1.get() + buf.len() as u64);
        }
        self.0.read(name, offset, buf)
    }
}

fn load(device: &Device) -> (Result<Model>, u64) {
    let read = Rc::new(Cell::new(0));
    let model = load_from(Counting(Folder::open(path(EMOJI)).unwrap(), read.clone()), device);
    (model, read.get())
}

/// Bytes of the header of the demo model's weights.
fn header_bytes() -> u64 {
    let start = std::fs::read(path(EMOJI).join(WEIGHTS)).unwrap();
    8 + u64::from_le_bytes(start[..8].try_into().unwrap())
}

#[test]
fn an_adapter_with_small_buffers_is_told_of_before_weights_are_read() {
    // With matrices cut as far as can be, the largest buffer is that of a tensor which is not cut.
    let need_bytes = block_on(async {
        let checkpoint = Checkpoint::open(Box::new(Folder::open(path(EMOJI)).unwrap())).await.unwrap();
        let cut = DeviceInfo { max_binding_bytes: 1, ..small_gpu(64 << 20, 64 << 20).info() };
        Footprint::of(&checkpoint, &checkpoint.config, &cut).await.unwrap().largest_buffer
    });
    assert!(need_bytes > 10 << 10, "{need_bytes}");
    let small = need_bytes - 4;
    for (buffer, binding, limit) in [(small, small, "maxBufferSize"), (64 << 20, small, "maxStorageBufferBindingSize")]
    {
        let device = small_gpu(buffer, binding);
        let before = device.memory();
        let (model, read) = load(&device);
        let error = model.err().expect("a tensor is larger than the limit");
        assert!(
            matches!(&error, Error::Limit { name, need, have }
            if name == limit && *need == need_bytes && *have == small),
            "{error}"
        );
        assert!(read <= header_bytes() + (64 << 10), "{read} bytes of {WEIGHTS} were read");
        assert_eq!(device.memory(), before, "memory was taken");
    }
    load(&small_gpu(need_bytes, need_bytes)).0.unwrap();
}

/// The first logits and the captions of two pictures.
fn results(model: &Model) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut inputs = ForwardInputs {
        input_ids: Some(Array::new(&[1, 3], vec![1, 264, 483])),
        output_logits: true,
        ..Default::default()
    };
    let logits = model.forward(&mut inputs).unwrap().logits.unwrap().values;
    let caption = |file: &str| caption(model, file, &GenerateOptions::default()).0;
    let captions = vec![caption("noto-cat.png"), caption("fluent-flat-aerial-tramway.png")];
    (logits.iter().map(|v| v.to_bits()).collect(), captions)
}

#[test]
fn matrices_beyond_the_binding_limit_are_split_and_compute_the_same() {
    let whole = load(&small_gpu(64 << 20, 64 << 20)).0.unwrap();
    let parts = |model: &Model| {
        let network = model.network();
        let decoder = network.decoder();
        [&decoder.lm_head, &decoder.embed_tokens, &decoder.layers[0].gate_up_proj].map(|m| m.parts.len())
    };
    assert_eq!(parts(&whole), [1, 1, 1]);
    // Not a multiple of any matrix's rows: parts of unequal size.
    let device = small_gpu(64 << 20, (150 << 10) + 12);
    let split = load(&device).0.unwrap();
    assert!(parts(&split).iter().all(|n| *n > 1), "not split: {:?}", parts(&split));
    assert_eq!(results(&whole), results(&split));
}
