//! The WGSL that kernels share, by name: what `#import` finds.

use crate::device::wgsl::Import;

macro_rules! imports {
    ($($name:literal,)+) => {
        &[$(Import { name: $name, source: include_str!(concat!("../../shaders/", $name, ".wgsl")) },)+]
    };
}

pub(crate) const IMPORTS: &[Import] = imports![
    "attention/common",
    "attention/keys_in_buffers",
    "attention/keys_in_textures",
    "attention/masks",
    "cache/cache_in_buffers",
    "cache/cache_in_textures",
    "gradients/attention_shared",
    "linear/element_in_buffers",
    "linear/element_in_textures",
    "linear/few",
    "linear/gated",
    "linear/many",
    "linear/output",
    "linear/staged_in_buffers",
    "linear/staged_in_textures",
    "linear/tile",
    "linear/ungated",
    "linear/unpack",
    "linear/x_in_buffers",
    "linear/x_in_textures",
    "shared/blocks",
    "shared/erfc",
    "shared/floats",
    "shared/grid",
    "shared/matrix",
    "shared/matrix_in_buffers",
    "shared/matrix_in_textures",
    "shared/part",
    "shared/reductions",
    "shared/silu",
    "shared/texel",
    "shared/y_in_buffers",
    "shared/y_in_textures",
];
