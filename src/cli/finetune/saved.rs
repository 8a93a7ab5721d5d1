//! What a run leaves on disk: the adapter as `peft` reads it, and beside it what `--resume` goes on from.

use std::path::Path;

use qllama::internals::{NamedTensor, read_tensor_file, write_tensors};
use qllama::{Error, Result, TrainingState};

use crate::many::names::base_name;

const STATE: &str = "training_state.safetensors";
const PARTS: [&str; 3] = ["weight", "mean", "square"];

/// Writes a state beside the adapter; it appears whole or not at all.
pub fn save(folder: &Path, state: &TrainingState, settings: u64) -> Result<()> {
    let counts = [state.steps as i64, state.moves.into(), settings as i64];
    let mut tensors = vec![NamedTensor::i64("counts", &[3], &counts)];
    for (i, values) in state.tensors.iter().enumerate() {
        for (part, values) in PARTS.iter().zip(values) {
            tensors.push(NamedTensor::f32(format!("{part}.{i}"), &[values.len()], values));
        }
    }
    write_tensors(folder.join(STATE), &tensors)
}

/// The state of an earlier run with the same settings.
///
/// # Errors
/// `E_IO` where there is none; `E_INPUT` where it is of other settings.
pub fn load(folder: &Path, settings: u64) -> Result<TrainingState> {
    let path = folder.join(STATE);
    if !path.is_file() {
        let reason = format!("there is no {STATE} in it to go on from");
        return Err(Error::Io { file: base_name(folder), reason });
    }
    let mut tensors = read_tensor_file(&path)?;
    let damaged = || Error::Input { reason: format!("{STATE}: this is not what finetune wrote") };
    let counts = tensors.remove("counts").ok_or_else(damaged)?.to_i64()?;
    let &[steps, moves, with] = &counts[..] else { return Err(damaged()) };
    if with as u64 != settings {
        let reason = "it is of a run with other options, pictures or texts: give the same, or leave --resume out";
        return Err(Error::Input { reason: format!("{STATE}: {reason}") });
    }
    let mut state = TrainingState {
        steps: usize::try_from(steps).map_err(|_| damaged())?,
        moves: u32::try_from(moves).map_err(|_| damaged())?,
        tensors: Vec::new(),
    };
    while tensors.contains_key(&format!("{}.{}", PARTS[0], state.tensors.len())) {
        let mut parts = [Vec::new(), Vec::new(), Vec::new()];
        for (to, part) in parts.iter_mut().zip(PARTS) {
            let name = format!("{part}.{}", state.tensors.len());
            *to = tensors.remove(&name).ok_or_else(damaged)?.to_f32()?;
        }
        state.tensors.push(parts);
    }
    Ok(state)
}
