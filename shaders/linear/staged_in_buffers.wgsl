// Staged rows in a storage buffer, made one word at a time.
// Gives: WORDS, store.

@group(0) @binding(1) var<storage, read_write> y: array<u32>;  // [rows, width]

const WORDS = 1u;

fn store(index: u32, words: vec4<u32>) {
    y[index] = words.x;
}
