//! Grids that are dispatched in parts make what they make at once, to the bit.

use std::collections::HashMap;

use crate::device::Device;
use crate::device::gpu::{Gpu, candidates};
use crate::device::recording::{Dispatch, Recording};
use crate::device::tensor::Storage;
use crate::ops::KERNELS;
use crate::ops::examples::Examples;

/// Examples of a kernel that are tried.
const TRIED: usize = 3;
/// Into how many parts a grid is cut at least, where it has as many workgroups.
const PARTS: u64 = 7;

#[test]
fn parts_of_grids_make_the_whole() {
    let device = pollster::block_on(async {
        let first = candidates().await.into_iter().next().expect("an adapter");
        Device::gpu(Gpu::open(first).await.unwrap())
    });
    let gpu = device.as_gpu().unwrap();
    let mut tried: HashMap<&str, usize> = HashMap::new();
    for op in KERNELS {
        let Examples { mut recording, inputs } = op.record();
        if !recording.dispatches.iter().any(|dispatch| dispatch.kernel.divides()) {
            continue;
        }
        let (mut pool, mut random) = (device.pool(), fastrand::Rng::with_seed(7));
        let scratch = std::mem::take(&mut recording.scratch);
        inputs.iter().map(|input| input.tensor).chain(scratch).for_each(|tensor| pool.add(tensor).unwrap());
        for input in &inputs {
            device.write_all(input.tensor, &input.fill.words(input.tensor, &mut random)).unwrap();
        }
        for dispatch in recording.dispatches {
            let grid = dispatch.workgroups;
            if !dispatch.kernel.divides() {
                device.play(&alone(dispatch)).unwrap();
                continue;
            }
            if dispatch.operands[0].0.storage != Storage::Buffer {
                continue;
            }
            let times = tried.entry(dispatch.kernel.name).or_default();
            if *times < TRIED && grid[0] * grid[1] > 2 {
                *times += 1;
                compare(&device, gpu, dispatch);
            }
        }
    }
    let dividing = KERNELS.iter().flat_map(|op| op.kernels).filter(|kernel| kernel.divides()).map(|kernel| kernel.name);
    // One writes textures alone, which cannot be read back.
    assert_eq!(dividing.filter(|name| !tried.contains_key(name)).collect::<Vec<_>>(), ["linear_gate_tile"]);
    assert!(tried.values().all(|times| *times > 0), "{tried:?}");
}

fn alone(dispatch: Dispatch) -> Recording {
    let mut recording = Recording::new();
    recording.dispatches.push(dispatch);
    recording
}

/// Plays a dispatch at once and in parts.
fn compare(device: &Device, gpu: &Gpu, dispatch: Dispatch) {
    let (out, cost, key) = (dispatch.operands[0].0, dispatch.work().cost(), format!("{dispatch:?}"));
    let recording = alone(dispatch);
    let play = |limit: u64| {
        gpu.limit_submissions(limit);
        device.write(out, 0, &vec![0xff; out.size_bytes()]).unwrap();
        let before = gpu.submitted().count;
        device.play(&recording).unwrap();
        let submissions = gpu.submitted().count - before;
        (pollster::block_on(device.read_u32(out)).unwrap(), submissions)
    };
    let (parts, submissions) = play((cost / PARTS).max(1));
    assert!(submissions > 1, "{key}: cut into {submissions}");
    let (whole, _) = play(u64::MAX);
    assert!(whole == parts, "{key}: {submissions} parts");
}
