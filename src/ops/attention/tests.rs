use super::*;
use crate::device::Pool;
use crate::ops::linear::stage::stage;
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
    let visible = |random: &mut Random, b: usize, t: usize| if b == last { t >= keys / 2 } else { random.below(4) > 0 };
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
    let staged = stage(r, words.into(), 0..words.rows(), Storage::Pieces).tensor();
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
    // One for all sequences, or one each.
    let each = if batch > 1 && (batch + past).is_multiple_of(2) { batch } else { 1 };
    let pasts: Vec<u32> = (0..each).map(|b| past.saturating_sub(b) as u32).collect();
    let past = pool.u32(&[each], &pasts).unwrap();
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
    let out = attention_in(r, a, out_in);
    assert_eq!(out.storage(), out_in);
    let out = if out_in == Storage::Buffer { out.tensor() } else { seen(pool, r, random, out) };
    let mut outputs = vec![keep(pool, r, out)];
    outputs.extend(p);
    // The ways that are not the first.
    let checked = Checked::new(a);
    for way in checked.ways().into_iter().skip(1) {
        let out = checked.record_result(r, way, Storage::Buffer).tensor();
        outputs.push(keep(pool, r, out));
    }
    outputs
}

const SHAPES: [(usize, usize, usize, Heads); 6] = [
    (1, 1, 0, Heads { heads: 1, kv_heads: 1, head_dim: 1 }),
    (2, 7, 0, Heads { heads: 3, kv_heads: 3, head_dim: 20 }),
    (3, 5, 63, Heads { heads: 6, kv_heads: 2, head_dim: 36 }),
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
                let case =
                    Case { batch, rows, past, heads, dtype, kind, keys_in: Storage::Buffer, out_in: Storage::Buffer };
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
                let out = attention(r, a);
                vec![keep(pool, r, out)]
            });
        }
    }
}

#[test]
fn many_keys() {
    let heads = Heads { heads: 2, kv_heads: 1, head_dim: 20 };
    let (dtype, buffer) = (DType::F16, Storage::Buffer);
    let case = Case { batch: 2, rows: 2, past: 4200, heads, dtype, kind: Kind::None, keys_in: buffer, out_in: buffer };
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 128 };
    let textures = Storage::Pieces;
    let one_row =
        Case { batch: 1, rows: 1, past: 9000, heads, dtype: DType::F32, keys_in: textures, out_in: textures, ..case };
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
    for (batch, batches, rows, count) in [(1, 1, 1, 1), (4, 2, 3, 17), (3, 1, 5, 2), (2, 2, 9, 9), (1, 1, 2, 1100)] {
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
                let out = attention(r, a);
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
                        let out = attention(r, a);
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
            let out = attention(r, a);
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
