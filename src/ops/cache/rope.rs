//! Rotary position embedding (Su et al., 2021; "rotate half") of queries and keys, and storing keys and values.

use half::f16;

use crate::device::Pool;
use crate::device::recording::{Call, Dispatch, Kernel, Recording};
use crate::device::tensor::{DType, Storage, Tensor};
use crate::device::wgsl::uniform;
use crate::device::work::Work;
use crate::error::Result;
use crate::ops::attention::heads::Heads;
use crate::ops::cache::kv_cache::KvCache;
use crate::ops::examples::{Examples, Fill, Op};
use crate::ops::trial::Trial;
use crate::ops::{kernel, read, write};
use crate::room::room;

static KERNEL: Kernel = kernel!("cache", "rope", Params, reference, work);

/// Lanes of a workgroup.
const LANES: u32 = 256;

uniform! {
    struct Params {
        rows: u32,
        heads: u32,
        kv_heads: u32,
        half: u32,
    }
}

/// Cosines and sines of `position * base^(-2i / head_dim)`, each F32 [positions, head_dim / 2].
#[derive(Clone, Copy, Debug)]
pub struct RopeTables {
    pub cos: Tensor,
    pub sin: Tensor,
}

impl RopeTables {
    /// Tables for positions below `positions`, in `pool`.
    ///
    /// # Errors
    /// `E_OOM`, `E_LIMIT` and `E_DEVICE_LOST` from the GPU.
    pub fn new(pool: &mut Pool, base: f32, head_dim: usize, positions: usize) -> Result<RopeTables> {
        RopeTables::with(base, head_dim, positions, |shape, values| pool.f32(shape, &values()?))
    }

    /// As [`RopeTables::new`], of tensors that `make` makes, of a shape and of values that may be asked for.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn with(
        base: f32,
        head_dim: usize,
        positions: usize,
        mut make: impl FnMut(&[usize], &dyn Fn() -> Result<Vec<f32>>) -> Result<Tensor>,
    ) -> Result<RopeTables> {
        assert!(head_dim.is_multiple_of(2), "RopeTables: head_dim {head_dim} is odd");
        let shape = [positions, head_dim / 2];
        Ok(RopeTables {
            cos: make(&shape, &|| of_angles(f64::cos, base, head_dim, positions))?,
            sin: make(&shape, &|| of_angles(f64::sin, base, head_dim, positions))?,
        })
    }
}

/// A function of the angles [positions, head_dim / 2]. As in the published code, the frequency is rounded to f32, and so
/// is its product with the position.
fn of_angles(function: fn(f64) -> f64, base: f32, head_dim: usize, positions: usize) -> Result<Vec<f32>> {
    let frequency = |i: usize| f64::from(base).powf(-2.0 * i as f64 / head_dim as f64) as f32;
    let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
    let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
    let mut values = room("the angles of positions", positions * (head_dim / 2))?;
    values.extend(angles.map(|a| function(a) as f32));
    Ok(values)
}

/// Splits `qkv` [rows, (heads + 2 kv_heads) * head_dim] (q, then k, then v) into heads; turns q and k by their row's
/// entry of `positions` (U32 `[rows]`, below the tables' number of positions); writes k and v to the cache's row that
/// `slots` (U32 `[rows]`) names. Returns q after RoPE, [rows, heads * head_dim]. Values beyond the range of f16 are
/// clamped to it when the cache is F16.
pub fn rope_into_cache(
    r: &mut Recording,
    qkv: Tensor,
    heads: Heads,
    tables: &RopeTables,
    positions: Tensor,
    slots: Tensor,
    cache: KvCache,
) -> Tensor {
    let rows = qkv.rows();
    let packed = cache.k.dtype == DType::F16;
    assert_eq!(qkv.width(), heads.q_width() + 2 * heads.kv_width(), "rope: qkv {:?}, {heads:?}", qkv.shape());
    assert_eq!(tables.cos.width() * 2, heads.head_dim, "rope: tables {:?}, {heads:?}", tables.cos.shape());
    assert_eq!(tables.cos.shape(), tables.sin.shape(), "rope: tables");
    assert_eq!((positions.len(), positions.dtype), (rows, DType::U32), "rope: positions {positions:?}, {rows} rows");
    assert_eq!((slots.len(), slots.dtype), (rows, DType::U32), "rope: slots {slots:?}, {rows} rows");
    assert_eq!(cache.k.width(), heads.kv_width(), "rope: cache {:?}, {heads:?}", cache.k.shape());
    assert_eq!((cache.k.shape(), cache.k.dtype), (cache.v.shape(), cache.v.dtype), "rope: cache");
    assert_eq!(cache.k.storage, cache.v.storage, "rope: cache");
    assert!(packed || cache.k.dtype == DType::F32, "rope: a cache of {:?}", cache.k.dtype);
    assert!(!packed || heads.head_dim.is_multiple_of(4), "rope: an F16 cache with {heads:?}");
    let q = r.scratch_f32(&[rows, heads.q_width()]);
    let half = heads.head_dim / 2;
    let params =
        Params { rows: rows as u32, heads: heads.heads as u32, kv_heads: heads.kv_heads as u32, half: half as u32 };
    let in_textures = cache.k.storage != Storage::Buffer;
    let words = if in_textures { 4 } else { 1 };
    let elements = if packed { 2 * words } else { words };
    assert!(half.is_multiple_of(elements), "rope: a cache in {:?} with {heads:?}", cache.k.storage);
    let constants = [("PACKED", f64::from(u8::from(packed))), ("WORDS", words as f64), ("LANES", LANES as f64)];
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
    let units = (heads.heads + 2 * heads.kv_heads) * half / elements;
    r.dispatch(&KERNEL, &constants, &operands, params, [(units as u32).div_ceil(LANES), rows as u32, 1]);
    q
}

/// Whatever goes in comes out, to a few rows of a long cache.
fn work(dispatch: &Dispatch) -> Work {
    let (qkv, _) = dispatch.operands[0];
    Work { multiply_adds: 2 * qkv.len() as u64, bytes: 2 * qkv.size_bytes() as u64, weight_bytes: 0 }
}

fn reference(call: &Call) {
    let p: Params = call.params();
    let (qkv, cos, sin, positions, slots) = (call.f32(0), call.f32(1), call.f32(2), call.u32(3), call.u32(4));
    let (mut q, mut k, mut v) = (call.f32_mut(5), call.u32_mut(6), call.u32_mut(7));
    let (heads, kv_heads, half) = (p.heads as usize, p.kv_heads as usize, p.half as usize);
    let head_dim = 2 * half;
    let store = |words: &mut [u32], index: usize, value: f32| {
        if call.constant("PACKED") == 1 {
            let bits = u32::from(f16::from_f32(value.clamp(-65504.0, 65504.0)).to_bits());
            let shift = 16 * (index % 2);
            words[index / 2] = words[index / 2] & !(0xffff << shift) | bits << shift;
        } else {
            words[index] = value.to_bits();
        }
    };
    let mut turned = vec![0.0; head_dim];
    for row in 0..p.rows as usize {
        let angles = positions[row] as usize * half..(positions[row] as usize + 1) * half;
        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
        for head in 0..heads + 2 * kv_heads {
            let x = &qkv[(row * (heads + 2 * kv_heads) + head) * head_dim..][..head_dim];
            turned.copy_from_slice(x);
            if head < heads + kv_heads {
                for i in 0..half {
                    turned[i] = x[i] * cos[i] - x[i + half] * sin[i];
                    turned[i + half] = x[i + half] * cos[i] + x[i] * sin[i];
                }
            }
            if head < heads {
                q[(row * heads + head) * head_dim..][..head_dim].copy_from_slice(&turned);
            } else {
                let words = if head < heads + kv_heads { &mut k[..] } else { &mut v[..] };
                let start = (slots[row] as usize * kv_heads + (head - heads) % kv_heads) * head_dim;
                turned.iter().enumerate().for_each(|(i, value)| store(words, start + i, *value));
            }
        }
    }
}

pub(crate) static OP: Op = Op { name: "rope", kernels: &[&KERNEL], examples, trial: Some(trial) };

fn trial(t: &mut Trial) {
    t.fill(3, Fill::Below(t.tensor(1).rows() as u32));
    t.fill(4, Fill::Counting);
}

fn examples(e: &mut Examples) {
    let heads = Heads { heads: 9, kv_heads: 3, head_dim: 64 };
    let qkv = e.f32(&[5, heads.q_width() + 2 * heads.kv_width()]);
    let tables = RopeTables { cos: e.f32(&[40, 32]), sin: e.f32(&[40, 32]) };
    let (positions, slots) = (e.u32(&[5], Fill::Below(40)), e.u32(&[5], Fill::Counting));
    for storage in [Storage::Buffer, Storage::Pieces] {
        for dtype in [DType::F32, DType::F16] {
            let mut cache = || e.input_in(storage, dtype, &[8, heads.kv_width()], Fill::Value(0));
            let cache = KvCache { k: cache(), v: cache() };
            rope_into_cache(&mut e.recording, qkv, heads, &tables, positions, slots, cache);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::attention::{Attention, Keys, Mask, View, attention};
    use crate::ops::testing::{compare, keep, nmse, play_both};
    use crate::weights::layout::read_float;

    #[test]
    fn gpu_equals_reference() {
        for (rows, heads, kv_heads, head_dim) in [(1, 1, 1, 2), (5, 3, 3, 20), (7, 6, 2, 36), (3, 4, 1, 128)] {
            for dtype in [DType::F32, DType::F16] {
                if dtype == DType::F16 && head_dim % 4 != 0 {
                    continue;
                }
                let case = format!("{rows} {heads} {kv_heads} {head_dim} {dtype:?}");
                let outputs = play_both(3, |pool, r, random| {
                    let heads = Heads { heads, kv_heads, head_dim };
                    let width = heads.q_width() + 2 * heads.kv_width();
                    let qkv = pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                    let tables = RopeTables::new(pool, 10000.0, head_dim, 200).unwrap();
                    let positions: Vec<u32> = (0..rows).map(|_| random.below(200)).collect();
                    let positions = pool.u32(&[rows], &positions).unwrap();
                    // 2 and 2 * rows + 1 have no common factor, so the rows go to different slots.
                    let count = 2 * rows + 1;
                    let slots: Vec<u32> = (0..rows).map(|i| ((i * 2 + 3) % count) as u32).collect();
                    let slots = pool.u32(&[rows], &slots).unwrap();
                    let mut cache = || {
                        let tensor = pool.alloc(dtype, &[count, heads.kv_width()]).unwrap();
                        // The same finite number in every format: what is not written keeps it.
                        pool.device().write_all(tensor, &vec![0x3c003c00u32; tensor.size_bytes() / 4]).unwrap();
                        tensor
                    };
                    let cache = KvCache { k: cache(), v: cache() };
                    let q = rope_into_cache(r, qkv, heads, &tables, positions, slots, cache);
                    vec![keep(pool, r, q), cache.k, cache.v]
                });
                for (i, (expected, found)) in outputs.iter().enumerate() {
                    let dtype = if i == 0 { DType::F32 } else { dtype };
                    let floats = |words: &[u32]| -> Vec<f32> {
                        (0..words.len() * 4 / dtype.bytes()).map(|j| read_float(words, dtype, j)).collect()
                    };
                    let error = nmse(&floats(expected), &floats(found));
                    // WGSL leaves it open to which neighbour a packed f16 is rounded.
                    let limit = if dtype == DType::F16 { 1e-6 } else { 1e-13 };
                    assert!(error <= limit, "{case}: output {i}: {error:e}");
                }
            }
        }
    }

    /// What lies in textures cannot be read back: attention to all of it is compared.
    #[test]
    fn caches_in_textures_equal_reference() {
        for (dtype, limit) in [(DType::F32, 1e-12), (DType::F16, 1e-6)] {
            for (rows, heads, kv_heads, head_dim) in [(1, 3, 3, 16), (5, 6, 2, 48), (70, 4, 1, 128)] {
                let heads = Heads { heads, kv_heads, head_dim };
                compare(&format!("{rows} {heads:?} {dtype:?}"), limit, |pool, r, random| {
                    let width = heads.q_width() + 2 * heads.kv_width();
                    let qkv = pool.f32(&[rows, width], &random.f32s(rows * width)).unwrap();
                    let tables = RopeTables::new(pool, 10000.0, head_dim, 200).unwrap();
                    let positions: Vec<u32> = (0..rows).map(|_| random.below(200)).collect();
                    let positions = pool.u32(&[rows], &positions).unwrap();
                    let slots = pool.u32(&[rows], &(0..rows as u32).rev().collect::<Vec<_>>()).unwrap();
                    assert_eq!(KvCache::storage(Storage::Pieces, dtype, rows, heads), Storage::Pieces);
                    let mut cache = || pool.alloc_in(Storage::Pieces, dtype, &[rows, heads.kv_width()]).unwrap();
                    let cache = KvCache { k: cache(), v: cache() };
                    let q = rope_into_cache(r, qkv, heads, &tables, positions, slots, cache);
                    let (k, v) = (View::all(cache.k), View::all(cache.v));
                    let (keys, mask, scale) = (Keys::Rows { count: rows, batches: 1 }, Mask::None, 1.0);
                    let q = View::all(q);
                    let a = Attention { batch: 1, rows, heads, q, k, v, keys, mask, scale, probabilities: None };
                    let seen = attention(r, a);
                    vec![keep(pool, r, seen)]
                });
            }
        }
    }

    #[test]
    fn beyond_f16_is_clamped() {
        let outputs = play_both(3, |pool, r, _| {
            let qkv = pool.f32(&[1, 12], &[1e6; 12]).unwrap();
            let tables = RopeTables::new(pool, 10000.0, 4, 1).unwrap();
            let zero = pool.u32(&[1], &[0]).unwrap();
            let (k, v) = (pool.alloc(DType::F16, &[1, 4]).unwrap(), pool.alloc(DType::F16, &[1, 4]).unwrap());
            let heads = Heads { heads: 1, kv_heads: 1, head_dim: 4 };
            rope_into_cache(r, qkv, heads, &tables, zero, zero, KvCache { k, v });
            vec![k, v]
        });
        for (expected, found) in outputs {
            assert_eq!(expected, [0x7bff7bff; 2]);
            assert_eq!(found, [0x7bff7bff; 2]);
        }
    }

    #[test]
    fn tables_hold_cosines_of_rounded_angles() {
        let device = Device::cpu();
        let mut pool = device.pool();
        let tables = RopeTables::new(&mut pool, 10000.0, 20, 3000).unwrap();
        assert_eq!(tables.cos.shape(), [3000, 10]);
        let cos = pollster::block_on(device.read_f32(tables.cos)).unwrap();
        let sin = pollster::block_on(device.read_f32(tables.sin)).unwrap();
        assert_eq!(cos[..10], [1.0; 10]);
        assert_eq!(sin[..10], [0.0; 10]);
        // 10000^(-2/20) = 0.398107170553497..., as f32 0.39810717105865478515625; times 2999 as f32 1193.9234619140625.
        assert_eq!(0.398_107_17_f32 * 2999.0, 1_193.923_5);
        assert_eq!(cos[2999 * 10 + 1], 1_193.923_461_914_062_5_f64.cos() as f32);
        assert_eq!(sin[2999 * 10 + 1], 1_193.923_461_914_062_5_f64.sin() as f32);
        // The lowest frequency is 10000^(-18/20) = 0.000251188643150958.
        let slow = f64::from(2.511_886_4e-4_f32 * 1000.0);
        assert_eq!(cos[1000 * 10 + 9], slow.cos() as f32);
    }
}
