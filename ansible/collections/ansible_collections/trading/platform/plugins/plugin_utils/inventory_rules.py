"""What an inventory must be before anything is touched: one function a rule, each yields what it refuses.

Pure: no connection, no clock, no environment. A rule never stops at the first problem, so that one run names them all.
Rules see the files (where things stand), the groups and each host's variables as Ansible merges them, and the roles'
argument specifications.
"""

from __future__ import annotations

import difflib
import ipaddress
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from .inventory_files import Definition, EncryptedText, Files, Place

REQUIRED_GROUPS = ("etcd", "postgresql", "mongodb", "redis", "platform", "edge")
OPTIONAL_GROUPS = ("monitoring", "backup", "dr")
# Groups of Ansible itself.
BUILT_IN_GROUPS = ("all", "ungrouped")

# Variables of the contract (docs/architecture.md), which belong to no role.
CONTRACT: dict[str, dict] = {
    "trading_environment": {"type": "str", "choices": ["lab", "staging", "production"], "required": True},
    "trading_domain": {"type": "str", "required": True},
    "trading_internal_domain": {"type": "str", "required": True},
    "trading_internal_network": {"type": "str", "required": True},
    "trading_admin_networks": {"type": "list", "elements": "str", "required": True},
    "trading_hardware_tier": {"type": "str", "choices": ["lab", "minimum", "recommended"], "required": True},
    "trading_live_trading": {"type": "bool", "required": True},
    "trading_live_trading_confirmed": {"type": "str"},
    "trading_memory_mb": {"type": "int"},
    "internal_address": {"type": "str"},
}

# Names that no longer work: what replaced them, and the release in which the entry goes.
REMOVED: dict[str, str] = {
    "trading_network": "trading_internal_network (this hint goes in 2.0)",
    "trading_live": "trading_live_trading together with trading_live_trading_confirmed (this hint goes in 2.0)",
    "jwt_secret_key": "the vault, which `ansible-playbook ansible/site.yml` fills (this hint goes in 2.0)",
    "db_password": "the vault, which `ansible-playbook ansible/site.yml` fills (this hint goes in 2.0)",
    "nginx_ssl_certificate": "certbot_acme_directory: the certificate comes from an ACME server (this hint goes in 2.0)",
}

# An operator's own helper variables, which other values refer to.
OWN_PREFIX = "site_"

# Memory that the tiers promise, where a host does not declare its own (trading_memory_mb); the role host measures it. A
# lab's hosts share their machine's, so a lab promises none.
TIER_MEMORY_MB = {"minimum": 8192, "recommended": 16384}
MEMORY_SHARE = 0.8
# What may be given a fixed size, by the group of the hosts that have it, and how often a host has it: the platform's
# services have a limit each, of which a third is in use at a time; PostgreSQL takes at least a quarter of what it may count on.
MEMORY_ASKED = (
    ("postgresql_host_memory_mb", "postgresql", 0.25),
    ("mongodb_cache_mb", "mongodb", 1),
    ("redis_maxmemory_mb", "redis", 1),
    ("platform_service_memory_mib", "platform", 7 / 3),
)

MINIMUM_SECRET_LENGTH = 16
MINIMUM_SECRET_BITS = 48
WELL_KNOWN = (
    "password", "passw0rd", "letmein", "secret", "admin", "administrator", "qwerty", "trading", "postgres", "mongodb",
    "redis", "grafana", "welcome", "default", "monkey", "dragon", "iloveyou", "correcthorsebatterystaple",
)  # fmt: skip
SECRET_NAME = re.compile(r"(^|_)(password|passwd|pass|secret|secrets|token|api_key|private_key|passphrase|credential|credentials)$")
NOT_A_SECRET = re.compile(r"_(user|username|name|file|path|directory|certificate|cert|days|bits|serial|created|id)$")
PLACEHOLDER = re.compile(
    r"""(?ix)
    (?P<domain>(?:^|[^a-z0-9-])(?:[a-z0-9-]+\.)*example(?:\.(?:com|net|org|edu))?(?=$|[^a-z0-9_-]) | \.example\b)
    | change[-_ ]?me | replace[-_ ]?(?:me|this) | \byour[-_ ] | yourdomain | \bfixme\b | \btodo\b | placeholder
    | <[a-z][a-z0-9 _-]*> | \bx{4,}\b | \binsert[-_ ]
    """
)
DOCUMENTATION_NETWORKS = [ipaddress.ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]
TEMPLATE = re.compile(r"\{[{%]")
HOST_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
DOMAIN_NAME = re.compile(r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9]$")


@dataclass(frozen=True)
class Problem:
    """One refusal: where, which variable, what was found, what to do."""

    place: Place
    variable: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.variable}: {self.found}. {self.remedy}"


@dataclass(frozen=True)
class RoleVariable:
    """A variable some role takes; `groups` are those whose hosts get the role."""

    name: str
    role: str
    spec: Mapping[str, object]


@dataclass
class Inventory:
    """What the rules look at."""

    name: str
    files: Files
    groups: Mapping[str, list[str]]
    # Each host's variables, merged and templated; asking for one that cannot be templated yet raises KeyError.
    hosts: Mapping[str, Mapping[str, object]]
    roles: Mapping[str, RoleVariable] = field(default_factory=dict)
    ansible: frozenset[str] = frozenset()
    derived: frozenset[str] = frozenset()

    def places(self, variable: str, scope: str | None = None) -> list[Definition]:
        return [d for d in self.files.definitions if d.name == variable and scope in (None, d.scope)]

    def place(self, variable: str, host: str | None = None) -> Place:
        """Where a variable is stated, preferably for this host; else the inventory as a whole."""
        found = self.places(variable, host) or self.places(variable)
        return found[-1].place if found else Place(f"{self.name}/group_vars/all/main.yml")

    def value(self, variable: str, host: str | None = None) -> object:
        """The merged value of one host, or of the first that has one; None when nobody has."""
        for candidate in [host] if host else list(self.hosts):
            try:
                return self.hosts[candidate][variable]
            except KeyError:
                continue
        if not self.hosts:
            stated = self.places(variable)
            return stated[-1].value if stated else None
        return None

    def members(self, group: str) -> list[str]:
        return list(self.groups.get(group, []))

    def group_place(self, group: str) -> Place:
        return self.files.groups.get(group, Place(f"{self.name}/hosts.yml"))


def check(inventory: Inventory) -> list[Problem]:
    """Every problem of the inventory, by file and line; empty when it may be used."""
    problems = {problem for rule in RULES for problem in rule(inventory)}
    return sorted(problems, key=lambda p: (p.place.file, p.place.line, p.variable, p.found))


# ---- files --------------------------------------------------------------------------------------


def readable(inventory: Inventory) -> Iterator[Problem]:
    for place, why in inventory.files.unreadable:
        yield Problem(place, "the file", f"cannot be read: {why}", "Correct the YAML at that line")
    for name, first, second in inventory.files.repeated:
        yield Problem(second, name, f"is stated a second time, first at line {first.line}", "Keep one; YAML silently takes the last")


def known_variables(inventory: Inventory) -> Iterator[Problem]:
    known = {*CONTRACT, *inventory.roles, *inventory.ansible}
    for definition in inventory.files.definitions:
        name = definition.name
        if name in known or name.startswith(OWN_PREFIX):
            continue
        if name in REMOVED:
            yield Problem(definition.place, name, "is no longer used", f"Use {REMOVED[name]}")
        elif name in inventory.derived:
            yield Problem(definition.place, name, "is derived from the inventory", "Remove it; ansible/group_vars/all.yml computes it")
        elif name.startswith("vault_") and (definition.encrypted or in_plain_vault(inventory, definition)):
            continue
        else:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            hint = f"Did you mean {close[0]}?" if close else f"Remove it, or begin its name with {OWN_PREFIX} if other values use it"
            yield Problem(definition.place, name, "is a variable that nothing reads", hint)


def no_placeholders(inventory: Inventory) -> Iterator[Problem]:
    for definition in inventory.files.definitions:
        for text in strings(definition.value):
            if is_placeholder(text):
                shown = "a secret" if definition.encrypted else f'"{text}"'
                yield Problem(definition.place, definition.name, f"{shown} is a placeholder", "Put your own value there")


def is_placeholder(text: str) -> bool:
    """An example that nobody replaced: example.com, CHANGEME, your-…, an address reserved for documentation."""
    if isinstance(text, EncryptedText) or "-----BEGIN" in text or TEMPLATE.search(text):
        return False
    if PLACEHOLDER.search(text):
        return True
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return any(network.version == d.version and network.subnet_of(d) for d in DOCUMENTATION_NETWORKS)


# ---- types --------------------------------------------------------------------------------------


def required_variables(inventory: Inventory) -> Iterator[Problem]:
    for name, spec in CONTRACT.items():
        if spec.get("required") and missing(inventory, name):
            choices = f" ({', '.join(spec['choices'])})" if "choices" in spec else ""
            yield Problem(inventory.place(name), name, "is not stated", f"State it{choices}; docs/architecture.md says what it means")
    for variable in inventory.roles.values():
        if variable.spec.get("required") and missing(inventory, variable.name):
            yield Problem(
                inventory.place(variable.name), variable.name, f"is not stated, and the role {variable.role} cannot do without",
                f"State it; roles/{variable.role}/README.md says what it means",
            )  # fmt: skip


def missing(inventory: Inventory, name: str) -> bool:
    return not inventory.places(name) or (inventory.value(name) in (None, "") and not templated(inventory, name))


def templated(inventory: Inventory, name: str) -> bool:
    """Whether a value refers to something that is known later, such as a secret that this run will make."""
    return any(TEMPLATE.search(text) for d in inventory.places(name) for text in strings(d.value))


def types(inventory: Inventory) -> Iterator[Problem]:
    """The roles' own argument specifications, judged as Ansible judges them."""
    for definition in inventory.files.definitions:
        spec = CONTRACT.get(definition.name) or (inventory.roles[definition.name].spec if definition.name in inventory.roles else None)
        if spec is None or definition.value is None or isinstance(definition.value, EncryptedText):
            continue
        value = definition.value
        if any(TEMPLATE.search(text) for text in strings(value)):
            value = inventory.value(definition.name, definition.scope if definition.scope in inventory.hosts else None)
            if value is None:
                continue
        for complaint in complaints(definition.name, spec, value):
            yield Problem(definition.place, definition.name, complaint, wanted(spec))


def complaints(name: str, spec: Mapping[str, object], value: object) -> list[str]:
    """What Ansible's validator says about one value."""
    asked = {key: spec[key] for key in ("type", "choices", "elements", "options") if key in spec}
    if asked.get("type") == "raw" or not asked:
        return []
    found = f"{value!r} does not fit" if not isinstance(value, (dict, list)) else "does not fit"
    # A number or a truth is text to Ansible's validator; to a reader of the inventory it is a mistake.
    if asked.get("type") == "str" and isinstance(value, (bool, list, dict)):
        return [f"{found}: it is a {type(value).__name__}"]
    result = ArgumentSpecValidator({name: asked}).validate({name: value})
    return [f"{found}: {message}" for message in result.error_messages]


def wanted(spec: Mapping[str, object]) -> str:
    if "choices" in spec:
        return f"Use one of {', '.join(map(str, spec['choices']))}"
    elements = f" of {spec['elements']}" if "elements" in spec else ""
    return f"A value of type {spec.get('type', 'str')}{elements} is needed"


# ---- hosts and groups ---------------------------------------------------------------------------


def groups(inventory: Inventory) -> Iterator[Problem]:
    known = [*REQUIRED_GROUPS, *OPTIONAL_GROUPS]
    for group in REQUIRED_GROUPS:
        if not inventory.members(group):
            yield Problem(inventory.group_place(group), group, "the group has no host", "Put at least one host into it")
    for group, place in inventory.files.groups.items():
        if group not in known and group not in BUILT_IN_GROUPS:
            close = difflib.get_close_matches(group, known, n=1, cutoff=0.75)
            if close:
                yield Problem(place, group, "is a group that no play uses", f"Did you mean {close[0]}?")


def cluster_sizes(inventory: Inventory) -> Iterator[Problem]:
    for group, why in (
        ("etcd", "an even number tolerates no more failures than one less, and ties"),
        ("mongodb", "an even number of voters cannot elect a primary when it is split in halves"),
    ):
        count = len(inventory.members(group))
        if count and count % 2 == 0:
            yield Problem(inventory.group_place(group), group, f"has {count} hosts: {why}", f"Use {count - 1} or {count + 1} hosts")
    if len(inventory.members("redis")) == 2:
        yield Problem(
            inventory.group_place("redis"), "redis", "has 2 hosts: two Sentinels have no majority once one is lost", "Use 1 host, or 3"
        )


def addresses(inventory: Inventory) -> Iterator[Problem]:
    network = as_network(inventory.value("trading_internal_network"))
    for host in inventory.hosts:
        place = inventory.files.hosts.get(host, inventory.place("internal_address", host))
        if not HOST_NAME.match(host):
            yield Problem(
                place, host, "is no host name: it becomes <name>.<trading_internal_domain>", "Use letters a-z, digits and hyphens"
            )
        stated = inventory.value("internal_address", host)
        if stated is None or stated == "":
            yield Problem(place, "internal_address", f"host {host} has none", "State the address at which the other hosts reach it")
            continue
        address = as_address(stated)
        where = inventory.place("internal_address", host)
        if address is None:
            yield Problem(where, "internal_address", f'"{stated}" of {host} is no address', "State one IPv4 or IPv6 address")
        elif network is not None and address not in network:
            yield Problem(
                where, "internal_address", f"{address} of {host} is outside trading_internal_network {network}",
                "Correct the address, or the network",
            )  # fmt: skip
    for variable in ("internal_address", "ansible_host"):
        yield from unique(inventory, variable)


def unique(inventory: Inventory, variable: str) -> Iterator[Problem]:
    first: dict[tuple[str, object], str] = {}
    for host in inventory.hosts:
        value = inventory.value(variable, host)
        if value in (None, ""):
            continue
        # Several hosts behind one address are told apart by their port.
        key = (str(value), inventory.value("ansible_port", host) if variable == "ansible_host" else None)
        if key in first:
            yield Problem(
                inventory.place(variable, host),
                variable,
                f"{value} of {host} is {first[key]}'s, too",
                "Each host has an address of its own",
            )
        else:
            first[key] = host


# ---- networks and names -------------------------------------------------------------------------


def as_network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(str(value))
    except ValueError:
        return None


def as_address(value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(value))
    except ValueError:
        return None


def networks(inventory: Inventory) -> Iterator[Problem]:
    """Every variable named …_network or …_networks holds networks in CIDR form."""
    for definition in inventory.files.definitions:
        if not definition.name.endswith(("_network", "_networks")):
            continue
        for text in strings(definition.value):
            if TEMPLATE.search(text) or as_network(text) is not None:
                continue
            try:
                hint = f"Write {ipaddress.ip_network(text, strict=False)}"
                found = f'"{text}" has bits of a host set'
            except ValueError:
                hint, found = "Write it as 10.0.0.0/24", f'"{text}" is no network'
            yield Problem(definition.place, definition.name, found, hint)


def overlaps(inventory: Inventory) -> Iterator[Problem]:
    stated = inventory.value("trading_admin_networks")
    admin = [n for n in map(as_network, stated if isinstance(stated, list) else []) if n is not None]
    place = inventory.place("trading_admin_networks")
    if isinstance(stated, list) and not stated:
        yield Problem(place, "trading_admin_networks", "is empty: nobody could use SSH", "Name at least the control node's address")
    for index, network in enumerate(admin):
        if network.prefixlen == 0:
            yield Problem(place, "trading_admin_networks", f"{network} is the whole world", "Name the networks of your operators")
        for other in admin[index + 1 :]:
            if network.version == other.version and network.overlaps(other):
                yield Problem(place, "trading_admin_networks", f"{network} and {other} overlap", "Keep the one that is meant")
        if network.num_addresses > 1:
            inside = [h for h in inventory.hosts if as_address(inventory.value("internal_address", h)) in addresses_of(network)]
            if inside:
                yield Problem(
                    place, "trading_admin_networks",
                    f"{network} overlaps the platform's own hosts ({', '.join(inside)}): who is on one could use SSH to all",
                    "Name single addresses (/32) or a network of operators only",
                )  # fmt: skip
    internal = as_network(inventory.value("trading_internal_network"))
    if internal is not None and internal.is_global:
        yield Problem(
            inventory.place("trading_internal_network"), "trading_internal_network", f"{internal} is a public network",
            "Use a private one; databases must not be reachable from the world",
        )  # fmt: skip


class addresses_of:  # noqa: N801 - reads as a preposition: `address in addresses_of(network)`
    """Membership that is false, not an error, for None and for the other IP version."""

    def __init__(self, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> None:
        self.network = network

    def __contains__(self, address: object) -> bool:
        return address is not None and getattr(address, "version", 0) == self.network.version and address in self.network


def names(inventory: Inventory) -> Iterator[Problem]:
    for variable in ("trading_domain", "trading_internal_domain"):
        value = inventory.value(variable)
        if isinstance(value, str) and value and not DOMAIN_NAME.match(value):
            yield Problem(
                inventory.place(variable), variable, f'"{value}" is no domain name', "Write it like trading.company.tld, in lower case"
            )
    domain, internal = inventory.value("trading_domain"), inventory.value("trading_internal_domain")
    if domain and internal and (domain == internal or str(domain).endswith(f".{internal}")):
        yield Problem(
            inventory.place("trading_internal_domain"), "trading_internal_domain", f'"{internal}" contains trading_domain "{domain}"',
            "Internal names need a suffix of their own, for example trading.internal",
        )  # fmt: skip


def live_trading(inventory: Inventory) -> Iterator[Problem]:
    if inventory.value("trading_live_trading") is not True:
        return
    place, domain = inventory.place("trading_live_trading"), inventory.value("trading_domain")
    if inventory.value("trading_live_trading_confirmed") != domain:
        yield Problem(
            place, "trading_live_trading", "orders would go to real venues, and the second switch is not set",
            f'State trading_live_trading_confirmed: "{domain}" as well, or set this to false',
        )  # fmt: skip
    if inventory.value("trading_environment") != "production":
        yield Problem(
            place, "trading_live_trading", f"is on in the environment {inventory.value('trading_environment')}",
            "Only production trades live; set this to false",
        )  # fmt: skip


def tier_fits_environment(inventory: Inventory) -> Iterator[Problem]:
    tier, environment = inventory.value("trading_hardware_tier"), inventory.value("trading_environment")
    if tier == "lab" and environment == "production":
        yield Problem(
            inventory.place("trading_hardware_tier"), "trading_hardware_tier", "asks no more than a lab of hosts in production",
            "Use minimum or recommended",
        )  # fmt: skip


# ---- secrets ------------------------------------------------------------------------------------


def encrypted_vault(inventory: Inventory) -> Iterator[Problem]:
    for place in inventory.files.plain_vaults:
        yield Problem(place, "the vault", "is not encrypted", f"Type: ansible-vault encrypt {place.file}, then rotate what it held")


def plain_secrets(inventory: Inventory) -> Iterator[Problem]:
    for definition in inventory.files.definitions:
        if definition.encrypted or (definition.name.startswith("vault_") and in_plain_vault(inventory, definition)):
            continue
        for text in strings(definition.value):
            if isinstance(text, EncryptedText) or TEMPLATE.search(text) or not text:
                continue
            key = "-----BEGIN" in text and "PRIVATE KEY" in text
            url = re.search(r"://[^/\s:@]+:[^/\s@]+@", text)
            named = (definition.name.startswith("vault_") or SECRET_NAME.search(definition.name)) and not NOT_A_SECRET.search(
                definition.name
            )
            if key or url or named:
                yield Problem(
                    definition.place, definition.name, "is a secret in plain text",
                    "Move it into group_vars/all/vault.yml (ansible-vault edit) and rotate it",
                )  # fmt: skip
                break


def in_plain_vault(inventory: Inventory, definition: Definition) -> bool:
    return any(place.file == definition.place.file for place in inventory.files.plain_vaults)


def strong_secrets(inventory: Inventory) -> Iterator[Problem]:
    owner: dict[str, str] = {}
    for definition in inventory.files.definitions:
        if not definition.name.startswith("vault_") or NOT_A_SECRET.search(definition.name):
            continue
        if not (definition.encrypted or in_plain_vault(inventory, definition)):
            continue
        for text in strings(definition.value):
            if isinstance(text, EncryptedText) or TEMPLATE.search(text) or "-----BEGIN" in text:
                continue
            weakness = weak(text)
            if weakness:
                yield Problem(definition.place, definition.name, weakness, "Remove the line; the next run of site.yml makes a strong one")
            elif owner.setdefault(text, definition.name) != definition.name:
                yield Problem(
                    definition.place, definition.name, f"is the same secret as {owner[text]}", "Each needs its own; remove this line"
                )


def weak(secret: str) -> str:
    """Why a secret is weak, without showing it; nothing when it is not."""
    if len(secret) < MINIMUM_SECRET_LENGTH:
        return f"has {len(secret)} characters, fewer than {MINIMUM_SECRET_LENGTH}"
    folded = re.sub(
        r"[^a-z0-9]", "", secret.lower().replace("0", "o").replace("1", "i").replace("3", "e").replace("@", "a").replace("$", "s")
    )
    rest = folded
    for word in sorted(WELL_KNOWN, key=len, reverse=True):
        rest = rest.replace(re.sub(r"[^a-z0-9]", "", word.replace("0", "o")), "")
    if len(folded) - len(rest) and len(rest) < MINIMUM_SECRET_LENGTH / 2:
        return "is made of well-known words"
    bits = entropy(secret)
    if bits < MINIMUM_SECRET_BITS:
        return f"is too regular (about {bits:.0f} bits, {MINIMUM_SECRET_BITS} are needed)"
    return ""


def entropy(text: str) -> float:
    """Bits by the frequency of characters, and of the steps between them: a sequence such as 0123456789 has few."""
    steps = [ord(b) - ord(a) for a, b in itertools.pairwise(text)]
    return min(shannon(text) * len(text), shannon(steps) * len(text) if steps else 0.0)


def shannon(symbols: object) -> float:
    counts = Counter(symbols)  # type: ignore[call-overload]
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values())


# ---- memory -------------------------------------------------------------------------------------


def memory(inventory: Inventory) -> Iterator[Problem]:
    """What is asked for in numbers must fit into what the host declares, or its tier promises."""
    for host in inventory.hosts:
        has = as_mib(inventory.value("trading_memory_mb", host)) or TIER_MEMORY_MB.get(str(inventory.value("trading_hardware_tier", host)))
        if not has:
            continue
        asked = {
            name: int(mib * factor)
            for name, group, factor in MEMORY_ASKED
            if host in inventory.members(group) and (mib := stated_mib(inventory, name, host))
        }
        total, limit = sum(asked.values()), int(has * MEMORY_SHARE)
        if total > limit:
            largest = max(asked, key=lambda name: asked[name])
            yield Problem(
                inventory.place(largest, host), largest,
                f"{host} is asked for {total} MiB ({', '.join(f'{n} {v}' for n, v in sorted(asked.items()))}), more than {limit} MiB, "
                f"{MEMORY_SHARE:.0%} of its {has} MiB",
                "Lower the sizes, leave them out (they are computed from the host), or state trading_memory_mb of a larger host",
            )  # fmt: skip


def stated_mib(inventory: Inventory, name: str, host: str) -> int:
    """MiB that the inventory itself states; computed defaults are the role's business."""
    return as_mib(inventory.value(name, host)) if inventory.places(name) else 0


def as_mib(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        return 0


# ---- common -------------------------------------------------------------------------------------


def strings(value: object) -> Iterator[str]:
    """Every text within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)


RULES: tuple[Callable[[Inventory], Iterator[Problem]], ...] = (
    readable, known_variables, no_placeholders, required_variables, types, groups, cluster_sizes, addresses, networks, overlaps, names,
    live_trading, tier_fits_environment, encrypted_vault, plain_secrets, strong_secrets, memory,
)  # fmt: skip
