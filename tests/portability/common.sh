# What the scripts here share; to be sourced. It sets `root`, the repository, and `work`, where everything is made.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$root/target/portability
mkdir -p "$work"
say() { echo "$(basename "$0"): $*" >&2; }
# Packages that are missing: apt COMMAND_OR_FILE=PACKAGE...
apt() {
  local missing=() pair as_root=''
  for pair in "$@"; do
    command -v "${pair%=*}" >/dev/null || [ -e "${pair%=*}" ] || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} != 0 ] || return 0
  command -v apt-get >/dev/null || { say "install these by hand: ${missing[*]}"; return 1; }
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "as root, run: apt-get install ${missing[*]}"; return 1; }
    as_root=sudo
  fi
  say "installing ${missing[*]}"
  $as_root apt-get update -qq
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
version() { grep -A1 "^name = \"$1\"\$" "$2" | sed -n 's/^version = "\(.*\)"$/\1/p'; }
# Every pipeline, to $work/pipelines.jsonl, and the tool that knows compilers, as $compilers.
prepare() {
  local tool=$root/tests/portability/compilers want have
  want=$(version naga "$root/Cargo.lock") have=$(version naga "$tool/Cargo.lock")
  if [ "$want" != "$have" ]; then
    say "Cargo.lock has naga $want, but tests/portability/compilers has $have: write $want into its Cargo.toml"
    return 1
  fi
  cargo build --locked --quiet --release --manifest-path "$tool/Cargo.toml" --target-dir "$work"
  compilers=$work/release/compilers
  # Where others ask at the same time, each has its own list, and each is whole.
  cargo run --locked --quiet --manifest-path "$root/Cargo.toml" --example pipelines >"$work/pipelines.jsonl.$$"
  mv "$work/pipelines.jsonl.$$" "$work/pipelines.jsonl"
}
