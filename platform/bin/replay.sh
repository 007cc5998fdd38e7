#!/usr/bin/env bash
# Replays a file of recorded market data into the running platform: replay.sh FILE [--speed N|max] [--wait]. See --help.

set -Eeuo pipefail

release=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
export TRADING_CONFIG=${TRADING_CONFIG:-/etc/trading-platform/platform.yaml}
exec "${TRADING_PYTHON:-$release/venv/bin/python}" -m trading_platform.market_data.replay_command "$@"
