#!/usr/bin/env bash
# What compilers and Vulkan's validation layer say without any GPU, in seconds. A part of tests/run.sh; see all.sh for the rest.
set -euo pipefail
. "$(dirname "$0")/common.sh"
since=$SECONDS
lap() { say "$1 took $((SECONDS - since)) s"; since=$SECONDS; }

prepare
cargo test --locked --quiet --release --manifest-path "$root/tests/portability/compilers/Cargo.toml" --target-dir "$work" >/dev/null
lap 'making ready'

out=$work/translated
rm -rf "$out"
"$compilers" translate "$work/pipelines.jsonl" "$out"
if apt spirv-val=spirv-tools; then
  find "$out" -name '*.spv' -print0 | xargs -0 -n 1 -P 2 spirv-val --target-env vulkan1.1
else
  "$root/tests/skipped.sh" spirv-val 'spirv-val is not here (Debian: apt-get install spirv-tools)'
fi
lap 'SPIR-V, HLSL, MSL and GLSL by naga'

if apt /usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json=vulkan-validationlayers; then
  cargo build --locked --quiet --manifest-path "$root/Cargo.toml"
  qllama=$root/target/debug/qllama pictures=$root/models/emoji-tiny/pictures
  # The check of the adapter plays the same kernels again: all.sh has it under the layer, once.
  validated() { "$root/tests/portability/validate.sh" "$qllama" "$@" --check off; }
  validated caption "$pictures/noto-cat.png" "$pictures/noto-dog.png"
  validated caption --num-beams 3 "$pictures/noto-cat.png"
  validated match --image "$pictures/noto-cat.png" --text cat dog
else
  "$root/tests/skipped.sh" validation "Vulkan's validation layer is not here (Debian: apt-get install vulkan-validationlayers)"
fi
lap "Vulkan's validation layer"
