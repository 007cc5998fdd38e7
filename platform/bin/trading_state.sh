#!/usr/bin/env bash
# Where trading stands; pause, start, safe mode and an orderly shutdown from a host. See --help. Emergencies: emergency_stop.sh.

set -Eeuo pipefail

release=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
export TRADING_CONFIG=${TRADING_CONFIG:-/etc/trading-platform/platform.yaml}
exec "${TRADING_PYTHON:-$release/venv/bin/python}" -m trading_platform.risk.command "$@"
