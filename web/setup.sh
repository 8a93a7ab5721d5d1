#!/usr/bin/env bash
# On Debian and Ubuntu, installs what web/build.sh and web/test.sh need and is not there yet.
set -euo pipefail
missing=()
if [ ! -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/wasm32-unknown-unknown/lib" ]; then
  [ -x /usr/share/cargo/bin/cargo ] || missing+=(cargo-web)
  [ -x /usr/bin/rustc ] || missing+=(rustc-web)
  [ -d /usr/lib/rustlib/src/rust/library ] || missing+=(rust-web-src)
  command -v wasm-ld >/dev/null || missing+=(lld)
fi
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v chromium >/dev/null || missing+=(chromium)
[ ${#missing[@]} != 0 ] || exit 0
command -v apt-get >/dev/null || { echo "web/setup.sh: install these by hand: ${missing[*]}" >&2; exit 1; }
as_root=''
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "web/setup.sh: as root, run: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=sudo
fi
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
