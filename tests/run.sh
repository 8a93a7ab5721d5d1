#!/usr/bin/env bash
# Runs all tests.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/setup.sh
exec cargo test --locked
