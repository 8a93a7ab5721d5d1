//! What neighbouring invocations of the kernels for GPUs load: whole lines of memory, each weight once a workgroup.
//!
//! A traced copy of a kernel writes, for each load of W and of x in the grid's first workgroup, which element it was. Of the
//! loads that 32 neighbouring invocations make at once, the lines of 128 bytes that they touch are counted.

use std::collections::{BTreeMap, HashSet};

use crate::device::recording::{Kernel, PipelineKey, Recording};
use crate::device::tensor::DType;
use crate::device::tensor::Storage;
use crate::device::wgsl::{Access, Import};
use crate::ops::linear::{Epilogue, linear};
use crate::ops::testing::{Random, Shape, gpu_device, random_matrix};
use crate::weights::layout::Format;

/// Loads of an invocation that are traced.
const LOADS: usize = 600;
const LANES: usize = 256;
const LINE_BYTES: u32 = 128;
/// What a traced load is of: a vector of x, a piece of W, or a word of one.
const X: u32 = 1;
const WORD: u32 = 3;

/// The source of a file of `shaders` with loads traced; files that load nothing stay as they are.
fn traced(name: &str, source: &str) -> String {
    let change = |from: &str, to: &str| {
        assert!(source.contains(from), "{name} has no {from:?}");
        source.replace(from, to)
    };
    match name {
        "shared/matrix_in_buffers" => {
            let log = "
                var<private> traced_lane: u32;
                var<private> traced_loads: u32;
                fn trace_load(operand: u32, byte: u32) {
                    if traced_lane < 256u && traced_loads < 600u {
                        let at = (traced_lane * 600u + traced_loads) * 2u;
                        trace[at] = operand;
                        trace[at + 1u] = byte;
                    }
                    traced_loads += 1u;
                }\n";
            let source =
                change("    return words[index];", "    trace_load(2u, index * 16u);\n    return words[index];");
            let word = "    return words[index][i];";
            assert!(source.contains(word));
            source.replace(word, &format!("    trace_load(3u, index * 16u + i * 4u);\n{word}")) + log
        }
        "linear/x_in_buffers" => {
            change("    return x[index];", "    trace_load(1u, index * 16u);\n    return x[index];")
        }
        "linear/output" => change(
            "var<storage, read> residual: array<f32>;     // [_, y_width]",
            "var<storage, read_write> trace: array<u32>;",
        )
        .replace("        value += residual[at];\n", ""),
        "linear/few" | "linear/many" => {
            let place = "    let place = in_grid(workgroup);\n";
            change(place, &format!("{place}    traced_lane = select(lane, 999u, any(place > vec2(0u)));\n"))
        }
        _ => source.into(),
    }
}

fn traced_kernel(kernel: &'static Kernel) -> &'static Kernel {
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let imports: Vec<Import> = kernel
        .imports
        .iter()
        .map(|import| Import { name: import.name, source: leak(traced(import.name, import.source)) })
        .collect();
    Box::leak(Box::new(Kernel {
        name: kernel.name,
        source: kernel.source,
        imports: Box::leak(imports.into_boxed_slice()),
        params: kernel.params,
        reference: kernel.reference,
        work: kernel.work,
    }))
}

/// A load: the operand, and where it begins in bytes.
type Load = (u32, u32);

/// The loads of each invocation of the first workgroup, in order, for each way to compute a product of 1 workgroup.
fn loads_of_ways(rows: usize, outputs: usize, cols: usize, format: Format) -> Vec<(PipelineKey, Vec<Vec<Load>>)> {
    let device = gpu_device();
    let (mut pool, mut random) = (device.pool(), Random::new(7));
    let shape = Shape {
        rows: outputs,
        cols,
        format,
        scales: DType::BF16,
        offsets: false,
        part_rows: outputs,
        storage: Storage::Buffer,
    };
    let weight = random_matrix(&mut pool, &mut random, shape);
    let x = pool.f32(&[rows, cols], &random.f32s(rows * cols)).unwrap();
    let mut every_way = Recording::of_every_way();
    linear(&mut every_way, x, &weight, Epilogue::default());
    let mut found = Vec::new();
    for mut dispatch in every_way.dispatches.into_iter().filter(|dispatch| dispatch.kernel.name != "linear") {
        let key = PipelineKey::of(&dispatch);
        let trace = pool.u32(&[LANES * LOADS, 2], &vec![0; LANES * LOADS * 2]).unwrap();
        dispatch.operands[0].0 = pool.f32(&[rows, outputs], &vec![0.0; rows * outputs]).unwrap();
        dispatch.operands[7] = (trace, Access::Write);
        dispatch.kernel = traced_kernel(dispatch.kernel);
        dispatch.workgroups = [1; 3];
        let lanes = dispatch.constant("LANES") as usize;
        let mut recording = Recording::new();
        recording.dispatches.push(dispatch);
        device.play(&recording).unwrap();
        let words = pollster::block_on(device.read_u32(trace)).unwrap();
        let of_lane = |lane: &[u32]| lane.chunks(2).take_while(|load| load[0] != 0).map(|l| (l[0], l[1])).collect();
        found.push((key, words.chunks(2 * LOADS).take(lanes).map(of_lane).collect()));
    }
    found
}

/// The most lines that 32 invocations touch at once, and the least share of these lines' bytes that they use, of each
/// operand.
fn lines_touched(loads: &[Vec<Load>]) -> BTreeMap<u32, (usize, f64)> {
    let mut worst: BTreeMap<u32, (usize, f64)> = BTreeMap::new();
    let operand_of = |lane: &Vec<Load>, i: usize| lane.get(i).map(|load| load.0);
    // Where some of the 32 have less to do, their loads are not told apart from those of the others.
    let in_step = |lanes: &&[Vec<Load>]| {
        (0..LOADS).all(|i| lanes.iter().all(|lane| operand_of(lane, i) == operand_of(&lanes[0], i)))
    };
    for lanes in loads.chunks(32).filter(in_step) {
        for (i, &(operand, _)) in lanes[0].iter().enumerate() {
            let places: HashSet<u32> = lanes.iter().map(|lane| lane[i].1).collect();
            let lines: HashSet<u32> = places.iter().map(|byte| byte / LINE_BYTES).collect();
            let bytes = places.len() as f64 * if operand == WORD { 4.0 } else { 16.0 };
            let share = bytes / (lines.len() as f64 * f64::from(LINE_BYTES));
            let (most, least) = worst.entry(operand).or_insert((0, 1.0));
            (*most, *least) = ((*most).max(lines.len()), least.min(share));
        }
    }
    worst
}

#[test]
fn neighbours_load_whole_lines_and_each_weight_once() {
    let formats = [Format::BF16, Format::Int { bits: 8, group: 32 }, Format::Int { bits: 4, group: 32 }];
    for (rows, cols) in [(1, 4096), (5, 11008), (257, 3200)] {
        for format in formats {
            for (key, loads) in loads_of_ways(rows, 128, cols, format) {
                let case = format!("{rows} rows, {cols} columns, {format:?}, {key}");
                assert!(loads.iter().any(|lane| lane.len() > 8), "{case}: nothing was traced");
                let touched = lines_touched(&loads);
                println!("{case}: lines, and share of their bytes: {touched:?}");
                // Few rows: of W whole lines; of x one address for eight invocations. Many rows: of 4 bits, 16 columns are
                // half a piece, as 16 columns of x are half a line; the other half follows at once.
                let (whole, many) = (key.kernel.name == "linear_few", rows > 8);
                for (operand, (lines, share)) in touched {
                    let fits =
                        if many { lines <= 8 && share >= 0.5 } else { lines <= 4 && (operand == X || share == 1.0) };
                    assert!(whole != many && fits, "{case}: operand {operand}: {lines} lines, {share} of their bytes");
                }
                let weights = || loads.iter().flatten().filter(|load| load.0 != X);
                let distinct: HashSet<&Load> = weights().collect();
                let again = weights().count() as f64 / distinct.len() as f64;
                assert!(again <= 1.0, "{case}: each weight is read {again} times by a workgroup");
            }
        }
    }
}
