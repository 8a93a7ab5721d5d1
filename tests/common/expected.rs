//! What the published modules computed for a fixture.

use std::cell::RefCell;
use std::collections::BTreeSet;

use safetensors::{Dtype, SafeTensors};

use super::engine::Array;
use super::fixture;

/// A fixture's inputs and expected outputs; remembers which keys a test read.
pub struct Expected {
    bytes: Vec<u8>,
    read: RefCell<BTreeSet<String>>,
}

impl Expected {
    pub fn open(folder: &str) -> Expected {
        let bytes = std::fs::read(fixture(folder).join("expected.safetensors")).unwrap();
        Expected { bytes, read: Default::default() }
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// All keys, in order.
    pub fn keys(&self) -> BTreeSet<String> {
        self.tensors().names().into_iter().map(String::from).collect()
    }

    pub fn has(&self, key: &str) -> bool {
        self.tensors().tensor(key).is_ok()
    }

    pub fn f32(&self, key: &str) -> Array<f32> {
        self.read.borrow_mut().insert(key.into());
        let tensors = self.tensors();
        let view = tensors.tensor(key).unwrap_or_else(|_| panic!("no key {key}"));
        assert_eq!(view.dtype(), Dtype::F32, "{key}");
        Array::new(view.shape(), bytemuck::pod_collect_to_vec(view.data()))
    }

    pub fn i64(&self, key: &str) -> Array<i64> {
        self.read.borrow_mut().insert(key.into());
        let tensors = self.tensors();
        let view = tensors.tensor(key).unwrap_or_else(|_| panic!("no key {key}"));
        assert_eq!(view.dtype(), Dtype::I64, "{key}");
        Array::new(view.shape(), bytemuck::pod_collect_to_vec(view.data()))
    }

    /// Fails when a key was never read.
    pub fn all_read(&self) {
        let read = self.read.borrow();
        let tensors = self.tensors();
        let left: Vec<_> = tensors.names().into_iter().filter(|name| !read.contains(*name)).collect();
        assert!(left.is_empty(), "no test reads {left:?}");
    }
}
