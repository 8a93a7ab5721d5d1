#!/usr/bin/env bash
# skipped.sh WHAT WHY: says that what needs WHAT is not tested. Fails where QLLAMA_REQUIRE_ALL is set, but for what
# QLLAMA_MAY_SKIP lists with commas between; tests/common/shared.rs has the same rule.
set -euo pipefail
if [ -n "${QLLAMA_REQUIRE_ALL:-}" ] && [[ ",${QLLAMA_MAY_SKIP:-}," != *",$1,"* ]]; then
  echo "not to be skipped, as QLLAMA_REQUIRE_ALL is set and QLLAMA_MAY_SKIP has no $1: $2" >&2
  exit 1
fi
echo "skipped: $1: $2" >&2
