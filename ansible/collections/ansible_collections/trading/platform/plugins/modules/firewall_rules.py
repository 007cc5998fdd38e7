#!/usr/bin/python
"""Keep the complete set of UFW rules of one owner: add what lacks, remove what no longer applies.

Rules are told apart by their comment, `trading:<owner>`. The rules of other owners, and those an operator added by
hand, are never touched. What exists is read from UFW's own rule files, so that nothing is started when nothing changes,
and it is the same whether UFW is active or not.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_rules
short_description: The complete set of UFW rules of one owner
description:
  - Adds the rules of O(rules) that lack and deletes rules of O(owner) that are not in O(rules).
  - Works before and after UFW is enabled; it never enables or disables it.
options:
  owner:
    description: Whose rules these are; normally the name of the role.
    type: str
    required: true
  rules:
    description: Every rule of this owner. An empty list removes all its rules.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: One port, a range C(8000:8010), or a list of them (at most 15 in one rule).
        type: list
        elements: str
        required: true
      proto:
        description: Protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      from:
        description:
          - Addresses and networks, or V(any) for the whole world, IPv4 and IPv6.
          - An empty list gives no rule, which is right for the peers of a host that has none.
        type: list
        elements: str
        required: true
      action:
        description: V(limit) allows, but refuses an address that opens six connections or more within 30 seconds.
        type: str
        choices: [allow, limit]
        default: allow
      comment:
        description: A word for the reader of C(ufw status), after the owner's tag.
        type: str
        default: ""
  first:
    description: Put rules that are added before all others.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Let the other members of the cluster in
  trading.platform.firewall_rules:
    owner: etcd
    rules:
      - {port: 2379, from: "{{ etcd_client_addresses }}", comment: clients}
      - {port: 2380, from: "{{ etcd_peer_addresses }}", comment: peers}

- name: Serve the world
  trading.platform.firewall_rules:
    owner: nginx
    rules:
      - {port: [80, 443], from: any}
"""

RETURN = r"""
added:
  description: Rules that lacked.
  type: list
  elements: str
  returned: always
  sample: ["allow 2379/tcp from 10.0.0.12 # trading:etcd clients"]
removed:
  description: Rules of this owner that no longer apply.
  type: list
  elements: str
  returned: always
"""

import ipaddress
import os
import re
import subprocess
from dataclasses import dataclass

from ansible.module_utils.basic import AnsibleModule

RULE_FILES = ("/etc/ufw/user.rules", "/etc/ufw/user6.rules")
ANYWHERE = ("0.0.0.0/0", "::/0")
TAG = "trading:"
MOST_PORTS = 15  # of iptables' multiport; a range counts twice


class FirewallError(Exception):
    """The rules cannot be what was asked; the message says why and what to do."""


@dataclass(frozen=True, order=True)
class Rule:
    """One UFW rule. `source` is canonical: an address, a network, or `any` (which UFW keeps as an IPv4 and an IPv6 rule)."""

    action: str
    ports: str
    proto: str
    source: str
    comment: str

    def __str__(self) -> str:
        return f"{self.action} {self.ports}/{self.proto} from {self.source} # {self.comment}"

    @property
    def match(self) -> tuple[str, str, str]:
        """What UFW holds to be the same rule, whatever its action and comment."""
        return (self.ports, self.proto, self.source)

    def arguments(self) -> list[str]:
        return [self.action, "proto", self.proto, "from", self.source, "to", "any", "port", self.ports]


# What is wanted ------------------------------------------------------------------------------------------------------


def canonical_ports(ports: list[str]) -> str:
    """`['443', '80']` as UFW writes it: `80,443`."""
    weights = 0
    numbers = []
    for port in ports:
        parts = str(port).split(":")
        if len(parts) > 2 or not all(part.isdigit() and 1 <= int(part) <= 65535 for part in parts):
            raise FirewallError(f"port {port!r} is neither a port (1 to 65535) nor a range like 8000:8010")
        if len(parts) == 2 and int(parts[0]) >= int(parts[1]):
            raise FirewallError(f"port range {port!r} must go upwards")
        weights += len(parts)
        numbers.append(tuple(int(part) for part in parts))
    if not numbers:
        raise FirewallError("a rule needs at least one port")
    if weights > MOST_PORTS:
        raise FirewallError(f"one rule holds at most {MOST_PORTS} ports (a range counts twice), {weights} were given")
    return ",".join(":".join(map(str, number)) for number in sorted(set(numbers)))


def canonical_source(source: str) -> str:
    """`10.0.0.1/32` is `10.0.0.1`; a network must be one (no host bits)."""
    if source == "any":
        return source
    try:
        network = ipaddress.ip_network(source, strict=True)
    except ValueError as error:
        raise FirewallError(f"source {source!r} is neither an address, a network nor 'any': {error}") from error
    if str(network) in ANYWHERE:
        raise FirewallError(f"source {source!r} is half of the world: write 'any', which holds for IPv4 and IPv6")
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def wanted_rules(owner: str, rules: list[dict[str, object]]) -> list[Rule]:
    """The rules in canonical form, without duplicates, in the order asked."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", owner):
        raise FirewallError(f"owner {owner!r} must be lower-case letters, digits, _ and -")
    wanted: dict[tuple[str, str, str], Rule] = {}
    for rule in rules:
        word = rule.get("comment") or ""
        if not re.fullmatch(r"[^'\n\r]*", word):
            raise FirewallError(f"comment {word!r} must be one line without quotes")
        ports = canonical_ports(rule["port"])
        for source in dict.fromkeys(canonical_source(source) for source in rule["from"]):
            one = Rule(rule.get("action") or "allow", ports, rule.get("proto") or "tcp", source, f"{TAG}{owner} {word}".strip())
            other = wanted.setdefault(one.match, one)
            if other.action != one.action:
                raise FirewallError(f"contradiction: `{other}` and `{one}`")
    return list(wanted.values())


# What exists ---------------------------------------------------------------------------------------------------------


def parse_tuple(line: str) -> Rule | None:
    """One `### tuple ###` line of UFW's rule files; None for a rule that this module would never write.

    `### tuple ### allow tcp 80,443 0.0.0.0/0 any 10.0.0.0/8 in comment=<hex>`: action, protocol, destination port and
    address, source port and address, direction.
    """
    found = re.match(r"### tuple ###\s+(?P<fields>.*?)(?:\s+comment=(?P<comment>[0-9a-f]*))?\s*$", line)
    if not found:
        return None
    fields = found["fields"].split()
    if len(fields) != 7:
        return None
    action, proto, ports, destination, source_port, source, direction = fields
    if destination not in ANYWHERE or source_port != "any" or direction != "in":
        return None
    comment = bytes.fromhex(found["comment"] or "").decode(errors="replace")
    return Rule(action, ports, proto, source, comment)


def existing_rules(texts: list[str]) -> tuple[set[Rule], set[Rule]]:
    """(complete, halves): `any` is complete when the IPv4 and the IPv6 rule are both there."""
    rules = [rule for text in texts for rule in map(parse_tuple, text.splitlines()) if rule]
    complete, halves = set(), {}
    for rule in rules:
        if rule.source in ANYWHERE:
            world = Rule(rule.action, rule.ports, rule.proto, "any", rule.comment)
            halves.setdefault(world, set()).add(rule.source)
        else:
            complete.add(rule)
    complete |= {world for world, sources in halves.items() if sources == set(ANYWHERE)}
    return complete, {world for world, sources in halves.items() if sources != set(ANYWHERE)}


def belongs(rule: Rule, owner: str) -> bool:
    return rule.comment == TAG + owner or rule.comment.startswith(f"{TAG}{owner} ")


def compare(owner: str, wanted: list[Rule], complete: set[Rule], halves: set[Rule], ipv6: bool) -> tuple[list[Rule], list[Rule]]:
    """(lacking, stale). Without IPv6 in UFW, half of `any` is all of it."""
    present = complete if ipv6 else complete | halves
    matches = {rule.match for rule in wanted}
    lacking = [rule for rule in wanted if rule not in present]
    stale = sorted(rule for rule in complete | halves if belongs(rule, owner) and rule.match not in matches)
    return lacking, stale


# Changing ------------------------------------------------------------------------------------------------------------


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def ufw(*arguments: str) -> None:
    done = subprocess.run(
        ["ufw", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode != 0:
        raise FirewallError(f"`ufw {' '.join(arguments)}` failed: {done.stderr.strip() or done.stdout.strip()}")


def apply(lacking: list[Rule], stale: list[Rule], first: bool) -> None:
    """Additions before removals: nothing that stays allowed is shut in between. `first` puts them on top, in order."""
    for rule in reversed(lacking) if first else lacking:
        ufw(*(["prepend"] if first else []), *rule.arguments(), "comment", rule.comment)
    for rule in stale:
        ufw("--force", "delete", *rule.arguments())


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "owner": {"type": "str", "required": True},
            "first": {"type": "bool", "default": False},
            "rules": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "port": {"type": "list", "elements": "str", "required": True},
                    "proto": {"choices": ["tcp", "udp"], "default": "tcp"},
                    "from": {"type": "list", "elements": "str", "required": True},
                    "action": {"choices": ["allow", "limit"], "default": "allow"},
                    "comment": {"type": "str", "default": ""},
                },
            },
        },
        supports_check_mode=True,
    )
    owner = module.params["owner"]
    try:
        wanted = wanted_rules(owner, module.params["rules"])
        if not (module.check_mode or module.get_bin_path("ufw")):
            raise FirewallError("ufw is not installed on this host; the role `firewall` installs it: run site.yml without --tags")
        complete, halves = existing_rules([read(path) for path in RULE_FILES])
        ipv6 = not re.search(r"(?mi)^\s*IPV6\s*=\s*[\"']?no", read("/etc/default/ufw"))
        lacking, stale = compare(owner, wanted, complete, halves, ipv6)
        if not module.check_mode:
            apply(lacking, stale, module.params["first"])
    except FirewallError as error:
        module.fail_json(msg=f"firewall rules of {owner}: {error}")
    own = sorted(rule for rule in complete | halves if belongs(rule, owner))
    module.exit_json(
        changed=bool(lacking or stale),
        added=[str(rule) for rule in lacking],
        removed=[str(rule) for rule in stale],
        diff={
            "before": "".join(f"{rule}\n" for rule in own),
            "after": "".join(f"{rule}\n" for rule in sorted(wanted)),
        },
    )


if __name__ == "__main__":
    main()
