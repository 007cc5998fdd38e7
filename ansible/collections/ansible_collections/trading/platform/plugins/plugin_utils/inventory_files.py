"""Reads an inventory's YAML as an author sees it: every variable with its file and line.

Never templates and never decides what is right (inventory_rules does). Ansible's own loader merges the files and forgets
where a value stood; a refusal has to name the place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import yaml

YAML_SUFFIXES = (".yml", ".yaml", "")
VAULT_HEADER = b"$ANSIBLE_VAULT;"


class EncryptedText(str):
    """A value under `!vault`: known to be encrypted, its text unknown."""


@dataclass(frozen=True)
class Place:
    """Where something stands."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Definition:
    """One variable as one file states it. `scope` is `all`, a group's or a host's name."""

    name: str
    value: object
    place: Place
    scope: str
    encrypted: bool = False


@dataclass
class Files:
    """All that the inventory's files say."""

    definitions: list[Definition] = field(default_factory=list)
    groups: dict[str, Place] = field(default_factory=dict)
    hosts: dict[str, Place] = field(default_factory=dict)
    repeated: list[tuple[str, Place, Place]] = field(default_factory=list)
    plain_vaults: list[Place] = field(default_factory=list)
    unreadable: list[tuple[Place, str]] = field(default_factory=list)


def near(path: str) -> str:
    """The path as messages name it: relative when it is below the current directory."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith("..") else relative


def read(sources: list[str], decrypt: Callable[[bytes, str], bytes], shown: Callable[[str], str] = near) -> Files:
    """Every YAML inventory source (a directory or a hosts file) with its group_vars and host_vars.

    `decrypt` turns an encrypted file's bytes into plain ones; `shown` makes the path that messages name.
    """
    files = Files()
    for source in sources:
        directory = source if os.path.isdir(source) else os.path.dirname(source)
        hosts = [os.path.join(directory, name) for name in sorted(os.listdir(directory))] if os.path.isdir(source) else [source]
        for path in hosts:
            if os.path.isfile(path) and path.endswith((".yml", ".yaml")):
                _read_hosts(files, path, decrypt, shown)
        for kind in ("group_vars", "host_vars"):
            for path, scope in _variable_files(os.path.join(directory, kind)):
                for name, node, encrypted in _top_level(files, path, decrypt, shown):
                    place = Place(shown(path), name.start_mark.line + 1)
                    files.definitions.append(Definition(name.value, _plain(node), place, scope, encrypted))
    return files


def _variable_files(directory: str) -> Iterator[tuple[str, str]]:
    """(file, group or host) below group_vars or host_vars."""
    if not os.path.isdir(directory):
        return
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        scope, suffix = os.path.splitext(name)
        if os.path.isdir(path):
            for parent, _, names in sorted(os.walk(path)):
                for inner in sorted(names):
                    if os.path.splitext(inner)[1] in YAML_SUFFIXES and not inner.startswith("."):
                        yield os.path.join(parent, inner), name
        elif suffix in YAML_SUFFIXES and not name.startswith("."):
            yield path, scope


def _document(
    files: Files, path: str, decrypt: Callable[[bytes, str], bytes], shown: Callable[[str], str]
) -> tuple[yaml.Node | None, bool]:
    """The file's YAML tree and whether the file is encrypted; problems are noted in `files`."""
    with open(path, "rb") as source:
        raw = source.read()
    encrypted = raw.startswith(VAULT_HEADER)
    if not encrypted and "vault" in os.path.basename(path):
        files.plain_vaults.append(Place(shown(path)))
    try:
        node = yaml.compose(decrypt(raw, path) if encrypted else raw, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        files.unreadable.append((Place(shown(path), mark.line + 1 if mark else 0), getattr(error, "problem", None) or "not YAML"))
        return None, encrypted
    if node is not None and not isinstance(node, yaml.MappingNode):
        files.unreadable.append((Place(shown(path), node.start_mark.line + 1), "variables are a mapping, name: value"))
        return None, encrypted
    return node, encrypted


def _top_level(
    files: Files, path: str, decrypt: Callable[[bytes, str], bytes], shown: Callable[[str], str]
) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
    """(name node, value node, encrypted) of a file of variables."""
    node, encrypted = _document(files, path, decrypt, shown)
    if node is not None:
        for name, value in _pairs(files, node, shown(path)):
            yield name, value, encrypted


def _pairs(files: Files, node: yaml.Node, file: str) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """A mapping's pairs; a key given twice is noted, because YAML silently keeps the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if name.value in seen:
            files.repeated.append((str(name.value), Place(file, seen[name.value]), Place(file, line)))
        seen[str(name.value)] = line
        yield name, value


def _read_hosts(files: Files, path: str, decrypt: Callable[[bytes, str], bytes], shown: Callable[[str], str]) -> None:
    """A hosts file: groups, hosts, and the variables it gives them."""
    node, encrypted = _document(files, path, decrypt, shown)
    if node is not None:
        for name, group in _pairs(files, node, shown(path)):
            _read_group(files, str(name.value), name, group, shown(path), encrypted)


def _read_group(files: Files, group: str, key: yaml.Node, node: yaml.Node, file: str, encrypted: bool) -> None:
    files.groups.setdefault(group, Place(file, key.start_mark.line + 1))
    for part, content in _pairs(files, node, file):
        if part.value == "hosts":
            for host, variables in _pairs(files, content, file):
                files.hosts.setdefault(str(host.value), Place(file, host.start_mark.line + 1))
                _read_variables(files, variables, str(host.value), file, encrypted)
        elif part.value == "children":
            for child, content_of_child in _pairs(files, content, file):
                _read_group(files, str(child.value), child, content_of_child, file, encrypted)
        elif part.value == "vars":
            _read_variables(files, content, group, file, encrypted)


def _read_variables(files: Files, node: yaml.Node, scope: str, file: str, encrypted: bool) -> None:
    for name, value in _pairs(files, node, file):
        place = Place(file, name.start_mark.line + 1)
        files.definitions.append(Definition(str(name.value), _plain(value), place, scope, encrypted))


class _Loader(yaml.SafeLoader):
    """Safe values plus Ansible's tags."""


_Loader.add_constructor("!vault", lambda _, node: EncryptedText(node.value))
_Loader.add_constructor("!unsafe", lambda _, node: node.value)


def _plain(node: yaml.Node) -> object:
    """A node's Python value."""
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError:
        return getattr(node, "value", None)
    finally:
        loader.dispose()
