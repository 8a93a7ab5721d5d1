//! The ways in which a product with a matrix can be made: kernels, their shapes, and which goes first.

use std::fmt;

use crate::device::Maker;
use crate::device::recording::Kernel;
use crate::device::tensor::Storage;
use crate::ops::LANES;
use crate::weights::layout::{BLOCK_ROWS, Format};
use crate::weights::matrix::{Matrix, Part};

/// The most rows of x for [`Way::Few`].
const MOST_FEW: usize = 8;
/// Outputs of a workgroup of [`Way::Many`].
const MANY_OUTPUTS: usize = 64;
/// What any device has for a workgroup.
const WORKGROUP_BYTES: usize = 16 << 10;
/// Invocations that keep any GPU busy.
const ENOUGH_LANES: usize = 16 << 10;

/// A kernel and its shape.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Many rows: `shaders/linear/many.wgsl`.
    Many {
        /// Rows of a workgroup.
        rows: usize,
        /// Rows of an invocation: 4 or 8.
        lane_rows: usize,
    },
    /// 1 to 8 rows: `shaders/linear/few.wgsl`.
    Few {
        /// Rows of the matrix of an invocation: 1, 2 or 4; with a gate, 2 or 4.
        outputs: usize,
        /// Invocations of a workgroup.
        lanes: usize,
    },
    /// Software adapters: `shaders/linear/tile.wgsl`.
    Tile {
        /// Of an invocation: 1 or 4.
        rows: usize,
        /// Of an invocation: 4 or 8.
        outputs: usize,
        /// Invocations of a workgroup.
        lanes: usize,
    },
    /// An invocation an output, for groups of any size.
    Plain,
}

/// The kernels of an op.
pub(super) struct Kernels {
    pub many: &'static Kernel,
    pub few: &'static Kernel,
    pub tile: &'static Kernel,
    /// None where the op has no plain kernel of its own.
    pub plain: Option<&'static Kernel>,
}

impl Way {
    /// Those for `rows` rows of x, fast first; none but the plain one where no part has groups of whole pieces.
    pub fn all(weight: &Matrix, rows: usize, maker: Maker) -> Vec<Way> {
        let part = weight.parts.iter().find(|part| part.format.has_whole_pieces(weight.cols));
        let fast = part.map(|part| match part.words.storage {
            Storage::Buffer if rows <= MOST_FEW => Way::all_few(rows),
            Storage::Buffer => Way::all_many(rows, weight.rows, maker),
            _ => {
                let tile_rows = if rows == 1 { 1 } else { 4 };
                // With 8 outputs, x is loaded half as often, and the shader takes twice as long to compile, which
                // matrices of a small model do not win back.
                let outputs = if part.rows * weight.cols < 1 << 18 { 4 } else { 8 };
                vec![Way::Tile { rows: tile_rows, outputs, lanes: 8 }]
            }
        });
        fast.into_iter().flatten().chain([Way::Plain]).collect()
    }

    fn all_few(rows: usize) -> Vec<Way> {
        let shapes = [(2, 128), (1, 128), (4, 128), (4, 64), (2, 256)];
        let fits = |&(outputs, lanes): &(usize, usize)| 4 * rows * outputs * (lanes + 8) <= WORKGROUP_BYTES;
        shapes.into_iter().filter(fits).map(|(outputs, lanes)| Way::Few { outputs, lanes }).collect()
    }

    /// The first keeps its sums in registers, as far as that is known: AMD's and NVIDIA's compilers do for 8 rows of an
    /// invocation, Intel's spill. Of these it wastes the fewest rows of its last workgroups; of those that waste alike it reads
    /// the matrix least often, unless there would be too few invocations.
    fn all_many(rows: usize, outputs: usize, maker: Maker) -> Vec<Way> {
        let shapes = [(32, 4), (64, 4), (64, 8), (88, 4), (128, 8)];
        let cost = |&(tile, lane_rows): &(usize, usize)| {
            let lanes = rows.div_ceil(tile) * outputs.div_ceil(MANY_OUTPUTS) * tile / lane_rows * 8;
            let spills = lane_rows > 4 && !matches!(maker, Maker::Amd | Maker::Nvidia);
            let too_few = tile > 64 && lanes < ENOUGH_LANES;
            let often = tile < 64 && rows > tile;
            (spills, often, too_few, rows.next_multiple_of(tile), rows.div_ceil(tile), lane_rows)
        };
        let first = shapes.into_iter().min_by_key(cost).expect("there are shapes");
        let others = shapes.into_iter().filter(|shape| *shape != first);
        [first].into_iter().chain(others).map(|(rows, lane_rows)| Way::Many { rows, lane_rows }).collect()
    }

    /// Whether it may be taken for as many rows and a matrix in this storage.
    #[cfg(test)]
    pub fn is_for(self, rows: usize, storage: Storage) -> bool {
        match self {
            Way::Many { .. } => storage == Storage::Buffer,
            Way::Few { .. } => storage == Storage::Buffer && rows <= MOST_FEW,
            Way::Tile { .. } => storage != Storage::Buffer,
            Way::Plain => true,
        }
    }

    /// The same for a part of the matrix; the plain one where groups are not whole pieces.
    pub fn of_part(self, part: &Part, cols: usize) -> Way {
        if part.format.has_whole_pieces(cols) { self } else { Way::Plain }
    }

    /// The kernel, its constants for `rows` rows of x, and the grid for all outputs of `part`: of both halves at once
    /// where these are a gate and what it gates.
    pub fn dispatch(
        self,
        kernels: &Kernels,
        part: &Part,
        rows: usize,
        gated: bool,
    ) -> (&'static Kernel, Vec<(&'static str, f64)>, [u32; 3]) {
        let products = if gated { 2 } else { 1 };
        let per_word = ("PER_WORD", 32.0 / part.format.bits() as f64);
        let outputs = part.rows / products;
        let (kernel, shape, grid) = match self {
            Way::Many { rows: tile, lane_rows } => {
                let shape = [("TILE_ROWS", tile), ("LANE_ROWS", lane_rows), ("LANES", tile / lane_rows * 8)];
                (Some(kernels.many), shape.to_vec(), [outputs.div_ceil(MANY_OUTPUTS / products), rows.div_ceil(tile)])
            }
            Way::Few { outputs: of_lane, lanes } => {
                let shape = [("ROWS", rows), ("OUTPUTS", of_lane), ("LANES", lanes)];
                // A strip is the workgroup's share of each four of a block's rows.
                let strips = 4 * products / of_lane;
                (Some(kernels.few), shape.to_vec(), [outputs.div_ceil(BLOCK_ROWS) * strips, 1])
            }
            Way::Tile { rows: tile, outputs: of_lane, lanes } => {
                let shape = [("ROWS", tile), ("OUTPUTS", of_lane), ("LANES", lanes)];
                (
                    Some(kernels.tile),
                    shape.to_vec(),
                    [outputs.div_ceil(of_lane / products * lanes), rows.div_ceil(tile)],
                )
            }
            Way::Plain => (kernels.plain, vec![("LANES", LANES as usize)], [outputs.div_ceil(LANES as usize), rows]),
        };
        let kernel = kernel.unwrap_or_else(|| panic!("{self:?} of an op that has no such kernel"));
        let mut constants = part.constants().to_vec();
        constants.extend(shape.into_iter().map(|(name, value)| (name, value as f64)));
        if self != Way::Plain {
            constants.push(per_word);
        }
        (kernel, constants, [grid[0] as u32, grid[1] as u32, 1])
    }
}

/// What tells products apart for [`Recording::choose`](crate::device::recording::Recording::choose).
pub(super) struct ProductCall {
    op: &'static str,
    /// Of the first part: parts are stored alike, but for rare mixtures.
    format: Format,
    storage: Storage,
    rows: usize,
    outputs: usize,
    cols: usize,
}

impl ProductCall {
    pub(super) fn new(op: &'static str, rows: usize, weight: &Matrix) -> ProductCall {
        let part = &weight.parts[0];
        let (format, storage) = (part.format, part.words.storage);
        ProductCall { op, format, storage, rows, outputs: weight.rows, cols: weight.cols }
    }
}

impl fmt::Display for ProductCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProductCall { op, format, storage, rows, outputs, cols } = self;
        // As many rows as differ little in what is fast for them.
        let (least, most) = match rows {
            1 => (1, 1),
            2..=8 => (2, 8),
            _ => (rows.next_power_of_two() / 2 + 1, rows.next_power_of_two()),
        };
        write!(f, "{op} {format:?} in {storage:?}, {least} to {most} rows, {outputs} x {cols}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_take_tiles_that_waste_few_and_stay_in_registers() {
        let first = |rows, outputs, maker| match Way::all_many(rows, outputs, maker)[0] {
            Way::Many { rows, lane_rows } => (rows, lane_rows),
            way => panic!("{way:?}"),
        };
        // Prefill, InternViT's 257 rows, a long prompt.
        for maker in [Maker::Amd, Maker::Nvidia, Maker::Intel, Maker::Other] {
            assert_eq!(first(20, 4096, maker), (32, 4));
            assert_eq!(first(257, 3200, maker), (88, 4));
        }
        assert_eq!([Maker::Amd, Maker::Nvidia].map(|maker| first(1024, 22016, maker)), [(128, 8); 2]);
        assert_eq!([Maker::Intel, Maker::Other].map(|maker| first(1024, 22016, maker)), [(64, 4); 2]);
        assert_eq!(Way::all_many(1024, 22016, Maker::Intel).len(), 5, "the others can still be measured");
    }
}
