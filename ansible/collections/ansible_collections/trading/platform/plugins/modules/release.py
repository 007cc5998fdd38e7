#!/usr/bin/python
"""Install releases of the platform on a host and switch between them.

A release is unpacked beside its place, checked file by file against its manifest, given an interpreter and renamed into
place: a directory below releases/ is always whole. Switching is one rename of a link. Nothing is fetched, nothing of a
release changes after it is in place, and the active release is never removed.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Install and activate releases of the platform
description:
  - A release is C(<root>/releases/<id>/), C(<root>/current) points at the active one, C(<root>/venv) at its environment.
options:
  root:
    description: Where releases live.
    type: path
    default: /opt/trading-platform
  state:
    description:
      - V(inspected) changes nothing and returns what is there, with the interpreter a release has to be built for.
      - V(installed) unpacks O(archive) as release O(id) unless it is there.
      - V(active) points C(current) at O(id) and removes the oldest releases beyond O(keep).
    type: str
    choices: [inspected, installed, active]
    default: inspected
  id:
    description: Identifier of the release.
    type: str
  archive:
    description: The archive, on the host. Removed when it is unpacked.
    type: path
  sha256:
    description: Hash of the archive.
    type: str
  keep:
    description: How many releases stay, the active one and O(id) included.
    type: int
    default: 3
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Unpack the release
  trading.platform.release:
    state: installed
    id: 0.1.0-83cb49005db9
    archive: /var/tmp/trading-platform-0.1.0-83cb49005db9.tar.gz
    sha256: 8bba3ed1176848f0822c45bd142d171e8359d8f64fec0057cd7903a4114b8b49
"""

RETURN = r"""
current:
  description: Identifier of the active release before this task, empty when there is none.
  type: str
  returned: always
releases:
  description: Identifiers of the releases that are there after this task, newest first.
  type: list
  elements: str
  returned: always
removed:
  description: Identifiers of the releases that were, or would be, removed.
  type: list
  elements: str
  returned: always
python:
  description: Minor version of the host's own interpreter.
  type: str
  returned: always
machine:
  description: The host's architecture.
  type: str
  returned: always
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

from ansible.module_utils.basic import AnsibleModule

IDENTIFIER = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")
INTERPRETER = "/usr/bin/python3"


class ReleaseError(Exception):
    """A release cannot be installed or activated; the text says what was found and what to do."""


class Releases:
    """The releases below one root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.directory = os.path.join(root, "releases")

    def path(self, identifier: str) -> str:
        return os.path.join(self.directory, identifier)

    def current(self) -> str:
        """The active release, or nothing."""
        try:
            return os.path.basename(os.readlink(os.path.join(self.root, "current")))
        except OSError:
            return ""

    def installed(self) -> list[str]:
        """Whole releases, newest first; what an interrupted run left begins with a dot."""
        try:
            names = [name for name in os.listdir(self.directory) if not name.startswith(".")]
        except FileNotFoundError:
            return []
        return sorted(names, key=lambda name: os.stat(self.path(name)).st_ctime_ns, reverse=True)

    def linked(self, identifier: str) -> bool:
        return self.current() == identifier and os.path.islink(os.path.join(self.root, "venv"))

    def outdated(self, keep: int, identifier: str) -> list[str]:
        """What is beyond `keep`, never the active one nor the one about to be."""
        kept = {self.current(), identifier} - {""}
        others = [name for name in self.installed() if name not in kept]
        return others[max(0, keep - len(kept)) :]

    def install(self, identifier: str, archive: str, expected: str) -> None:
        """Unpack, check, prepare, rename; afterwards the archive is gone."""
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        for leftover in os.listdir(self.directory):
            if leftover.startswith(".new-"):
                remove(os.path.join(self.directory, leftover))
        scratch = tempfile.mkdtemp(prefix=".new-", dir=self.directory)
        try:
            unpack(archive, expected, scratch)
            check(scratch, identifier)
            prepare(scratch)
            os.rename(scratch, self.path(identifier))
        except BaseException:
            remove(scratch)
            raise
        os.unlink(archive)

    def activate(self, identifier: str) -> None:
        """One rename: whoever opens `current` sees the old release or the new one."""
        if identifier not in self.installed():
            raise ReleaseError(f"{identifier} is not installed in {self.directory}; there are: {', '.join(self.installed()) or 'none'}")
        link(os.path.join("releases", identifier), os.path.join(self.root, "current"))
        link(os.path.join("current", "venv"), os.path.join(self.root, "venv"))


def unpack(archive: str, expected: str, target: str) -> None:
    """The archive's files, if it is the archive that was built."""
    digest = file_hash(archive)
    if digest != expected:
        raise ReleaseError(f"{archive} has SHA-256 {digest}, expected {expected}: the transfer was damaged; run again")
    # Every member is judged below; interpreters that want a filter named get the one that changes nothing.
    trusted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = member.name.split("/")
            if not (member.isfile() or member.isdir()) or member.name.startswith("/") or ".." in parts:
                raise ReleaseError(f"{archive}: {member.name} is no plain file inside the release")
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            tar.extract(member, target, **trusted)


def check(tree: str, identifier: str) -> None:
    """Every file is in the manifest with its hash, and the release is the one asked for, for this host."""
    with open(os.path.join(tree, "manifest.json"), encoding="utf-8") as source:
        manifest = json.load(source)
    found = {"id": identifier, "python": python_minor(), "machine": platform.machine()}
    for key, value in found.items():
        if manifest[key] != value:
            raise ReleaseError(f"the archive is for {key} {manifest[key]}, expected {value}: build it for this host")
    seen = set()
    for parent, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, tree)
            if relative == "manifest.json":
                continue
            if manifest["files"].get(relative) != file_hash(path):
                raise ReleaseError(f"{relative} is not what the manifest says: build the release again")
            seen.add(relative)
    missing = sorted(set(manifest["files"]) - seen)
    if missing:
        raise ReleaseError(f"the archive lacks {len(missing)} file(s) of its manifest, first {missing[0]}")


def prepare(tree: str) -> None:
    """The interpreter, the bytecode, and read-only for all."""
    environment = os.path.join(tree, "venv")
    run([INTERPRETER, "-m", "venv", "--without-pip", environment])
    for name in os.listdir(os.path.join(environment, "bin")):
        if not name.startswith("python"):  # activation scripts, with the path of this scratch directory in them
            os.unlink(os.path.join(environment, "bin", name))
    run([INTERPRETER, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash",
         "-s", tree, os.path.join(environment, "lib")])  # fmt: skip
    for parent, directories, names in os.walk(tree):
        for name in [*directories, *names]:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o555 if os.path.isdir(path) or os.stat(path).st_mode & 0o100 else 0o444)
    os.chmod(tree, 0o555)  # noqa: S103 - everybody may read the code, nobody may write it


def run(command: list[str]) -> None:
    """A command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/")
    if done.returncode != 0:
        raise ReleaseError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def link(target: str, path: str) -> None:
    """A symbolic link, replaced by rename; left alone when it is right."""
    if os.path.islink(path) and os.readlink(path) == target:
        return
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)


def remove(tree: str) -> None:
    """A tree, read-only directories included (root may)."""
    shutil.rmtree(tree)


def file_hash(path: str) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def python_minor() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def converge(asked: dict, check_mode: bool) -> dict[str, object]:
    """Do what was asked; the module's result."""
    releases, identifier, state = Releases(asked["root"]), asked["id"] or "", asked["state"]
    if state != "inspected" and not IDENTIFIER.fullmatch(identifier):
        raise ReleaseError(f"{identifier!r} is no identifier of a release: letters, digits and . _ - only")
    before, removed, changed = releases.current(), [], False
    if state == "installed" and identifier not in releases.installed():
        changed = True
        if not check_mode:
            releases.install(identifier, asked["archive"], asked["sha256"])
    if state == "active":
        changed = not releases.linked(identifier)
        if changed and not check_mode:
            releases.activate(identifier)
        removed = releases.outdated(asked["keep"], identifier)
        if not check_mode:
            for name in removed:
                remove(releases.path(name))
    after = identifier if state == "active" else before
    return {
        "changed": changed or bool(removed),
        "current": before,
        "releases": releases.installed(),
        "removed": removed,
        "python": python_minor(),
        "machine": platform.machine(),
        "diff": {"before": f"current: {before or 'none'}\n", "after": f"current: {after or 'none'}\n"},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/trading-platform"},
            "state": {"type": "str", "choices": ["inspected", "installed", "active"], "default": "inspected"},
            "id": {"type": "str"},
            "archive": {"type": "path"},
            "sha256": {"type": "str"},
            "keep": {"type": "int", "default": 3},
        },
        required_if=[("state", "installed", ("id", "archive", "sha256")), ("state", "active", ("id",))],
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        module.exit_json(**converge(module.params, module.check_mode))
    except (ReleaseError, OSError, tarfile.TarError, ValueError, KeyError) as error:
        module.fail_json(msg=f"{type(error).__name__}: {error}" if not isinstance(error, ReleaseError) else str(error))


if __name__ == "__main__":
    main()
