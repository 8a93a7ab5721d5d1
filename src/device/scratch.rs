//! Scratch tensors whose lives do not overlap share memory.

use std::collections::HashMap;

use crate::device::recording::Recording;
use crate::device::tensor::{DType, Tensor};

/// Which buffer each scratch tensor lives in.
pub(crate) struct SharedScratch {
    /// Scratch id -> id of the tensor whose buffer it uses.
    pub(crate) place: HashMap<u32, u32>,
    /// The tensors that own buffers, with the last dispatch that uses each.
    pub(crate) buffers: Vec<(Tensor, usize)>,
}

/// Lets scratch tensors whose lives (first to last dispatch) do not overlap share a buffer: each takes the smallest
/// free buffer that is large enough, else enlarges the largest free one, else gets its own.
pub(crate) fn share_scratch(recording: &Recording) -> SharedScratch {
    let mut lives: HashMap<u32, (usize, usize)> = HashMap::new();
    for (i, dispatch) in recording.dispatches.iter().enumerate() {
        for (tensor, _) in &dispatch.operands {
            lives.entry(tensor.id).or_insert((i, i)).1 = i;
        }
    }
    let mut scratch: Vec<_> = recording.scratch.iter().filter_map(|t| Some((*t, *lives.get(&t.id)?))).collect();
    scratch.sort_by_key(|(_, life)| life.0);
    let mut shared = SharedScratch { place: HashMap::new(), buffers: Vec::new() };
    for (tensor, (first, last)) in scratch {
        let alike = |(t, busy_until): &&mut (Tensor, usize)| t.storage == tensor.storage && *busy_until < first;
        let free = shared.buffers.iter_mut().filter(alike);
        let fit = free.min_by_key(|(t, _)| {
            let short = tensor.size_bytes().saturating_sub(t.size_bytes());
            (short, t.size_bytes())
        });
        match fit {
            Some((owner, busy_until)) => {
                if owner.size_bytes() < tensor.size_bytes() {
                    *owner = Tensor::new(owner.id, DType::U32, &[tensor.size_bytes() / 4]).stored(owner.storage);
                }
                *busy_until = last;
                shared.place.insert(tensor.id, owner.id);
            }
            None => shared.buffers.push((tensor, last)),
        }
    }
    shared
}
