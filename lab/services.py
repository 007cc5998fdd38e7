"""What a lab serves at its own address: names (dnsmasq), packages (a door to the cache), certificates (Pebble)."""

import json
import socket
import ssl
import time
import urllib.request
from pathlib import Path

from lab import certificates, cgroup, package_cache, state
from lab.commands import detach
from lab.report import LabError

NAMES_PORT = 53
PACKAGES_PORT = 3142
ACME_PORT = 14000
_ACME_MANAGEMENT_PORT = 15000
# 90 days, as public authorities issue: a health check that looks at expiry sees real dates.
_CERTIFICATE_SECONDS = 90 * 24 * 3600
_READY_DEADLINE = 20


def up(lab: state.Lab) -> None:
    """Start what does not run yet and wait until each answers."""
    _names(lab)
    _packages(lab)
    _acme(lab)
    for what, port in (("names", NAMES_PORT), ("packages", PACKAGES_PORT), ("acme", ACME_PORT)):
        _wait(lab, what, port)
    _save_acme_root(lab)


def _ensure(lab: state.Lab, config: Path, text: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run the service that is named like its configuration file; a changed configuration restarts it."""
    what = config.stem
    group = lab.cgroup(f"services/{what}")
    if cgroup.running(group) and config.exists() and config.read_text() == text:
        return
    cgroup.kill(group)
    state.write(config, text)
    detach(command, log=config.with_suffix(".log"), cgroups=cgroup.create(group), environment=environment)


def _wait(lab: state.Lab, what: str, port: int) -> None:
    until = time.monotonic() + _READY_DEADLINE
    while True:
        try:
            with socket.create_connection((lab.gateway, port), timeout=1):
                return
        except OSError:
            if time.monotonic() > until or not cgroup.running(lab.cgroup(f"services/{what}")):
                log = lab.directory / "services" / f"{what}.log"
                said = log.read_text().strip()[-2000:]
                raise LabError(f"the lab's {what} service does not answer on {lab.gateway}:{port}; {log} says:\n{said}") from None
            time.sleep(0.05)


def _names(lab: state.Lab) -> None:
    file = lab.directory / "services" / "names.conf"
    records = [f"host-record={host.fqdn},{host.name},{host.address}" for host in lab.hosts]
    # Every host of a lab is an edge, so the public name has all of their addresses.
    records += [f"host-record=trading.{state.DOMAIN},{host.address}" for host in lab.hosts]
    records += [f"host-record=acme.{state.DOMAIN},packages.{state.DOMAIN},{lab.gateway}"]
    text = "\n".join(
        [
            "keep-in-foreground",
            "user=nobody",
            "bind-interfaces",
            f"interface={lab.bridge}",
            "except-interface=lo",
            "no-resolv",
            "no-hosts",
            "no-poll",
            "pid-file=",
            "log-facility=-",
            # No name is ever asked for outside: what is not here does not exist.
            "local=/#/",
            *records,
            "",
        ]
    )
    _ensure(lab, file, text, ["dnsmasq", f"--conf-file={file}"])


def _packages(lab: state.Lab) -> None:
    file = lab.directory / "services" / "packages.conf"
    door = f"{lab.gateway}:{PACKAGES_PORT}"
    command = ["systemd-socket-activate", f"--listen={door}", "/lib/systemd/systemd-socket-proxyd", package_cache.LOCAL]
    _ensure(lab, file, f"{door} -> {package_cache.LOCAL}\n", command)


def _acme(lab: state.Lab) -> None:
    keys = certificates.ensure(lab)
    file = lab.directory / "services" / "acme.json"
    settings = {
        "pebble": {
            "listenAddress": f"{lab.gateway}:{ACME_PORT}",
            "managementListenAddress": f"{lab.gateway}:{_ACME_MANAGEMENT_PORT}",
            "certificate": str(keys.certificate),
            "privateKey": str(keys.key),
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "certificateValidityPeriod": _CERTIFICATE_SECONDS,
        }
    }
    environment = {
        # Pebble waits up to 15 s before each validation to be like a busy server; a converge run need not.
        "PEBBLE_VA_NOSLEEP": "1",
        # Pebble refuses a share of good nonces to exercise clients. Certbot does retry, but a lab that fails
        # by dice once in a hundred runs teaches nobody anything about the playbooks.
        "PEBBLE_WFE_NONCEREJECT": "0",
    }
    command = ["pebble", "-config", str(file), "-dnsserver", f"{lab.gateway}:{NAMES_PORT}"]
    _ensure(lab, file, json.dumps(settings, indent=2) + "\n", command, environment)


def _save_acme_root(lab: state.Lab) -> None:
    """Keep the root under which Pebble issues, so that clients outside can verify what hosts serve.

    Pebble makes a new one every time it starts, so this is asked again on every `up`.
    """
    context = ssl.create_default_context(cafile=str(lab.directory / "acme-ca.pem"))
    address = f"https://{lab.gateway}:{_ACME_MANAGEMENT_PORT}/roots/0"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    until = time.monotonic() + _READY_DEADLINE
    while True:
        try:
            with opener.open(address, timeout=5) as answer:
                state.write(lab.directory / "acme-root.pem", answer.read().decode())
                return
        except OSError as error:
            if time.monotonic() > until:
                raise LabError(f"the lab's ACME server does not give its root at {address}: {error}") from error
            time.sleep(0.1)
