#!/bin/sh
# Brings the database to the schema of the release this script is part of, and makes sure that a first administrator exists.
# The platform role runs it before the release takes traffic. Looks before it changes anything; prints what it changed.
# Exit status: 0 done, 2 the database could not be reached or refused (worth another try), anything else: a defect.
set -eu

release=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
python=$release/venv/bin/python

status=0
"$python" -m trading_platform.migrate --check || status=$?
case $status in
    0) ;;
    1) "$python" -m trading_platform.migrate ;;
    *) exit "$status" ;;
esac
exec "$python" -m trading_platform.gateway.users ensure-admin
