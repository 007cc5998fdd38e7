"""What the role certbot renders, and what trading-certificate decides from what it finds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from rendered_role import ROOT, RenderedRole

TEMPLATES = ROOT / "roles/certbot/templates"
SCRIPT = ROOT / "roles/certbot/files/trading-certificate"
DIRECTORY = "https://acme.test/dir"


def test_each_name_of_the_edge_is_asked_for() -> None:
    conf = RenderedRole("certbot", nginx_extra_names=["api.lab.test"]).template(TEMPLATES / "certificate.conf.j2")
    assert "CERTIFICATE_NAMES=(trading.lab.test api.lab.test)\n" in conf
    assert "CERTIFICATE_DIRECTORY=https://acme.lab.test:14000/dir\n" in conf
    assert "CERTIFICATE_ACME_CA=/etc/trading-certificate/acme-ca.pem\n" in conf


def test_the_servers_own_authority_is_for_certbot_only_and_only_when_there_is_one() -> None:
    lab = RenderedRole("certbot").template(TEMPLATES / "certbot.service.conf.j2")
    assert "Environment=REQUESTS_CA_BUNDLE=/etc/trading-certificate/acme-ca.pem\n" in lab
    public = RenderedRole("certbot", certbot_acme_ca_file="", certbot_acme_root_file="")
    assert "REQUESTS_CA_BUNDLE" not in public.template(TEMPLATES / "certbot.service.conf.j2")
    assert "CERTIFICATE_ACME_CA=''\n" in public.template(TEMPLATES / "certificate.conf.j2")


class Edge:
    """A place that looks to trading-certificate like an edge's file system, with a certbot and an Nginx that record."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.live = root / "letsencrypt/live/trading"
        self.link = root / "nginx/tls/site"
        self.link.parent.mkdir(parents=True)
        (root / "letsencrypt/renewal").mkdir(parents=True)
        self.live.mkdir(parents=True)
        (root / "bin").mkdir()
        (root / "trading-certificate").mkdir()
        text = SCRIPT.read_text().replace("/etc/", f"{root}/").replace("export PATH=", f"export PATH={root}/bin:")
        self.script = root / "script"
        self.script.write_text(text)
        self.configure()
        self.program("nginx", "exit 0")
        self.program("systemctl", f'echo "$*" >> {root}/systemctl.log')
        # Nginx serves what the link names.
        self.program(
            "openssl",
            f'if [ "$1" = s_client ]; then exec /usr/bin/openssl x509 -in {self.link}/fullchain.pem; fi; exec /usr/bin/openssl "$@"',
        )
        self.program("certbot", "echo certbot must not be called >&2; exit 9")

    def program(self, name: str, body: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def configure(self, names: str = "trading.lab.test", root: str = "") -> None:
        (self.root / "trading-certificate/certificate.conf").write_text(
            f"CERTIFICATE_LINEAGE=trading\nCERTIFICATE_NAMES=({names})\nCERTIFICATE_DIRECTORY={DIRECTORY}\n"
            "CERTIFICATE_EMAIL=o@lab.test\nCERTIFICATE_KEY_TYPE=ecdsa\nCERTIFICATE_WEBROOT=/nowhere\n"
            f"CERTIFICATE_RENEW_DAYS=30\nCERTIFICATE_ACME_CA=\nCERTIFICATE_ACME_ROOT={root}\n"
        )

    def certificate(self, days: int = 90, names: str = "DNS:trading.lab.test") -> None:
        """A lineage as certbot leaves it."""
        key, cert = self.live / "privkey.pem", self.live / "cert.pem"
        subprocess.run(
            [
                "/usr/bin/openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                "/CN=x",
                "-days",
                str(days),
                "-addext",
                f"subjectAltName={names}",
                "-keyout",
                str(key),
                "-out",
                str(cert),
            ],
            check=True,
            capture_output=True,
        )
        (self.live / "fullchain.pem").write_text(cert.read_text())
        (self.live / "chain.pem").write_text(cert.read_text())
        (self.root / "letsencrypt/renewal/trading.conf").write_text(f"server = {DIRECTORY}\nkey_type = ecdsa\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(
            ["bash", str(self.script), *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
        )


@pytest.fixture
def edge(tmp_path: Path) -> Edge:
    return Edge(tmp_path)


def test_a_certificate_as_configured_and_served_is_left_alone(edge: Edge) -> None:
    edge.certificate()
    edge.link.symlink_to(edge.live)
    done = edge.run("ensure")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("unchanged: trading.lab.test until ")
    assert not (edge.root / "systemctl.log").exists()


def test_without_a_certificate_certbot_is_asked_and_its_answer_served(edge: Edge, tmp_path: Path) -> None:
    prepared = Edge(tmp_path / "issued")
    prepared.certificate()
    edge.program(
        "certbot",
        f'echo "$*" > {edge.root}/certbot.log; cp {prepared.live}/* {edge.live}/; '
        f"cp {prepared.root}/letsencrypt/renewal/trading.conf {edge.root}/letsencrypt/renewal/",
    )
    edge.link.symlink_to("internal")
    done = edge.run("ensure")
    assert (done.returncode, done.stdout, done.stderr) == (0, "changed: there is no certificate yet\n", "")
    assert os.readlink(edge.link) == str(edge.live)
    asked = (edge.root / "certbot.log").read_text()
    assert "certonly" in asked
    assert f"--server {DIRECTORY}" in asked
    assert "--domains trading.lab.test" in asked
    assert "--webroot" in asked
    assert "reload nginx.service" in (edge.root / "systemctl.log").read_text()


def test_a_run_that_was_cut_before_the_link_was_turned_is_finished(edge: Edge) -> None:
    edge.certificate()
    edge.link.symlink_to("internal")
    done = edge.run("ensure")
    assert done.stdout.startswith("changed: Nginx serves internal instead of ")
    assert os.readlink(edge.link) == str(edge.live)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda e: e.configure(names="trading.lab.test api.lab.test"),
            "it names trading.lab.test instead of trading.lab.test api.lab.test",
        ),
        (lambda e: (e.root / "letsencrypt/renewal/trading.conf").write_text("server = https://other\n"), "it is from another ACME server"),
        (
            lambda e: (e.root / "letsencrypt/renewal/trading.conf").write_text(f"server = {DIRECTORY}\nkey_type = rsa\n"),
            "its key is not of type ecdsa",
        ),
        (lambda e: e.certificate(days=1), ""),
    ],
)
def test_what_is_not_as_configured_is_named(edge: Edge, spoil: object, reason: str) -> None:
    edge.certificate()
    edge.link.symlink_to(edge.live)
    spoil(edge)  # type: ignore[operator]
    done = edge.run("ensure", "--dry-run")
    assert done.stdout.startswith(f"changed: {reason}" if reason else "unchanged")
    assert done.returncode == 0


def test_a_certificate_of_another_root_is_replaced(edge: Edge, tmp_path: Path) -> None:
    other = Edge(tmp_path / "other")
    other.certificate()
    edge.certificate()
    edge.link.symlink_to(edge.live)
    edge.configure(root=str(other.live / "cert.pem"))
    assert edge.run("ensure", "--dry-run").stdout.startswith("changed: it is not of the root in ")


def test_when_nginx_refuses_the_old_certificate_stays(edge: Edge) -> None:
    edge.certificate()
    edge.link.symlink_to("internal")
    edge.program("nginx", "echo 'unknown directive' >&2; exit 1")
    done = edge.run("deploy")
    assert done.returncode == 1
    assert "the certificate stays as it was: unknown directive" in done.stderr
    assert os.readlink(edge.link) == "internal"
    assert "reload" not in ((edge.root / "systemctl.log").read_text() if (edge.root / "systemctl.log").exists() else "")


def test_a_refusal_of_the_authority_is_shown_with_what_to_look_at(edge: Edge) -> None:
    edge.program("certbot", "echo 'Timeout during connect (likely firewall problem)'; exit 1")
    edge.link.symlink_to("internal")
    done = edge.run("ensure")
    assert done.returncode == 1
    assert "Timeout during connect" in done.stderr
    assert "port 80" in done.stderr
    assert "letsencrypt.log" in done.stderr


def test_an_account_that_the_authority_forgot_is_made_again_once(edge: Edge) -> None:
    accounts = edge.root / "letsencrypt/accounts/acme.test/dir"
    accounts.mkdir(parents=True)
    edge.program("certbot", f"echo x >> {edge.root}/calls; echo 'urn:ietf:params:acme:error:accountDoesNotExist'; exit 1")
    edge.link.symlink_to("internal")
    assert edge.run("ensure").returncode == 1
    assert (edge.root / "calls").read_text().count("x") == 2
    assert not accounts.exists()


def test_a_wrong_word_is_answered_with_the_words_there_are(edge: Edge) -> None:
    done = edge.run("frobnicate")
    assert done.returncode == 64
    assert "status | ensure" in done.stdout
