#!/usr/bin/python
# Part of the trading platform.

"""One owner's small files and directories in one remote call.

A role that installs ten files by ten tasks pays twenty round trips on every run. This module takes them all at once,
compares, writes what differs atomically, and reports each difference. It renders nothing: contents arrive ready.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Keep a set of small files, directories and links as given
description:
  - Compares every entry with the host and changes only what differs. A file is written next to its place, validated
    there and renamed over the old one, so that no reader ever sees half of it.
  - All contents are validated before the first file of the call is replaced.
options:
  files:
    description:
      - Entries in the order in which they are made. Missing parent directories are an error, give them as entries.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path on the host.
        type: path
        required: true
      state:
        description: What is to be there.
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description: The whole file.
        type: str
      target:
        description: Where a link points.
        type: str
      owner:
        description: User who owns it.
        type: str
        default: root
      group:
        description: Group of it.
        type: str
        default: root
      mode:
        description: Octal, as a string. 0644 for files and 0755 for directories unless given.
        type: str
      validate:
        description: Command that judges the new file; C(%s) is its path, kept under its own name in a directory of its own.
        type: str
      secret:
        description: Keep the content out of the difference that is shown.
        type: bool
        default: false
author:
  - The platform's engineers
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Install the probes
  trading.platform.files:
    files:
      - path: /usr/local/lib/trading-platform/health.d
        state: directory
      - path: /usr/local/lib/trading-platform/health.d/20-postgresql
        content: "{{ lookup('ansible.builtin.template', '20-postgresql.j2') }}"
        mode: "0755"
"""

RETURN = r"""
paths:
  description: What was changed, or would be.
  returned: always
  type: list
  elements: str
"""

import grp
import os
import pwd
import shlex
import shutil
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

DEFAULT_MODE = {"file": "0644", "directory": "0755"}


class Refused(Exception):
    """An entry that cannot be made as asked; the message names path, cause and remedy."""


def kind_of(path: str) -> str:
    """file, directory, link, absent or other; links are not followed."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "other"


def identity(entry: dict, *, tolerant: bool) -> tuple[int, int]:
    """(uid, gid) of the entry's owner; in check mode one who does not exist yet is nobody."""
    try:
        uid = pwd.getpwnam(entry["owner"]).pw_uid
        gid = grp.getgrnam(entry["group"]).gr_gid
    except KeyError as error:
        if tolerant:
            return -1, -1
        raise Refused(f"{entry['path']}: no such user or group: {error.args[0]}") from error
    return uid, gid


def mode_of(entry: dict) -> int:
    """Permission bits asked for."""
    text = entry["mode"] or DEFAULT_MODE[entry["state"]]
    try:
        return int(text, 8)
    except ValueError as error:
        raise Refused(f"{entry['path']}: mode is octal digits in quotes, not {text!r}") from error


def difference(entry: dict, *, tolerant: bool) -> list[str]:
    """Words for what is not as asked: nothing, or some of state, content, target, owner, mode."""
    path, wanted, found = entry["path"], entry["state"], kind_of(entry["path"])
    if found != wanted:
        if wanted == "absent" and found == "directory":
            raise Refused(f"{path}: is a directory; this module removes only files and links")
        if found in ("directory", "other") or (wanted == "directory" and found != "absent"):
            raise Refused(f"{path}: expected a {wanted}, found a {found}; look at it and remove it by hand")
        return ["state"]
    if wanted == "absent":
        return []
    if wanted == "link":
        return [] if os.readlink(path) == entry["target"] else ["target"]
    differs = []
    info = os.lstat(path)
    if wanted == "file" and read(path) != entry["content"].encode():
        differs.append("content")
    if (info.st_uid, info.st_gid) != identity(entry, tolerant=tolerant):
        differs.append("owner")
    if stat.S_IMODE(info.st_mode) != mode_of(entry):
        differs.append("mode")
    return differs


def read(path: str) -> bytes:
    """The file's bytes."""
    with open(path, "rb") as source:
        return source.read()


def staged(module: AnsibleModule, entry: dict) -> str:
    """Path of a finished and validated copy in a directory of its own beside the target, ready to be renamed."""
    path = entry["path"]
    directory = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    new = os.path.join(directory, os.path.basename(path))
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(entry["content"].encode())
            sink.flush()
            os.fsync(sink.fileno())
        os.chown(new, *identity(entry, tolerant=False))
        os.chmod(new, mode_of(entry))
        validate(module, entry, new)
    except BaseException:
        shutil.rmtree(directory)
        raise
    return new


def validate(module: AnsibleModule, entry: dict, new: str) -> None:
    """Let the program that will read the file judge it first."""
    if not entry["validate"]:
        return
    command = [word.replace("%s", new) for word in shlex.split(entry["validate"])]
    code, out, err = module.run_command(command)
    if code != 0:
        words = "the file is secret, run the validator by hand" if entry["secret"] else (err or out).strip()
        raise Refused(f"{entry['path']}: refused by {command[0]} (exit {code}): {words.replace(new, entry['path'])}")


def converge(entry: dict, differs: list[str], new: str | None) -> None:
    """Make one entry as asked."""
    path, state = entry["path"], entry["state"]
    if state == "absent":
        os.unlink(path)
    elif state == "link":
        temporary = f"{path}.{os.getpid()}.new"
        os.symlink(entry["target"], temporary)
        os.replace(temporary, path)
    elif state == "directory":
        if "state" in differs:
            os.mkdir(path, 0o700)
        os.chown(path, *identity(entry, tolerant=False))
        os.chmod(path, mode_of(entry))
    elif new is not None:
        os.replace(new, path)
    else:
        os.chown(path, *identity(entry, tolerant=False))
        os.chmod(path, mode_of(entry))


def shown(entry: dict, differs: list[str]) -> dict:
    """What `--diff` prints."""
    path = entry["path"]
    if "content" in differs or ("state" in differs and entry["state"] == "file"):
        if entry["secret"]:
            return {"prepared": f"{path}: content differs (secret)\n"}
        before = read(path).decode(errors="replace") if kind_of(path) == "file" else ""
        return {"before_header": path, "after_header": path, "before": before, "after": entry["content"]}
    return {"prepared": f"{path}: {', '.join(differs)} -> {entry['state']} {entry['target'] or entry['mode'] or ''}\n"}


def check_arguments(entries: list[dict]) -> None:
    """Refuse what cannot be meant before anything is touched."""
    seen: set[str] = set()
    for entry in entries:
        path = entry["path"]
        if not os.path.isabs(path):
            raise Refused(f"{path}: an absolute path is needed")
        if path in seen:
            raise Refused(f"{path}: given twice")
        seen.add(path)
        if entry["state"] == "file" and entry["content"] is None:
            raise Refused(f"{path}: a file needs its content")
        if entry["state"] == "link" and not entry["target"]:
            raise Refused(f"{path}: a link needs its target")


def run(module: AnsibleModule) -> dict:
    """Compare all, validate all, then change all; returns the module's result."""
    entries = module.params["files"]
    check_arguments(entries)
    changes = [(entry, differs) for entry in entries if (differs := difference(entry, tolerant=module.check_mode))]
    result = {"changed": bool(changes), "paths": [entry["path"] for entry, _ in changes]}
    if module._diff:
        result["diff"] = [shown(entry, differs) for entry, differs in changes]
    if module.check_mode:
        return result
    made: list[str] = []
    try:
        # Directories first: the files may live in them.
        for entry, differs in changes:
            if entry["state"] == "directory":
                converge(entry, differs, None)
        news = {}
        for entry, differs in changes:
            if entry["state"] == "file" and {"state", "content"} & set(differs):
                news[entry["path"]] = staged(module, entry)
                made.append(os.path.dirname(news[entry["path"]]))
        for entry, differs in changes:
            if entry["state"] != "directory":
                converge(entry, differs, news.get(entry["path"]))
    finally:
        for directory in made:
            shutil.rmtree(directory, ignore_errors=True)
    return result


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "state": {"type": "str", "choices": ["file", "directory", "link", "absent"], "default": "file"},
                    "content": {"type": "str", "no_log": False},
                    "target": {"type": "str"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str"},
                    "validate": {"type": "str"},
                    "secret": {"type": "bool", "default": False, "no_log": False},
                },
            }
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (Refused, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
