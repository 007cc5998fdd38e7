#!/usr/bin/env bash
# Stops trading from a host, whatever else is down: latch file, halt in the database, everything open cancelled at the venue.
# Runs the release's own program under the platform's user, with the credentials this host has. See --help.

set -Eeuo pipefail
export LC_ALL=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 0022

# The variables are for tests; sudo drops them.
readonly RUN=${TRADING_SYSTEMD_RUN:-systemd-run}
readonly CREDENTIALS=${TRADING_CREDSTORE:-/etc/credstore.encrypted/trading}
readonly LATCH=${TRADING_HALT_LATCH:-/var/lib/trading-platform/halt}
readonly WITHOUT_CREDENTIALS=243 # systemd's EXIT_CREDENTIALS

usage() {
    cat <<'HELP'
Usage: emergency_stop.sh --reason TEXT [--flatten] [--account ID] [--deadline SECONDS] [--json] [--yes]
       emergency_stop.sh --clear-latch

Stops trading now: nothing more is sent, everything open is cancelled at the venue, and stays so until an admin releases it.
Works with gateway, Redis, engine, risk and even PostgreSQL down, and says what it could not do or see. Safe to repeat.

  --reason TEXT        why, for the audit: 3 to 500 characters
  --flatten            close what is held, too (by the engine that leads, at the market)
  --account ID         only this account (default: all)
  --deadline SECONDS   how long to try, 1 to 900 (default 60)
  --json               one JSON document instead of text
  --yes                do not ask; needed where there is no terminal
  --clear-latch        only remove this host's latch file; refused until an admin has released the emergency
  --help               this text

Exit status: 0 complete, 1 something is left (it is named), 2 wrong use, 3 cannot tell: nothing is known to be left, but not
everything could be seen or made sure of. With PostgreSQL down, run it on every platform host, and again once it is back.
The release is an admin's: POST /api/trading/state {"state": "stopped", "reason": …}; then --clear-latch on each host.
HELP
}

main() {
    parse_arguments "$@"
    become_root "$@"
    confirm
    collect_credentials
    local status=0
    run_program "${credentials[@]}" || status=$?
    if ((status == WITHOUT_CREDENTIALS)); then
        printf 'emergency_stop.sh: a credential in %s cannot be decrypted; going on without any\n' "$CREDENTIALS" >&2
        status=0
        run_program || status=$?
    fi
    case $status in
        0 | 1 | 2 | 3) exit "$status" ;;
        *) fall_back "$status" ;;
    esac
}

# ---- what was asked ----------------------------------------------------------------------------

declare -a passed=()
reason='' deadline=60 sure=0 clearing=0 others=0

parse_arguments() {
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --yes) sure=1 ;;
            --clear-latch) clearing=1 passed+=("$1") ;;
            --flatten) others=1 passed+=("$1") ;;
            --json) passed+=("$1") ;;
            --reason | --account | --deadline)
                (($# > 1)) || misuse "$1 needs a value"
                take "$1" "$2"
                shift
                ;;
            --reason=* | --account=* | --deadline=*) take "${1%%=*}" "${1#*=}" ;;
            *) misuse "unknown argument: $1" ;;
        esac
        shift
    done
    if ((clearing)); then
        [[ $others == 0 && -z $reason ]] || misuse '--clear-latch stands alone'
    elif ((${#reason} < 3 || ${#reason} > 500)); then
        misuse '--reason TEXT is needed, 3 to 500 characters'
    fi
    if ! [[ $deadline =~ ^[0-9]{1,3}$ ]] || ((10#$deadline < 1 || 10#$deadline > 900)); then
        misuse "--deadline takes whole seconds from 1 to 900, not \"$deadline\""
    fi
}

take() {
    case $1 in
        --reason) reason=$2 ;;
        --deadline) deadline=$2 others=1 ;;
        --account)
            [[ $2 =~ ^[a-z0-9][a-z0-9-]{0,31}$ ]] || misuse "--account: \"$2\" is not an account's id"
            others=1
            ;;
    esac
    passed+=("$1=$2")
}

misuse() {
    printf 'emergency_stop.sh: %s\nTry: emergency_stop.sh --help\n' "$1" >&2
    exit 2
}

become_root() {
    ((EUID != 0)) && [[ -z ${TRADING_SYSTEMD_RUN-} ]] || return 0
    command -v sudo >/dev/null || { printf 'emergency_stop.sh: it needs root\n' >&2 && exit 3; }
    exec sudo -- "$(readlink -f -- "${BASH_SOURCE[0]}")" "$@"
}

confirm() {
    ((sure == 0 && clearing == 0)) || return 0
    [[ -t 0 ]] || misuse 'there is no terminal to ask on; say --yes'
    local said=''
    printf 'This stops trading and cancels everything open at the venue. Type STOP to go on: ' >&2
    read -r said || true
    [[ $said == STOP ]] || { printf 'emergency_stop.sh: nothing was done\n' >&2 && exit 2; }
}

# ---- running -----------------------------------------------------------------------------------

declare -a credentials=()

# What this host has of what the program can use; it says itself what it misses.
collect_credentials() {
    local file name
    for file in "$CREDENTIALS"/{postgresql-app-password,paper-venue-secret,jwt-private-key} "$CREDENTIALS"/venue-*; do
        name=${file##*/}
        [[ -f $file ]] && credentials+=("--property=LoadCredentialEncrypted=$name:$file")
    done
    return 0
}

run_program() {
    local release
    release=$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")
    note "emergency stop on $(uname -n) by ${SUDO_USER:-$(id -un)}: ${reason:-clear latch}"
    "$RUN" --quiet --wait --pipe --collect --unit="trading-emergency-stop-$$-$RANDOM" --uid=trading --gid=trading \
        --setenv=TRADING_CONFIG="${TRADING_CONFIG:-/etc/trading-platform/platform.yaml}" \
        --setenv=TRADING_OPERATOR="${SUDO_USER:-$(id -un)}" \
        --property=StateDirectory=trading-platform --property=StateDirectoryMode=0750 \
        --property=ProtectSystem=strict --property=ProtectHome=yes --property=PrivateTmp=yes --property=PrivateDevices=yes \
        --property=NoNewPrivileges=yes --property=CapabilityBoundingSet= --property=RuntimeMaxSec="$((10#$deadline + 60))" \
        "$@" -- "${TRADING_PYTHON:-$release/venv/bin/python}" -m trading_platform.emergency "${passed[@]}" </dev/null
}

# The program did not run to its end: what a shell alone can do is to keep this host's engine from sending.
fall_back() {
    printf 'emergency_stop.sh: the program could not be run (status %d)\n' "$1" >&2
    if ((clearing == 0)); then
        if printf '{"at": "%s", "by": "%s", "reason": "emergency_stop.sh, program not run"}\n' \
            "$(date --utc +%Y-%m-%dT%H:%M:%S+00:00)" "host:$(uname -n)" >>"$LATCH"; then
            printf 'emergency_stop.sh: laid %s: the engine of this host sends nothing. What is open at the venue is still open.\n' "$LATCH" >&2
        else
            printf 'emergency_stop.sh: %s could not be laid; stop the engine: systemctl stop trading-engine\n' "$LATCH" >&2
        fi
    fi
    exit 3
}

note() {
    logger --priority user.crit --tag emergency_stop.sh -- "$1" 2>/dev/null || true
}

main "$@"
