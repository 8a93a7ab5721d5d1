// y = silu(x Wg^T) * (x Wu^T): what tile.wgsl does with a matrix that has the rows of Wg above those of Wu.

#import shared/part
#import linear/gated
#import linear/tile
