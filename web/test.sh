#!/usr/bin/env bash
# Builds the site and tests it in Chromium, headless, with WebGPU on a software adapter.
set -euo pipefail
cd "$(dirname "$0")"
for need in node npm; do
  command -v "$need" >/dev/null || exec ../tests/skipped.sh web "$need is not here (Debian: apt-get install nodejs npm)"
done
found=''
for path in "${CHROMIUM:-}" /usr/bin/chromium /usr/bin/chromium-browser /usr/bin/google-chrome; do
  [ -n "$path" ] && [ -x "$path" ] && found=$path && break
done
[ -n "$found" ] || exec ../tests/skipped.sh web 'no Chromium is here (Debian: apt-get install chromium)'
./build.sh
# What the browser is compared with.
cargo build --locked --manifest-path ../Cargo.toml
cd tests
cmp -s package-lock.json node_modules/.ready || { npm ci --no-audit --no-fund && cp package-lock.json node_modules/.ready; }
exec node --test --test-concurrency=1 --test-reporter=spec ./*.test.mjs
