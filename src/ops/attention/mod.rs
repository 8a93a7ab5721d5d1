//! Attention with keys that lie in a cache or in plain rows: `softmax(scale * q k^T + mask) v`.

pub mod heads;
mod join;
mod reference;

use std::fmt;

use crate::device::recording::{Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::ops::attention::heads::Heads;
use crate::ops::attention::join::{JOIN, join};
use crate::ops::attention::reference::{Params, reference, work, work_of_rows};
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::linear::stage::{StagedRows, staged_width, storage_for};
use crate::ops::trial::Trial;
use crate::ops::{LANES, grid, kernel, read, write};
use crate::weights::layout::dtype_code;
use crate::weights::matrix::Matrix;

/// Any call.
static PLAIN: Kernel = kernel!("attention", "attention", Params, reference, work);
/// Many rows, keys and values in buffers.
static TILES: Kernel = kernel!("attention", "attention_tiles", Params, reference, work);
/// Many rows.
static ROWS: Kernel = kernel!("attention", "attention_rows", Params, reference, work_of_rows);
/// One row, keys and values in buffers.
static STEP: Kernel = kernel!("attention", "attention_step", Params, reference, work);
/// One row, keys and values in textures.
static KEYS: Kernel = kernel!("attention", "attention_keys", Params, reference, work);

pub(crate) static OP: Op =
    Op { name: "attention", kernels: &[&PLAIN, &ROWS, &TILES, &STEP, &JOIN, &KEYS], examples, trial: Some(trial) };

/// The most keys for `attention_rows`. Mesa's software adapter ends loops after 65535 rounds of an invocation, all loops
/// counted together; the kernel has up to 32 rounds a key.
const MAX_KEYS_OF_ROWS: usize = 2000;
/// The largest head_dim for the kernels of one row and of tiles: `attention_step` keeps 16 elements of the result in each
/// of eight lanes, `attention_keys` all of it in each, `attention_tiles` a sixteenth of each row's 32 x 4.
const MAX_FAST_HEAD_DIM: usize = 128;
/// Rows of a workgroup of `attention_tiles`.
const TILE_ROWS: usize = 32;
/// Workgroups that may share the keys of a head in a step.
const PARTS: [usize; 4] = [1, 4, 8, 16];

/// A trial has about as many scores at most.
const MAX_SCORES: usize = 1 << 19;

/// Keys that a workgroup handles at a time.
const BLOCK: u32 = 1024;
/// The largest head_dim: the kernel keeps four elements of the result a lane.
pub const MAX_HEAD_DIM: usize = 4 * LANES as usize;

/// Columns `column ..` of the rows of `tensor`, which have `tensor.width()` elements.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub tensor: Tensor,
    pub column: usize,
}

impl View {
    /// All columns.
    pub fn all(tensor: Tensor) -> View {
        View { tensor, column: 0 }
    }
}

/// Which rows of `k` and `v` are the T keys and values of a sequence.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// Key t of sequence b is row `table[b, t]`.
    Cached {
        /// U32 [batch, capacity].
        table: Tensor,
        /// U32 `[1]`, or `[batch]` where each sequence has its own: keys before this call's rows. There are T = past +
        /// rows keys, at most `capacity`.
        past: Tensor,
    },
    /// Key t of sequence b is row `(b % batches) * count + t`.
    Rows {
        /// T.
        count: usize,
        batches: usize,
    },
}

/// What is added to the scores; sums are clamped from below at the lowest finite f32. A row whose keys are all blocked
/// attends to all T keys alike.
#[derive(Clone, Copy, Debug)]
pub enum Mask {
    /// Every row sees every key.
    None,
    /// Row s of this call sees key t when t <= past + s (past is 0 for [`Keys::Rows`]) and `attention_mask[b, t]` is
    /// not 0; and rows s < zero_queries see keys t < zero_queries whatever the rest says.
    Causal {
        /// U32 [batch, width >= T]; none: all ones.
        attention_mask: Option<Tensor>,
        zero_queries: usize,
    },
    /// F32 [batch, rows, width >= T]. Negative infinity counts as the lowest finite f32.
    Additive(Tensor),
}

/// Attention of `rows` queries in each of `batch` sequences.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub batch: usize,
    pub rows: usize,
    pub heads: Heads,
    /// F32 [batch * rows, heads * head_dim].
    pub q: View,
    /// [_, kv_heads * head_dim] of F32 or F16 (F16 needs even head_dim, width and column), as is `v`.
    pub k: View,
    pub v: View,
    pub keys: Keys,
    pub mask: Mask,
    /// `q` is multiplied by it before the product.
    pub scale: f32,
    /// F32 [batch, heads, rows, width >= T]: the softmax goes there, zeros behind key T. What is returned does not
    /// depend on it.
    pub probabilities: Option<Tensor>,
}

/// Returns [batch * rows, heads * head_dim].
pub fn attention(r: &mut Recording, attention: Attention) -> Tensor {
    attention_in(r, attention, Storage::Buffer).tensor()
}

/// As [`attention`], where a kernel can as the linear layer of `consumer` takes it.
pub fn attention_for(r: &mut Recording, attention: Attention, consumer: &Matrix) -> StagedRows {
    attention_in(r, attention, storage_for(consumer, attention.batch * attention.rows))
}

fn attention_in(r: &mut Recording, attention: Attention, storage: Storage) -> StagedRows {
    let checked = Checked::new(attention);
    let Attention { batch, rows, heads, probabilities, .. } = attention;
    if let Some(out) = probabilities {
        let shape = [batch, heads.heads, rows];
        assert_eq!(out.shape()[..out.shape().len() - 1], shape, "attention: probabilities {out:?}");
        let least = checked.least;
        assert!(out.dtype == DType::F32 && out.width() >= least, "attention: probabilities {out:?}, {least} keys");
        checked.record(r, out, None);
    }
    r.choose(format_args!("{checked}"), &checked.ways(), |r, way| checked.record_result(r, *way, storage))
}

/// The kernel of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// [`STEP`], with as many workgroups a head, and where these are several, [`JOIN`].
    Step { parts: usize },
    /// [`TILES`].
    Tiles,
    /// [`KEYS`].
    Keys,
    /// [`ROWS`].
    Rows,
    /// [`PLAIN`].
    Plain,
}

/// A call whose shapes fit, and what its kernels are told of keys and mask.
struct Checked {
    call: Attention,
    /// The fewest and the most keys that there may be.
    least: usize,
    capacity: usize,
    /// Sequences that have keys of their own.
    batches: usize,
    table: Option<Tensor>,
    past: Option<Tensor>,
    /// The value of the shaders' constant `MASK`.
    mask_code: u32,
    mask: Option<Tensor>,
    zero_queries: usize,
}

impl Checked {
    fn new(call: Attention) -> Checked {
        let Attention { batch, rows, heads, q, k, v, keys, mask, .. } = call;
        let Heads { heads: query_heads, kv_heads, head_dim } = heads;
        assert!(query_heads.is_multiple_of(kv_heads) && (1..=MAX_HEAD_DIM).contains(&head_dim), "attention: {heads:?}");
        assert_eq!(q.tensor.dtype, DType::F32, "attention: q {q:?}");
        assert_eq!(q.tensor.rows(), batch * rows, "attention: q {:?}, {batch} x {rows} rows", q.tensor.shape());
        assert!(q.column + heads.q_width() <= q.tensor.width(), "attention: q {q:?}, {heads:?}");
        for view in [k, v] {
            assert!(view.column + heads.kv_width() <= view.tensor.width(), "attention: k or v {view:?}, {heads:?}");
            let even = [view.column, view.tensor.width(), head_dim].iter().all(|n| n.is_multiple_of(2));
            match view.tensor.dtype {
                DType::F32 => {}
                DType::F16 => assert!(even, "attention: {view:?} of F16, {heads:?}"),
                other => panic!("attention: k or v of {other:?}"),
            }
        }
        let mut checked = Checked {
            call,
            least: rows,
            capacity: 0,
            batches: 1,
            table: None,
            past: None,
            mask_code: 0,
            mask: None,
            zero_queries: 0,
        };
        checked.take_keys(keys);
        checked.take_mask(mask);
        let in_buffers = k.tensor.storage == Storage::Buffer;
        assert!(
            k.tensor.storage == v.tensor.storage && (in_buffers || checked.in_pieces()),
            "attention: k {k:?}, v {v:?}, {heads:?}"
        );
        checked
    }

    fn take_keys(&mut self, keys: Keys) {
        let Attention { batch, rows, k, v, .. } = self.call;
        match keys {
            Keys::Cached { table, past } => {
                assert_eq!(
                    (table.rows(), table.dtype),
                    (batch, DType::U32),
                    "attention: table {table:?}, batch {batch}"
                );
                let each = past.len() == 1 || past.len() == batch;
                assert!(each && past.dtype == DType::U32, "attention: past {past:?}, batch {batch}");
                assert!(table.width() >= rows, "attention: table {:?}, {rows} rows", table.shape());
                (self.capacity, self.table, self.past) = (table.width(), Some(table), Some(past));
            }
            Keys::Rows { count, batches } => {
                for view in [k, v] {
                    let have = view.tensor.rows();
                    assert!(count > 0 && have >= batches * count, "attention: {batches} x {count} keys in {have} rows");
                }
                (self.least, self.capacity, self.batches) = (count, count, batches);
            }
        }
    }

    fn take_mask(&mut self, mask: Mask) {
        let Attention { batch, rows, .. } = self.call;
        (self.mask_code, self.mask, self.zero_queries) = match mask {
            Mask::None => (0, None, 0),
            Mask::Causal { attention_mask: None, zero_queries } => (1, None, zero_queries),
            Mask::Causal { attention_mask: Some(tensor), zero_queries } => {
                let expected = (batch, DType::U32);
                assert_eq!((tensor.rows(), tensor.dtype), expected, "attention: mask {tensor:?}, batch {batch}");
                (2, Some(tensor), zero_queries)
            }
            Mask::Additive(tensor) => {
                let expected = (batch * rows, DType::F32);
                assert_eq!(
                    (tensor.rows(), tensor.dtype),
                    expected,
                    "attention: mask {tensor:?}, {batch} x {rows} rows"
                );
                (3, Some(tensor), 0)
            }
        };
        if let Some(mask) = self.mask {
            assert!(mask.width() >= self.least, "attention: mask {:?}, {} keys or more", mask.shape(), self.least);
        }
    }

    fn in_textures(&self) -> bool {
        self.call.k.tensor.storage != Storage::Buffer
    }

    /// Whether rows and heads of keys and values are whole 16-byte pieces.
    fn in_pieces(&self) -> bool {
        let Attention { heads, k, v, .. } = self.call;
        [k, v].iter().all(|view| {
            let lengths = [view.column, view.tensor.width(), heads.head_dim];
            lengths.iter().all(|n| n.is_multiple_of(16 / view.tensor.dtype.bytes()))
        })
    }

    /// Whether the kernels of one row can do it.
    fn has_step(&self) -> bool {
        let Attention { rows, heads, k, v, .. } = self.call;
        rows == 1 && k.tensor.dtype == v.tensor.dtype && self.in_pieces() && heads.head_dim <= MAX_FAST_HEAD_DIM
    }

    /// The kernels that can do it, fast first.
    fn ways(&self) -> Vec<Way> {
        let mut ways = Vec::new();
        match self.call.rows {
            1 if self.has_step() && self.in_textures() => ways.push(Way::Keys),
            1 if self.has_step() => {
                let first = self.parts();
                let others = PARTS.into_iter().filter(|parts| *parts != first);
                ways.extend([first].into_iter().chain(others).map(|parts| Way::Step { parts }));
            }
            1 => {}
            _ => {
                if self.has_tiles() {
                    ways.push(Way::Tiles);
                }
                if self.capacity <= MAX_KEYS_OF_ROWS {
                    ways.push(Way::Rows);
                }
            }
        }
        ways.push(Way::Plain);
        ways
    }

    /// Whether the kernel of tiles can do it.
    fn has_tiles(&self) -> bool {
        !self.in_textures() && self.in_pieces() && self.call.heads.head_dim <= MAX_FAST_HEAD_DIM
    }

    /// Workgroups for a head's keys, if nothing was measured: a few blocks of keys each where there are as many as there
    /// may be.
    fn parts(&self) -> usize {
        match self.capacity {
            ..=128 => PARTS[0],
            129..=512 => PARTS[1],
            513..=2048 => PARTS[2],
            _ => PARTS[3],
        }
    }

    /// Records the result in one way, where that can in `storage`.
    fn record_result(&self, r: &mut Recording, way: Way, storage: Storage) -> StagedRows {
        let Attention { batch, rows, heads, .. } = self.call;
        // Nobody would write what is behind the last column of a staged row.
        let direct = way == Way::Keys && staged_width(heads.q_width()) == heads.q_width();
        let storage = if direct { storage } else { Storage::Buffer };
        let out = StagedRows::scratch(r, storage, batch * rows, heads.q_width());
        match way {
            Way::Step { parts } if parts > 1 => {
                let found = r.scratch_f32(&[batch * heads.heads, parts, heads.head_dim + 2]);
                self.record(r, found, Some(way));
                join(r, found, out.tensor(), heads.head_dim);
            }
            _ => self.record(r, out.tensor(), Some(way)),
        }
        out
    }

    /// Records what goes to `out`: the result, in one way, or, where there is none, the probabilities.
    fn record(&self, r: &mut Recording, out: Tensor, way: Option<Way>) {
        let probabilities = way.is_none();
        let Attention { batch, rows, heads, q, k, v, scale, .. } = self.call;
        let count = batch * heads.heads * rows;
        let constants = [
            ("HEAD_DIM", heads.head_dim as f64),
            ("CACHED", f64::from(u8::from(self.table.is_some()))),
            ("K_FORMAT", dtype_code(k.tensor.dtype)),
            ("V_FORMAT", dtype_code(v.tensor.dtype)),
            ("MASK", f64::from(self.mask_code)),
        ];
        let params = Params {
            count: count as u32,
            heads: heads.heads as u32,
            rows: rows as u32,
            heads_per_key: (heads.heads / heads.kv_heads) as u32,
            q_width: q.tensor.width() as u32,
            q_column: q.column as u32,
            k_width: k.tensor.width() as u32,
            k_column: k.column as u32,
            v_width: v.tensor.width() as u32,
            v_column: v.column as u32,
            capacity: self.capacity as u32,
            batches: self.batches as u32,
            mask_width: self.mask.map_or(0, |t| t.width() as u32),
            zero_queries: self.zero_queries as u32,
            out_width: if probabilities { out.width() as u32 } else { 0 },
            past_stride: u32::from(self.past.is_some_and(|past| past.len() > 1)),
            scale,
        };
        // An operand that is not there is never read: any tensor stands in for it.
        let [table, past, mask] = [self.table, self.past, self.mask].map(|operand| read(operand.unwrap_or(q.tensor)));
        let operands = [write(out), read(q.tensor), read(k.tensor), read(v.tensor), table, past, mask];
        let lanes = ("LANES", LANES as f64);
        match way {
            Some(Way::Step { parts }) => {
                let constants = [&constants[..], &[("PARTS", parts as f64)]].concat();
                r.dispatch(&STEP, &constants, &operands, params, grid(count * parts));
            }
            Some(Way::Tiles) => {
                let workgroups = grid(batch * heads.heads * rows.div_ceil(TILE_ROWS));
                r.dispatch(&TILES, &constants, &operands, params, workgroups);
            }
            Some(Way::Keys) => r.dispatch(&KEYS, &constants, &operands, params, grid(count)),
            Some(Way::Rows) => {
                let workgroups = grid((count * heads.head_dim.div_ceil(32)).div_ceil(LANES as usize));
                r.dispatch(&ROWS, &[&constants[..], &[lanes]].concat(), &operands, params, workgroups);
            }
            Some(Way::Plain) | None => {
                let more = [("PROBABILITIES", f64::from(u8::from(probabilities))), ("BLOCK", BLOCK as f64), lanes];
                r.dispatch(&PLAIN, &[&constants[..], &more].concat(), &operands, params, grid(count));
            }
        }
    }
}

/// What tells calls apart for [`Recording::choose`].
impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attention { batch, rows, heads, k, .. } = self.call;
        let Heads { heads, kv_heads, head_dim } = heads;
        let (dtype, storage) = (k.tensor.dtype, k.tensor.storage);
        let (rows, keys) = (rows.next_power_of_two(), self.capacity.next_power_of_two());
        write!(f, "attention of {heads} heads ({kv_heads} for keys) of {head_dim}, {dtype:?} in {storage:?}, ")?;
        write!(f, "{batch} x up to {rows} rows and {keys} keys, mask {}", self.mask_code)
    }
}

fn trial(t: &mut Trial) {
    if t.dispatch.kernel == &JOIN {
        // Sums of weights, which divide.
        return t.fill(1, Fill::Positive);
    }
    let (heads, rows, capacity) = (t.param("heads"), t.param("rows"), t.param("capacity"));
    let width = t.tensor(0).width();
    // Of many heads, few, where the products are many: those of a step are not.
    if rows > 1 && t.param("out_width") == 0 && t.param("count") * capacity > MAX_SCORES {
        let group = t.param("heads_per_key");
        let left = group * heads.min(MAX_SCORES / (t.param("count") / heads * capacity)).div_ceil(group).max(1);
        let count = t.param("count") / heads * left;
        let [x, y, z] = t.dispatch.workgroups;
        t.dispatch.workgroups = grid(((x * y * z) as usize * left).div_ceil(heads));
        t.set("heads", left);
        t.set("count", count);
        t.reshape(0, &[count / left, width / heads * left]);
    }
    t.fill(4, Fill::Below(t.tensor(2).rows() as u32));
    t.fill(5, Fill::Value(capacity.saturating_sub(rows) as u32));
    t.fill(6, if t.tensor(6).dtype == DType::U32 { Fill::Below(2) } else { Fill::Floats(DType::F32) });
}

fn examples(e: &mut Examples) {
    let heads = Heads { heads: 8, kv_heads: 2, head_dim: 128 };
    // Heads of whole pieces, more keys than the kernel of many rows takes, and heads that are no whole pieces.
    for (heads, keys) in [(heads, 130), (heads, MAX_KEYS_OF_ROWS + 1), (Heads { head_dim: 6, ..heads }, 130)] {
        for dtype in [DType::F32, DType::F16] {
            for cached in [false, true] {
                examples_of(e, heads, keys, (dtype, Storage::Buffer), cached);
                if heads.head_dim == 128 {
                    examples_of(e, heads, keys, (dtype, Storage::Pieces), cached);
                }
            }
        }
    }
}

/// One row and five with each mask, over keys in a cache or in rows; with probabilities where they are in buffers.
fn examples_of(e: &mut Examples, heads: Heads, keys: usize, (dtype, storage): (DType, Storage), cached: bool) {
    for rows in [1, 5] {
        let q = View::all(e.f32(&[rows, heads.q_width()]));
        let mut view = || View::all(e.input_in(storage, dtype, &[keys, heads.kv_width()], Fill::Floats(dtype)));
        let (k, v) = (view(), view());
        let keys_are = if cached {
            let table = e.u32(&[1, keys], Fill::Counting);
            Keys::Cached { table, past: e.u32(&[1], Fill::Value((keys - rows) as u32)) }
        } else {
            Keys::Rows { count: keys, batches: 1 }
        };
        let padding = e.u32(&[1, keys], Fill::Below(2));
        let additive = e.f32(&[1, rows, keys]);
        let out = (storage == Storage::Buffer).then(|| e.f32(&[1, heads.heads, rows, keys]));
        let causal = |attention_mask| Mask::Causal { attention_mask, zero_queries: 3 };
        for mask in [Mask::None, causal(None), causal(Some(padding)), Mask::Additive(additive)] {
            let (batch, keys, scale) = (1, keys_are, 0.1);
            let mut a = Attention { batch, rows, heads, q, k, v, keys, mask, scale, probabilities: None };
            attention(&mut e.recording, a);
            if storage != Storage::Buffer {
                attention_in(&mut e.recording, a, storage);
            }
            a.probabilities = out;
            if out.is_some() {
                attention(&mut e.recording, a);
            }
        }
    }
}

#[cfg(test)]
mod tests;
