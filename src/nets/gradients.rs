//! Where the gradients of a checkpoint's tensors go.

use std::collections::HashMap;

use crate::device::recording::Recording;
use crate::device::tensor::Tensor;
use crate::ops::attention::View;
use crate::ops::gradients::column_sums::{Factors, column_sums};
use crate::ops::gradients::weight_gradient::{Place, weight_gradient};

/// Memory for gradients, by the names of the checkpoint's tensors. What has no place here is frozen: its gradient is not
/// made.
#[derive(Default)]
pub struct Places {
    tensors: HashMap<String, Tensor>,
    /// Whether gradients are added to what is there.
    pub add: bool,
}

impl Places {
    /// Memory of the shape of the tensor `name`.
    pub fn insert(&mut self, name: String, tensor: Tensor) {
        self.tensors.insert(name, tensor);
    }

    pub fn get(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(name).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor))
    }

    /// Whether any tensor whose name begins so is trained.
    pub fn has(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|name| name.starts_with(prefix))
    }

    /// The gradients of linear layers' weights, `(name without .weight, outputs)` beside each other in `dy`, and of their
    /// biases. `layer_scale` has a number for each column of `dy`.
    pub fn linear(
        &self,
        r: &mut Recording,
        layers: &[(&str, usize)],
        dy: Tensor,
        x: Tensor,
        layer_scale: Option<Tensor>,
    ) {
        let mut column = 0;
        for &(name, outputs) in layers {
            if let Some(tensor) = self.get(&format!("{name}.weight")) {
                let matrix = tensor.reshape(&[outputs, x.width()]);
                let place = Place { add: self.add, ..Place::all(matrix) };
                weight_gradient(r, View { tensor: dy, column }, View::all(x), layer_scale, place);
            }
            column += outputs;
        }
    }

    /// The gradient of a vector that every row of `dy` was added, or multiplied by.
    pub fn vector(&self, r: &mut Recording, name: &str, dy: Tensor, factors: Factors) {
        if let Some(tensor) = self.get(name) {
            column_sums(r, dy, factors, tensor, self.add);
        }
    }
}
