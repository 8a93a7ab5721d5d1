#!/usr/bin/env bash
# Runs a command under the Khronos validation layer, with its checks of synchronisation; fails where that reports an error, or
# where it was never asked.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/vk_layer_settings.txt" <<SETTINGS
khronos_validation.validate_sync = true
khronos_validation.syncval_shader_accesses_heuristic = true
khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT
khronos_validation.report_flags = error,info
khronos_validation.log_filename = $work/log
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
SETTINGS
VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation VK_LAYER_SETTINGS_PATH=$work/vk_layer_settings.txt "$@" >"$work/out" 2>"$work/err"
rc=$?
errors=$(grep -c 'Validation Error' "$work/log" 2>/dev/null)
if [ "$rc" != 0 ] || [ "${errors:-0}" != 0 ] || [ ! -s "$work/log" ]; then
  cat "$work/out" "$work/err"
  grep -A4 'Validation Error' "$work/log" | head -n 40
  echo "validate.sh: $*: exit status $rc, ${errors:-0} validation errors, $([ -s "$work/log" ] && echo 'the layer was there' || echo 'the layer said nothing at all')" >&2
  exit 1
fi
