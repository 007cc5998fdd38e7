"""What the role firewall concludes from `ufw status verbose`."""

from __future__ import annotations

import pytest
from rendered_role import RenderedRole

ON = """Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)
New profiles: skip
enabled"""


def concluded(status: str) -> tuple[bool, bool, bool]:
    """(active, closed, started at boot)"""
    role = RenderedRole("firewall", __firewall_status={"stdout": status, "stdout_lines": status.splitlines()})
    return tuple(role.value(name) for name in ("_firewall_active", "_firewall_closed", "_firewall_at_boot"))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ON, (True, True, True)),
        ("Status: inactive\nenabled", (False, False, True)),
        (ON.replace("deny (incoming)", "allow (incoming)"), (True, False, True)),
        (ON.replace("\nenabled", "\ndisabled"), (True, True, False)),
    ],
)
def test_status_is_understood(status: str, expected: tuple[bool, bool, bool]) -> None:
    assert concluded(status) == expected


def test_bare_host_in_check_mode_has_no_firewall_yet() -> None:
    role = RenderedRole("firewall", __firewall_status={"skipped": True})
    assert role.value("_firewall_active") is False


def test_time_for_the_probe_is_left_before_the_firewall_goes_off_again() -> None:
    role = RenderedRole("firewall")
    assert role.value("firewall_revert_seconds") > role.value("firewall_probe_seconds") + 10
