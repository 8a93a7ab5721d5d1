// y = silu(x Wg^T) * (x Wu^T): what few.wgsl does with a matrix that has the rows of Wg above those of Wu.

#import shared/part
#import shared/silu
#import shared/y_in_buffers
#import linear/gated
#import linear/few

fn write_one(row: u32, output: u32, gate: f32, up: f32) {
    let inner = p.outputs / 2u;
    if output < inner {
        put_one(row, output, inner, silu(gate) * up);
    }
}
