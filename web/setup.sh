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
command -v firefox-esr >/dev/null || command -v firefox >/dev/null || missing+=(firefox-esr)
[ ${#missing[@]} != 0 ] || exit 0
command -v apt-get >/dev/null || { echo "web/setup.sh: install these by hand: ${missing[*]}" >&2; exit 1; }
as_root=''
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "web/setup.sh: as root, run: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=sudo
fi
# Without the lists that this brings, apt tells nothing of its archives.
$as_root apt-get update -qq
options=()
targets=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian')
if [ -n "$targets" ] && ! grep -q -- '-security' <<<"$targets"; then
  # Compilers and browsers as new as needed come from Debian's security archive, which minimal installations leave out.
  read -r mirror release < <(head -n 1 <<<"$targets")
  sources=$(mktemp -d)
  trap 'rm -rf "$sources"' EXIT
  cp -r /etc/apt/sources.list.d/. "$sources"
  echo "deb ${mirror%/}-security $release-security main" >"$sources/security.list"
  options=(-o "Dir::Etc::sourceparts=$sources")
  $as_root apt-get "${options[@]}" update -qq
fi
$as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y -qq --no-install-recommends \
  "${missing[@]}" >/dev/null
