#!/usr/bin/env bash
# Runs all tests.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh
if [ "$(uname -s)" = Linux ]; then
  web/setup.sh
fi
web/test.sh
exec cargo test --locked
