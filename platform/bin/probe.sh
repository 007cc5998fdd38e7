# shellcheck shell=bash
# What a health probe sources: how to say what it saw. It measures nothing itself and never exits.
#
#   . /usr/local/lib/trading-platform/probe.sh
#   report warn "disk /var" "87 % full, 3 GiB left" "du -xh --max-depth=2 /var | sort -h | tail"
#
# A probe may report several parts. It runs as root, without input, for at most the time health_check.sh gives it
# (10 s unless told otherwise); one that reports nothing or exits non-zero is shown as unknown.
# On the wire a report is one line of four fields separated by tabs, so a probe in any language can print one.

export LC_ALL=C.UTF-8
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# report STATUS PART DETAIL [COMMAND]
#   STATUS   ok, warn, down or unknown
#   PART     what was looked at, as an operator calls it: "postgresql leader"
#   DETAIL   what was measured, with unit and limit
#   COMMAND  what to type to look closer
report() {
    if [[ $# -lt 3 || $# -gt 4 ]]; then
        printf 'report: expected STATUS PART DETAIL [COMMAND], found %d arguments\n' "$#" >&2
        return 64
    fi
    case $1 in
        ok | warn | down | unknown) ;;
        *)
            printf 'report: status is ok, warn, down or unknown, not "%s" (part "%s")\n' "$1" "$2" >&2
            return 64
            ;;
    esac
    local field line=$1
    for field in "$2" "$3" "${4-}"; do
        line+=$'\t'${field//[[:cntrl:]]/ }
    done
    printf '%s\n' "$line"
}

# report_unit UNIT [PART]
#   one line about a systemd unit, from its own state: active is ok, on its way is warn, everything else is down.
report_unit() {
    local unit=$1 part=${2:-$1} key value load='' active='' sub='' result='' since=''
    while IFS='=' read -r key value; do
        case $key in
            LoadState) load=$value ;;
            ActiveState) active=$value ;;
            SubState) sub=$value ;;
            Result) result=$value ;;
            ActiveEnterTimestamp) since=$value ;;
        esac
    done < <(systemctl show --property=LoadState,ActiveState,SubState,Result,ActiveEnterTimestamp -- "$unit" 2>&1)
    case $load:$active in
        :*) report unknown "$part" "systemd does not answer" "systemctl status $unit" ;;
        not-found:*) report down "$part" "the unit is not installed" "systemctl cat $unit" ;;
        *:active) report ok "$part" "$sub since $since" "systemctl status $unit" ;;
        *:activating | *:reloading) report warn "$part" "$active ($sub)" "journalctl --unit=$unit --lines=50" ;;
        *) report down "$part" "$active ($sub, result $result)" "journalctl --unit=$unit --lines=50" ;;
    esac
}
