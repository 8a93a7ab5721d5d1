//! What a model reaches on a device, beside what the device can do at best.

mod kernels;
mod report;
mod roofs;
mod timing;

pub use kernels::KernelLine;
pub use report::html;
pub use roofs::Roofs;

use serde_json::{Value, json};

use crate::error::Result;
use crate::generate::options::{GenerateOptions, KvCacheType};
use crate::generate::probe::Probe;
use crate::model::Model;

/// Rows of context at which steps are timed.
pub const CONTEXTS: [usize; 3] = [16, 512, 1500];
/// Beams of the searches that are timed; 1 is greedy search.
pub const BEAMS: [usize; 2] = [1, 5];
/// Rows of context at which each kernel of a step is timed.
const KERNEL_CONTEXT: usize = 512;
/// Seconds that steps are timed for, at least.
const LEAST_SECONDS: f64 = 0.5;
const MOST_STEPS: usize = 64;
/// Steps that are not timed, and some to spare.
const WARM_UP: usize = 8;

/// How fast steps are.
#[derive(Clone, Copy, Debug)]
pub struct StepRate {
    /// Rows of context.
    pub rows: usize,
    pub beams: usize,
    /// A step's, in which each beam gets a token.
    pub seconds: f64,
}

/// What was measured of a model's steps on its device.
#[derive(Clone, Debug)]
pub struct Figures {
    pub roofs: Roofs,
    pub steps: Vec<StepRate>,
    /// Rows of context for `kernels`, and seconds of the whole step there.
    pub kernel_rows: usize,
    pub kernel_step: f64,
    /// The longest first.
    pub kernels: Vec<KernelLine>,
}

/// Measures the roofs of a model's device, its steps at each of three lengths of context that it takes, and each kernel of
/// a step. `on_stage` hears what is measured next.
///
/// # Errors
/// The device's.
pub async fn measure(model: &Model, kv_cache: KvCacheType, on_stage: &mut dyn FnMut(String)) -> Result<Figures> {
    let network = model.network();
    let (device, decoder) = (network.device(), network.decoder());
    let positions = decoder.config.max_position_embeddings;
    // A short model has fewer steps: half of its positions are context.
    let most_steps = MOST_STEPS.min((positions / 2).saturating_sub(WARM_UP)).max(1);
    let probe = |rows: usize, num_beams: usize| {
        let options = GenerateOptions { num_beams, max_new_tokens: most_steps + WARM_UP, ..Default::default() };
        Probe::new(decoder, device, rows, &options.resolve(&decoder.config, kv_cache)?)
    };
    let most = positions.saturating_sub(most_steps + WARM_UP);
    let mut steps = Vec::new();
    for rows in CONTEXTS.into_iter().filter(|rows| *rows <= most) {
        for beams in BEAMS {
            on_stage(format!("steps of {beams} beam(s) behind {rows} rows"));
            let probe = probe(rows, beams)?;
            let first = probe.seconds(device, 1).await?;
            let count = (LEAST_SECONDS / first).ceil().clamp(1.0, most_steps as f64) as usize;
            steps.push(StepRate { rows, beams, seconds: probe.seconds(device, count).await? });
        }
    }
    let kernel_rows = KERNEL_CONTEXT.min(most.max(1));
    let probe = probe(kernel_rows, 1)?;
    let still = probe.still();
    let kernel_step = timing::seconds(device, &still).await?;
    let kernels = kernels::measure(device, &still, on_stage).await?;
    drop(probe);
    on_stage("what the adapter can do at best".into());
    let roofs = Roofs::measure(device).await?;
    Ok(Figures { roofs, steps, kernel_rows, kernel_step, kernels })
}

impl Figures {
    /// As an object.
    pub fn json(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            json!({ "rows": step.rows, "beams": step.beams, "seconds": step.seconds, "steps_per_second": 1.0 / step.seconds })
        });
        let kernels = self.kernels.iter().map(|line| {
            json!({
                "kernel": line.name, "shape": line.shape, "dispatches": line.dispatches, "seconds": line.seconds,
                "share": self.share(line), "bytes": line.work.bytes, "multiply_adds": line.work.multiply_adds,
                "share_of_roof": self.roofs.share(line.work, line.seconds)
            })
        });
        json!({
            "roof_read_bytes_per_second": self.roofs.read_bytes, "roof_multiply_adds_per_second": self.roofs.multiply_adds,
            "empty_submission_seconds": self.roofs.empty, "steps": steps.collect::<Vec<_>>(),
            "kernel_rows": self.kernel_rows, "kernel_step_seconds": self.kernel_step,
            "kernels": kernels.collect::<Vec<_>>(),
        })
    }

    /// The part of all kernels' time that one takes.
    pub fn share(&self, line: &KernelLine) -> f64 {
        line.seconds / self.kernels.iter().map(|line| line.seconds).sum::<f64>()
    }
}
