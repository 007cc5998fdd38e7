"""The filters of the collection that answer questions about networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

SOURCE = Path(__file__).parents[3] / "ansible/collections/ansible_collections/trading/platform/plugins/filter/networks.py"


@pytest.fixture(scope="module")
def within():
    spec = importlib.util.spec_from_file_location("trading_platform_filter_networks", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.within


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("10.0.0.7", ["10.0.0.0/24"], True),
        ("10.0.1.7", ["10.0.0.0/24", "192.0.2.0/24"], False),
        ("10.0.0.7", [], False),
        ("::ffff:10.0.0.7", ["10.0.0.7/32"], True),
        ("2001:db8::1", ["10.0.0.0/8", "2001:db8::/32"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
    ],
)
def test_within(within, address, networks, expected):
    assert within(address, networks) is expected


def test_within_refuses_what_is_no_network(within):
    with pytest.raises(AnsibleFilterError, match="host bits"):
        within("10.0.0.7", ["10.0.0.7/24"])
