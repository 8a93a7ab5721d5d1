#!/usr/bin/env bash
# Runs the fuzz targets, which README.md lists: `run.sh SECONDS [TARGET...]`, or `run.sh SECONDS:EXECUTIONS [TARGET...]`
# to end at whichever comes first. Installs cargo-fuzz where it is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
IFS=: read -r seconds executions <<<"${1:-5}"
shift || true
targets=("$@")
[ ${#targets[@]} != 0 ] || targets=(adapters config gguf header index options pictures preprocessor tokenizer)
if ! command -v cargo-fuzz >/dev/null; then
  echo 'tests/fuzz/run.sh: installing cargo-fuzz' >&2
  cargo install --quiet --locked cargo-fuzz || exec tests/skipped.sh fuzz 'cargo-fuzz is not here and could not be installed'
fi
# The fuzzer wants features of a nightly compiler, which a stable one has when it is told so.
export RUSTC_BOOTSTRAP=1
for target in "${targets[@]}"; do
  # What a target may take for one input: MB of memory in all and at once, and seconds.
  case $target in
    # The largest picture is one of 2^26 pixels.
    pictures) memory=2048 malloc=1024 timeout=20 ;;
    *) memory=256 malloc=64 timeout=2 ;;
  esac
  corpus=tests/fuzz/corpus/$target
  mkdir -p "$corpus"
  # Without a sanitizer: neither this code nor the decoders have any that is unsafe.
  cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz "$target" "$corpus" "tests/fuzz/seeds/$target" -- \
    -max_total_time="$seconds" ${executions:+-runs="$executions"} -rss_limit_mb="$memory" -malloc_limit_mb="$malloc" \
    -timeout="$timeout" -verbosity=0 -print_final_stats=1
done
