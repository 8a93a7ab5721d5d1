#!/usr/bin/env bash
# Everything that can be known of GPUs and systems that are not there: minutes, 5 GB, and root for the Debian 13 of debian.sh.
#   all.sh          all of it
#   all.sh PART...  some: quick check tables hlsl windows scripts
# QLLAMA_FIRST_CAPTION_MS is the most that a first caption may take on Wine's Direct3D 12, 7000 where it is not set.
set -euo pipefail
. "$(dirname "$0")/common.sh"
here=$root/tests/portability
parts=("$@")
[ $# != 0 ] || parts=(quick check tables hlsl windows scripts)
qllama=$root/target/debug/qllama
cat=$root/models/emoji-tiny/pictures/noto-cat.png dog=$root/models/emoji-tiny/pictures/noto-dog.png

# The program for Windows on Direct3D 12 beside the one for this machine.
windows() {
  "$here/windows.sh" build
  local log=$work/windows.log most=${QLLAMA_FIRST_CAPTION_MS:-7000} arguments line wanted found took
  "$here/windows.sh" run --list-adapters 2>/dev/null | tee "$log"
  grep -q '^0: .*Dx12' "$log" || { say 'adapter 0 is not on Direct3D 12'; return 1; }
  while IFS= read -r line; do
    read -ra arguments <<<"$line"
    wanted=$("$qllama" "${arguments[@]}")
    found=$("$here/windows.sh" run "${arguments[@]}" --adapter 0 2>"$log" | tr -d '\r') || { cat "$log" >&2; return 1; }
    took=$(sed -n 's/.*ran for \([0-9]*\) ms/\1/p' "$log")
    say "$took ms: ${arguments[*]//$root\//}: $found"
    if [ "$found" != "$wanted" ]; then
      say "on this machine: $wanted"
      return 1
    fi
    # Every run compiles its shaders anew; the first one is a plain caption.
    if [ "$took" -gt "$most" ]; then
      say "a first caption took $took ms, more than $most"
      return 1
    fi
    most=300000
  done <<COMMANDS
caption $cat
caption --num-beams 3 --min-new-tokens 6 $cat $dog
caption --do-sample --seed 7 --temperature 2 --top-k 30 --top-p 0.95 --max-new-tokens 8 --min-new-tokens 8 $cat
match --image $cat $dog --text cat dog
COMMANDS
}

for part in "${parts[@]}"; do
  since=$SECONDS
  case $part in
    quick) "$here/quick.sh" ;;
    # Every kernel of the demo model under Vulkan's validation layer.
    check) cargo build --locked --quiet --manifest-path "$root/Cargo.toml" && "$here/validate.sh" "$qllama" check ;;
    tables) "$here/debian.sh" make && "$here/tables.sh" ;;
    hlsl) "$here/debian.sh" make && "$here/windows.sh" hlsl ;;
    windows) "$here/debian.sh" make && cargo build --locked --quiet --manifest-path "$root/Cargo.toml" && windows ;;
    scripts) (cd "$root/web/tests" && node --test ./outside.test.mjs ./tint.test.mjs) ;;
    *) say "there is no part $part"; exit 2 ;;
  esac
  say "$part took $((SECONDS - since)) s"
done
