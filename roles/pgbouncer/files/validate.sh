#!/usr/bin/env bash
# validate FILE
# PgBouncer cannot check a configuration without running it: run a copy that listens on a socket of its own, for a moment.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$scratch/userlist"
sed -E -e 's/^listen_addr *=.*/listen_addr =/' \
    -e "s|^unix_socket_dir *=.*|unix_socket_dir = $scratch|" \
    -e 's/^pidfile *=.*/pidfile =/' \
    -e "s|^auth_file *=.*|auth_file = $scratch/userlist|" "$1" >"$scratch/pgbouncer.ini"
chown -R pgbouncer "$scratch"
status=0
said=$(setpriv --reuid=pgbouncer --regid=pgbouncer --groups=pgbouncer,trading-tls \
    timeout --signal=INT 1 /usr/sbin/pgbouncer "$scratch/pgbouncer.ini" 2>&1) || status=$?
# 124: it was still running when its moment was over.
if ((status != 124)) || grep -qE 'unknown parameter|invalid value|FATAL|ERROR' <<<"$said"; then
    echo "$said"
    exit 1
fi
