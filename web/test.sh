#!/usr/bin/env bash
# Builds the site and tests it in Chromium and Firefox, headless, with WebGPU on software adapters; and the package in Node, Deno
# and Bun.
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
firefox=''
for path in "${FIREFOX:-}" /usr/bin/firefox-esr /usr/bin/firefox; do
  [ -n "$path" ] && [ -x "$path" ] && firefox=$path && break
done
export FIREFOX=$firefox
./build.sh
# What the browser is compared with.
cargo build --locked --manifest-path ../Cargo.toml
cd tests
cmp -s package-lock.json node_modules/.ready || { npm ci --no-audit --no-fund && cp package-lock.json node_modules/.ready; }
files=()
for file in ./*.test.mjs; do
  if [ "$file" = ./firefox.test.mjs ] && [ -z "$firefox" ]; then
    ../../tests/skipped.sh firefox 'no Firefox is here (Debian: apt-get install firefox-esr)'
    continue
  fi
  files+=("$file")
done
# outside.test.mjs leaves it out by itself.
[ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || ../../tests/skipped.sh node-20 "this Node is older than 20: $(node --version)"
exec node --test --test-concurrency=1 --test-reporter=spec "${files[@]}"
