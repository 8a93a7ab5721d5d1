#!/usr/bin/env bash
# Runs all tests. What lacks something of this machine is skipped with a line on standard error, or fails where
# QLLAMA_REQUIRE_ALL is set.
set -euo pipefail
cd "$(dirname "$0")/.."
lap() { echo "tests/run.sh: $1 took $((SECONDS - since)) s" >&2; since=$SECONDS; }
since=$SECONDS
tests/setup.sh
if [ "$(uname -s)" = Linux ]; then
  # Chromium is there for the Rust tests too: it brings SwiftShader, a second Vulkan driver.
  web/setup.sh
fi
lap 'making ready'
cargo test --locked
lap 'cargo test'
# The fuzzer wants features of a nightly compiler, which a stable one has when it is told so.
if command -v cargo-fuzz >/dev/null; then
  for target in header index config gguf; do
    RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz "$target" -- \
      -max_total_time=5 -rss_limit_mb=256 -malloc_limit_mb=64 -timeout=2 -verbosity=0
  done
  lap 'fuzzing'
else
  tests/skipped.sh fuzz 'cargo-fuzz is not installed: cargo install cargo-fuzz'
fi
web/test.sh
lap 'web/test.sh'
