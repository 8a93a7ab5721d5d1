// Where the pieces of a matrix's rows lie: in blocks of 32 rows, as src/weights/layout.rs tells.
// Gives: NEXT, starts_of.

// From a row's piece, scale or offset to its next.
const NEXT = 32u;

// Where rows of `width` pieces, scales or offsets begin.
fn starts_of(rows: vec4<u32>, width: u32) -> vec4<u32> {
    return rows / 32u * width * 32u + rows % 4u * 8u + rows / 4u % 8u;
}
