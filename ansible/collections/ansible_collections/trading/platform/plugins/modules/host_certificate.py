#!/usr/bin/python
"""Keep a host's internal certificate, its CA and the bundle made of certificate and key as they should be.

The private key never leaves the host: the bundle is made here. Files whose content is right are not touched, so that no
unit is restarted for them.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_certificate
short_description: The files of a host's internal certificate
description:
  - V(inspected) returns what is there and what is wrong with it. V(present) writes the CA and the certificate, makes the
    bundle of certificate and key, and sets owners and modes.
  - The private key (C(host.key)) has to exist; it is neither made nor returned.
options:
  state:
    description: Whether to look or to write.
    type: str
    choices: [inspected, present]
    default: present
  directory:
    description: Where C(ca.pem), C(host.pem), C(host.key) and C(host-bundle.pem) are.
    type: path
    default: /etc/trading-tls
  group:
    description: The group that may read key and bundle.
    type: str
    default: trading-tls
  ca:
    description: Certificate of the CA, PEM.
    type: str
    required: true
  certificate:
    description: Certificate of the host, PEM. The one that is there is kept when not given.
    type: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details: Names the files, shows no content.
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Look at the certificate of this host
  trading.platform.host_certificate:
    state: inspected
    ca: "{{ tls_ca_certificate }}"
  register: __tls_found
"""

RETURN = r"""
certificate:
  description: The host's certificate as found, empty when there is none.
  type: str
  returned: always
key_exists:
  description: Whether the private key is there.
  type: bool
  returned: always
group_exists:
  description: Whether the group is there.
  type: bool
  returned: always
key_matches:
  description: Whether the private key belongs to the certificate.
  type: bool
  returned: always
problems:
  description: What is not as it should be, as found.
  type: list
  elements: str
  returned: always
"""

import grp
import os
import stat
import subprocess
import tempfile

from ansible.module_utils.basic import AnsibleModule


class CertificateError(Exception):
    """The files cannot be what was asked."""


def read(path: str) -> str:
    """The file's text, empty when there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def openssl(*arguments: str) -> str:
    """Standard output of openssl; empty when it fails."""
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout if done.returncode == 0 else ""


def group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


class HostCertificate:
    """The four files, as found and as they should be."""

    def __init__(self, directory: str, group: str, ca: str) -> None:
        self.directory = directory
        self.gid = group_id(group)
        self.ca_wanted = ca.strip() + "\n"
        self.paths = {name: os.path.join(directory, name) for name in ("ca.pem", "host.pem", "host.key", "host-bundle.pem")}
        self.certificate = read(self.paths["host.pem"])

    @property
    def key_exists(self) -> bool:
        return os.path.isfile(self.paths["host.key"])

    def key_matches(self) -> bool:
        if not (self.key_exists and self.certificate):
            return False
        of_certificate = openssl("x509", "-in", self.paths["host.pem"], "-noout", "-pubkey")
        return bool(of_certificate) and of_certificate == openssl("pkey", "-in", self.paths["host.key"], "-pubout")

    def bundle(self, certificate: str) -> str:
        return certificate + read(self.paths["host.key"])

    def wanted_files(self, certificate: str) -> dict[str, tuple[str | None, int, int]]:
        """Content (None: as it is), group and mode by path."""
        gid = self.gid if self.gid is not None else 0
        return {
            self.paths["ca.pem"]: (self.ca_wanted, 0, 0o644),
            self.paths["host.pem"]: (certificate, 0, 0o644),
            self.paths["host.key"]: (None, gid, 0o640),
            self.paths["host-bundle.pem"]: (self.bundle(certificate), gid, 0o640),
        }

    def differing(self, certificate: str) -> list[str]:
        """Paths whose content, owner or mode is not as it should be."""
        if not os.path.isdir(self.directory) or not self.key_exists or self.gid is None:
            return list(self.paths.values())
        return [path for path, wanted in self.wanted_files(certificate).items() if not self.is_as_wanted(path, *wanted)]

    @staticmethod
    def is_as_wanted(path: str, content: str | None, gid: int, mode: int) -> bool:
        if not os.path.isfile(path):
            return False
        found = os.stat(path)
        held = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, gid, mode)
        return held and (content is None or read(path) == content)

    def problems(self) -> list[str]:
        found = []
        if not self.key_exists:
            found.append("there is no private key")
        if not self.certificate:
            found.append("there is no certificate")
        elif not self.key_matches():
            found.append("the private key is not the certificate's")
        elif not openssl("verify", "-CAfile", self.paths["ca.pem"], self.paths["host.pem"]):
            found.append("ca.pem did not sign the certificate, or one of them is out of date")
        return found + [f"{path} is not as it should be" for path in self.differing(self.certificate)]

    def write(self, certificate: str) -> list[str]:
        """Makes everything right and returns the paths that were not."""
        if self.gid is None or not self.key_exists:
            raise CertificateError(f"{self.paths['host.key']} and its group have to exist before the certificate is written")
        differing = self.differing(certificate)
        for path, (content, gid, mode) in self.wanted_files(certificate).items():
            if path in differing:
                self.put(path, content, gid, mode)
        return differing

    def put(self, path: str, content: str | None, gid: int, mode: int) -> None:
        """By rename, with owner and mode set before anyone can see it."""
        if content is None or (os.path.isfile(path) and read(path) == content):
            os.chown(path, 0, gid)
            os.chmod(path, mode)
            return
        descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=".new-")
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chown(temporary, 0, gid)
            os.chmod(temporary, mode)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["inspected", "present"], "default": "present"},
            "directory": {"type": "path", "default": "/etc/trading-tls"},
            "group": {"type": "str", "default": "trading-tls"},
            "ca": {"type": "str", "required": True},
            "certificate": {"type": "str"},
        },
        supports_check_mode=True,
    )
    asked = module.params
    host = HostCertificate(asked["directory"], asked["group"], asked["ca"])
    found = {
        "certificate": host.certificate,
        "key_exists": host.key_exists,
        "group_exists": host.gid is not None,
        "key_matches": host.key_matches(),
        "problems": host.problems(),
    }
    changed: list[str] = []
    if asked["state"] == "present":
        certificate = asked["certificate"].strip() + "\n" if asked["certificate"] else host.certificate
        try:
            changed = host.differing(certificate) if module.check_mode else host.write(certificate)
        except CertificateError as error:
            module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changed), diff={"before": "", "after": "".join(f"{path}\n" for path in changed)}, **found)


if __name__ == "__main__":
    main()
