"""Logging in to the platform of a lab as its operator would: through the edge, over verified TLS."""

import http.client
import json
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lab.report import LabError
from lab.state import Lab

PORT = 443
_PATIENCE = 10


@dataclass(frozen=True)
class Access:
    """What the playbook wrote down for the operator."""

    domain: str
    user: str
    password: str


def access_file(lab: Lab) -> Path:
    return lab.directory / "inventory" / "access.txt"


def read(text: str) -> Access:
    """The `url:`, `user:` and `password:` lines of an access file; raises LabError naming what is missing."""
    found = dict(re.findall(r"^(url|user|password):\s*(\S+)\s*$", text, re.MULTILINE))
    missing = [name for name in ("url", "user", "password") if name not in found]
    if missing:
        raise LabError(f"access.txt has no line {' and '.join(f'{name}:' for name in missing)}; `bin/lab up` writes it anew")
    return Access(urlsplit(found["url"]).hostname or found["url"], found["user"], found["password"])


def token(lab: Lab) -> str:
    """A fresh access token of the lab's first user; raises LabError when the platform refuses or does not answer."""
    file = access_file(lab)
    if not file.exists():
        raise LabError(f"lab {lab.name} has no platform yet: {file} is missing; `bin/lab up` makes one")
    access = read(file.read_text())
    context = ssl.create_default_context(cafile=str(lab.directory / "acme-root.pem"))
    connection = http.client.HTTPSConnection(access.domain, PORT, context=context, timeout=_PATIENCE)
    try:
        plain = socket.create_connection((lab.hosts[0].address, PORT), timeout=_PATIENCE)
        connection.sock = context.wrap_socket(plain, server_hostname=access.domain)
        body = json.dumps({"username": access.user, "password": access.password})
        connection.request("POST", "/api/auth/login", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise LabError(f"no token: https://{access.domain} at {lab.hosts[0].address} does not answer ({error})") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise LabError(f"no token: the platform answered {answer.status} {document.get('title', '')}: {document.get('detail', '')}")
    return str(document["access_token"])


def command(lab: Lab, given: str) -> str:
    """A line to copy that asks for the newest trades with that token."""
    domain = read(access_file(lab).read_text()).domain
    return (
        f"TOKEN={given}\n"
        f"curl --cacert {lab.directory / 'acme-root.pem'} --resolve {domain}:{PORT}:{lab.hosts[0].address} \\\n"
        f'  --header "Authorization: Bearer $TOKEN" https://{domain}/api/trades/recent'
    )
