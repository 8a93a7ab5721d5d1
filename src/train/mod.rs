//! Fine-tuning: losses, their gradients, and the steps that weights take.

mod example;
pub(crate) mod gradients;
mod lesson;
mod options;
mod start;
mod step;
mod trainer;
pub(crate) mod wanted;

pub use example::Example;
pub use gradients::{Gradients, Objective, Of};
pub use lesson::{Lesson, Taught};
pub use options::{ALL_TARGETS, Schedule, TrainerOptions};
pub use step::Batch;
pub use trainer::{StepReport, Trainer, TrainingState};
