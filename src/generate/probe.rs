//! A decode step behind any number of rows, without the passes that make them: what is timed and counted.

use std::time::Duration;

use web_time::Instant;

use crate::device::recording::{Dispatch, Recording, fresh_id};
use crate::device::tensor::{DType, Tensor};
use crate::device::{Device, Pool};
use crate::error::Result;
use crate::generate::ahead::{Ahead, Depth, Step};
use crate::generate::options::Resolved;
use crate::generate::session::{Prompt, State, caches_for};
use crate::nets::decoder::Qllama;
use crate::ops::cache::advance;

/// Steps that are run before time is taken.
const WARM_UP: usize = 3;

/// A step of one sequence, or of its beams, and the memory that it uses. Keys and values are zeros.
pub struct Probe {
    pub recording: Recording,
    chosen: Vec<Tensor>,
    depth: Depth,
    _pools: [Pool; 2],
}

impl Probe {
    /// The step behind `rows` rows.
    ///
    /// # Errors
    /// `E_CONTEXT` where the model takes fewer rows; the device's.
    pub fn new(model: &Qllama, device: &Device, rows: usize, options: &Resolved) -> Result<Probe> {
        options.check_rows(&model.config, rows)?;
        // The step does not read the prompt.
        let embeddings = Tensor::new(fresh_id(), DType::F32, &[rows, model.config.hidden_size]);
        let attention_mask = &vec![1; rows];
        let history = &[model.config.bos_token_id];
        let prompt = Prompt { embeddings, batch: 1, rows, attention_mask, zero_queries: 0, cross: None, history };
        let (cache_pool, caches) = caches_for(model, device, &prompt, options)?;
        let mut pool = device.pool();
        let state = State::new(&mut pool, &prompt, options)?;
        let (recording, chosen) = state.decode(model, device, &mut pool, &prompt, &caches, options)?;
        let depth = match options.num_beams {
            1 => Depth::of(device),
            // Each waits for the host.
            _ => Depth { most: 1, waste: Duration::ZERO },
        };
        Ok(Probe { recording, chosen, depth, _pools: [cache_pool, pool] })
    }

    /// The step without what moves it to the next one: played again, it has as many rows of context.
    pub fn still(&self) -> Recording {
        let mut still = Recording::new();
        still.scratch = self.recording.scratch.clone();
        let moves = |dispatch: &&Dispatch| dispatch.kernel == advance::OP.kernels[0];
        still.dispatches = self.recording.dispatches.iter().filter(|dispatch| !moves(dispatch)).cloned().collect();
        still
    }

    /// Seconds that a step takes, its choice brought back, over this many.
    pub async fn seconds(&self, device: &Device, steps: usize) -> Result<f64> {
        let step = Step { plan: device.prepare(&self.still())?, chosen: self.chosen.clone() };
        let mut chosen = vec![0u32; self.chosen.iter().map(|tensor| tensor.len()).sum()];
        let mut ahead = Ahead::new(device, [&step, &step], WARM_UP + steps, self.depth)?;
        for _ in 0..WARM_UP {
            ahead.next(&mut chosen).await?;
        }
        let start = Instant::now();
        for _ in 0..steps {
            ahead.next(&mut chosen).await?;
        }
        Ok(start.elapsed().as_secs_f64() / steps as f64)
    }
}
