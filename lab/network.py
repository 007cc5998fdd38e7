"""The lab's network: one private bridge, and a firewall table that keeps the hosts from reaching anything else.

There is no address translation on purpose: hosts get names, packages and certificates from the lab's own
address, as in a data centre without a way out. Faults are the business of lab.faults.
"""

import ipaddress
import json

from lab import state
from lab.commands import run, succeeds
from lab.report import LabError


def overlapping(network: str, bridge: str) -> str:
    """The interface or route, other than the lab's own, that uses addresses of `network`; empty if none."""
    wanted = ipaddress.ip_network(network)
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"])):
        if route["dst"] == "default" or route.get("dev") == bridge:
            continue
        if ipaddress.ip_network(route["dst"], strict=False).overlaps(wanted):
            return f"{route['dst']} on {route.get('dev', 'no interface')}"
    return ""


def check_free(network: str, bridge: str) -> None:
    """Raises LabError when something else on this machine uses the addresses."""
    taken = overlapping(network, bridge)
    if taken:
        raise LabError(
            f"the lab needs {network}, but this machine already routes {taken}. "
            "A lab with a name of its own takes the first range that is free: bin/lab up --name NAME"
        )


def free_number(name: str, taken: set[int]) -> int:
    """0 for the default lab, else the first number that no lab has and whose addresses nothing else uses."""
    if name == state.DEFAULT:
        return 0
    for number in state.NUMBERS:
        if number not in taken and not overlapping(state.network_of(number), f"{state.BRIDGE}{number}"):
            return number
    raise LabError(
        f"each of the {len(state.NUMBERS)} address ranges for labs is taken; "
        "`bin/lab status` lists the labs, `bin/lab down --name NAME` frees one"
    )


def up(lab: state.Lab) -> None:
    """Make the bridge, its address and its fence; what is there already stays."""
    if not exists(lab.bridge):
        run(["ip", "link", "add", lab.bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"])
    run(["ip", "address", "replace", f"{lab.gateway}/24", "dev", lab.bridge])
    run(["ip", "link", "set", lab.bridge, "up"])
    run(["nft", "--file", "-"], stdin=_fence(lab.bridge))


def _fence(bridge: str) -> str:
    return f"""
table inet {bridge} {{}}
delete table inet {bridge}
table inet {bridge} {{
    chain fence {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" oifname != "{bridge}" drop comment "hosts reach the lab and nothing else"
        iifname != "{bridge}" oifname "{bridge}" drop comment "and nothing else reaches them"
    }}
}}
"""


def exists(interface: str) -> bool:
    """Whether this machine has the interface."""
    return succeeds(["ip", "link", "show", "dev", interface])


def remove(bridge: str) -> None:
    """Remove the bridge, stray host links and every firewall table of a lab."""
    for interface in interfaces(bridge):
        succeeds(["ip", "link", "delete", interface])
    for family, table in tables(bridge):
        run(["nft", "delete", "table", family, table])


def interfaces(bridge: str) -> list[str]:
    """The interfaces of a lab, its hosts' links first."""
    links = [link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show"]))]
    return [link for link in links if link.startswith(f"vb-{bridge}-")] + [link for link in links if link == bridge]


def bridges() -> list[str]:
    """The bridges of all labs on this machine, known or not."""
    links = [link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show", "type", "bridge"]))]
    return [link for link in links if link.startswith(state.BRIDGE)]


def tables(bridge: str) -> list[tuple[str, str]]:
    """The firewall tables of a lab as (family, name)."""
    listed = json.loads(run(["nft", "--json", "list", "tables"]))["nftables"]
    found = [(item["table"]["family"], item["table"]["name"]) for item in listed if "table" in item]
    return [(family, name) for family, name in found if name == bridge]
