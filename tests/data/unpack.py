"""unpack.py MODEL.safetensors BITS: writes unpacked.safetensors beside it, each packed matrix as f32 by module name,
unpacked by the package compressed-tensors."""

import pathlib
import sys

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import load_file, save_file

path, bits = pathlib.Path(sys.argv[1]), int(sys.argv[2])
tensors = load_file(path)
out = {}
for name in list(tensors):
    if not name.endswith(".weight_packed"):
        continue
    module = name.removesuffix(".weight_packed")
    shape = torch.Size(tensors[f"{module}.weight_shape"].tolist())
    scale = tensors[f"{module}.weight_scale"].float()
    q = unpack_from_int32(tensors[name], bits, shape).float()
    zero = tensors.get(f"{module}.weight_zero_point")
    if zero is None:
        zero = torch.zeros_like(scale)
    else:
        zero = unpack_from_int32(zero, bits, torch.Size([shape[0], scale.shape[1]]), packed_dim=0).float()
    repeat = shape[1] // scale.shape[1]
    widen = lambda t: t.repeat_interleave(repeat, dim=1)
    out[module] = (q - widen(zero)) * widen(scale)
save_file(out, path.with_name("unpacked.safetensors"))
