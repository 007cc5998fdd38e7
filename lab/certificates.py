"""The lab's keys: the authority that vouches for the ACME server, the operator's ssh key, the hosts' ssh keys."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lab import state
from lab.commands import run

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
_DAYS = "3650"


@dataclass(frozen=True)
class ServerKeys:
    """A server's certificate and key as files."""

    certificate: Path
    key: Path


def ensure(lab: state.Lab) -> ServerKeys:
    """The ACME server's certificate, under an authority made for this lab; hosts trust acme-ca.pem."""
    directory = lab.directory / "acme"
    keys = ServerKeys(directory / "server.pem", directory / "server.key")
    authority = lab.directory / "acme-ca.pem"
    if not authority.exists():
        with tempfile.TemporaryDirectory(dir=lab.directory) as work:
            _make(lab, Path(work))
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(work, directory, ignore=shutil.ignore_patterns("ca.*"))
            # Last, because its being there says that the rest is.
            state.write(authority, (Path(work) / "ca.pem").read_text())
    return keys


def _make(lab: state.Lab, work: Path) -> None:
    """An authority whose key is thrown away after its one signature, and the server's certificate."""
    certificate = ["openssl", "req", "-x509", *_CURVE, "-days", _DAYS]
    _openssl(
        [*certificate, "-subj", f"/CN=lab {lab.name} ACME server authority"],
        ["-keyout", str(work / "ca.key"), "-out", str(work / "ca.pem")],
        ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"],
    )
    name = f"acme.{state.DOMAIN}"
    _openssl(
        [*certificate, "-subj", f"/CN={name}", "-CA", str(work / "ca.pem"), "-CAkey", str(work / "ca.key")],
        ["-keyout", str(work / "server.key"), "-out", str(work / "server.pem")],
        [f"subjectAltName=DNS:{name},IP:{lab.gateway}", "basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth"],
    )


def _openssl(request: list[str], files: list[str], extensions: list[str]) -> None:
    added = [word for extension in extensions for word in ("-addext", extension)]
    run([*request, *files, *added])


def ssh_key(file: Path, comment: str) -> str:
    """The public half of the ed25519 key in `file`, which is made if it is not there."""
    public = file.with_name(f"{file.name}.pub")
    if not (file.exists() and public.exists()):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(file)])
    return public.read_text().strip()
