//! What compilers of GPUs make of the kernels that the published model takes there, by the tables of tests/portability.

use std::collections::HashMap;

use pollster::block_on;

use crate::device::choices::Choices;
use crate::device::recording::PipelineKey;
use crate::device::wgsl::{Access, Binding};
use crate::device::{Device, Maker};
use crate::files::checkpoint::Checkpoint;
use crate::files::random::{RandomCheckpoint, RandomFormat, published};
use crate::model::calls::{Sketch, Task};

/// Who made the device, the table, and the most registers that an invocation may have: on navi21, those of 8 waves a SIMD.
const TABLES: [(Maker, &str, Option<u64>); 4] = [
    (Maker::Intel, include_str!("../../tests/portability/tables/intel-tgl.txt"), None),
    (Maker::Intel, include_str!("../../tests/portability/tables/intel-dg2.txt"), None),
    (Maker::Nvidia, include_str!("../../tests/portability/tables/nvidia-172.txt"), None),
    (Maker::Amd, include_str!("../../tests/portability/tables/amd-navi21.txt"), Some(128)),
];

/// Sizes that examples, and so the tables, leave out: CLIP's heads and the two texts of a match, a few calls a picture.
const NOT_LISTED: [&str; 3] = [" HEAD_DIM=200 ", " HEAD_DIM=256 ", " ROWS=2 "];

/// A pipeline's name in the tables.
fn name(key: &PipelineKey) -> String {
    let mut constants: Vec<String> = key.constants().iter().map(|(name, value)| format!(" {name}={value}")).collect();
    constants.sort_by_key(|constant| constant.split('=').next().map(str::to_string));
    let letter = |binding: &Binding| match binding {
        Binding::Buffer(Access::Read) => 'r',
        Binding::Buffer(Access::Write) => 'w',
        other => panic!("{key}: {other:?} on a GPU"),
    };
    format!("{}{} {}", key.kernel.name, constants.concat(), key.operands.iter().map(letter).collect::<String>())
}

#[test]
fn what_the_published_model_takes_neither_spills_nor_needs_memory_of_its_own() {
    let rows = |table: &'static str| table.lines().filter_map(|line| line.split_once(": ")).collect::<HashMap<_, _>>();
    let tables = TABLES.map(|(maker, table, most)| (maker, rows(table), most));
    let (mut faults, mut missing) = (Vec::new(), Vec::new());
    let formats =
        [RandomFormat::BF16, RandomFormat::Int { bits: 4, group: 128 }, RandomFormat::Int { bits: 8, group: 128 }];
    for format in formats {
        let source = RandomCheckpoint::new(&published(), format).unwrap();
        let checkpoint = block_on(Checkpoint::open(Box::new(source))).unwrap();
        // Its weights lie in buffers, as a GPU's do.
        let device = Device::cpu();
        let sketch = block_on(Sketch::of(&checkpoint, &device)).unwrap();
        for (maker, rows, most) in &tables {
            device.set_choices(Choices::of(*maker));
            for call in sketch.calls(&device, &Task::all()).unwrap() {
                let name = name(&PipelineKey::of(&call));
                let Some(values) = rows.get(name.as_str()) else {
                    missing.extend((!NOT_LISTED.iter().any(|size| name.contains(size))).then_some(name));
                    continue;
                };
                let value = |column: &str| {
                    let pairs = values.split_whitespace().filter_map(|pair| pair.split_once('='));
                    pairs.filter(|(name, _)| *name == column).map(|(_, n)| n.parse::<u64>().unwrap()).sum::<u64>()
                };
                let bad = value("spills") > 0 || value("scratch") > 0 || most.is_some_and(|n| value("registers") > n);
                faults.extend(bad.then(|| format!("{maker:?}: {name}: {values}")));
            }
        }
    }
    for list in [&mut faults, &mut missing] {
        list.sort();
        list.dedup();
    }
    assert!(faults.is_empty(), "{} pipelines:\n{}", faults.len(), faults.join("\n"));
    assert!(missing.is_empty(), "{} pipelines are in no table:\n{}", missing.len(), missing.join("\n"));
}
