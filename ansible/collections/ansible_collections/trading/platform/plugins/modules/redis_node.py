#!/usr/bin/python
"""Look at one Redis server and its Sentinel, hand over, and prove what the server promises.

Speaks the Redis protocol over TLS by itself, so nothing has to be installed for it. Never writes a configuration file:
who leads is the business of Redis and Sentinel, which keep it in files of their own; this module tells the role what
they hold, so that a role that runs again does not undo a failover.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_node
short_description: One Redis server of a replicated group
description:
  - All connections are TLS with the certificate checked.
options:
  state:
    description:
      - V(inspected) changes nothing; it returns who leads as far as anybody knows, and whether the files that Redis and
        Sentinel rewrite exist. Without a file of its own it asks O(hosts). It never fails because nothing runs.
      - V(handed_over) lets Sentinel make another server primary, if this one is and there is a Sentinel.
      - V(quorum) gives O(quorum) to the Sentinel of this host.
      - V(joined) waits until this server replicates or leads, and its Sentinel knows the others.
      - V(verified) does the same, and then proves that a write reaches this server, and that strangers and the
        application are refused what they must be refused.
    type: str
    choices: [inspected, handed_over, quorum, joined, verified]
    default: inspected
  self:
    description: Internal address of this server.
    type: str
    required: true
  hosts:
    description: Internal addresses of all servers, this one included. The first leads where nobody leads yet.
    type: list
    elements: str
    required: true
  port:
    description: Port of Redis.
    type: int
    default: 6379
  sentinel_port:
    description: Port of Sentinel. Without it there is none.
    type: int
  primary_name:
    description: Name under which Sentinel knows the group.
    type: str
    default: trading_redis
  quorum:
    description: Sentinels that must agree before a failover; needed for V(quorum).
    type: int
  ca_file:
    description: Authority that issued the servers' certificates.
    type: path
    required: true
  topology_file:
    description: File into which Redis writes whom it replicates.
    type: path
    required: true
  sentinel_file:
    description: File into which Sentinel writes what it knows.
    type: path
    required: true
  admin:
    description: Login with every right; for V(handed_over), V(quorum) and V(verified).
    type: dict
    suboptions: &login
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password of the user.
        type: str
        required: true
  application:
    description: Login of the platform's services; for V(verified).
    type: dict
    suboptions: *login
  monitor:
    description: Login that may look.
    type: dict
    required: true
    suboptions: *login
  peers:
    description: Other logins that servers and Sentinels use among themselves; for V(inspected).
    type: list
    elements: dict
    default: []
    suboptions: *login
  timeout:
    description: Seconds to wait for one step.
    type: int
    default: 60
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Look who leads
  trading.platform.redis_node:
    self: "{{ internal_address }}"
    hosts: [10.0.0.11, 10.0.0.12, 10.0.0.13]
    ca_file: /etc/trading-tls/ca.pem
    topology_file: /var/lib/redis/topology.conf
    sentinel_file: /var/lib/redis/sentinel.conf
    monitor: {name: monitor, password: "{{ redis_monitor_password }}"}
  register: __redis_node
"""

RETURN = r"""
role:
  description: C(master), C(slave), or empty when the server does not answer.
  type: str
  returned: always
accepts:
  description: Whether the running server accepts O(monitor) and all of O(peers). One that does not must be restarted
    together with the others, because servers of which each has its own passwords do not replicate.
  type: bool
  returned: always
primary:
  description: Internal address of the server that leads, or is to lead.
  type: str
  returned: always
has_topology:
  description: Whether Redis keeps whom it replicates already.
  type: bool
  returned: always
has_sentinel:
  description: Whether Sentinel keeps its knowledge already.
  type: bool
  returned: always
quorum:
  description: Quorum that the Sentinel of this host keeps; 0 when there is none.
  type: int
  returned: always
"""

import secrets
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule

STEP = 0.1


class NodeError(Exception):
    """A promise does not hold; the message names cause and remedy."""


class Refused(Exception):
    """Redis answered with an error; its first word is the code."""


class Connection:
    """One connection over TLS in the Redis protocol, version 2. OSError when the server cannot be reached."""

    def __init__(self, host: str, port: int, ca_file: str, login: dict | None, *, patience: float = 3) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        plain = socket.create_connection((host, port), timeout=patience)
        try:
            self.socket = context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        self.reader = self.socket.makefile("rb")
        if login:
            self.call("AUTH", login["name"], login["password"])

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.socket.close()

    def call(self, *words: object) -> object:
        """Send one command and return its answer; Refused when that is an error."""
        parts = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        answer = self.answer()
        if isinstance(answer, Refused):
            raise answer
        return answer

    def answer(self) -> object:
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"+":
            return rest
        if kind == b"-":
            return Refused(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if int(rest) < 0:
                return None
            return self.reader.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        raise ConnectionError(f"not an answer of Redis: {line[:40]!r}")


# Reading what Redis and Sentinel keep ---------------------------------------------------------------------------------


def kept_primary(text: str, self: str) -> str:
    """Whom a server with this file replicates; itself when nobody."""
    primary = self
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].lower() in ("replicaof", "slaveof"):
            primary = self if words[1].lower() == "no" else words[1].strip('"')
    return primary


def kept_monitor(text: str, name: str) -> tuple[str, int]:
    """Primary and quorum in a Sentinel's file; empty and 0 when it watches nothing of that name."""
    for line in text.splitlines():
        words = line.split()
        if len(words) == 6 and words[:3] == ["sentinel", "monitor", name]:
            return words[3], int(words[5])
    return "", 0


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def leader(roles: dict[str, tuple[str, str]], fallback: str) -> str:
    """Who leads, of what the servers said (role and primary by address); a replica's word counts when no primary answers."""
    leading = [address for address, (role, _) in roles.items() if role == "master"]
    if len(leading) > 1:
        raise NodeError(
            f"{' and '.join(sorted(leading))} both lead, so a new server cannot know whom to replicate. "
            "Decide which one holds the data and type on the other: redis-cli … REPLICAOF <address> 6379"
        )
    if leading:
        return leading[0]
    followed = [primary for role, primary in roles.values() if role == "slave"]
    return max(set(followed), key=followed.count) if followed else fallback


# The states -----------------------------------------------------------------------------------------------------------


class Node:
    """This host's Redis and Sentinel."""

    def __init__(self, asked: dict, check_mode: bool) -> None:
        self.asked = asked
        self.check_mode = check_mode
        self.self = asked["self"]
        self.hosts = asked["hosts"]
        self.changed = False
        topology = read(asked["topology_file"])
        self.has_topology = topology is not None
        self.primary = kept_primary(topology, self.self) if topology is not None else ""
        sentinel = read(asked["sentinel_file"])
        self.has_sentinel = sentinel is not None
        self.quorum = kept_monitor(sentinel, asked["primary_name"])[1] if sentinel is not None else 0
        self.role = ""
        self.accepts = False

    def redis(self, login: str | None, host: str = "127.0.0.1", *, patience: float = 3) -> Connection:
        credentials = self.asked[login] if login else None
        return Connection(host, self.asked["port"], self.asked["ca_file"], credentials, patience=patience)

    def sentinel(self, login: str) -> Connection:
        return Connection("127.0.0.1", self.asked["sentinel_port"], self.asked["ca_file"], self.asked[login])

    def role_of(self, host: str) -> tuple[str, str] | None:
        """(role, address of its primary) of a server; None when it does not answer or does not know us."""
        address = self.self if host == "127.0.0.1" else host
        try:
            with self.redis("monitor", host, patience=1.5) as redis:
                answer = redis.call("ROLE")
        except (OSError, Refused):
            return None
        return answer[0], address if answer[0] == "master" else answer[1]

    def inspect(self) -> None:
        mine = self.role_of("127.0.0.1")
        if mine:
            self.role, self.primary = mine
            self.accepts = self.accepts_peers()
        if self.has_topology:
            return
        others = [host for host in self.hosts if host != self.self]
        with ThreadPoolExecutor(max(len(others), 1)) as pool:
            answers = zip(others, pool.map(self.role_of, others), strict=True)
        self.primary = leader({host: role for host, role in answers if role}, self.hosts[0])

    def accepts_peers(self) -> bool:
        try:
            with self.redis(None) as redis:
                for login in self.asked["peers"]:
                    redis.call("AUTH", login["name"], login["password"])
        except (OSError, Refused):
            return False
        return True

    def hand_over(self) -> None:
        if not self.asked["sentinel_port"] or (self.role_of("127.0.0.1") or ("", ""))[0] != "master":
            return
        self.changed = True
        if self.check_mode:
            return
        with self.sentinel("admin") as sentinel:
            sentinel.call("SENTINEL", "FAILOVER", self.asked["primary_name"])
        self.until(self.not_leading)

    def not_leading(self) -> str:
        with self.redis("monitor") as redis:
            role = redis.call("ROLE")
        if role[0] == "slave" and role[3] == "connected":
            return ""
        return f"this server is still {role[0]} after it was told to hand over; look at: journalctl -u redis-sentinel"

    def set_quorum(self) -> None:
        if self.quorum == self.asked["quorum"]:
            return
        self.changed = True
        if not self.check_mode:
            with self.sentinel("admin") as sentinel:
                sentinel.call("SENTINEL", "SET", self.asked["primary_name"], "quorum", self.asked["quorum"])

    def until(self, doubt: object) -> None:
        """Wait until `doubt` has nothing to say; NodeError with what it says at the end of the time."""
        end = time.monotonic() + self.asked["timeout"]
        while True:
            try:
                said = doubt()
            except (OSError, Refused) as error:
                said = f"{error or type(error).__name__}"
            if not said:
                return
            if time.monotonic() > end:
                raise NodeError(f"after {self.asked['timeout']} s: {said}")
            time.sleep(STEP)

    def join(self) -> None:
        self.until(self.doubt_replication)
        if self.asked["sentinel_port"]:
            self.until(self.doubt_sentinel)

    def doubt_replication(self) -> str:
        """What keeps this server from being a full member; empty when nothing does."""
        with self.redis("monitor") as redis:
            role = redis.call("ROLE")
        self.role = role[0]
        if role[0] == "master":
            self.primary = self.self
            missing = set(self.hosts) - {self.self} - {replica[0] for replica in role[2]}
            return f"{', '.join(sorted(missing))} do not replicate from {self.self}" if missing else ""
        self.primary = role[1]
        if role[3] != "connected":
            return f"the replication from {role[1]} is {role[3]}; look at: journalctl -u redis-server"
        return ""

    def doubt_sentinel(self) -> str:
        name = self.asked["primary_name"]
        with self.sentinel("monitor") as sentinel:
            flat = sentinel.call("SENTINEL", "MASTER", name)
            known = dict(zip(flat[::2], flat[1::2], strict=True))
            if known["ip"] != self.primary:
                return f"Sentinel says {known['ip']} leads, Redis says {self.primary}"
            if known["flags"] != "master":
                return f"Sentinel holds {known['ip']} for {known['flags']}; look at: journalctl -u redis-sentinel"
            others = len(self.hosts) - 1
            if int(known["num-other-sentinels"]) < others or int(known["num-slaves"]) < others:
                return (
                    f"Sentinel knows {known['num-other-sentinels']} other Sentinels and {known['num-slaves']} replicas, "
                    f"expected {others} of each"
                )
            sentinel.call("SENTINEL", "CKQUORUM", name)
        return ""

    def verify(self) -> None:
        """Raises NodeError with the first promise that does not hold."""
        self.join()
        self.expect_encryption()
        self.expect_login()
        self.expect_least_privilege()
        self.until(self.doubt_write)

    def expect_encryption(self) -> None:
        with socket.create_connection(("127.0.0.1", self.asked["port"]), timeout=3) as plain:
            plain.sendall(b"*1\r\n$4\r\nPING\r\n")
            try:
                answer = plain.recv(64)
            except OSError:
                return
        if answer[:1] in (b"+", b"-"):
            raise NodeError("Redis answers without TLS; expected `port 0` in /etc/trading-redis/redis.conf")

    def expect_login(self) -> None:
        try:
            with self.redis(None) as redis:
                redis.call("PING")
        except Refused as error:
            if str(error).startswith("NOAUTH"):
                return
            raise
        raise NodeError("Redis answers a stranger; expected `user default off` in /etc/trading-redis/users.acl")

    def expect_least_privilege(self) -> None:
        name = self.asked["application"]["name"]
        with self.redis("admin") as redis:
            for command in (["FLUSHALL"], ["CONFIG", "GET", "maxmemory"], ["KEYS", "*"], ["SHUTDOWN"], ["DEBUG", "SLEEP", "0"]):
                if redis.call("ACL", "DRYRUN", name, *command) == "OK":
                    raise NodeError(f"{name} may call {command[0]}; look at /etc/trading-redis/users.acl")

    def doubt_write(self) -> str:
        """Write where writes go, read here."""
        key, value = f"converge_check:{self.self}", secrets.token_hex(8)
        others = len(self.hosts) - 1
        with self.redis("application", self.primary) as primary:
            primary.call("SET", key, value, "EX", 60)
            reached = primary.call("WAIT", others, 2000) if others else 0
            with self.redis("application") as here:
                found = here.call("GET", key)
            primary.call("DEL", key)
        if reached < others:
            return f"a write on {self.primary} reached {reached} of {others} replicas"
        return "" if found == value else f"a write on {self.primary} is not readable on {self.self}"


def main() -> None:
    login = {"name": {"type": "str", "required": True}, "password": {"type": "str", "required": True, "no_log": True}}
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": ["inspected", "handed_over", "quorum", "joined", "verified"], "default": "inspected"},
            "self": {"type": "str", "required": True},
            "hosts": {"type": "list", "elements": "str", "required": True},
            "port": {"type": "int", "default": 6379},
            "sentinel_port": {"type": "int"},
            "primary_name": {"type": "str", "default": "trading_redis"},
            "quorum": {"type": "int"},
            "ca_file": {"type": "path", "required": True},
            "topology_file": {"type": "path", "required": True},
            "sentinel_file": {"type": "path", "required": True},
            "admin": {"type": "dict", "options": login},
            "application": {"type": "dict", "options": login},
            "monitor": {"type": "dict", "required": True, "options": login},
            "peers": {"type": "list", "elements": "dict", "default": [], "options": login},
            "timeout": {"type": "int", "default": 60},
        },
        required_if=[
            ("state", "handed_over", ["admin"]),
            ("state", "quorum", ["admin", "quorum", "sentinel_port"]),
            ("state", "verified", ["admin", "application"]),
        ],
        supports_check_mode=True,
    )
    node = Node(module.params, module.check_mode)
    try:
        {
            "inspected": node.inspect,
            "handed_over": node.hand_over,
            "quorum": node.set_quorum,
            "joined": node.join,
            "verified": node.verify,
        }[module.params["state"]]()
    except (NodeError, Refused, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=node.changed,
        role=node.role,
        accepts=node.accepts,
        primary=node.primary,
        has_topology=node.has_topology,
        has_sentinel=node.has_sentinel,
        quorum=node.quorum,
    )


if __name__ == "__main__":
    main()
