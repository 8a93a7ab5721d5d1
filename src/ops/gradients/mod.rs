//! What training adds: the gradient of each op on the way from a loss to the weights, and the step that they take. Formulas
//! of the ops are in their own files; `dy` is the gradient of the loss with respect to `y`.

pub mod adamw;
pub mod attention_gradient;
pub mod column_sums;
pub mod cross_entropy_gradient;
#[cfg(test)]
pub(crate) mod differences;
pub mod gelu_gradient;
pub mod layer_norm_gradient;
pub mod linear_gradient;
pub mod put_columns;
pub mod rms_norm_gradient;
pub mod rope_gradient;
pub mod silu_gate_gradient;
pub mod squares;
pub mod sum_rows;
pub mod weight_gradient;
