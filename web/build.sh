#!/usr/bin/env bash
# Builds the WebAssembly and writes the whole static site to web/dist. `web/build.sh --serve` serves it, too.
set -euo pipefail
cd "$(dirname "$0")/.."
target=wasm32-unknown-unknown
say() { echo "web/build.sh: $*" >&2; }

# 1. The library, as WebAssembly.
if [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
  build=(cargo rustc)
  out=target
else
  # Debian's compiler builds the standard library with the crate.
  if ! [[ -x /usr/share/cargo/bin/cargo && -x /usr/bin/rustc && -d /usr/lib/rustlib/src/rust/library ]] || ! command -v wasm-ld >/dev/null; then
    say "no Rust compiler here knows $target: rustup target add $target, or on Debian run web/setup.sh"
    exit 1
  fi
  export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-ld
  build=(/usr/share/cargo/bin/cargo rustc -Z build-std=std,panic_abort)
  # Apart from the other compiler's output, which it would build anew each time.
  out=target/web
fi
# Without the folders of the machine that builds it, which panics name.
export RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=packages --remap-path-prefix=$PWD=qllama"
say 'building the library'
"${build[@]}" --locked -p qllama --lib --crate-type cdylib --profile web --target "$target" --target-dir "$out"
unset RUSTC RUSTC_BOOTSTRAP RUSTFLAGS

# 2. Its JavaScript, by the tool of exactly the library's version.
version() { grep -A1 "^name = \"$1\"\$" "$2" | sed -n 's/^version = "\(.*\)"$/\1/p'; }
want=$(version wasm-bindgen Cargo.lock)
have=$(version wasm-bindgen-cli-support web/bindgen/Cargo.lock)
if [ "$want" != "$have" ]; then
  say "Cargo.lock has wasm-bindgen $want, but web/bindgen has $have: write $want into web/bindgen/Cargo.toml"
  say 'and run: cargo update --manifest-path web/bindgen/Cargo.toml'
  exit 1
fi
cargo build --locked --release --manifest-path web/bindgen/Cargo.toml --target-dir target/bindgen
dist=web/dist
rm -rf "$dist"
mkdir -p "$dist/models/emoji-tiny/pictures"
target/bindgen/release/bindgen "$out/$target/web/qllama.wasm" "$dist/wasm"

# 3. The page, the API and the demo model.
cp web/index.html web/demo.css web/demo.js web/icon.svg web/offline.js "$dist"
cp web/qllama.js web/qllama.d.ts web/errors.js web/hub.js web/past.js web/pictures.js web/place.js web/values.js web/worker.js web/files.js web/notes.js web/sha256.js "$dist"
cp web/node.js web/thread.js web/folder.js web/gpu.js web/package.json web/README.md LICENSE "$dist"
for file in config.json model.safetensors tokenizer.model tokenizer_config.json preprocessor_config.json; do
  cp "models/emoji-tiny-w4/$file" "$dist/models/emoji-tiny"
done
cp models/emoji-tiny/README.md "$dist/models/emoji-tiny"
for picture in $(sed -n 's/.*"\(noto-[a-z-]*\.png\)".*/\1/p' web/gallery.json); do
  cp "models/emoji-tiny/pictures/$picture" "$dist/models/emoji-tiny/pictures"
done
cp web/gallery.json "$dist"
size=$(gzip -9 -c "$dist/wasm/qllama_bg.wasm" | wc -c)
say "$dist is ready; the WebAssembly has $(stat -c %s "$dist/wasm/qllama_bg.wasm") bytes, $size after gzip -9"
if [ "$size" -gt 1500000 ]; then
  say 'that is more than 1.5 MB'
  exit 1
fi
if [ "${1:-}" = --serve ]; then
  if command -v node >/dev/null; then
    exec node web/tests/serve.mjs "$dist" "${2:-8080}"
  fi
  exec python3 -m http.server --bind 127.0.0.1 --directory "$dist" "${2:-8080}"
fi
