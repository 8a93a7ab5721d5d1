//! What the ops' files share: how a kernel is declared, its operands and grids, and reading a matrix in a reference.

use crate::device::recording::{Call, Dispatch};
use crate::device::tensor::Tensor;
use crate::device::wgsl::Access;
use crate::device::work::Work;
use crate::weights::layout::{Format, StoredRows};

/// Lanes of a workgroup in the kernels that give a row or an output to each workgroup or lane.
pub(crate) const LANES: u32 = 64;

/// The kernel of `shaders/FOLDER/NAME.wgsl`, with the type of its parameters, its reference, and what a call takes: by
/// default a pass over all operands.
macro_rules! kernel {
    ($folder:literal, $name:literal, $params:ty, $reference:expr) => {
        $crate::ops::kernel!($folder, $name, $params, $reference, $crate::ops::once_over)
    };
    ($folder:literal, $name:literal, $params:ty, $reference:expr, $work:expr) => {
        $crate::device::recording::Kernel {
            name: $name,
            source: include_str!(concat!("../../../shaders/", $folder, "/", $name, ".wgsl")),
            imports: $crate::ops::imports::IMPORTS,
            params: <$params as $crate::device::wgsl::Uniform>::FIELDS,
            reference: $reference,
            work: $work,
        }
    };
}
pub(crate) use kernel;

/// The work of a kernel that passes over its operands once, with a multiply-add for each element that it writes.
pub(crate) fn once_over(dispatch: &Dispatch) -> Work {
    Work { multiply_adds: dispatch.written().0, bytes: dispatch.operand_bytes(), weight_bytes: 0 }
}

/// The work of a kernel that reads as much as it writes, of tensors that may hold more than that.
pub(crate) fn picked_rows(dispatch: &Dispatch) -> Work {
    let (elements, bytes) = dispatch.written();
    Work { multiply_adds: elements, bytes: 2 * bytes, weight_bytes: 0 }
}

/// An operand that is only read.
pub(crate) fn read(tensor: Tensor) -> (Tensor, Access) {
    (tensor, Access::Read)
}

/// An operand that is written.
pub(crate) fn write(tensor: Tensor) -> (Tensor, Access) {
    (tensor, Access::Write)
}

/// A grid of at least `count` workgroups within 65535 a dimension. Shaders get the workgroup's number as
/// `id.x + id.y * GRID_X` and return when it is `count` or more.
pub(crate) fn grid(count: usize) -> [u32; 3] {
    [count.clamp(1, GRID_X as usize) as u32, count.div_ceil(GRID_X as usize).max(1) as u32, 1]
}

/// Width of the grids that [`grid`] makes; `shaders/shared/grid.wgsl` has the same number.
pub(crate) const GRID_X: u32 = 32768;

/// Row `row` of the matrix that a kernel reads, as f32: its words, scales and offsets are operands 2, 3 and 4, and
/// `group` elements of a row share a scale.
pub(crate) fn unpack_row_of(call: &Call, group: u32, row: usize, out: &mut [f32]) {
    let format = match call.constant("FORMAT") {
        0 => Format::F32,
        1 => Format::F16,
        2 => Format::BF16,
        bits => Format::Int { bits, group: group as usize },
    };
    let (words, scales, offsets) = (call.u32(2), call.u32(3), call.f32(4));
    let scales = matches!(format, Format::Int { .. }).then(|| (&scales[..], call.tensor(3).dtype));
    let offsets = (call.constant("OFFSETS") == 1).then_some(&offsets[..]);
    StoredRows { cols: out.len(), format, words: &words, scales, offsets }.unpack(row, out);
}
