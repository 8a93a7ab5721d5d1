//! `softmax(scale * q k^T + mask) v` over heads: self-attention with a cache, cross-attention and InternViT's attention
//! (Vaswani et al., 2017; the masks are those of the published QLLaMA).

use bytemuck::{Pod, Zeroable};

use super::rope::Heads;
use super::{LANES, grid, read, write};
use crate::matrix::{dtype_code, read_float};
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::Tensor;

static KERNEL: Kernel = Kernel {
    name: "attention",
    source: include_str!("../../shaders/attention.wgsl"),
    reference: reference,
    subgroups: false,
};

/// Keys that a workgroup looks at together.
const BLOCK: u32 = 64;

/// Columns `column ..` of the rows of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub tensor: Tensor,
    pub column: usize,
}

impl View {
    /// All columns of a tensor.
    pub fn all(tensor: Tensor) -> View {
        View { tensor, column: 0 }
    }
}

/// Where keys and values lie.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// In a cache: key `t` of sequence `b` is cache row `table[b, t]`. `table` is U32 [batch, capacity]; `past`, U32 [1],
    /// is the number of keys before this call's rows.
    Cached { table: Tensor, past: Tensor },
    /// Key `t` of sequence `b` is row `(b % batches) * count + t`; there are `count` keys and no past.
    Rows { count: usize, batches: usize },
}

/// Which keys a row sees.
#[derive(Clone, Copy, Debug)]
pub enum Mask {
    /// All of them.
    None,
    /// Those up to the row's own, where `attention_mask` (U32 [batch, at least all keys]) is 1. The first
    /// `zero_queries` rows of the call see the absolute keys below `zero_queries` always.
    Causal { attention_mask: Option<Tensor>, zero_queries: usize },
    /// F32 [batch, rows, keys], added to the scores.
    Additive(Tensor),
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    batch: u32,
    rows: u32,
    keys: u32,
    key_batches: u32,
    heads: u32,
    heads_per_key: u32,
    head_dim: u32,
    q_width: u32,
    q_column: u32,
    k_width: u32,
    k_column: u32,
    v_width: u32,
    v_column: u32,
    table_width: u32,
    mask_width: u32,
    zero_queries: u32,
    probability_width: u32,
    scale: f32,
}

/// `q` has `batch * rows` rows of `heads * head_dim` columns. Returns [batch * rows, heads * head_dim].
/// `probabilities`, F32 [batch, heads, rows, at least all keys], is filled where it is given.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    r: &mut Recording,
    batch: usize,
    rows: usize,
    heads: Heads,
    q: View,
    k: View,
    v: View,
    keys: Keys,
    mask: Mask,
    scale: f32,
    probabilities: Option<Tensor>,
) -> Tensor {
    let width = heads.heads * heads.head_dim;
    assert!(q.tensor.rows() == batch * rows && q.column + width <= q.tensor.width(), "attention: q {q:?}");
    assert!(heads.head_dim <= 256 && heads.heads.is_multiple_of(heads.kv_heads), "attention: {heads:?}");
    let y = r.scratch_f32(&[batch * rows, width]);
    let (cached, table, past, count, key_batches) = match keys {
        Keys::Cached { table, past } => (1.0, table, past, 0, 1),
        Keys::Rows { count, batches } => (0.0, q.tensor, q.tensor, count, batches),
    };
    let (mask_kind, mask_tensor, zero_queries) = match mask {
        Mask::None => (0.0, None, 0),
        Mask::Causal { attention_mask: None, zero_queries } => (1.0, None, zero_queries),
        Mask::Causal { attention_mask, zero_queries } => (2.0, attention_mask, zero_queries),
        Mask::Additive(mask) => (3.0, Some(mask), 0),
    };
    let params = Params {
        batch: batch as u32,
        rows: rows as u32,
        keys: count as u32,
        key_batches: key_batches as u32,
        heads: heads.heads as u32,
        heads_per_key: (heads.heads / heads.kv_heads) as u32,
        head_dim: heads.head_dim as u32,
        q_width: q.tensor.width() as u32,
        q_column: q.column as u32,
        k_width: k.tensor.width() as u32,
        k_column: k.column as u32,
        v_width: v.tensor.width() as u32,
        v_column: v.column as u32,
        table_width: table.width() as u32,
        mask_width: mask_tensor.map_or(1, |t| t.width()) as u32,
        zero_queries: zero_queries as u32,
        probability_width: probabilities.map_or(1, |t| t.width()) as u32,
        scale,
    };
    let mut run = |probability: f64, out: Tensor| {
        let constants = [
            ("CACHED", cached),
            ("MASK", mask_kind),
            ("STORED", dtype_code(k.tensor.dtype)),
            ("PROBABILITIES", probability),
            ("LANES", LANES as f64),
            ("BLOCK", BLOCK as f64),
        ];
        let operands = [
            read(q.tensor),
            read(k.tensor),
            read(v.tensor),
            read(table),
            read(past),
            read(mask_tensor.unwrap_or(q.tensor)),
            write(out),
        ];
        r.dispatch(&KERNEL, &constants, &operands, params, grid(batch * rows * heads.heads));
    };
    run(0.0, y);
    // A dispatch of their own: asking for probabilities changes nothing else.
    if let Some(probabilities) = probabilities {
        run(1.0, probabilities);
    }
    y
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (q, k, v) = (call.f32(0), call.u32(1), call.u32(2));
    let (table, past, mask, mut out) = (call.u32(3), call.u32(4), call.u32(5), call.f32_mut(6));
    let stored = call.tensor(1).dtype;
    let dim = p.head_dim as usize;
    let past = if call.constant("CACHED") == 1 { past[0] as usize } else { 0 };
    let keys = if call.constant("CACHED") == 1 { past + p.rows as usize } else { p.keys as usize };
    let mut probabilities = vec![0.0f32; keys];
    for b in 0..p.batch as usize {
        let row_of = |t: usize| match call.constant("CACHED") {
            1 => table[b * p.table_width as usize + t] as usize,
            _ => (b % p.key_batches as usize) * p.keys as usize + t,
        };
        for s in 0..p.rows as usize {
            for head in 0..p.heads as usize {
                let q_at = (b * p.rows as usize + s) * p.q_width as usize + p.q_column as usize + head * dim;
                let kv_head = head / p.heads_per_key as usize * dim;
                for (t, score) in probabilities.iter_mut().enumerate() {
                    let k_at = row_of(t) * p.k_width as usize + p.k_column as usize + kv_head;
                    let dot: f32 = (0..dim).map(|d| q[q_at + d] * p.scale * read_float(&k, stored, k_at + d)).sum();
                    let zero = p.zero_queries as usize;
                    let mask_at = b * p.mask_width as usize + t;
                    let causal = t <= past + s;
                    let free = s < zero && t < zero;
                    let bias = match call.constant("MASK") {
                        0 => 0.0,
                        1 if free || causal => 0.0,
                        2 if free || (causal && mask[mask_at] != 0) => 0.0,
                        3 => f32::from_bits(mask[(b * p.rows as usize + s) * p.mask_width as usize + t]),
                        _ => f32::MIN,
                    };
                    *score = (dot + bias).max(f32::MIN);
                }
                let largest = probabilities.iter().copied().fold(f32::MIN, f32::max);
                probabilities.iter_mut().for_each(|p| *p = (*p - largest).exp());
                let sum: f32 = probabilities.iter().sum();
                if call.constant("PROBABILITIES") == 1 {
                    let at = ((b * p.heads as usize + head) * p.rows as usize + s) * p.probability_width as usize;
                    out[at..at + keys].iter_mut().zip(&probabilities).for_each(|(o, p)| *o = p / sum);
                    continue;
                }
                let at = ((b * p.rows as usize + s) * p.heads as usize + head) * dim;
                let mut row = vec![0.0f32; dim];
                for (t, weight) in probabilities.iter().enumerate() {
                    let v_at = row_of(t) * p.v_width as usize + p.v_column as usize + kv_head;
                    row.iter_mut().enumerate().for_each(|(d, o)| *o += weight * read_float(&v, stored, v_at + d));
                }
                out[at..at + dim].iter_mut().zip(row).for_each(|(o, v)| *o = v / sum);
            }
        }
    }
}
