//! A model that is being taught: steps, evaluation, and what it has learned so far.

use std::rc::Rc;

use crate::device::Array;
use crate::error::{Error, Result};
use crate::files::peft::{AdapterWeights, LowRank};
use crate::model::Model;
use crate::model::network::Network;
use crate::nets::lora::values_of;
use crate::ops::gradients::adamw::AdamW;
use crate::train::options::TrainerOptions;
use crate::train::start::new_adapters;
use crate::train::step::{Batch, Stepper};
use crate::train::wanted::read_lora;
use crate::weights::layout::float_index;

/// What one step did.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepReport {
    /// Counts from 1.
    pub step: usize,
    /// The mean cross-entropy, before the step.
    pub loss: f32,
    /// Of all gradients together, before they were scaled down.
    pub grad_norm: f32,
    pub learning_rate: f32,
    /// Whether the step was left out, as its loss or norm is not a finite number.
    pub skipped: bool,
}

/// Teaches a model: [`Model::trainer_async`] makes it.
pub struct Trainer<'m> {
    model: &'m mut Model,
    /// The model's weights with the adapter that is trained, on one device: where that is lost, training ends.
    network: Rc<Network>,
    options: TrainerOptions,
    stepper: Stepper,
    /// Steps taken or left out.
    steps: usize,
    /// Steps that moved something: AdamW's t.
    moves: u32,
}

impl Model {
    /// Begins to teach this model by captions: brings new adapters, or goes on with `from`, and keeps them in use. The
    /// weights themselves stay as they are.
    ///
    /// # Errors
    /// `E_INPUT` for options that are out of range; `E_SHAPE` where `from` does not fit; the device's.
    pub async fn trainer_async(
        &mut self,
        options: TrainerOptions,
        from: Option<AdapterWeights>,
    ) -> Result<Trainer<'_>> {
        options.check()?;
        self.drop_adapter();
        let weights = match from {
            Some(weights) => weights,
            None => self.run(async |network| new_adapters(network, &options).await).await?,
        };
        self.train_adapter(weights)?;
        // Made again where the device was lost just now.
        self.run(async |_| Ok(())).await?;
        let network = self.network();
        let TrainerOptions { weight_decay, beta1, beta2, eps, .. } = options;
        let stepper = Stepper::new(&network, AdamW { weight_decay, beta1, beta2, eps })?;
        Ok(Trainer { model: self, network, options, stepper, steps: 0, moves: 0 })
    }
}

impl Trainer<'_> {
    /// The model, with what it has learned so far.
    pub fn model(&self) -> &Model {
        self.model
    }

    /// One step: over one batch, or over the mean of as many as `accumulate` says.
    ///
    /// # Errors
    /// `E_INPUT` where no label of a batch counts; `E_CONTEXT` for too long a text; the device's.
    pub async fn step(&mut self, batches: &[Batch]) -> Result<StepReport> {
        if batches.is_empty() {
            return Err(Error::Input { reason: "a step needs a batch".into() });
        }
        let share = 1.0 / batches.len() as f32;
        let mut loss = 0.0;
        for (i, batch) in batches.iter().enumerate() {
            loss += share * self.stepper.gradients(&self.network, batch, share, i > 0).await?;
        }
        let grad_norm = self.stepper.norm().await?;
        let learning_rate = self.options.rate(self.steps + self.options.first_step);
        self.steps += 1;
        let skipped = !(loss.is_finite() && grad_norm.is_finite());
        if !skipped {
            self.moves += 1;
            let TrainerOptions { beta1, beta2, max_grad_norm, .. } = self.options;
            let unbiased = |beta: f32| (1.0 / (1.0 - f64::from(beta).powi(self.moves as i32))) as f32;
            let clip = (max_grad_norm / (grad_norm + 1e-6)).min(1.0);
            self.stepper.update([learning_rate, clip, unbiased(beta1), unbiased(beta2)])?;
        }
        Ok(StepReport { step: self.steps, loss, grad_norm, learning_rate, skipped })
    }

    /// The mean loss of a batch, which nothing learns from.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub async fn evaluate(&mut self, batch: &Batch) -> Result<f32> {
        self.stepper.loss(&self.network, batch).await
    }

    /// What was learned so far.
    ///
    /// # Errors
    /// The device's.
    pub async fn adapter(&self) -> Result<AdapterWeights> {
        let network = &self.network;
        let (device, learned) = (network.device(), &network.decoder().learned);
        let mut weights = AdapterWeights { name: "what was learned".into(), ..Default::default() };
        for layer in &learned.layers {
            for lora in [&layer.qkv, &layer.o, &layer.gate_up, &layer.down].into_iter().flatten() {
                let scales = device.read_f32(lora.scale).await?;
                let values = read_lora(device, lora, values_of(&lora.a), values_of(&lora.b)).await?;
                for (block, (module, a, b)) in lora.blocks.iter().zip(values) {
                    let stored_name = format!("base_model.model.{module}");
                    let scale = scales[block.first_row];
                    weights.modules.insert(module, LowRank { a, b, scale, stored_name });
                }
            }
        }
        if let Some(head) = &learned.lm_head {
            let tensor = values_of(head);
            let stored = device.read_numbers("lm_head.weight", tensor).await?;
            let element = |i: usize| stored[float_index(i / head.cols, i % head.cols, tensor.width())];
            let values = (0..head.rows * head.cols).map(element).collect();
            weights.saved.insert("lm_head.weight".into(), Array::new(&[head.rows, head.cols], values));
        }
        Ok(weights)
    }
}

/// All that a trainer needs to go on as if it had not stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingState {
    /// Steps taken or left out.
    pub steps: usize,
    /// Steps that moved something.
    pub moves: u32,
    /// Weights and moments of each trained tensor, in the trainer's order.
    pub tensors: Vec<[Vec<f32>; 3]>,
}

impl Trainer<'_> {
    /// Steps so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// What [`Trainer::restore`] takes.
    ///
    /// # Errors
    /// The device's.
    pub async fn state(&self) -> Result<TrainingState> {
        let device = self.network.device();
        let mut tensors = Vec::with_capacity(self.stepper.trained.len());
        for trained in &self.stepper.trained {
            let mut read = [Vec::new(), Vec::new(), Vec::new()];
            for (to, tensor) in read.iter_mut().zip([trained.weight, trained.mean, trained.square]) {
                *to = device.read_numbers("what was trained", tensor).await?;
            }
            tensors.push(read);
        }
        Ok(TrainingState { steps: self.steps, moves: self.moves, tensors })
    }

    /// Goes on from a state of a trainer of the same model with the same options.
    ///
    /// # Errors
    /// `E_INPUT_SHAPE` for a state of another one; the device's.
    pub fn restore(&mut self, state: &TrainingState) -> Result<()> {
        let device = self.network.device();
        let lengths = |state: &TrainingState| state.tensors.iter().map(|t| t[0].len()).collect::<Vec<_>>();
        let wanted: Vec<usize> = self.stepper.trained.iter().map(|trained| trained.weight.len()).collect();
        if lengths(state) != wanted {
            return Err(Error::InputShape {
                what: "the training state".into(),
                expected: format!("that of {} trained tensors of this model and these options", wanted.len()),
                found: format!("one of {} tensors", state.tensors.len()),
            });
        }
        for (trained, values) in self.stepper.trained.iter().zip(&state.tensors) {
            for (tensor, values) in [trained.weight, trained.mean, trained.square].into_iter().zip(values) {
                device.write_all(tensor, values)?;
            }
        }
        (self.steps, self.moves) = (state.steps, state.moves);
        Ok(())
    }
}
