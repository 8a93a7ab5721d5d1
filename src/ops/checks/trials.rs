//! Trials of the examples: right on the first adapter, in every way that an op has.

use pollster::block_on;

use crate::device::recording::PipelineKey;
use crate::ops::testing::gpu_device;
use crate::ops::trial::Outcome;
use crate::ops::{KERNELS, trial_of};

/// A minute on two cores: most of it is the compiling of 500 pipelines.
#[test]
#[ignore = "minutes"]
fn every_example_is_right() {
    let mut faults = Vec::new();
    let mut worst: f64 = 0.0;
    for op in KERNELS.iter().filter(|op| op.trial.is_some()) {
        for call in op.record().recording.dispatches {
            match block_on(trial_of(&call).run(gpu_device())).unwrap() {
                Outcome::Right(error) => worst = worst.max(error),
                Outcome::Wrong(fault) => faults.push(format!("{}: {fault}", PipelineKey::of(&call))),
            }
        }
    }
    eprintln!("the worst normalised mean squared error is {worst:e}");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
