"""When the role tls asks for a new certificate, and for which names."""

from __future__ import annotations

import datetime
import ipaddress
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rendered_role import RenderedRole

NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """A CA that signs what it is told."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        self.pem = self._certificate(self.name, self.key, 3650, x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()))

    def _certificate(self, subject: x509.Name, key: Any, days: float, *extensions: x509.ExtensionType) -> str:
        builder = x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(NOW - datetime.timedelta(days=100)).not_valid_after(NOW + datetime.timedelta(days=days))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def host(self, names: list[str], days: float) -> str:
        """A host's certificate for names as the role writes them (DNS:…, IP:…)."""
        general = [x509.DNSName(name[4:]) if name.startswith("DNS:") else x509.IPAddress(ipaddress.ip_address(name[3:])) for name in names]
        return self._certificate(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab1")]),
            ec.generate_private_key(ec.SECP256R1()),
            days,
            x509.SubjectAlternativeName(general),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
        )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def role(authority: Authority, certificate: str = "", **stated: Any) -> RenderedRole:
    found = {"certificate": certificate, "key_matches": bool(certificate), "problems": []}
    return RenderedRole(
        "tls", __tls_found=found, vault_tls_ca_certificate=authority.pem, vault_tls_ca_key="", group_names=["etcd", "edge"], **stated
    )


def names(authority: Authority) -> list[str]:
    return role(authority).value("_tls_names")


def test_names_are_the_hosts_its_groups_and_its_addresses(authority: Authority) -> None:
    assert names(authority) == [
        "DNS:lab1",
        "DNS:lab1.trading.internal",
        "DNS:etcd.trading.internal",
        "DNS:edge.trading.internal",
        "DNS:localhost",
        "IP:10.213.0.11",
        "IP:127.0.0.1",
    ]


def test_certificate_that_will_do_is_left_alone(authority: Authority) -> None:
    assert role(authority, authority.host(names(authority), days=31)).value("_tls_due") == []


def test_certificate_is_renewed_before_its_last_thirty_days(authority: Authority) -> None:
    assert "it ends at" in role(authority, authority.host(names(authority), days=29)).value("_tls_due")[0]


def test_host_in_another_group_gets_another_certificate(authority: Authority) -> None:
    fewer = [name for name in names(authority) if "edge" not in name]
    assert role(authority, authority.host(fewer, days=80)).value("_tls_due") == ["its names are not those wanted"]


def test_certificate_of_an_earlier_ca_is_replaced(authority: Authority) -> None:
    earlier = Authority().host(names(authority), days=80)
    assert role(authority, earlier).value("_tls_due") == ["another CA signed it"]


def test_bare_host_gets_its_first_certificate(authority: Authority) -> None:
    assert role(authority).value("_tls_due") == ["no certificate for the key of this host"]
