//! Attention with keys that lie in a cache or in plain rows: `softmax(scale * q k^T + mask) v`.

use bytemuck::{Pod, Zeroable};

use crate::device::recording::{Call, Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::ops::cache::rope::Heads;
use crate::ops::linear::dot;
use crate::ops::linear::stage;
use crate::ops::{LANES, grid, read, shader, write};
use crate::weights::layout::{dtype_code, read_float};

/// Any call; with keys and values in buffers, and in textures.
static PLAIN: [Kernel; 2] = [
    kernel(
        "attention",
        shader!("attention/attention_common.wgsl", "attention/keys_words.wgsl", "attention/attention.wgsl"),
    ),
    kernel(
        "attention, textures",
        shader!("attention/attention_common.wgsl", "attention/keys_textures.wgsl", "attention/attention.wgsl"),
    ),
];
/// The most keys for `attention_rows`. Mesa's software adapter ends loops after 65535 rounds of an invocation, all loops
/// counted together; the kernel has up to 32 rounds a key.
const MAX_KEYS_OF_ROWS: usize = 2000;
static ROWS: [Kernel; 2] = [
    kernel(
        "attention_rows",
        shader!("attention/attention_common.wgsl", "attention/keys_words.wgsl", "attention/attention_rows.wgsl"),
    ),
    kernel(
        "attention_rows, textures",
        shader!("attention/attention_common.wgsl", "attention/keys_textures.wgsl", "attention/attention_rows.wgsl"),
    ),
];
/// One row, keys and values in buffers.
static STEP: Kernel =
    kernel("attention_step", shader!("attention/attention_common.wgsl", "attention/attention_step.wgsl"));
/// One row, keys and values in textures; with the result in a buffer, and in a texture.
static KEYS: [Kernel; 2] = [
    kernel(
        "attention_keys",
        shader!(
            "shared/y_buffers.wgsl",
            "attention/attention_common.wgsl",
            "attention/keys_textures.wgsl",
            "attention/attention_keys.wgsl"
        ),
    ),
    kernel(
        "attention_keys, y in textures",
        shader!(
            "shared/y_textures.wgsl",
            "attention/attention_common.wgsl",
            "attention/keys_textures.wgsl",
            "attention/attention_keys.wgsl"
        ),
    ),
];

const fn kernel(name: &'static str, source: &'static str) -> Kernel {
    Kernel { name, source, reference }
}

/// The largest head_dim for the kernels of one row: `attention_step` keeps 16 elements of the result in each of eight
/// lanes, `attention_keys` all of it in each.
const MAX_HEAD_DIM_OF_STEP: usize = 128;

/// Keys that a workgroup handles at a time.
const BLOCK: u32 = 1024;
/// The largest head_dim: the kernel keeps four elements of the result a lane.
pub const MAX_HEAD_DIM: usize = 4 * LANES as usize;

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    count: u32,
    heads: u32,
    rows: u32,
    heads_a_key: u32,
    q_width: u32,
    q_column: u32,
    k_width: u32,
    k_column: u32,
    v_width: u32,
    v_column: u32,
    capacity: u32,
    batches: u32,
    mask_width: u32,
    zero_queries: u32,
    out_width: u32,
    scale: f32,
}

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
        /// U32 `[1]`: keys before this call's rows. There are T = past + rows keys, at most `capacity`.
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

/// Returns [batch * rows, heads * head_dim] in a buffer; or, where a kernel can, in `storage`, in which
/// [`linear`](crate::ops::linear::linear) takes it.
pub fn attention(r: &mut Recording, attention: Attention, storage: Storage) -> Tensor {
    let Attention { batch, rows, heads, q, k, v, keys, mask, scale, probabilities } = attention;
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
    // The fewest and the most keys that there may be.
    let (least, capacity, batches) = match keys {
        Keys::Cached { table, past } => {
            assert_eq!((table.rows(), table.dtype), (batch, DType::U32), "attention: table {table:?}, batch {batch}");
            assert_eq!((past.len(), past.dtype), (1, DType::U32), "attention: past {past:?}");
            assert!(table.width() >= rows, "attention: table {:?}, {rows} rows", table.shape());
            (rows, table.width(), 1)
        }
        Keys::Rows { count, batches } => {
            for view in [k, v] {
                let have = view.tensor.rows();
                assert!(count > 0 && have >= batches * count, "attention: {batches} x {count} keys in {have} rows");
            }
            (count, count, batches)
        }
    };
    let (mask_code, mask_tensor, zero_queries) = match mask {
        Mask::None => (0, None, 0),
        Mask::Causal { attention_mask: None, zero_queries } => (1, None, zero_queries),
        Mask::Causal { attention_mask: Some(tensor), zero_queries } => {
            assert_eq!((tensor.rows(), tensor.dtype), (batch, DType::U32), "attention: mask {tensor:?}, batch {batch}");
            (2, Some(tensor), zero_queries)
        }
        Mask::Additive(tensor) => {
            let expected = (batch * rows, DType::F32);
            assert_eq!((tensor.rows(), tensor.dtype), expected, "attention: mask {tensor:?}, {batch} x {rows} rows");
            (3, Some(tensor), 0)
        }
    };
    if let Some(mask) = mask_tensor {
        assert!(mask.width() >= least, "attention: mask {:?}, {least} keys or more", mask.shape());
    }
    let (table, past) = match keys {
        Keys::Cached { table, past } => (Some(table), Some(past)),
        Keys::Rows { .. } => (None, None),
    };
    // 16-byte pieces of keys and values, which a piece may not straddle.
    let in_pieces = |view: View| {
        [view.column, view.tensor.width(), head_dim].iter().all(|n| n.is_multiple_of(16 / view.tensor.dtype.bytes()))
    };
    let textures = usize::from(k.tensor.storage != Storage::Buffer);
    assert!(
        k.tensor.storage == v.tensor.storage && (textures == 0 || in_pieces(k) && in_pieces(v)),
        "attention: k {k:?}, v {v:?}, {heads:?}"
    );
    let one_row = rows == 1 && k.tensor.dtype == v.tensor.dtype && in_pieces(k) && in_pieces(v);
    let step = one_row && head_dim <= MAX_HEAD_DIM_OF_STEP;
    // Nobody would write what is behind the last column of a staged row.
    let direct = step && textures == 1 && stage::width(heads.q_width()) == heads.q_width();
    let out = stage::staged(r, if direct { storage } else { Storage::Buffer }, batch * rows, heads.q_width());
    let mut record = |out: Tensor, with_probabilities: bool| {
        let constants = [
            ("HEAD_DIM", head_dim as f64),
            ("CACHED", f64::from(u8::from(table.is_some()))),
            ("K_FORMAT", dtype_code(k.tensor.dtype)),
            ("V_FORMAT", dtype_code(v.tensor.dtype)),
            ("MASK", f64::from(mask_code)),
        ];
        let params = Params {
            count: (batch * query_heads * rows) as u32,
            heads: query_heads as u32,
            rows: rows as u32,
            heads_a_key: (query_heads / kv_heads) as u32,
            q_width: q.tensor.width() as u32,
            q_column: q.column as u32,
            k_width: k.tensor.width() as u32,
            k_column: k.column as u32,
            v_width: v.tensor.width() as u32,
            v_column: v.column as u32,
            capacity: capacity as u32,
            batches: batches as u32,
            mask_width: mask_tensor.map_or(0, |t| t.width() as u32),
            zero_queries: zero_queries as u32,
            out_width: if with_probabilities { out.width() as u32 } else { 0 },
            scale,
        };
        // An operand that is not there is never read: any tensor stands in for it.
        let operands = [
            write(out),
            read(q.tensor),
            read(k.tensor),
            read(v.tensor),
            read(table.unwrap_or(q.tensor)),
            read(past.unwrap_or(q.tensor)),
            read(mask_tensor.unwrap_or(q.tensor)),
        ];
        let count = batch * query_heads * rows;
        if step && !with_probabilities {
            let kernel = if textures == 0 { &STEP } else { &KEYS[usize::from(out.storage != Storage::Buffer)] };
            r.dispatch(kernel, &constants, &operands, params, grid(count));
            return;
        }
        let lanes = ("LANES", LANES as f64);
        if rows == 1 || with_probabilities || capacity > MAX_KEYS_OF_ROWS {
            let more = [("PROBABILITIES", f64::from(u8::from(with_probabilities))), ("BLOCK", BLOCK as f64), lanes];
            let constants = [&constants[..], &more].concat();
            r.dispatch(&PLAIN[textures], &constants, &operands, params, grid(count));
            return;
        }
        let constants = [&constants[..], &[lanes]].concat();
        let invocations = count * head_dim.div_ceil(32);
        r.dispatch(&ROWS[textures], &constants, &operands, params, grid(invocations.div_ceil(LANES as usize)));
    };
    if let Some(out) = probabilities {
        assert_eq!(
            out.shape()[..out.shape().len() - 1],
            [batch, query_heads, rows],
            "attention: probabilities {out:?}"
        );
        assert!(out.dtype == DType::F32 && out.width() >= least, "attention: probabilities {out:?}, {least} keys");
        record(out, true);
    }
    record(out, false);
    out
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let mut out = call.f32_mut(0);
    let (q, k, v, table, past, mask) = (call.f32(1), call.u32(2), call.u32(3), call.u32(4), call.u32(5), call.u32(6));
    let head_dim = call.constant("HEAD_DIM") as usize;
    let cached = call.constant("CACHED") == 1;
    let (heads, rows, group) = (p.heads as usize, p.rows as usize, p.heads_a_key as usize);
    let batch = p.count as usize / heads / rows;
    let capacity = p.capacity as usize;
    let before = if cached { past[0] as usize } else { 0 };
    let keys = if cached { (before + rows).min(capacity) } else { capacity };
    let probabilities =
        PLAIN.iter().any(|plain| std::ptr::eq(call.dispatch.kernel, plain)) && call.constant("PROBABILITIES") == 1;
    let masked = |score: f32, b: usize, row: usize, t: usize| {
        let zero = row < p.zero_queries as usize && t < p.zero_queries as usize;
        let blocked = match call.constant("MASK") {
            0 => false,
            1 => t > before + row,
            2 => t > before + row || mask[b * p.mask_width as usize + t] == 0,
            _ => return (score + f32::from_bits(mask[(b * rows + row) * p.mask_width as usize + t])).max(f32::MIN),
        };
        if blocked && !zero { (score + f32::MIN).max(f32::MIN) } else { score }
    };
    let mut weights = vec![0.0; keys];
    for b in 0..batch {
        let key_row = |t: usize| {
            if cached { table[b * capacity + t] as usize } else { b % p.batches as usize * capacity + t }
        };
        for kv_head in 0..heads / group {
            let gather = |words: &[u32], operand: usize, width: u32, column: u32| -> Vec<f32> {
                let dtype = call.tensor(operand).dtype;
                let start = |t| key_row(t) * width as usize + column as usize + kv_head * head_dim;
                (0..keys).flat_map(|t| (start(t)..start(t) + head_dim).map(|i| read_float(words, dtype, i))).collect()
            };
            let k = gather(&k, 2, p.k_width, p.k_column);
            let v = gather(&v, 3, p.v_width, p.v_column);
            for (head, row) in (kv_head * group..(kv_head + 1) * group).flat_map(|h| (0..rows).map(move |s| (h, s))) {
                let start = (b * rows + row) * p.q_width as usize + p.q_column as usize + head * head_dim;
                let query: Vec<f32> = q[start..start + head_dim].iter().map(|x| x * p.scale).collect();
                for (t, (w, key)) in weights.iter_mut().zip(k.chunks(head_dim)).enumerate() {
                    *w = masked(dot(&query, key), b, row, t);
                }
                let highest = weights.iter().copied().fold(f32::MIN, f32::max);
                weights.iter_mut().for_each(|w| *w = (*w - highest).exp());
                let sum = weights.iter().map(|w| f64::from(*w)).sum::<f64>() as f32;
                weights.iter_mut().for_each(|w| *w /= sum);
                if probabilities {
                    let to =
                        &mut out[((b * heads + head) * rows + row) * p.out_width as usize..][..p.out_width as usize];
                    to[..keys].copy_from_slice(&weights);
                    to[keys..].fill(0.0);
                    continue;
                }
                let to = &mut out[((b * rows + row) * heads + head) * head_dim..][..head_dim];
                to.fill(0.0);
                for (w, value) in weights.iter().zip(v.chunks(head_dim)).filter(|(w, _)| **w != 0.0) {
                    to.iter_mut().zip(value).for_each(|(o, v)| *o += w * v);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Pool;
    use crate::ops::testing::{Random, compare, keep, play_both, seen};

    /// The kernel of many rows adds up to a thousand keys in one running f32 sum: 1.4e-12 was seen.
    const LIMIT: f64 = 5e-12;

    /// Random floats of `dtype` with `width` columns.
    fn floats(pool: &mut Pool, random: &mut Random, dtype: DType, rows: usize, width: usize) -> Tensor {
        let values = random.f32s(rows * width);
        let tensor = pool.alloc(dtype, &[rows, width]).unwrap();
        if dtype == DType::F16 {
            let halves: Vec<_> = values.iter().map(|v| half::f16::from_f32(*v)).collect();
            pool.device().write_all(tensor, &halves).unwrap();
        } else {
            pool.device().write_all(tensor, &values).unwrap();
        }
        tensor
    }

    /// Which mask a cached case has.
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Kind {
        None,
        Causal,
        /// Keys blocked at random; in the last sequence the first half of the keys, so that rows see nothing.
        Padded,
        /// As Padded, with this many zero_queries.
        Zero(usize),
        Additive,
    }

    fn padding(random: &mut Random, batch: usize, width: usize, keys: usize) -> Vec<u32> {
        let last = batch - 1;
        let visible =
            |random: &mut Random, b: usize, t: usize| if b == last { t >= keys / 2 } else { random.below(4) > 0 };
        (0..batch * width).map(|i| u32::from(visible(random, i / width, i % width))).collect()
    }

    struct Case {
        batch: usize,
        rows: usize,
        past: usize,
        heads: Heads,
        dtype: DType,
        kind: Kind,
        /// What holds keys and values.
        keys_in: Storage,
        /// The storage asked for; from a texture, the output is returned as a linear layer sees it.
        out_in: Storage,
    }

    /// Rows of `tensor` in a texture, bit by bit. They have a multiple of 32 words.
    fn in_texture(r: &mut Recording, tensor: Tensor) -> Tensor {
        let words = Tensor::new(tensor.id, DType::F32, &[tensor.rows(), tensor.width() * tensor.dtype.bytes() / 4]);
        let staged = stage::stage(r, words, 0..words.rows(), Storage::Pieces);
        Tensor::new(staged.id, tensor.dtype, tensor.shape()).stored(Storage::Pieces)
    }

    /// Records the case over a cache with spare rows in shuffled order; returns [output] or [output, probabilities].
    fn cached(c: &Case, pool: &mut Pool, r: &mut Recording, random: &mut Random, probabilities: bool) -> Vec<Tensor> {
        let Case { batch, rows, past, heads, dtype, kind, keys_in, out_in } = *c;
        let keys = past + rows;
        let capacity = keys + 3;
        let slots = batch * capacity + 5;
        let qkv =
            pool.f32(&[batch * rows, heads.q_width() + 7], &random.f32s(batch * rows * (heads.q_width() + 7))).unwrap();
        // Larger than the scores of trained models, so that weights differ.
        let scale = 4.0 / (heads.head_dim as f32).sqrt();
        let mut k = floats(pool, random, dtype, slots, heads.kv_width());
        let mut v = floats(pool, random, dtype, slots, heads.kv_width());
        if keys_in != Storage::Buffer {
            (k, v) = (in_texture(r, k), in_texture(r, v));
        }
        let mut order: Vec<u32> = (0..slots as u32).collect();
        for i in (1..slots).rev() {
            order.swap(i, random.below(i as u32 + 1) as usize);
        }
        let table = pool.u32(&[batch, capacity], &order[..batch * capacity]).unwrap();
        let past = pool.u32(&[1], &[past as u32]).unwrap();
        let mut causal = |pool: &mut Pool, zero_queries: usize| {
            let width = keys + 2;
            let mask = pool.u32(&[batch, width], &padding(random, batch, width, keys)).unwrap();
            Mask::Causal { attention_mask: Some(mask), zero_queries }
        };
        let mask = match kind {
            Kind::None => Mask::None,
            Kind::Causal => Mask::Causal { attention_mask: None, zero_queries: 0 },
            Kind::Padded => causal(pool, 0),
            Kind::Zero(zero_queries) => causal(pool, zero_queries),
            Kind::Additive => {
                let mut values = random.f32s(batch * rows * capacity);
                for (i, value) in values.iter_mut().enumerate() {
                    // The first row sees nothing, as a sum below the lowest number and as the number itself.
                    let first_row = i < capacity;
                    match random.below(6) {
                        0 => *value = f32::NEG_INFINITY,
                        1 => *value = f32::MIN,
                        2 => *value = -1e30,
                        _ if first_row => *value = f32::MIN,
                        _ => {}
                    }
                    if first_row && *value > f32::MIN {
                        *value = f32::NEG_INFINITY;
                    }
                }
                Mask::Additive(pool.f32(&[batch, rows, capacity], &values).unwrap())
            }
        };
        let p = probabilities.then(|| {
            let width = keys + 1;
            let sentinels = vec![0.25; batch * heads.heads * rows * width];
            pool.f32(&[batch, heads.heads, rows, width], &sentinels).unwrap()
        });
        let keys = Keys::Cached { table, past };
        let q = View { tensor: qkv, column: 4 };
        let (k, v) = (View::all(k), View::all(v));
        let a = Attention { batch, rows, heads, q, k, v, keys, mask, scale, probabilities: p };
        let mut out = attention(r, a, out_in);
        assert_eq!(out.storage, out_in);
        if out_in != Storage::Buffer {
            out = seen(pool, r, random, out, heads.q_width());
        }
        [Some(keep(pool, r, out)), p].into_iter().flatten().collect()
    }

    const SHAPES: [(usize, usize, usize, Heads); 6] = [
        (1, 1, 0, Heads { heads: 1, kv_heads: 1, head_dim: 1 }),
        (2, 7, 0, Heads { heads: 3, kv_heads: 3, head_dim: 20 }),
        (3, 5, 62, Heads { heads: 6, kv_heads: 2, head_dim: 36 }),
        (2, 1, 130, Heads { heads: 2, kv_heads: 1, head_dim: 128 }),
        (2, 3, 1023, Heads { heads: 2, kv_heads: 2, head_dim: 6 }),
        (1, 70, 0, Heads { heads: 1, kv_heads: 1, head_dim: 256 }),
    ];

    #[test]
    fn cached_keys_equal_reference() {
        for (batch, rows, past, heads) in SHAPES {
            for dtype in [DType::F32, DType::F16] {
                if dtype == DType::F16 && heads.head_dim == 1 {
                    continue;
                }
                for kind in [Kind::None, Kind::Causal, Kind::Padded, Kind::Zero(3), Kind::Zero(100), Kind::Additive] {
                    let case = Case {
                        batch,
                        rows,
                        past,
                        heads,
                        dtype,
                        kind,
                        keys_in: Storage::Buffer,
                        out_in: Storage::Buffer,
                    };
                    let name = format!("{batch} {rows} {past} {heads:?} {dtype:?} {kind:?}");
                    compare(&name, LIMIT, |pool, r, random| cached(&case, pool, r, random, true));
                }
            }
        }
    }

    /// The kernel of one row, around its blocks of 64 keys and its pieces of four and of eight elements; other heads
    /// go to the plain kernel.
    #[test]
    fn one_row_equals_reference() {
        let shapes = [
            (1, 0, 1, 1, 4),
            (3, 62, 3, 1, 8),
            (1, 63, 2, 2, 32),
            (2, 64, 9, 3, 64),
            (1, 65, 2, 1, 72),
            (2, 200, 4, 2, 96),
            (1, 1100, 2, 1, 128),
            (2, 70, 2, 2, 132),
            (2, 9, 2, 2, 30),
        ];
        for (batch, past, heads, kv_heads, head_dim) in shapes {
            let heads = Heads { heads, kv_heads, head_dim };
            for dtype in [DType::F32, DType::F16] {
                for kind in [Kind::None, Kind::Causal, Kind::Padded, Kind::Zero(3), Kind::Additive] {
                    let buffer = Storage::Buffer;
                    let case = Case { batch, rows: 1, past, heads, dtype, kind, keys_in: buffer, out_in: buffer };
                    compare(&format!("{batch} {past} {heads:?} {dtype:?} {kind:?}"), LIMIT, |pool, r, random| {
                        let outputs = cached(&case, pool, r, random, false);
                        let whole = head_dim.is_multiple_of(16 / dtype.bytes()) && head_dim <= 128;
                        assert_eq!(r.dispatches[0].kernel.name == "attention_step", whole, "{heads:?} {dtype:?}");
                        outputs
                    });
                }
            }
        }
    }

    /// Keys and values, the output, or all of them in textures: each kernel of one row and of many.
    #[test]
    fn in_textures_equal_reference() {
        let shapes = [
            (2, 1, 70, 2, 1, 64),
            (1, 1, 3, 3, 3, 64),
            (2, 1, 129, 4, 1, 128),
            (1, 3, 0, 2, 2, 64),
            (2, 7, 62, 6, 2, 32),
            (2, 2, 2100, 2, 1, 64),
        ];
        for (batch, rows, past, heads, kv_heads, head_dim) in shapes {
            let heads = Heads { heads, kv_heads, head_dim };
            for dtype in [DType::F32, DType::F16] {
                for (kind, keys_in, out_in) in [
                    (Kind::Padded, Storage::Pieces, Storage::Buffer),
                    (Kind::Causal, Storage::Pieces, Storage::Pieces),
                    (Kind::Additive, Storage::Pieces, Storage::Pieces),
                ] {
                    let out_in = if rows == 1 { out_in } else { Storage::Buffer };
                    let case = Case { batch, rows, past, heads, dtype, kind, keys_in, out_in };
                    let name = format!("{batch} {rows} {past} {heads:?} {dtype:?} {kind:?} {keys_in:?} {out_in:?}");
                    // Thousands of terms are added up in another order than in the reference.
                    let limit = if past > 1000 { 2e-11 } else { LIMIT };
                    for probabilities in [false, true] {
                        compare(&name, limit, |pool, r, random| cached(&case, pool, r, random, probabilities));
                    }
                }
            }
        }
    }

    #[test]
    fn one_row_over_rows_as_keys_equals_reference() {
        let heads = Heads { heads: 4, kv_heads: 2, head_dim: 40 };
        for (batch, batches, count) in [(4, 2, 1), (2, 2, 17), (3, 1, 129)] {
            for mask in [Mask::None, Mask::Causal { attention_mask: None, zero_queries: 5 }] {
                compare(&format!("{batch} {batches} {count} {mask:?}"), LIMIT, |pool, r, random| {
                    let q = floats(pool, random, DType::F32, batch, heads.q_width() + 3);
                    let kv = floats(pool, random, DType::F32, batches * count, 2 * heads.kv_width() + 4);
                    let (k, v) = (View { tensor: kv, column: 4 }, View { tensor: kv, column: 4 + heads.kv_width() });
                    let (q, keys) = (View { tensor: q, column: 1 }, Keys::Rows { count, batches });
                    let a = Attention { batch, rows: 1, heads, q, k, v, keys, mask, scale: 2.0, probabilities: None };
                    let out = attention(r, a, Storage::Buffer);
                    vec![keep(pool, r, out)]
                });
            }
        }
    }

    #[test]
    fn many_keys() {
        let heads = Heads { heads: 2, kv_heads: 1, head_dim: 20 };
        let (dtype, buffer) = (DType::F16, Storage::Buffer);
        let case =
            Case { batch: 2, rows: 2, past: 4200, heads, dtype, kind: Kind::None, keys_in: buffer, out_in: buffer };
        let heads = Heads { heads: 1, kv_heads: 1, head_dim: 128 };
        let textures = Storage::Pieces;
        let one_row = Case {
            batch: 1,
            rows: 1,
            past: 9000,
            heads,
            dtype: DType::F32,
            keys_in: textures,
            out_in: textures,
            ..case
        };
        for case in [case, one_row] {
            for kind in [Kind::Causal, Kind::Padded, Kind::Additive] {
                let case = Case { kind, ..case };
                // Thousands of terms are added up in another order than in the reference.
                compare(&format!("{kind:?}"), 2e-11, |pool, r, random| cached(&case, pool, r, random, case.rows > 1));
            }
        }
    }

    #[test]
    fn probabilities_do_not_change_the_output() {
        for (batch, rows, past, heads) in SHAPES {
            let (dtype, kind, buffer) = (DType::F32, Kind::Zero(3), Storage::Buffer);
            let case = Case { batch, rows, past, heads, dtype, kind, keys_in: buffer, out_in: buffer };
            let with = play_both(5, |pool, r, random| cached(&case, pool, r, random, true));
            let without = play_both(5, |pool, r, random| cached(&case, pool, r, random, false));
            assert_eq!(with[0], without[0]);
        }
    }

    #[test]
    fn rows_as_keys_equal_reference() {
        // (batch, batches, rows, count): cross-attention has another number of keys than of rows.
        for (batch, batches, rows, count) in [(1, 1, 1, 1), (4, 2, 3, 17), (3, 1, 5, 2), (2, 2, 9, 9), (1, 1, 2, 1100)]
        {
            for (heads, kv_heads, head_dim) in [(3, 3, 20), (4, 2, 7), (2, 2, 128)] {
                let heads = Heads { heads, kv_heads, head_dim };
                compare(&format!("{batch} {batches} {rows} {count} {heads:?}"), LIMIT, |pool, r, random| {
                    let q = floats(pool, random, DType::F32, batch * rows, heads.q_width());
                    let kv = floats(pool, random, DType::F32, batches * count, 2 * heads.kv_width() + 3);
                    let (k, v) = (View { tensor: kv, column: 1 }, View { tensor: kv, column: 2 + heads.kv_width() });
                    let keys = Keys::Rows { count, batches };
                    let p = pool.alloc(DType::F32, &[batch, heads.heads, rows, count]).unwrap();
                    let (q, mask, scale) = (View::all(q), Mask::None, 0.7);
                    let a = Attention { batch, rows, heads, q, k, v, keys, mask, scale, probabilities: Some(p) };
                    let out = attention(r, a, Storage::Buffer);
                    // One tensor for all three, as a vision layer without norms of q and k has it.
                    let mut outputs = vec![keep(pool, r, out), p];
                    if batch == batches && rows == count && heads.heads == heads.kv_heads {
                        let width = 3 * heads.q_width();
                        let qkv = floats(pool, random, DType::F32, batch * rows, width);
                        let column = |i: usize| View { tensor: qkv, column: i * heads.q_width() };
                        let causal = Mask::Causal { attention_mask: None, zero_queries: 0 };
                        for mask in [Mask::None, causal] {
                            let (q, k, v) = (column(0), column(1), column(2));
                            let a = Attention { q, k, v, mask, probabilities: None, ..a };
                            let out = attention(r, a, Storage::Buffer);
                            outputs.push(keep(pool, r, out));
                        }
                    }
                    outputs
                });
            }
        }
    }

    #[test]
    fn a_row_that_sees_nothing_takes_the_mean_of_all_values() {
        // Two keys, both blocked by the mask: row 0 takes the future key's value too.
        let outputs = play_both(1, |pool, r, _| {
            let one = pool.f32(&[2, 1], &[1.0, 1.0]).unwrap();
            let values = pool.f32(&[2, 1], &[2.0, 6.0]).unwrap();
            let mask = pool.u32(&[1, 2], &[0, 0]).unwrap();
            let heads = Heads { heads: 1, kv_heads: 1, head_dim: 1 };
            let mut record = |zero_queries| {
                let mask = Mask::Causal { attention_mask: Some(mask), zero_queries };
                let keys = Keys::Rows { count: 2, batches: 1 };
                let (q, v) = (View::all(one), View::all(values));
                let p = pool.alloc(DType::F32, &[1, 1, 2, 2]).unwrap();
                let probabilities = Some(p);
                let a = Attention { batch: 1, rows: 2, heads, q, k: q, v, keys, mask, scale: 1.0, probabilities };
                let out = attention(r, a, Storage::Buffer);
                [keep(pool, r, out), p]
            };
            [record(0), record(1)].concat()
        });
        let wanted: [&[f32]; 4] = [&[4.0, 4.0], &[0.5; 4], &[2.0, 4.0], &[1.0, 0.0, 0.5, 0.5]];
        for ((expected, found), wanted) in outputs.iter().zip(wanted) {
            assert_eq!(bytemuck::cast_slice::<u32, f32>(expected), wanted);
            assert_eq!(bytemuck::cast_slice::<u32, f32>(found), wanted);
        }
    }
}
