// y = residual + layer_scale * (x W^T + bias): the fast kernel for 1 to 8 rows, for groups of whole 16-byte pieces. Sums
// in f32.

#import shared/part
#import linear/output
#import linear/ungated
#import linear/few

fn write_one(row: u32, output: u32, product: f32, more_product: f32) {
    if output < p.outputs {
        write_output(row, output, product);
    }
}
