"""Questions about addresses and networks, answered on the control node."""

from __future__ import annotations

import ipaddress

from ansible.errors import AnsibleFilterError


def within(address: str, networks: list[str]) -> bool:
    """Whether an address lies in any of the networks; an IPv4 address written as IPv6 (`::ffff:…`) is its IPv4 one."""
    try:
        one = ipaddress.ip_address(address.partition("%")[0])
        known = [ipaddress.ip_network(network) for network in networks]
    except ValueError as error:
        raise AnsibleFilterError(f"trading.platform.within: {error}") from error
    mapped = getattr(one, "ipv4_mapped", None)
    return any((mapped or one) in network for network in known)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, object]:
        return {"within": within}
