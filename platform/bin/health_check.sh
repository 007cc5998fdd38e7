#!/usr/bin/env bash
# Is this host healthy? Runs every probe of health.d, prints the worst first and says it again as exit status.
# It judges nothing itself: probes do (see probe.sh), and every one of them has a time limit.

set -uo pipefail
export LC_ALL=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 0077

readonly INSTALLED=/usr/local/bin/health_check.sh
readonly OPERATORS=trading-operators
# The variable is for tests; sudo drops it, so nobody can have root run probes of his own.
readonly DIRECTORY=${TRADING_HEALTH_DIRECTORY:-/usr/local/lib/trading-platform/health.d}
readonly KILL_AFTER=2
readonly LINES_OF_A_PROBE=200

usage() {
    cat <<HELP
Usage: health_check.sh [--json | --quiet] [--only PATTERN] [--timeout SECONDS]

Runs every probe in $DIRECTORY
in parallel and prints what they saw, the worst first.

  --json             one JSON object: status, host, checked_at, parts[] with part, status, detail, command, seconds
  --quiet            print only what is not ok
  --only PATTERN     run only the probes whose file name contains PATTERN (a shell pattern)
  --timeout SECONDS  what each probe gets before it is stopped and called unknown (1 to 60, default 10)
  --help             this text

Exit status: 0 healthy, 1 degraded, 2 down, 3 cannot tell. Down beats cannot tell, which beats degraded.
Root reads everything; members of the group $OPERATORS may run it as it is.
HELP
}

main() {
    parse_arguments "$@"
    become_root "$@"
    make_workspace
    list_probes
    # 00-* measure the host itself: they run before the others, whose work they would otherwise measure.
    run_probes "${first[@]}"
    run_probes "${others[@]}"
    collect
    judge
    # A reader who has seen enough (head) is no news.
    if [[ $format == json ]]; then print_json; else print_text; fi 2>/dev/null
    exit "$code"
}

# ---- what was asked ----------------------------------------------------------------------------

format=text only='*' limit=10

parse_arguments() {
    while (($#)); do
        case $1 in
            --json) format=json ;;
            --quiet) format=quiet ;;
            --help | -h) usage && exit 0 ;;
            --only | --timeout)
                (($# > 1)) || misuse "$1 needs a value"
                if [[ $1 == --only ]]; then only=$2; else limit=$2; fi
                shift
                ;;
            --only=*) only=${1#*=} ;;
            --timeout=*) limit=${1#*=} ;;
            *) misuse "unknown argument: $1" ;;
        esac
        shift
    done
    if ! [[ $limit =~ ^[0-9]{1,2}$ ]] || ((10#$limit < 1 || 10#$limit > 60)); then
        misuse "--timeout takes whole seconds from 1 to 60, not \"$limit\""
    fi
    limit=$((10#$limit))
}

misuse() {
    printf 'health_check.sh: %s\nTry: health_check.sh --help\n' "$1" >&2
    exit 3
}

become_root() {
    ((EUID != 0)) && [[ -z ${TRADING_HEALTH_DIRECTORY-} ]] || return 0
    if command -v sudo >/dev/null && sudo -n -l -- "$INSTALLED" "$@" >/dev/null 2>&1; then
        exec sudo -n -- "$INSTALLED" "$@"
    fi
    cannot_tell "$(id -un) may not run it: it needs root, or membership of the group $OPERATORS" \
        "sudo usermod --append --groups $OPERATORS $(id -un)"
}

# ---- running -----------------------------------------------------------------------------------

make_workspace() {
    local parent
    # Memory first: a full or read-only disk is one of the things to be told.
    for parent in /run /dev/shm "${TMPDIR:-/tmp}"; do
        work=$(mktemp --directory "$parent/health-check.XXXXXXXX" 2>/dev/null) && break
    done
    [[ -n $work ]] || cannot_tell "no room for working files in /run, /dev/shm or ${TMPDIR:-/tmp}" "df -h /run /tmp"
    trap 'rm -rf -- "$work"' EXIT
    trap 'exit 3' HUP INT TERM
}

work=''
declare -a first=() others=()

list_probes() {
    local probe name
    for probe in "$DIRECTORY"/*; do
        name=${probe##*/}
        # shellcheck disable=SC2053  # a pattern on purpose
        [[ -f $probe && -x $probe && $name == *$only* ]] || continue
        if [[ $name == 00-* ]]; then first+=("$probe"); else others+=("$probe"); fi
    done
    if ((${#first[@]} + ${#others[@]} == 0)); then
        if [[ $only == '*' ]]; then
            cannot_tell "no probes in $DIRECTORY" "ls -l $DIRECTORY"
        fi
        cannot_tell "no probe in $DIRECTORY is named like \"$only\"" "ls $DIRECTORY"
    fi
}

run_probes() {
    local probe
    for probe in "$@"; do
        run_one "$probe" &
    done
    wait
}

# Leaves <name>.out and <name>.end ("exit status, seconds") in the workspace.
run_one() {
    local probe=$1 base=$work/${1##*/} start=$EPOCHREALTIME status
    exec 2>/dev/null # or bash itself would print "Killed"
    if ((EUID == 0)) && ! safe_for_root "$probe"; then
        printf 'unknown\t%s\tnot run: root must own it and nobody else may write it\tls -l %s\n' \
            "${probe##*/}" "$probe" >"$base.out"
        status=0
    else
        timeout --signal=TERM --kill-after="$KILL_AFTER" "$limit" "$probe" \
            >"$base.out" 2>"$base.err" </dev/null
        status=$?
    fi
    printf '%s %s\n' "$status" "$((10#${EPOCHREALTIME//[!0-9]/} - 10#${start//[!0-9]/}))" >"$base.end"
}

safe_for_root() {
    local owner mode
    read -r owner mode < <(stat --dereference --format='%u %a' -- "$1")
    [[ $owner == 0 ]] && ! ((8#$mode & 8#22))
}

# ---- judging -----------------------------------------------------------------------------------

# One record a part, fields separated by the unit separator (tabs would swallow empty fields):
# rank, part, status, detail, command, microseconds. Sorted worst first.
declare -a records=()
declare -A count=([down]=0 [unknown]=0 [warn]=0 [ok]=0)
declare -rA RANK=([down]=0 [unknown]=1 [warn]=2 [ok]=3)

collect() {
    local probe
    for probe in "${first[@]}" "${others[@]}"; do
        read_reports "$probe"
    done
    mapfile -t records < <(printf '%s\n' "${records[@]}" | sort --stable --field-separator=$'\x1f' --key=1,1n --key=2,2)
}

read_reports() {
    local probe=$1 base=$work/${1##*/} name=${1##*/} status=-1 elapsed=0 line seen=0
    local state part detail command rest
    read -r status elapsed 2>/dev/null <"$base.end"
    while IFS= read -r line || [[ -n $line ]]; do
        IFS=$'\x1f' read -r state part detail command rest <<<"${line//$'\t'/$'\x1f'}"
        if [[ -n $state && -n ${RANK[$state]-} && -n $part && -z $rest ]]; then
            add "$state" "$part" "$detail" "$command" "$elapsed"
        else
            add unknown "$name" "printed something that is no report: ${line:0:120}" "$probe" "$elapsed"
        fi
        seen=1
    done < <(head --bytes=65536 "$base.out" 2>/dev/null | head --lines="$LINES_OF_A_PROBE" |
        iconv --from-code=UTF-8 --to-code=UTF-8 -c 2>/dev/null | tr -d '\000')
    if (((status == 124 || status == 137) && elapsed >= limit * 1000000)); then
        add unknown "$name" "the probe did not finish in $limit s and was stopped" "$probe" "$elapsed"
    elif ((status != 0)); then
        add unknown "$name" "the probe failed with exit status $status$(last_words "$base.err")" "$probe" "$elapsed"
    elif ((seen == 0)); then
        add unknown "$name" "the probe reported nothing" "$probe" "$elapsed"
    fi
}

add() {
    local field record=${RANK[$1]}
    for field in "$2" "$1" "$3" "$4" "$5"; do
        record+=$'\x1f'${field//[[:cntrl:]]/ }
    done
    records+=("$record")
    ((count[$1] += 1))
}

last_words() {
    local words
    words=$(tail --bytes=400 "$1" 2>/dev/null | iconv --from-code=UTF-8 --to-code=UTF-8 -c | grep -v '^[[:space:]]*$' | tail --lines=1)
    [[ -z $words ]] || printf ': %s' "${words:0:200}"
}

verdict='' code=3

judge() {
    if ((count[down])); then
        verdict=down code=2
    elif ((count[unknown])); then
        verdict=unknown code=3
    elif ((count[warn])); then
        verdict=degraded code=1
    else
        verdict=healthy code=0
    fi
}

# The check itself could not be made.
cannot_tell() {
    add unknown health_check.sh "$1" "$2" 0
    judge
    if [[ $format == json ]]; then
        print_json
    else
        print_text >&2
    fi
    exit "$code"
}

# ---- printing ----------------------------------------------------------------------------------

print_text() {
    local part status detail command elapsed width=4
    local -A colour=([down]='' [unknown]='' [warn]='' [ok]='' [off]='')
    if [[ -t 1 && ${TERM-dumb} != dumb && -z ${NO_COLOR-} ]]; then
        colour=([down]=$'\e[1;31m' [unknown]=$'\e[1;35m' [warn]=$'\e[1;33m' [ok]=$'\e[32m' [off]=$'\e[0m')
    fi
    for record in "${records[@]}"; do
        IFS=$'\x1f' read -r _ part _ <<<"$record"
        ((${#part} > width)) && width=${#part}
    done
    for record in "${records[@]}"; do
        IFS=$'\x1f' read -r _ part status detail command elapsed <<<"$record"
        [[ $format == quiet && $status == ok ]] && continue
        printf '%s%-7s%s  %-*s  %s\n' "${colour[$status]}" "$status" "${colour[off]}" "$width" "$part" "$detail"
        if [[ $status != ok && -n $command ]]; then
            printf '%-7s  %-*s  look closer: %s\n' '' "$width" '' "$command"
        fi
    done
    [[ $format == quiet && $verdict == healthy ]] && return
    printf '%s: %s (%d down, %d unknown, %d degraded, %d ok)\n' \
        "$(uname -n)" "$verdict" "${count[down]}" "${count[unknown]}" "${count[warn]}" "${count[ok]}"
}

print_json() {
    local part status detail command elapsed separator=''
    printf '{"status":"%s","host":%s,"checked_at":"%s","parts":[' \
        "$verdict" "$(quote "$(uname -n)")" "$(date --utc +%Y-%m-%dT%H:%M:%SZ)"
    for record in "${records[@]}"; do
        IFS=$'\x1f' read -r _ part status detail command elapsed <<<"$record"
        printf '%s\n{"part":%s,"status":"%s","detail":%s,"command":%s,"seconds":%d.%03d}' "$separator" \
            "$(quote "$part")" "$status" "$(quote "$detail")" "$(quote "$command")" \
            "$((elapsed / 1000000))" "$((elapsed / 1000 % 1000))"
        separator=,
    done
    printf ']}\n'
}

# A JSON string; control characters are gone by now.
quote() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

main "$@"
