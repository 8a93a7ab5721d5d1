// y = residual + layer_scale * (x W^T + bias): the fast kernel for software adapters, for groups of whole 16-byte pieces.
// Sums in f32.

#import shared/part
#import linear/ungated
#import linear/tile
