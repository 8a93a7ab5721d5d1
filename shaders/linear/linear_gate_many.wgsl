// y = silu(x Wg^T) * (x Wu^T): what many.wgsl does with a matrix that has the rows of Wg above those of Wu.

#import shared/part
#import linear/gated
#import linear/many
