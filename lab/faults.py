"""Network faults between hosts: frames dropped on the lab's bridge, until healed.

The lab's own address stays reachable on purpose: it stands for the management network, from which an operator
looks at a partitioned host. Every call adds cuts; `heal` removes all of them.
"""

import itertools
import json

from lab.commands import run
from lab.report import LabError
from lab.state import Host, Lab

_FAMILY = "bridge"


def cuts(lab: Lab, names: list[str], *, one_way: bool) -> list[tuple[Host, Host]]:
    """Which (from, to) pairs stop hearing each other.

    One name: that host and all others. Several names: each of them and each other one named.
    One way: only what the first host sends is lost.
    """
    named = [lab.host(name) for name in dict.fromkeys(names)]
    others = named[1:] or [host for host in lab.hosts if host != named[0]]
    if not others:
        raise LabError(f"lab {lab.name} has one host: there is nobody to cut {named[0].name} off from. Type: bin/lab up --topology ha")
    if one_way:
        return [(named[0], other) for other in others]
    pairs = itertools.combinations(named, 2) if len(named) > 1 else ((named[0], other) for other in others)
    return [direction for one, other in pairs for direction in ((one, other), (other, one))]


def partition(lab: Lab, names: list[str], *, one_way: bool) -> list[tuple[Host, Host]]:
    """Drop every frame, of whatever protocol, from the first to the second host of each pair."""
    pairs = cuts(lab, names, one_way=one_way)
    rules = [f"add table {_FAMILY} {lab.bridge}"]
    rules.append(f"add chain {_FAMILY} {lab.bridge} cut {{ type filter hook forward priority 0; policy accept; }}")
    for sender, receiver in pairs:
        rules.append(f'add rule {_FAMILY} {lab.bridge} cut iifname "{sender.interface}" oifname "{receiver.interface}" drop')
    run(["nft", "--file", "-"], stdin="\n".join(rules) + "\n")
    return pairs


def heal(lab: Lab) -> None:
    """Remove every cut of the lab."""
    run(["nft", "--file", "-"], stdin=f"table {_FAMILY} {lab.bridge} {{}}\ndelete table {_FAMILY} {lab.bridge}\n")


def current(lab: Lab) -> list[str]:
    """The cuts in force, as `lab1 -> lab2`."""
    listed = json.loads(run(["nft", "--json", "list", "ruleset", _FAMILY]))["nftables"]
    found = []
    for item in listed:
        rule = item.get("rule")
        if rule and rule["table"] == lab.bridge:
            ends = [match["match"]["right"] for match in rule["expr"] if "match" in match]
            found.append(" -> ".join(end.removeprefix(f"vb-{lab.bridge}-") for end in ends))
    return list(dict.fromkeys(found))
