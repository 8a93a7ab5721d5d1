//! A line a kernel: how long its calls of a recording take, played alone.

use crate::bench::timing;
use crate::device::Device;
use crate::device::recording::{Dispatch, Recording};
use crate::device::wgsl::Access;
use crate::device::work::Work;
use crate::error::Result;

/// The calls of a kernel that have one shape.
#[derive(Clone, Debug)]
pub struct KernelLine {
    pub name: &'static str,
    /// What it writes, and the largest that it reads.
    pub shape: String,
    pub dispatches: usize,
    /// Of all its calls.
    pub seconds: f64,
    /// Of all its calls.
    pub work: Work,
}

/// Times the calls of each kernel and shape, behind each other as often as fills 50 ms. Calls of several layers read the
/// weights of several layers: what is cached then is cached in a step, too.
pub(super) async fn measure(
    device: &Device,
    recording: &Recording,
    on_stage: &mut dyn FnMut(String),
) -> Result<Vec<KernelLine>> {
    let mut groups: Vec<(&'static str, String, Vec<Dispatch>)> = Vec::new();
    for dispatch in &recording.dispatches {
        let shape = shape_of(dispatch);
        match groups.iter_mut().find(|(name, s, _)| *name == dispatch.kernel.name && *s == shape) {
            Some((_, _, calls)) => calls.push(dispatch.clone()),
            None => groups.push((dispatch.kernel.name, shape, vec![dispatch.clone()])),
        }
    }
    let mut lines = Vec::new();
    for (name, shape, calls) in groups {
        on_stage(format!("{name} {shape}"));
        let mut alone = Recording::new();
        alone.scratch = recording.scratch.clone();
        let mut work = Work::default();
        calls.iter().for_each(|dispatch| work += dispatch.work());
        let dispatches = calls.len();
        alone.dispatches = calls;
        lines.push(KernelLine { name, shape, dispatches, seconds: timing::seconds(device, &alone).await?, work });
    }
    lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(lines)
}

fn shape_of(dispatch: &Dispatch) -> String {
    let of = |access: Access| {
        let tensors = dispatch.operands.iter().filter(move |(_, a)| *a == access).map(|(tensor, _)| tensor);
        tensors.max_by_key(|tensor| tensor.size_bytes()).map_or(String::new(), |tensor| format!("{:?}", tensor.shape()))
    };
    format!("{} from {}", of(Access::Write), of(Access::Read))
}
