# shellcheck shell=bash
# What a control node needs before any of our Python can run: Debian packages and the pinned environment .venv.
# Sourced by bin/lab and bin/test; changes nothing that is already in place.

control_node_say() {
  printf '%8s  %s\n' '·' "$*" >&2
}

# control_node_packages FILE=PACKAGE…   installs the packages whose file is missing, and starts none of their services.
control_node_packages() {
  local need missing=()
  for need in "$@"; do
    [[ -e ${need%%=*} ]] || missing+=("${need#*=}")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  if [[ $EUID -ne 0 ]]; then
    echo "control node: ${missing[*]} missing and only root can install them. Type: sudo apt-get install ${missing[*]}" >&2
    return 1
  fi
  control_node_say "installing ${missing[*]}"
  (
    exec 9>/run/lock/control-node-packages
    flock 9
    control_node_install "${missing[@]}"
  )
}

# Installs under a policy that forbids package scripts to start services; the machine's own policy, if any, is put back.
control_node_install() {
  local policy=/usr/sbin/policy-rc.d log unit
  log=$(mktemp)
  # One with our mark is left from a run that was killed here.
  if [[ ! -e $policy ]] || grep -q 'control node: until' "$policy"; then
    printf '#!/bin/sh\n# control node: until its packages are installed, no service is started\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    # shellcheck disable=SC2064 # the path is meant now, not when the trap runs
    trap "rm -f '$policy'" EXIT
  fi
  if ! {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update &&
      DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
  } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    echo "control node: could not install $* (the end of apt's output is above; all of it: $log)" >&2
    return 1
  fi
  rm -f "$log"
  # The lab runs its own private instances; the packages' services stay off after the next boot, too.
  for unit in apt-cacher-ng pebble; do
    if [[ " $* " == *" $unit "* ]] && [[ -e /lib/systemd/system/$unit.service ]]; then
      systemctl --quiet --root=/ disable "$unit.service"
    fi
  done
}

# control_node_environment REPO   makes or refreshes REPO/.venv when requirements.txt is not the one it was made from.
control_node_environment() {
  local repo=$1
  local venv=$repo/.venv lock=$repo/requirements.txt wanted
  wanted=$(sha256sum <"$lock")
  [[ -e $venv/.made-from && $(<"$venv/.made-from") == "$wanted" ]] && return 0
  control_node_packages "/usr/lib/python3/dist-packages=python3" "$(control_node_ensurepip)=python3-venv"
  (
    exec 9<"$lock" # the lock file is the list itself: nothing to leave behind
    flock 9
    [[ -e $venv/.made-from && $(<"$venv/.made-from") == "$wanted" ]] && exit 0
    control_node_say "making the Python environment (once per requirements.txt)"
    rm -f "$venv/.made-from"
    # A bare environment first, then the pinned uv, which fetches the rest in parallel: every file by its hash.
    [[ -x $venv/bin/pip ]] || /usr/bin/python3 -m venv --clear "$venv"
    awk '/^uv==/ { inside = 1 } inside { print } inside && !/\\$/ { exit }' "$lock" >"$venv/uv.txt"
    if ! "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$venv/uv.txt" ||
      ! VIRTUAL_ENV=$venv "$venv/bin/uv" pip sync --quiet --require-hashes "$lock"; then
      echo "control node: could not fetch what requirements.txt names (see above); the same command goes on from here" >&2
      exit 1
    fi
    printf '%s' "$wanted" >"$venv/.made-from"
  )
}

# python3-venv brings nothing but the bundled pip: its place tells whether the package is there.
control_node_ensurepip() {
  /usr/bin/python3 -c 'import sys; print(f"/usr/lib/python3.{sys.version_info.minor}/ensurepip")'
}
