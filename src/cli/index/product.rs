//! Rows of unit length and their products, which are cosines: `scores[i] = rows[i] . query`. Rows are [count, width].

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Rows that a thread takes at a time where all are compared with all.
const TILE: usize = 512;
/// Sums that are kept apart, so that the compiler adds several at once.
const LANES: usize = 16;

/// A row and its score.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hit {
    pub score: f32,
    pub row: usize,
}

/// The worst is the greatest: it stands on top of a heap, where it is dropped first. Of equal scores the later row is worse.
impl Ord for Hit {
    fn cmp(&self, other: &Hit) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Hit) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Hit {}

/// Brings each row to unit length; rows of zeros stay.
pub fn normalise(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        let length = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
}

pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a, rest_a) = a.as_chunks::<LANES>();
    let (b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(a, b)| a * b).sum::<f32>()
}

/// The `k` rows that are most like the query, best first: exactly those that sorting all would give.
pub fn top(rows: &[f32], query: &[f32], k: usize) -> Vec<Hit> {
    let width = query.len();
    let count = rows.len() / width;
    let part = count.div_ceil(threads()).max(1);
    let best = |first: usize, rows: &[f32]| {
        let mut heap = BinaryHeap::with_capacity(k + 1);
        for (i, row) in rows.chunks_exact(width).enumerate() {
            let hit = Hit { score: dot(row, query), row: first + i };
            if heap.len() < k {
                heap.push(hit);
            } else if heap.peek().is_some_and(|worst| hit < *worst) {
                heap.pop();
                heap.push(hit);
            }
        }
        heap.into_vec()
    };
    let mut found: Vec<Hit> = std::thread::scope(|scope| {
        let parts = rows.chunks(part * width).enumerate();
        let started: Vec<_> = parts.map(|(i, rows)| scope.spawn(move || best(i * part, rows))).collect();
        started.into_iter().flat_map(|thread| thread.join().expect("products do not panic")).collect()
    });
    found.sort_unstable();
    found.truncate(k);
    found
}

/// Tells of all pairs of rows (the first before the second) whose product is at least `above`, in any order; `on_tile` hears of
/// each part of the work, of [`tiles`].
pub fn pairs(
    rows: &[f32],
    width: usize,
    above: f32,
    tell: &(dyn Fn(usize, usize) + Sync),
    on_tile: &(dyn Fn() + Sync),
) {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let all: Vec<&[f32]> = rows.chunks(TILE * width).collect();
    let work = || {
        let mut products = vec![0f32; TILE * TILE];
        loop {
            let tile = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some((i, j)) = tile_of(tile, all.len()) else { return };
            multiply(all[i], all[j], width, &mut products);
            let columns = all[j].len() / width;
            for (at, row) in products.chunks_exact(columns).take(all[i].len() / width).enumerate() {
                let first = if i == j { at + 1 } else { 0 };
                for (column, _) in row.iter().enumerate().skip(first).filter(|(_, product)| **product >= above) {
                    tell(i * TILE + at, j * TILE + column);
                }
            }
            on_tile();
        }
    };
    std::thread::scope(|scope| (0..threads()).for_each(|_| drop(scope.spawn(work))));
}

/// Parts of the work of [`pairs`].
pub fn tiles(count: usize) -> usize {
    let n = count.div_ceil(TILE);
    n * (n + 1) / 2
}

/// Rows of tiles one behind the other, each from the diagonal on.
fn tile_of(mut tile: usize, n: usize) -> Option<(usize, usize)> {
    for i in 0..n {
        if tile < n - i {
            return Some((i, i + tile));
        }
        tile -= n - i;
    }
    None
}

/// `out[a, b] = rows_a . rows_b`, all of them.
pub fn multiply(a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    let (m, n) = (a.len() / width, b.len() / width);
    assert!(out.len() >= m * n, "{m} x {n} products");
    // SAFETY: the strides keep to the rows of `a`, `b` and `out`, whose lengths were counted above.
    unsafe {
        matrixmultiply::sgemm(
            m,
            width,
            n,
            1.0,
            a.as_ptr(),
            width as isize,
            1,
            b.as_ptr(),
            1,
            width as isize,
            0.0,
            out.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Instant;

    use super::*;

    fn rows(count: usize, width: usize) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut rows: Vec<f32> = (0..count * width).map(|_| random.f32() - 0.5).collect();
        normalise(&mut rows, width);
        rows
    }

    fn by_sorting(rows: &[f32], query: &[f32]) -> Vec<Hit> {
        let score = |row: &[f32]| row.iter().zip(query).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32;
        let mut all: Vec<Hit> =
            rows.chunks(query.len()).enumerate().map(|(row, r)| Hit { score: score(r), row }).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn the_best_are_those_of_sorting() {
        for (count, width) in [(1, 3), (7, 16), (1000, 37), (1500, 64)] {
            let rows = rows(count, width);
            for query in [0, count / 2, count - 1] {
                let query = &rows[query * width..][..width];
                let expected = by_sorting(&rows, query);
                for k in [1, 10, count, count + 5] {
                    let found = top(&rows, query, k);
                    assert_eq!(found.len(), k.min(count));
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found.score - expected.score).abs() < 1e-5 && found.score <= 1.0001);
                        assert!(found.row == expected.row || (found.score - expected.score).abs() < 1e-6);
                    }
                }
            }
        }
        // Equal scores stand by row.
        let same = [1.0, 0.0].repeat(100);
        assert_eq!(top(&same, &[1.0, 0.0], 3).iter().map(|hit| hit.row).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(top(&[], &[1.0, 0.0], 3).is_empty() && top(&same, &[1.0, 0.0], 0).is_empty());
    }

    #[test]
    fn every_pair_is_told_once() {
        let (count, width) = (TILE * 2 + 77, 24);
        let mut rows = rows(count, width);
        rows.copy_within(0..width, 1200 * width - 100 * width);
        let found = Mutex::new(Vec::new());
        let parts = Mutex::new(0);
        pairs(&rows, width, 0.6, &|a, b| found.lock().unwrap().push((a, b)), &|| *parts.lock().unwrap() += 1);
        let mut found = found.into_inner().unwrap();
        found.sort_unstable();
        let row = |i: usize| &rows[i * width..][..width];
        let all = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
        // What stands at the threshold may fall to either side.
        let expected: Vec<_> = all.filter(|&(a, b)| dot(row(a), row(b)) >= 0.6).collect();
        let sure = |pair: &&(usize, usize)| (dot(row(pair.0), row(pair.1)) - 0.6).abs() > 1e-5;
        assert!(expected.contains(&(0, 1100)) && expected.len() > 100, "{}", expected.len());
        assert!(found.iter().filter(sure).eq(expected.iter().filter(sure)));
        assert_eq!(parts.into_inner().unwrap(), tiles(count));
    }

    /// `cargo test --release -p qllama-cli --bin qllama index::product -- --ignored --nocapture`
    #[test]
    #[ignore = "it measures"]
    fn a_hundred_thousand_rows() {
        let (count, width) = (100_000, 768);
        let rows = rows(count, width);
        let mut all: Vec<f64> = (0..20)
            .map(|i| {
                let query = &rows[i * 4321 * width..][..width];
                let begun = Instant::now();
                assert_eq!(top(&rows, query, 10)[0].row, i * 4321);
                begun.elapsed().as_secs_f64()
            })
            .collect();
        all.sort_by(f64::total_cmp);
        println!("{count} x {width}: median {:.1} ms, longest {:.1} ms", all[10] * 1e3, all[19] * 1e3);
        assert!(all[10] < 0.05);
    }
}
