#!/usr/bin/env bash
# What compilers of GPUs that are not there make of every pipeline: instructions, registers, spills and scratch memory.
#   tables.sh                 makes the tables, and compares them with those kept in tests/portability/tables
#   tables.sh --keep          makes them and keeps them
#   tables.sh --show [WORDS]  prints the rows that have WORDS in their name: a kernel, or a constant as in FORMAT=4
# DRIVERS chooses some: DRIVERS='intel:tgl nvidia:172'. They run in a Debian 13 (debian.sh make); with HERE=1 by this
# machine's own Mesa, where amd:GPU alone works on Debian 12. Kernels are compiled and never run.
set -euo pipefail
. "$(dirname "$0")/common.sh"
here=$root/tests/portability
mode=${1:-} filter=${2:-}
prepare
lib=/usr/lib/x86_64-linux-gnu
tables=$work/tables
mkdir -p "$tables" "$here/tables"
failed=0
for driver in ${DRIVERS:-amd:navi21 amd:navi31 intel-old:bdw intel:tgl intel:dg2 nvidia:172}; do
  gpu=${driver#*:}
  icd() { echo "/usr/share/vulkan/icd.d/$1.json"; }
  case $driver in
    amd:*) with=(RADV_FORCE_FAMILY="$gpu" VK_ICD_FILENAMES="$(icd 'radeon_icd*')") ;;
    intel:*) with=(LD_PRELOAD=$lib/libintel_noop_drm_shim.so INTEL_STUB_GPU_PLATFORM="$gpu" VK_ICD_FILENAMES="$(icd 'intel_icd*')") ;;
    intel-old:*) with=(LD_PRELOAD=$lib/libintel_noop_drm_shim.so INTEL_STUB_GPU_PLATFORM="$gpu" VK_ICD_FILENAMES="$(icd 'intel_hasvk*')") ;;
    nvidia:*) with=(LD_PRELOAD=$lib/libnouveau_noop_drm_shim.so NOUVEAU_CHIPSET="$gpu" VK_ICD_FILENAMES="$(icd 'nouveau*')") ;;
    *) say "there is no driver $driver"; exit 1 ;;
  esac
  run=("$here/debian.sh" run)
  [ -z "${HERE:-}" ] || run=(env)
  say "$driver"
  found=$tables/${driver/:/-}.txt
  if ! "${run[@]}" env "${with[@]}" bash -c 'VK_ICD_FILENAMES=$(echo $VK_ICD_FILENAMES) exec "$@"' _ \
    "$compilers" driver "$work/pipelines.jsonl" "$filter" >"$found" 2>"$found.err"; then
    say "$driver: $(tail -n 1 "$found.err")"
    grep FAULT "$found" >&2 || true
    failed=1
  fi
  case $mode in
    --show) cat "$found" ;;
    --keep) cp "$found" "$here/tables/" ;;
    '') "$compilers" compare "$here/tables/$(basename "$found")" "$found" || failed=1 ;;
    *) say "there is no $mode"; exit 2 ;;
  esac
done
exit "$failed"
