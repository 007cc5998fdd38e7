#!/usr/bin/python
"""Write systemd encrypted credentials, touching only those whose content differs.

Contents come in as an argument, leave only as ciphertext sealed to this host's own key, and are never returned, logged
or put on a command line.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: credentials
short_description: Write systemd encrypted credentials
description:
  - Encrypts each credential with this host's own key (C(systemd-creds --with-key=host)) and writes it to
    O(directory)C(/<name>), mode 0600, for C(LoadCredentialEncrypted=<name>:<directory>/<name>).
  - A credential whose decrypted content is already the wanted one is not touched, so its unit is not restarted.
options:
  credentials:
    description: Content by name. The names are what a unit finds in C($CREDENTIALS_DIRECTORY).
    type: dict
    default: {}
  removed:
    description: Names that must not exist.
    type: list
    elements: str
    default: []
  directory:
    description: Where the encrypted credentials are kept.
    type: path
    default: /etc/credstore.encrypted
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details: Shows names, never contents.
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Give the gateway its secrets
  trading.platform.credentials:
    credentials:
      trading-gateway.database-password: "{{ platform_database_password }}"
    removed: [trading-gateway.jwt-secret]
  no_log: true
"""

RETURN = r"""
changed_names:
  description: Credentials that were written, because they lacked, differed or could not be decrypted on this host.
  type: list
  elements: str
  returned: always
removed_names:
  description: Credentials that were removed.
  type: list
  elements: str
  returned: always
paths:
  description: Path of every wanted credential, by name.
  type: dict
  returned: always
"""

import hmac
import os
import re
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,200}")
MOST_BYTES = 1024 * 1024  # what systemd accepts for one credential


class CredentialError(Exception):
    """A credential cannot be written; the message never holds its content."""


def run_systemd_creds(arguments: list[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    """One call of systemd-creds; content goes through pipes only."""
    try:
        return subprocess.run(["systemd-creds", *arguments], input=given, capture_output=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise CredentialError("this host has no systemd-creds: it needs systemd 250 or newer") from error


def refuse_bad_input(credentials: dict[str, object], removed: list[str]) -> None:
    for name in [*credentials, *removed]:
        if not NAME.fullmatch(str(name)):
            raise CredentialError(
                f"credential name {name!r} is not usable: letters, digits and _ . @ : - only, beginning with a letter or digit"
            )
    for name, content in credentials.items():
        if not isinstance(content, str):
            raise CredentialError(f"credential {name}: its content must be text, not {type(content).__name__}")
        if not content:
            raise CredentialError(f"credential {name} is empty: is its secret missing from the inventory's vault?")
        if len(content.encode()) > MOST_BYTES:
            raise CredentialError(f"credential {name} has {len(content.encode())} bytes; systemd accepts {MOST_BYTES}")
    both = sorted(set(credentials) & set(removed))
    if both:
        raise CredentialError(f"both wanted and removed: {', '.join(both)}")


def holds(path: str, name: str, content: str) -> bool:
    """Whether the file decrypts, on this host and under this name, to this content."""
    try:
        with open(path, "rb") as file:
            sealed = file.read()
    except FileNotFoundError:
        return False
    opened = run_systemd_creds(["decrypt", f"--name={name}", "-", "-"], sealed)
    return opened.returncode == 0 and hmac.compare_digest(opened.stdout, content.encode())


def is_private(path: str) -> bool:
    found = os.stat(path)
    return (found.st_mode & 0o777, found.st_uid) == (0o600, 0)


def seal(name: str, content: str) -> bytes:
    sealed = run_systemd_creds(["encrypt", "--with-key=host", f"--name={name}", "-", "-"], content.encode())
    if sealed.returncode != 0:
        raise CredentialError(f"systemd-creds could not encrypt {name}: {sealed.stderr.decode(errors='replace').strip()}")
    return sealed.stdout


def write(path: str, sealed: bytes) -> None:
    """By rename, after the bytes are on disk; never readable by others."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def converge(directory: str, credentials: dict[str, str], removed: list[str], check_mode: bool) -> dict[str, object]:
    refuse_bad_input(credentials, removed)
    paths = {name: os.path.join(directory, name) for name in credentials}
    differing = [name for name, path in paths.items() if not holds(path, name, credentials[name])]
    exposed = [name for name, path in paths.items() if name not in differing and not is_private(path)]
    present = [name for name in removed if os.path.lexists(os.path.join(directory, name))]
    if not check_mode:
        if credentials:
            os.makedirs(directory, mode=0o700, exist_ok=True)
        for name in differing:
            write(paths[name], seal(name, credentials[name]))
        for name in exposed:
            os.chown(paths[name], 0, 0)
            os.chmod(paths[name], 0o600)
        for name in present:
            os.unlink(os.path.join(directory, name))
    changed = sorted([*differing, *exposed])
    return {
        "changed": bool(changed or present),
        "changed_names": changed,
        "removed_names": sorted(present),
        "paths": paths,
        "diff": {
            "before": "".join(f"{name}\n" for name in sorted(present)),
            "after": "".join(f"{name} (new content)\n" for name in changed),
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "credentials": {"type": "dict", "default": {}, "no_log": True},
            "removed": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "path", "default": "/etc/credstore.encrypted"},
        },
        supports_check_mode=True,
    )
    asked = module.params
    try:
        module.exit_json(**converge(asked["directory"], asked["credentials"], asked["removed"], module.check_mode))
    except CredentialError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
