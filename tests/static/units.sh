#!/usr/bin/env bash
# Every unit of ours parses, and is exposed no more than it must be (systemd-analyze security: 1.0 at most).
# Units of databases and other vendors' servers need more; tests/static/exposure.txt says how much, and why.
set -Eeuo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."

allowed() { # UNIT: tenths of a point
  local tenths
  tenths=$(awk -v unit="$1" '$1 == unit { print $2 }' tests/static/exposure.txt)
  printf '%s' "${tenths:-10}"
}

failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for unit in systemd/*.service; do
  name=$(basename "$unit")
  limit=$(allowed "$name")
  if ! systemd-analyze security --offline=true --no-pager --threshold="$limit" "$unit" >"$scratch/$name" 2>&1; then
    printf '%s: exposure above %s tenths: %s\n' "$name" "$limit" "$(tail -n 1 "$scratch/$name")" >&2
    failed=1
  fi
done
# Programs the units start live on hosts, not here: only what systemd says of the files themselves counts.
if ! grep -vE 'is not executable|Failed to create .*: Unit .* not found|man page|Command .* is not executable' \
  <(systemd-analyze verify --man=no --recursive-errors=no systemd/*.service systemd/*.target 2>&1) |
  grep -F "$(pwd)/systemd/" >"$scratch/verify"; then
  :
fi
if [[ -s $scratch/verify ]]; then
  cat "$scratch/verify" >&2
  failed=1
fi
exit "$failed"
