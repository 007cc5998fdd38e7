#!/usr/bin/python
"""Converge systemd units: enabled, running, and running with the files that are on disk now.

Judges staleness from what the kernel and systemd recorded (a file's last change, a unit's start), so a run that was
interrupted between a changed file and the restart is repaired by the next one. Never edits unit files; never restarts
what has already read its files.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: unit
short_description: Converge systemd units, restarting only what has not read its files
description:
  - Reloads systemd when a unit file changed, enables, starts, restarts and reloads in one call.
  - A unit is stale when its unit file, a drop-in or a path of O(restarted_by) changed after the unit started. What
    counts is the inode's change time, which no copy or unpack can carry over from elsewhere. Of a symbolic link the
    link and the file it names count, of a link to a directory the link alone, of a directory everything below it.
  - What a unit had read when this module last looked is kept under C(/run/trading-units), which makes the judgement
    independent of clock steps. Without that record, times are compared with the unit's start.
  - Do not list files that the service itself rewrites while it runs.
  - A unit that systemd skips because a C(Condition=) of it is not met on this host is warned of, and is no failure.
options:
  name:
    description: The units, in the order in which they are handled. C(.service) is added to a name without a suffix.
    type: list
    elements: str
  units:
    description:
      - Several units in one call, in this order, each with wishes of its own (O(name) as one string, and any of
        O(state), O(enabled), O(masked), O(restarted_by), O(reloaded_by)).
      - Beside it, O(restarted_by) and O(reloaded_by) of the task hold for every one of them.
    type: list
    elements: dict
    suboptions:
      name: {description: The unit., type: str, required: true}
      state: {description: As above., type: str, choices: [started, stopped, restarted, inspected], default: started}
      enabled: {description: As above., type: bool}
      masked: {description: As above., type: bool}
      restarted_by: {description: As above., type: list, elements: path, default: []}
      reloaded_by: {description: As above., type: list, elements: path, default: []}
  state:
    description:
      - V(started) starts what is not active and restarts or reloads what is stale.
      - V(restarted) restarts unconditionally.
      - V(stopped) stops.
      - V(inspected) changes nothing and returns what would be needed.
    type: str
    choices: [started, stopped, restarted, inspected]
    default: started
  enabled:
    description: Whether the unit starts at boot. Left alone when not given.
    type: bool
  masked:
    description: Whether the unit is masked. Left alone when not given.
    type: bool
  restarted_by:
    description: Paths that the unit reads only when it starts. A path that does not exist is allowed.
    type: list
    elements: path
    default: []
  reloaded_by:
    description: Paths that the unit reads again when it is reloaded. A unit that cannot reload is restarted.
    type: list
    elements: path
    default: []
  timeout:
    description: Seconds that one start, stop, restart or reload may take.
    type: int
    default: 180
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Converge the connection pooler
  trading.platform.unit:
    name: pgbouncer
    enabled: true
    restarted_by: [/etc/trading-tls/host.pem]
    reloaded_by: [/etc/pgbouncer/pgbouncer.ini, /etc/pgbouncer/userlist.txt]

- name: Look whether this member has to be restarted through its cluster manager
  trading.platform.unit:
    name: mongod
    state: inspected
    restarted_by: [/etc/mongod.conf]
  register: __mongodb_unit

- name: Converge the platform's services, each with its own credential
  trading.platform.unit:
    units:
      - {name: trading-gateway, enabled: true, restarted_by: [/etc/credstore.encrypted/trading-gateway.jwt]}
      - {name: trading-risk, enabled: true}
    restarted_by: [/opt/trading-platform/current, /etc/trading-platform/platform.yaml]

- name: Keep the distribution's own instance off
  trading.platform.unit:
    name: postgresql
    state: stopped
    masked: true
"""

RETURN = r"""
active:
  description: Whether every unit is active, as found before any change.
  type: bool
  returned: always
stale:
  description: Whether any unit needed a restart to read its files, as found before any change.
  type: bool
  returned: always
units:
  description: What was found and done, by unit name.
  type: dict
  returned: always
  sample:
    pgbouncer.service:
      exists: true
      active: true
      enabled: true
      stale: false
      stale_because: []
      reload_because: [/etc/pgbouncer/pgbouncer.ini]
      actions: [reload]
"""

import calendar
import glob
import hashlib
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from ansible.module_utils.basic import AnsibleModule

RECORDS = "/run/trading-units"
JOURNAL_LINES = 30
# Types whose start job ends before the program has shown that it can run: look again after this many seconds.
UNSUPERVISED_START = {"simple": 0.5, "exec": 0.5, "idle": 0.5, "forking": 0.3}
PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "Type",
    "UnitFileState",
    "NeedDaemonReload",
    "FragmentPath",
    "DropInPaths",
    "CanReload",
    "InvocationID",
    "ExecMainStartTimestamp",
    "ExecMainStatus",
    "InactiveExitTimestamp",
    "ActiveEnterTimestamp",
    "ConditionResult",
    "ConditionTimestamp",
)
# Drop-ins that `systemctl set-property` writes are in force as soon as they are written.
LIVE_DROPINS = ("/etc/systemd/system.control/", "/run/systemd/system.control/")
# Where unit files come from, the most important first.
UNIT_DIRECTORIES = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
SUFFIXES = ("service", "socket", "timer", "target", "path", "mount", "automount", "slice", "swap", "scope", "device")


class UnitError(Exception):
    """A unit could not be brought where it should be; the message says what to do."""


@dataclass(frozen=True)
class Stamp:
    """When a path last changed (nanoseconds, wall clock) and which inodes it was made of. Absent: `changed` is 0."""

    changed: int
    identity: str

    @property
    def absent(self) -> bool:
        return self.changed == 0


@dataclass
class Unit:
    """One unit as systemd shows it."""

    name: str
    exists: bool
    masked: bool
    active: bool
    activating: bool
    failed: bool
    enabled: bool
    enablement: str
    skipped: bool
    said_reload: bool
    needs_daemon_reload: bool
    can_reload: bool
    kind: str
    result: str
    exit_status: str
    invocation: str
    started_at: int
    files: list[str] = field(default_factory=list)


# Reading systemd -----------------------------------------------------------------------------------------------------


def full_name(name: str) -> str:
    """`redis` is `redis.service`; a name that ends in a unit suffix stays as it is."""
    return name if name.rpartition(".")[2] in SUFFIXES and "." in name else f"{name}.service"


def nanoseconds(timestamp: str) -> int:
    """`Fri 2026-11-20 23:58:21.123456 UTC` in nanoseconds since 1970; an empty or `n/a` timestamp is 0."""
    parts = timestamp.split()
    if len(parts) < 4:
        return 0
    clock, _, fraction = parts[2].partition(".")
    seconds = calendar.timegm(time.strptime(f"{parts[1]} {clock}", "%Y-%m-%d %H:%M:%S"))
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0")[:9])


def parse_show(output: str) -> list[dict[str, str]]:
    """The blocks of `systemctl show`, one per unit in the order asked."""
    blocks = []
    for block in output.strip().split("\n\n"):
        properties = {}
        for line in block.splitlines():
            key, separator, value = line.partition("=")
            if separator:
                properties[key] = value
        blocks.append(properties)
    return blocks


def unit_from(name: str, shown: dict[str, str]) -> Unit:
    """What the properties of one unit mean to us."""
    state = shown.get("ActiveState", "inactive")
    enablement = shown.get("UnitFileState", "")
    fragment = shown.get("FragmentPath", "")
    dropins = [path for path in shown.get("DropInPaths", "").split() if not path.startswith(LIVE_DROPINS)]
    started = (
        nanoseconds(shown.get("ExecMainStartTimestamp", ""))
        or nanoseconds(shown.get("InactiveExitTimestamp", ""))
        or nanoseconds(shown.get("ActiveEnterTimestamp", ""))
    )
    masked = shown.get("LoadState") == "masked"
    exists = shown.get("LoadState", "not-found") != "not-found"
    files = [] if masked else [path for path in [fragment, *dropins] if path]
    said_reload = shown.get("NeedDaemonReload") == "yes"
    return Unit(
        name=name,
        exists=exists,
        masked=masked,
        active=state in ("active", "reloading", "refreshing"),
        activating=state == "activating",
        failed=state == "failed",
        enabled=enablement in ("enabled", "enabled-runtime", "alias", "static", "generated", "transient", "indirect"),
        enablement=enablement,
        skipped=shown.get("ConditionResult") == "no" and nanoseconds(shown.get("ConditionTimestamp", "")) > 0,
        said_reload=said_reload,
        needs_daemon_reload=said_reload or (exists and not masked and bool(unread_unit_files(name, files))),
        can_reload=shown.get("CanReload") == "yes",
        kind=shown.get("Type", ""),
        result=shown.get("Result", ""),
        exit_status=shown.get("ExecMainStatus", ""),
        invocation=shown.get("InvocationID", ""),
        started_at=started,
        files=files,
    )


def has_unread_dropin(name: str, known: list[str], directory: str = "/etc/systemd/system") -> bool:
    """Whether systemd has not noticed a drop-in: it says NeedDaemonReload=no for one whose directory is new to it."""
    stem, at, rest = name.partition("@")
    folders = [f"{name}.d"] + ([f"{stem}@.{rest.rpartition('.')[2]}.d"] if at else [])
    paths = [path for folder in folders for path in glob.glob(os.path.join(directory, folder, "*.conf"))]
    return any(path not in known and os.path.getsize(path) > 0 for path in paths if os.path.isfile(path))


def dropin_directories(name: str) -> list[str]:
    """Names of the directories whose drop-ins hold for a unit: its own, its template's, its prefixes' and its type's."""
    stem, _, suffix = name.rpartition(".")
    template, at, instance = stem.partition("@")
    stems = [f"{template}@{instance}", f"{template}@"] if at and instance else [stem]
    for position, character in enumerate(template):
        if character == "-":
            stems.append(template[: position + 1])
    return [f"{one}.{suffix}.d" for one in stems] + [f"{suffix}.d"]


def unread_unit_files(name: str, files: list[str]) -> list[str]:
    """Unit files and drop-ins on disk that are not among those systemd has read (`files`).

    systemd's own answer (NeedDaemonReload) overlooks a drop-in directory or an overriding unit file that is new since it
    last read its directories.
    """
    template, at, rest = name.partition("@")
    names = [name, f"{template}@.{rest.rpartition('.')[2]}"] if at else [name]
    wanted: dict[str, str] = {}
    for directory in UNIT_DIRECTORIES:
        for fragment in names:
            path = os.path.join(directory, fragment)
            if os.path.isfile(path):
                wanted.setdefault("fragment", path)
        for subdirectory in dropin_directories(name):
            try:
                entries = sorted(os.listdir(os.path.join(directory, subdirectory)))
            except OSError:
                continue
            for entry in entries:
                if entry.endswith(".conf"):
                    wanted.setdefault(entry, os.path.join(directory, subdirectory, entry))
    read = {os.path.realpath(path) for path in files}
    return [path for path in wanted.values() if os.path.realpath(path) not in read and os.path.isfile(path)]


# Reading files -------------------------------------------------------------------------------------------------------


def stamp(path: str) -> Stamp:
    """The latest change of a path: of a link and the file it names, of a directory and everything below it.

    Of a link to a directory (a `current` release) only the link counts: what is below is another path's business.
    """
    changed, inodes = 0, []
    for entry in [path, *([] if os.path.islink(path) else below(path))]:
        kinds = (os.lstat,) if os.path.isdir(entry) else (os.lstat, os.stat)
        for stat in kinds:
            try:
                found = stat(entry)
            except OSError:
                continue
            changed = max(changed, found.st_ctime_ns)
            inodes.append(f"{found.st_ino}:{found.st_ctime_ns}")
    identity = hashlib.sha256("\n".join(inodes).encode()).hexdigest()[:32] if inodes else ""
    return Stamp(changed, identity)


def below(directory: str) -> list[str]:
    """Every path below a directory, in a stable order; nothing when it is not one."""
    found = []
    for parent, subdirectories, names in os.walk(directory):
        subdirectories.sort()
        found += [os.path.join(parent, name) for name in sorted([*subdirectories, *names])]
    return found


def newer(paths: list[str], stamps: dict[str, Stamp], seen: dict[str, str] | None, since: int) -> list[str]:
    """The paths that changed after the unit read them.

    `seen` is what the unit is known to have read (identity by path) or None when nothing is known of this start of the
    unit; a path that is not in it is judged by time: changed after `since` (nanoseconds)?
    """
    changed = []
    for path in paths:
        if seen is not None and path in seen:
            if stamps[path].identity != seen[path]:
                changed.append(path)
        elif stamps[path].changed > since:
            changed.append(path)
    return changed


def vanished(listed: list[str], seen: dict[str, str] | None) -> list[str]:
    """Paths that the unit had read, that no list names any more, and that are gone: a removed drop-in."""
    return [path for path, identity in (seen or {}).items() if identity and path not in listed and not os.path.lexists(path)]


def settled(before: dict[str, Stamp], after: dict[str, Stamp], start: int) -> dict[str, str]:
    """What a start or reload at `start` has certainly read: unchanged across it, or changed before it ended."""
    return {p: s.identity for p, s in after.items() if s == before.get(p) or (not s.absent and s.changed <= start)}


# The record of what a unit has read ----------------------------------------------------------------------------------


def record_path(name: str) -> str:
    return os.path.join(RECORDS, name.replace("/", "-") + ".json")


def load_record(name: str, invocation: str) -> dict[str, dict[str, str]]:
    """The record of this very start of the unit, or nothing."""
    try:
        with open(record_path(name), encoding="utf-8") as file:
            record = json.load(file)
    except (OSError, ValueError):
        return {}
    return record if invocation and record.get("invocation") == invocation else {}


def save_record(name: str, record: dict[str, object]) -> None:
    """Written by rename, and only when it says something new."""
    target = record_path(name)
    text = json.dumps(record, sort_keys=True, indent=1)
    try:
        with open(target, encoding="utf-8") as file:
            if file.read() == text:
                return
    except OSError:
        os.makedirs(RECORDS, mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=RECORDS)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, target)


# Converging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """What is asked of one unit."""

    name: str
    state: str
    enabled: bool | None
    masked: bool | None
    restarted_by: tuple[str, ...]
    reloaded_by: tuple[str, ...]


def wishes(asked: dict[str, object]) -> list[Wish]:
    """One wish a unit, from either form of the arguments; UnitError when a unit is named twice."""
    entries = asked["units"] or [{**asked, "name": name, "restarted_by": [], "reloaded_by": []} for name in asked["name"]]
    made = [
        Wish(
            name=full_name(entry["name"]),
            state=entry["state"],
            enabled=entry["enabled"],
            masked=entry["masked"],
            restarted_by=tuple(dict.fromkeys([*asked["restarted_by"], *entry["restarted_by"]])),
            reloaded_by=tuple(dict.fromkeys([*asked["reloaded_by"], *entry["reloaded_by"]])),
        )
        for entry in entries
    ]
    names = [wish.name for wish in made]
    if len(set(names)) != len(names):
        raise UnitError(f"a unit is named twice: {', '.join(sorted({name for name in names if names.count(name) > 1}))}")
    return made


@dataclass
class Need:
    """What one unit needs to get where it should be."""

    wish: Wish
    unit: Unit
    restart_because: list[str]
    reload_because: list[str]
    stamps: dict[str, Stamp]
    actions: list[str] = field(default_factory=list)


class Converger:
    """Brings the units of one task to the asked state."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.timeout = module.params["timeout"]
        self.wishes = wishes(module.params)
        self.names = [wish.name for wish in self.wishes]
        self.only_inspected = all(wish.state == "inspected" for wish in self.wishes)
        self.daemon_reloaded: set[str] = set()

    def systemctl(self, *arguments: str) -> str:
        """Standard output of one systemctl call; UnitError when it fails or takes too long."""
        try:
            done = subprocess.run(
                ["systemctl", *arguments],
                capture_output=True,
                text=True,
                timeout=self.timeout,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"},
                check=False,
            )
        except FileNotFoundError as error:
            raise UnitError("this host has no systemctl: only hosts that run systemd are supported") from error
        except subprocess.TimeoutExpired as error:
            raise UnitError(f"`systemctl {' '.join(arguments)}` did not end within {self.timeout} s") from error
        if done.returncode != 0:
            raise UnitError(f"`systemctl {' '.join(arguments)}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def show(self, names: list[str]) -> list[Unit]:
        shown = self.systemctl("show", "--timestamp=us+utc", "--property=" + ",".join(PROPERTIES), "--", *names)
        blocks = parse_show(shown)
        if len(blocks) != len(names):
            raise UnitError(f"systemctl showed {len(blocks)} units where {len(names)} were asked: {', '.join(names)}")
        units = [unit_from(name, block) for name, block in zip(names, blocks, strict=False)]
        for unit, block in zip(units, blocks, strict=False):
            unit.needs_daemon_reload |= unit.exists and has_unread_dropin(unit.name, block.get("DropInPaths", "").split())
        return units

    def look(self) -> list[Unit]:
        """The units as they are, after systemd has read changed unit files (in check mode: without)."""
        units = self.show(self.names)
        if self.only_inspected or self.module.check_mode:
            return units
        if any(unit.needs_daemon_reload or not unit.exists for unit in units):
            self.systemctl("daemon-reload")
            before, units = units, self.show(self.names)
            self.daemon_reloaded = {
                new.name for old, new in zip(before, units, strict=False) if old.said_reload or (old.exists and old.files != new.files)
            }
        return units

    def judge(self, wish: Wish, unit: Unit) -> Need:
        """Which files the unit has not read yet, and which actions follow."""
        restarted_by = [*unit.files, *wish.restarted_by]
        reloaded_by = [*wish.reloaded_by]
        stamps = {path: stamp(path) for path in dict.fromkeys([*restarted_by, *reloaded_by])}
        need = Need(wish, unit, [], [], stamps)
        if unit.active:
            record = load_record(unit.name, unit.invocation)
            seen = record.get("restart")
            need.restart_because = newer(restarted_by, stamps, seen, unit.started_at) + vanished(restarted_by, seen)
            if unit.needs_daemon_reload and (wish.state == "inspected" or self.module.check_mode):
                need.restart_because += unread_unit_files(unit.name, unit.files)
            need.reload_because = newer(reloaded_by, stamps, record.get("reload"), unit.started_at)
        need.actions = self.actions(need)
        return need

    def actions(self, need: Need) -> list[str]:
        wish, unit, state = need.wish, need.unit, need.wish.state
        actions: list[str] = []
        if state == "inspected":
            return []
        if unit.name in self.daemon_reloaded or (self.module.check_mode and unit.needs_daemon_reload):
            actions.append("daemon-reload")
        if wish.masked is False and unit.masked:
            actions.append("unmask")
        if state == "stopped" and (unit.active or unit.activating):
            actions.append("stop")
        if wish.enabled is not None and wish.enabled != self.is_enabled(wish, unit):
            actions.append("enable" if wish.enabled else "disable")
        if wish.masked and not unit.masked:
            actions.append("mask")
        if state == "restarted" or (state == "started" and need.restart_because):
            actions.append("restart" if unit.active else "start")
        elif state == "started" and not unit.active and not (unit.skipped and self.module.check_mode):
            actions.append("start")
        elif state == "started" and need.reload_because:
            actions.append("reload" if unit.can_reload else "restart")
        return actions

    @staticmethod
    def is_enabled(wish: Wish, unit: Unit) -> bool:
        """Of a unit that cannot be enabled or disabled (static, generated), whatever was asked is so."""
        if unit.enablement in ("static", "generated", "transient", "indirect"):
            return bool(wish.enabled)
        return unit.enabled and not unit.masked

    def converge(self) -> dict[str, object]:
        needs = [self.judge(wish, unit) for wish, unit in zip(self.wishes, self.look(), strict=False)]
        for need in needs:
            self.refuse_impossible(need)
        if not self.module.check_mode:
            for need in needs:
                self.act(need)
        return self.result(needs)

    def refuse_impossible(self, need: Need) -> None:
        unit = need.unit
        if not unit.exists and "mask" not in need.actions:
            if need.wish.state == "inspected" or self.module.check_mode:
                return
            if {"start", "restart", "enable"} & set(need.actions):
                raise UnitError(
                    f"{unit.name} does not exist on this host. Install its package or its unit file first; "
                    f"`systemctl list-unit-files '{unit.name.partition('@')[0].partition('.')[0]}*'` shows what is there."
                )
        if unit.masked and need.wish.masked is None and {"start", "restart", "enable"} & set(need.actions):
            raise UnitError(f"{unit.name} is masked. If it should run: systemctl unmask {unit.name}")

    def act(self, need: Need) -> None:
        unit = need.unit
        for action in need.actions:
            if action == "daemon-reload":
                continue  # done once for all units in look()
            if action in ("start", "restart") and unit.failed:
                self.systemctl("reset-failed", unit.name)
            try:
                self.systemctl(action, unit.name)
                if action in ("start", "restart", "reload"):
                    unit = self.confirmed(unit)
            except UnitError as error:
                raise UnitError(self.explained(unit.name, action, str(error))) from error
        if unit.skipped and not unit.active and "start" in need.actions:
            need.actions.remove("start")  # systemd looked at the unit's conditions again and did nothing
            self.module.warn(
                f"{unit.name} does not run here: a Condition= of its unit file is not met on this host "
                f"(systemctl status {unit.name} names it)"
            )
        if need.wish.state in ("started", "restarted") and unit.active and unit.invocation:
            self.remember(need, unit)

    def confirmed(self, unit: Unit) -> Unit:
        """The unit after a start, restart or reload; UnitError unless it is up, or has done its one job."""
        now = self.show([unit.name])[0]
        if now.kind in UNSUPERVISED_START and now.active:
            time.sleep(UNSUPERVISED_START[now.kind])
            now = self.show([unit.name])[0]
        done = now.kind == "oneshot" and not now.failed and not now.activating
        if not (now.active or done or (now.skipped and not now.failed)):
            raise UnitError(f"it is not active afterwards (result: {now.result}, exit status: {now.exit_status})")
        return now

    def explained(self, name: str, action: str, cause: str) -> str:
        """The cause with the unit's own last words."""
        journal = subprocess.run(
            ["journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={JOURNAL_LINES}", f"--unit={name}"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=False,
        ).stdout.strip()
        return (
            f"{name}: {action} failed: {cause}\n"
            f"Its last {JOURNAL_LINES} journal lines:\n{journal or '(none)'}\n"
            f"To look closer: systemctl status {name}; journalctl -u {name}"
        )

    def remember(self, need: Need, unit: Unit) -> None:
        """Keep what the unit has read, for the next run."""
        before = need.stamps
        after = {path: stamp(path) for path in before} if {"start", "restart", "reload"} & set(need.actions) else before
        restarted = bool({"start", "restart"} & set(need.actions))
        restarted_by = [*unit.files, *need.wish.restarted_by]
        for path in restarted_by:
            after.setdefault(path, stamp(path))
        read = settled(before, after, unit.started_at)
        old = {} if restarted else load_record(unit.name, unit.invocation)
        kept_restart = {p: i for p, i in old.get("restart", {}).items() if p not in restarted_by and os.path.lexists(p)}
        save_record(
            unit.name,
            {
                "invocation": unit.invocation,
                "restart": {**kept_restart, **{path: read[path] for path in restarted_by if path in read}},
                "reload": {
                    **old.get("reload", {}),
                    **{path: read[path] for path in need.wish.reloaded_by if path in read},
                },
            },
        )

    def result(self, needs: list[Need]) -> dict[str, object]:
        units = {
            need.unit.name: {
                "exists": need.unit.exists,
                "active": need.unit.active,
                "enabled": need.unit.enabled,
                "enablement": need.unit.enablement,
                "stale": bool(need.restart_because),
                "stale_because": need.restart_because,
                "reload_because": need.reload_because,
                "actions": need.actions,
            }
            for need in needs
        }
        return {
            "changed": any(need.actions for need in needs),
            "active": all(need.unit.active for need in needs),
            "stale": any(need.restart_because for need in needs),
            "units": units,
            "diff": {
                "before": "".join(self.line(need.unit, need.unit.active) for need in needs),
                "after": "".join(self.line(need.unit, self.will_be_active(need), need) for need in needs),
            },
        }

    @staticmethod
    def will_be_active(need: Need) -> bool:
        return need.unit.active if need.wish.state == "inspected" else need.wish.state != "stopped"

    @staticmethod
    def line(unit: Unit, active: bool, need: Need | None = None) -> str:
        words = [f"{unit.name}: {'active' if active else 'not active'}"]
        if need and need.actions:
            because = [*need.restart_because, *need.reload_because]
            words.append(", ".join(need.actions) + (f" (changed: {', '.join(because)})" if because else ""))
        return "; ".join(words) + "\n"


WISH_OPTIONS: dict[str, dict[str, object]] = {
    "state": {"choices": ["started", "stopped", "restarted", "inspected"], "default": "started"},
    "enabled": {"type": "bool"},
    "masked": {"type": "bool"},
    "restarted_by": {"type": "list", "elements": "path", "default": []},
    "reloaded_by": {"type": "list", "elements": "path", "default": []},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **WISH_OPTIONS,
            "name": {"type": "list", "elements": "str"},
            "units": {
                "type": "list",
                "elements": "dict",
                "options": {"name": {"type": "str", "required": True}, **WISH_OPTIONS},
            },
            "timeout": {"type": "int", "default": 180},
        },
        required_one_of=[("name", "units")],
        mutually_exclusive=[("name", "units")],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**Converger(module).converge())
    except UnitError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
