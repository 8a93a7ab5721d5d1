#!/usr/bin/env bash
# Runs all tests.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh
if [ "$(uname -s)" = Linux ]; then
  web/setup.sh
fi
web/test.sh
# The fuzzer wants features of a nightly compiler, which a stable one has when it is told so.
if command -v cargo-fuzz >/dev/null; then
  for target in header index config gguf; do
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz "$target" -- \
      -max_total_time=5 -rss_limit_mb=256 -malloc_limit_mb=64 -timeout=2 -verbosity=0
  done
else
  echo "skipped: tests/fuzz, as cargo-fuzz is not installed" >&2
fi
exec cargo test --locked
