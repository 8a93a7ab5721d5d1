#!/usr/bin/env bash
# Runs all tests. What lacks something of this machine is skipped with a line on standard error, or fails where
# QLLAMA_REQUIRE_ALL is set.
set -euo pipefail
cd "$(dirname "$0")/.."
lap() { echo "tests/run.sh: $1 took $((SECONDS - since)) s" >&2; since=$SECONDS; }
since=$SECONDS
tests/setup.sh
if [ "$(uname -s)" = Linux ]; then
  # Browsers. Chromium is there for the Rust tests too: it brings SwiftShader, a second Vulkan driver.
  web/setup.sh
fi
lap 'making ready'
cargo test --locked
lap 'cargo test'
cargo test --locked -p qllama-cli --features parquet --bin qllama caption::
lap 'cargo test with Parquet'
tests/fuzz/run.sh 5
lap 'fuzzing'
tests/portability/quick.sh
lap 'tests/portability/quick.sh'
web/test.sh
lap 'web/test.sh'
