//! Rotary position embedding of queries and keys (Su et al., 2021; "rotate half"), and the write of keys and values to
//! the cache: with halves x1, x2 of a head, `(x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)`.

use bytemuck::{Pod, Zeroable};

use super::{LANES, grid, read, write};
use crate::error::Result;
use crate::recording::{Call, Kernel, Recording};
use crate::tensor::{DType, Tensor};
use crate::weights::Loader;

static KERNEL: Kernel =
    Kernel { name: "rope", source: include_str!("../../shaders/rope.wgsl"), reference: reference, subgroups: false };

/// Heads of an attention; head `h` uses key head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Keys and values of one layer: F32 or F16 [slots, kv_heads * head_dim].
#[derive(Clone, Copy, Debug)]
pub struct KvCache {
    pub k: Tensor,
    pub v: Tensor,
}

/// Cosines and sines by position, F32 [positions, head_dim / 2]. They are made on the host, since WGSL promises its own
/// only to 2^-11.
#[derive(Clone, Copy, Debug)]
pub struct RopeTables {
    pub cos: Tensor,
    pub sin: Tensor,
}

/// Angles in f32, as the published code has them: `inv_freq = base^(-2i/head_dim)` and its product with the position are
/// each rounded to f32.
pub fn rope_values(base: f32, head_dim: usize, positions: usize) -> (Vec<f32>, Vec<f32>) {
    let frequency = |i: usize| (1.0 / f64::from(base).powf(2.0 * i as f64 / head_dim as f64)) as f32;
    let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
    let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
    angles.map(|a| (f64::from(a).cos() as f32, f64::from(a).sin() as f32)).unzip()
}

impl RopeTables {
    /// Makes the tables in the loader's pool.
    pub fn load(loader: &mut Loader<'_>, base: f32, head_dim: usize, positions: usize) -> Result<RopeTables> {
        let (cos, sin) = rope_values(base, head_dim, positions);
        let shape = [positions, head_dim / 2];
        Ok(RopeTables { cos: loader.upload_f32(&shape, &cos)?, sin: loader.upload_f32(&shape, &sin)? })
    }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    rows: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
}

/// `qkv` [rows, (heads + 2 kv_heads) * head_dim] holds queries, keys and values. Row `i` is turned by
/// `positions[i]` (U32 [rows]); its key and value go to cache row `slots[i]` (U32 [rows]).
/// Returns the queries [rows, heads * head_dim].
pub fn rope_into_cache(
    r: &mut Recording,
    qkv: Tensor,
    heads: Heads,
    tables: &RopeTables,
    positions: Tensor,
    slots: Tensor,
    cache: KvCache,
) -> Tensor {
    let Heads { heads: a, kv_heads, head_dim } = heads;
    let rows = qkv.rows();
    assert_eq!(qkv.width(), (a + 2 * kv_heads) * head_dim, "rope: qkv {:?} for {heads:?}", qkv.shape());
    assert_eq!((positions.len(), slots.len()), (rows, rows), "rope: positions and slots of {rows} rows");
    assert_eq!((cache.k.width(), cache.v.width()), (kv_heads * head_dim, kv_heads * head_dim), "rope: cache");
    assert!(head_dim % 2 == 0, "rope: an odd head_dim");
    assert!(cache.k.dtype == DType::F32 || head_dim % 4 == 0, "rope: an f16 cache needs head_dim % 4 = 0");
    let q = r.scratch_f32(&[rows, a * head_dim]);
    let params = Params { rows: rows as u32, heads: a as u32, kv_heads: kv_heads as u32, head_dim: head_dim as u32 };
    let half = if cache.k.dtype == DType::F32 { 0.0 } else { 1.0 };
    let operands = [
        read(qkv),
        read(tables.cos),
        read(tables.sin),
        read(positions),
        read(slots),
        write(q),
        write(cache.k),
        write(cache.v),
    ];
    let pairs = rows * (a + 2 * kv_heads) * head_dim.div_ceil(4);
    r.dispatch(
        &KERNEL,
        &[("STORED", half), ("LANES", LANES as f64)],
        &operands,
        params,
        grid(pairs.div_ceil(LANES as usize)),
    );
    q
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (qkv, cos, sin) = (call.f32(0), call.f32(1), call.f32(2));
    let (positions, slots) = (call.u32(3), call.u32(4));
    let (mut q, mut k, mut v) = (call.f32_mut(5), call.u32_mut(6), call.u32_mut(7));
    let (a, kv, dim) = (p.heads as usize, p.kv_heads as usize, p.head_dim as usize);
    let half = call.constant("STORED") == 1;
    let store = |cache: &mut [u32], index: usize, value: f32| {
        if half {
            let bits = u32::from(half::f16::from_f32(value).to_bits());
            let word = &mut cache[index / 2];
            *word = if index.is_multiple_of(2) { (*word & 0xffff0000) | bits } else { (*word & 0xffff) | (bits << 16) };
        } else {
            cache[index] = value.to_bits();
        }
    };
    for row in 0..p.rows as usize {
        let position = positions[row] as usize * dim / 2;
        let slot = slots[row] as usize * kv * dim;
        for head in 0..a + 2 * kv {
            let x = &qkv[(row * (a + 2 * kv) + head) * dim..][..dim];
            for i in 0..dim / 2 {
                let (c, s) = (cos[position + i], sin[position + i]);
                let turned = (x[i] * c - x[i + dim / 2] * s, x[i + dim / 2] * c + x[i] * s);
                if head < a {
                    q[(row * a + head) * dim + i] = turned.0;
                    q[(row * a + head) * dim + i + dim / 2] = turned.1;
                } else if head < a + kv {
                    let at = slot + (head - a) * dim + i;
                    store(&mut k, at, turned.0);
                    store(&mut k, at + dim / 2, turned.1);
                } else {
                    let at = slot + (head - a - kv) * dim + i;
                    store(&mut v, at, x[i]);
                    store(&mut v, at + dim / 2, x[i + dim / 2]);
                }
            }
        }
    }
}
