#!/usr/bin/python
"""Converge a MongoDB replica set: initiated, its members, its settings and its users, in one call.

Looks first and acts on the difference, so a converged set costs one connection and a few reads. Facts come from the
members themselves; nothing is remembered on disk. Never starts or stops mongod, never initiates a second set where a
member of the first cannot be asked, and never removes a member unless told to.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: mongodb_replica_set
short_description: Converge a MongoDB replica set, its members and its users
description:
  - Runs on one member and talks to all of them over TLS, with C(python3-pymongo) 3.11 or newer.
  - A set is initiated with the member the module runs on, the first user is created through the localhost exception,
    then members are added without a vote, and get their vote one by one once they have copied the data. The same path
    makes the first set and extends a living one.
options:
  state:
    description:
      - V(converged) initiates, reconfigures, creates and corrects what differs.
      - V(inspected) changes nothing and returns which member is in which state.
      - V(handed_over) makes another member primary if O(self) is; a set of one has nobody to hand over to.
      - V(joined) waits until O(self) is primary or secondary and the set has a primary.
      - V(verified) proves on O(self) that a majority write arrives, and that strangers and the application are refused
        what they must be refused.
    type: str
    choices: [converged, inspected, handed_over, joined, verified]
    default: converged
  name:
    description: Name of the replica set.
    type: str
    required: true
  members:
    description: Every member; the first seven vote.
    type: list
    elements: dict
    required: true
    suboptions:
      host:
        description: Name and port, as every member and every client resolves it.
        type: str
        required: true
      priority:
        description: Preference in elections; 0 never becomes primary.
        type: float
        default: 1
  self:
    description: The member of O(members) the module runs on.
    type: str
    required: true
  settings:
    description: Settings of the set that are to have these values; others are left alone.
    type: dict
    default: {}
  write_timeout_ms:
    description: Time limit of the default write concern, which is majority.
    type: int
    default: 10000
  oplog_mb:
    description: Size of every member's oplog. Left alone when not given.
    type: int
  ca_file:
    description: Authority that issued the members' certificates.
    type: path
    required: true
  key_file:
    description: The members' shared key; used only to correct the administrator's password when it no longer fits.
    type: path
    required: true
  admin:
    description: The administrator, with its password.
    type: dict
    required: true
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password of the user.
        type: str
        required: true
      roles:
        description: Roles as C(role) and C(db).
        type: list
        elements: dict
        required: true
  users:
    description: Other users, all in the database C(admin).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password of the user.
        type: str
        required: true
      roles:
        description: Roles as C(role) and C(db).
        type: list
        elements: dict
        required: true
  remove_members:
    description: Remove members that O(members) does not name. Otherwise they are only reported.
    type: bool
    default: false
  database:
    description: Database of the application; needed for V(verified).
    type: str
  application:
    description: Name of the application's user in O(users); needed for V(verified).
    type: str
  timeout:
    description: Seconds that one step (election, initial copy, joining) may take.
    type: int
    default: 120
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
author:
  - Trading Platform maintainers
"""

EXAMPLES = r"""
- name: Converge the replica set
  trading.platform.mongodb_replica_set:
    name: trading_rs
    members: [{host: "db1.trading.internal:27017"}]
    self: db1.trading.internal:27017
    ca_file: /etc/trading-tls/ca.pem
    key_file: /etc/trading-mongodb/keyfile
    admin:
      name: admin
      password: "{{ mongodb_admin_password }}"
      roles: [{role: clusterAdmin, db: admin}, {role: userAdminAnyDatabase, db: admin}]
  run_once: true
"""

RETURN = r"""
actions:
  description: What was done, in order; in check mode what would be.
  type: list
  elements: str
  returned: always
members:
  description: State of each member by name, C(unreachable) included.
  type: dict
  returned: always
primary:
  description: Name of the primary, empty when there is none.
  type: str
  returned: always
unexpected:
  description: Members of the set that O(members) does not name.
  type: list
  elements: str
  returned: always
"""

import time
import traceback
from contextlib import closing, suppress

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import pymongo
    from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

    PYMONGO_ERROR = None
except ImportError:
    PYMONGO_ERROR = traceback.format_exc()
    PyMongoError = OperationFailure = ConnectionFailure = Exception

LOOPBACK = "127.0.0.1"
STEP = 0.2
AUTHENTICATION_FAILED, UNAUTHORIZED, NAMESPACE_NOT_FOUND = 18, 13, 26
CONFIGURATION_IN_PROGRESS, NEW_CONFIGURATION_NOT_COMMITTED, NOT_PRIMARY = 109, 308, 10107
VOTERS = 7


class SetError(Exception):
    """The set cannot be brought where it should be; the message names cause and remedy."""


# What has to be done: pure decisions over what was read ---------------------------------------------------------------


def wanted_member(asked: dict, position: int) -> dict:
    """Vote and priority of a full member."""
    votes = 1 if position < VOTERS else 0
    return {"votes": votes, "priority": float(asked["priority"]) if votes else 0.0}


def with_new_members(config: dict, asked: list[dict]) -> tuple[dict, list[str]]:
    """The configuration with every missing member added, still without vote and priority."""
    present = {member["host"] for member in config["members"]}
    new = [member["host"] for member in asked if member["host"] not in present]
    following = max(member["_id"] for member in config["members"]) + 1
    added = [{"_id": following + number, "host": host, "votes": 0, "priority": 0.0} for number, host in enumerate(new)]
    return {**config, "members": [*config["members"], *added]}, new


def with_vote(config: dict, asked: list[dict]) -> tuple[dict, str]:
    """The configuration with the first member corrected whose vote or priority differs; its name, or empty."""
    for position, wish in enumerate(asked):
        wanted = wanted_member(wish, position)
        for member in config["members"]:
            if member["host"] != wish["host"]:
                continue
            if {"votes": member.get("votes", 1), "priority": float(member.get("priority", 1))} == wanted:
                continue
            corrected = [{**m, **wanted} if m is member else m for m in config["members"]]
            return {**config, "members": corrected}, wish["host"]
    return config, ""


def with_settings(config: dict, settings: dict) -> tuple[dict, list[str]]:
    """The configuration with the asked settings, and the names of those that differed."""
    differing = [name for name, value in settings.items() if config.get("settings", {}).get(name) != value]
    return {**config, "settings": {**config.get("settings", {}), **settings}}, differing


def without_member(config: dict, host: str) -> dict:
    """The configuration without one member."""
    return {**config, "members": [member for member in config["members"] if member["host"] != host]}


def unexpected_members(config: dict, asked: list[dict]) -> list[str]:
    """Members of the set that nobody asked for."""
    names = {member["host"] for member in asked}
    return [member["host"] for member in config["members"] if member["host"] not in names]


def same_roles(found: list[dict], asked: list[dict]) -> bool:
    """Whether two lists of roles grant the same."""

    def key(roles: list[dict]) -> list[tuple[str, str]]:
        return sorted((role["role"], role["db"]) for role in roles)

    return key(found) == key(asked)


def majority_remains(config: dict, states: dict[str, str], leaving: str) -> bool:
    """Whether a majority of the voting members that stay is healthy."""
    voters = [m["host"] for m in config["members"] if m.get("votes", 1) and m["host"] != leaving]
    healthy = [host for host in voters if states.get(host) in ("PRIMARY", "SECONDARY")]
    return len(healthy) > len(voters) // 2


# Talking to it --------------------------------------------------------------------------------------------------------


class ReplicaSet:
    """The set as its members describe it, and the acts that change it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.asked = module.params
        self.members = self.asked["members"]
        self.names = [member["host"] for member in self.members]
        self.self = self.asked["self"]
        self.timeout = self.asked["timeout"]
        self.actions: list[str] = []
        self.unexpected: list[str] = []
        self.states: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.primary = ""
        if self.self not in self.names:
            raise SetError(f"self is {self.self}, which is not one of the members {', '.join(self.names)}")

    # Connections

    def connect(self, host: str, user: dict | None = None, *, patience: float = 5, tls: bool = True) -> pymongo.MongoClient:
        """A direct connection to one member; with a user, logged in by SCRAM-SHA-256."""
        options = {
            "directConnection": True,
            "serverSelectionTimeoutMS": int(patience * 1000),
            "connectTimeoutMS": int(patience * 1000),
            "socketTimeoutMS": self.timeout * 1000,
            "appname": "ansible",
        }
        if tls:
            options |= {"tls": True, "tlsCAFile": self.asked["ca_file"]}
        if user:
            options |= {
                "username": user["name"],
                "password": user["password"],
                "authSource": user.get("source", "admin"),
                "authMechanism": "SCRAM-SHA-256",
            }
        return pymongo.MongoClient(f"mongodb://{host}/", **options)

    def local(self) -> str:
        """Our own member on the loopback address, which is where the localhost exception holds."""
        return f"{LOOPBACK}:{self.self.rpartition(':')[2]}"

    def hello(self, host: str, *, patience: float = 5) -> dict | None:
        """What a member says of itself without a login; None when it cannot be reached."""
        try:
            with closing(self.connect(host, patience=patience)) as client:
                return client.admin.command("isMaster")
        except ConnectionFailure as error:
            self.reasons[host] = str(error).partition(", Timeout:")[0]
            return None

    def logs_in(self, host: str, user: dict) -> bool:
        """Whether the user can log in with its password."""
        try:
            with closing(self.connect(host, user)) as client:
                client.admin.command("ping")
        except OperationFailure as error:
            if error.code == AUTHENTICATION_FAILED:
                return False
            raise
        return True

    # Looking

    def look(self) -> bool:
        """Ask every member; whether any of them belongs to the set already."""
        found = {name: self.hello(name) for name in self.names}
        self.states = {name: self.word(hello) for name, hello in found.items()}
        named = [hello["primary"] for hello in found.values() if hello and hello.get("primary")]
        self.primary = next((name for name, state in self.states.items() if state == "PRIMARY"), named[0] if named else "")
        for name, hello in found.items():
            if hello and hello.get("setName", self.asked["name"]) != self.asked["name"]:
                raise SetError(
                    f"{name} belongs to the replica set {hello['setName']}, not to {self.asked['name']}. "
                    "Point the inventory at the right hosts, or empty that member's data directory if it is to move."
                )
        return any(hello and hello.get("setName") for hello in found.values())

    @staticmethod
    def word(hello: dict | None) -> str:
        if hello is None:
            return "unreachable"
        if not hello.get("setName"):
            return "uninitialised"
        if hello.get("ismaster"):
            return "PRIMARY"
        return "SECONDARY" if hello.get("secondary") else "other"

    def wait_for_primary(self) -> str:
        """The name of the primary, once there is one."""
        until = time.monotonic() + self.timeout
        while True:
            self.look()
            if self.states.get(self.primary) == "PRIMARY":
                return self.primary
            # A member that the inventory does not name may lead.
            if self.primary and self.primary not in self.names and self.word(self.hello(self.primary)) == "PRIMARY":
                return self.primary
            if time.monotonic() > until:
                raise SetError(
                    f"{self.asked['name']} has no primary after {self.timeout} s: "
                    + ", ".join(f"{name} is {state}" for name, state in self.states.items())
                    + ". Look at: journalctl -u mongod on the members that are not SECONDARY."
                )
            time.sleep(STEP)

    # Converging

    def converge(self) -> None:
        initialised = self.look()
        if not initialised:
            self.refuse_to_guess()
            self.act(f"initiate {self.asked['name']} with {self.self}")
            if self.module.check_mode:
                return
            self.initiate()
        leader = self.wait_for_primary()
        with closing(self.as_administrator(leader)) as client:
            self.converge_administrator(client)
            self.converge_members(client, leader)
            self.converge_write_concern(client)
            for user in self.asked["users"]:
                self.converge_user(client, leader, user)
        self.converge_oplogs()
        if self.actions and not self.module.check_mode:
            self.look()

    def act(self, what: str) -> bool:
        """Note an action; whether it is to be carried out."""
        self.actions.append(what)
        return not self.module.check_mode

    def refuse_to_guess(self) -> None:
        """An unreachable member may hold the set's data: initiating beside it would make a second set."""
        silent = [name for name, state in self.states.items() if state == "unreachable"]
        if silent and not self.module.check_mode:
            raise SetError(
                f"no reachable member belongs to {self.asked['name']}, and a new set is initiated only when every member "
                f"answers: {'; '.join(self.reasons[name] for name in silent)}. Type: systemctl status mongod on each."
            )

    def initiate(self) -> None:
        config = {
            "_id": self.asked["name"],
            "members": [{"_id": 0, "host": self.self}],
            "settings": self.asked["settings"],
        }
        with closing(self.connect(self.local())) as client:
            client.admin.command("replSetInitiate", config)

    def as_administrator(self, leader: str) -> pymongo.MongoClient:
        """A connection to the primary as administrator; creates it, or corrects its password, where that fails."""
        admin = self.asked["admin"]
        if not self.logs_in(leader, admin):
            if not self.act(f"create the administrator {admin['name']} or correct its password"):
                self.module.exit_json(**self.result())
            if not (leader == self.self and self.first_user()):
                self.correct_administrator(leader)
        client = self.connect(leader, admin)
        return client

    def first_user(self) -> bool:
        """Create the administrator through the localhost exception; False when users exist, which closes it."""
        admin = self.asked["admin"]
        with closing(self.connect(self.local())) as client:
            try:
                client.admin.command("createUser", admin["name"], pwd=admin["password"], roles=admin["roles"], mechanisms=["SCRAM-SHA-256"])
            except OperationFailure as error:
                if error.code == UNAUTHORIZED:
                    return False
                raise
        return True

    def correct_administrator(self, leader: str) -> None:
        """The administrator's password in the set is not the one asked: log in as the members do, with their key."""
        admin = self.asked["admin"]
        with open(self.asked["key_file"], encoding="ascii") as file:
            member = {"name": "__system", "password": "".join(file.read().split()), "source": "local"}
        try:
            with closing(self.connect(leader, member)) as client:
                known = client.admin.command("usersInfo", admin["name"])["users"]
                verb = "updateUser" if known else "createUser"
                client.admin.command(verb, admin["name"], pwd=admin["password"], roles=admin["roles"], mechanisms=["SCRAM-SHA-256"])
        except OperationFailure as error:
            raise SetError(
                f"{admin['name']} cannot log in to {leader}, and neither can the members' key ({error.details.get('errmsg')}). "
                "Were vault and data directory made by two different inventories?"
            ) from error

    def converge_administrator(self, client: pymongo.MongoClient) -> None:
        admin = self.asked["admin"]
        found = client.admin.command("usersInfo", admin["name"])["users"][0]
        if not same_roles(found["roles"], admin["roles"]) and self.act(f"correct the roles of {admin['name']}"):
            client.admin.command("updateUser", admin["name"], roles=admin["roles"])

    def converge_user(self, client: pymongo.MongoClient, leader: str, user: dict) -> None:
        found = client.admin.command("usersInfo", user["name"])["users"]
        if not found:
            if self.act(f"create the user {user['name']}"):
                client.admin.command("createUser", user["name"], pwd=user["password"], roles=user["roles"], mechanisms=["SCRAM-SHA-256"])
            return
        if not same_roles(found[0]["roles"], user["roles"]) and self.act(f"correct the roles of {user['name']}"):
            client.admin.command("updateUser", user["name"], roles=user["roles"])
        if not self.logs_in(leader, user) and self.act(f"correct the password of {user['name']}"):
            client.admin.command("updateUser", user["name"], pwd=user["password"], mechanisms=["SCRAM-SHA-256"])

    def converge_write_concern(self, client: pymongo.MongoClient) -> None:
        """Every write waits for a majority unless its client says otherwise."""
        wanted = {"w": "majority", "wtimeout": self.asked["write_timeout_ms"]}
        if client.admin.command("getDefaultRWConcern").get("defaultWriteConcern") == wanted:
            return
        if self.act("make majority the default write concern"):
            client.admin.command("setDefaultRWConcern", 1, defaultWriteConcern=wanted, writeConcern={"w": "majority", "wtimeout": 30000})

    def converge_members(self, client: pymongo.MongoClient, leader: str) -> None:
        config = client.admin.command("replSetGetConfig")["config"]
        config, differing = with_settings(config, self.asked["settings"])
        if differing and self.act(f"set {', '.join(differing)}"):
            config = self.reconfigure(client, config)
        config, new = with_new_members(config, self.members)
        if new and self.act(f"add {', '.join(new)} without a vote until the data is copied"):
            config = self.reconfigure(client, config)
        if new and not self.module.check_mode:
            self.wait_for_copies(client, new)
        while True:
            changed, host = with_vote(config, self.members)
            if not host:
                break
            if self.act(f"give {host} its vote and priority"):
                changed = self.reconfigure(client, changed)
            config = changed
        self.unexpected = unexpected_members(config, self.members)
        if self.asked["remove_members"]:
            self.remove_unexpected(client, config, leader)

    def remove_unexpected(self, client: pymongo.MongoClient, config: dict, leader: str) -> None:
        for host in list(self.unexpected):
            if host == leader:
                raise SetError(f"{host} is to be removed and is the primary. Hand over first: rs.stepDown() on {host}.")
            states = self.statuses(client)
            if not majority_remains(config, states, host):
                raise SetError(
                    f"removing {host} would leave no majority: " + ", ".join(f"{name} is {state}" for name, state in states.items())
                )
            config = without_member(config, host)
            if self.act(f"remove {host}"):
                config = self.reconfigure(client, config)
            self.unexpected.remove(host)

    def statuses(self, client: pymongo.MongoClient) -> dict[str, str]:
        return {m["name"]: m["stateStr"] for m in client.admin.command("replSetGetStatus")["members"]}

    def reconfigure(self, client: pymongo.MongoClient, config: dict) -> dict:
        """Install the configuration once the one before it is committed; returns it as the set has it then."""
        until = time.monotonic() + self.timeout
        while True:
            try:
                client.admin.command("replSetReconfig", {**config, "version": config["version"] + 1})
                return client.admin.command("replSetGetConfig", commitmentStatus=True)["config"]
            except OperationFailure as error:
                passing = (CONFIGURATION_IN_PROGRESS, NEW_CONFIGURATION_NOT_COMMITTED, NOT_PRIMARY)
                if error.code not in passing or time.monotonic() > until:
                    raise SetError(f"the set refused its new configuration: {error.details.get('errmsg')}") from error
                time.sleep(STEP)

    def wait_for_copies(self, client: pymongo.MongoClient, hosts: list[str]) -> None:
        """Until every new member has copied the data."""
        until = time.monotonic() + self.timeout
        while True:
            states = self.statuses(client)
            missing = [host for host in hosts if states.get(host) != "SECONDARY"]
            if not missing:
                return
            if time.monotonic() > until:
                raise SetError(
                    "not copied within "
                    f"{self.timeout} s: "
                    + ", ".join(f"{host} is {states.get(host)}" for host in missing)
                    + ". They have no vote yet, so nothing depends on them; run again when they are SECONDARY."
                )
            time.sleep(STEP)

    def converge_oplogs(self) -> None:
        """Each member's oplog has the asked size; it is resized in place."""
        wanted = self.asked["oplog_mb"]
        if not wanted or (self.module.check_mode and self.actions):
            return
        for name in self.names:
            with closing(self.connect(name, self.asked["admin"])) as client:
                options = next(client.local.list_collections(filter={"name": "oplog.rs"}))["options"]
                if round(options["size"] / 2**20) != wanted and self.act(f"resize the oplog of {name} to {wanted} MB"):
                    client.admin.command("replSetResizeOplog", 1, size=float(wanted))

    # The other states

    def hand_over(self) -> None:
        """Make another member primary if we are; afterwards the set has a primary again."""
        self.look()
        if self.states[self.self] != "PRIMARY" or len(self.names) < 2:
            return
        if not self.act(f"hand over from {self.self}"):
            return
        # Older servers cut the connection when they step down.
        with suppress(ConnectionFailure), closing(self.connect(self.self, self.asked["admin"])) as client:
            client.admin.command("replSetStepDown", 60, secondaryCatchUpPeriodSecs=10)
        until = time.monotonic() + self.timeout
        while (self.look() and self.states.get(self.primary) != "PRIMARY") or self.primary == self.self:
            if time.monotonic() > until:
                raise SetError(f"nobody took over from {self.self} within {self.timeout} s: {self.states}")
            time.sleep(STEP)

    def join(self) -> None:
        """Until we are a full member of a set with a primary."""
        until = time.monotonic() + self.timeout
        while True:
            self.look()
            if self.states[self.self] in ("PRIMARY", "SECONDARY") and "PRIMARY" in self.states.values():
                return
            if time.monotonic() > until:
                raise SetError(
                    f"{self.self} is {self.states[self.self]} after {self.timeout} s, the set: {self.states}. Look at: journalctl -u mongod"
                )
            time.sleep(STEP)

    def verify(self) -> None:
        """Raises SetError with the first promise that does not hold on this member."""
        if not any(self.asked[name] for name in ("database", "application")):
            raise SetError("verified needs database and application")
        self.join()
        self.expect_encryption()
        self.expect_login()
        application = next(user for user in self.asked["users"] if user["name"] == self.asked["application"])
        self.expect_least_privilege(application)
        self.expect_replication(application)

    def expect_encryption(self) -> None:
        try:
            with closing(self.connect(self.local(), patience=0.4, tls=False)) as client:
                client.admin.command("isMaster")
        except ConnectionFailure:
            return
        raise SetError(f"{self.self} answers without TLS; expected net.tls.mode requireTLS in /etc/mongod.conf")

    def expect_login(self) -> None:
        with closing(self.connect(self.local())) as client:
            try:
                client.admin.command("listDatabases")
            except OperationFailure as error:
                if error.code == UNAUTHORIZED:
                    return
                raise
        raise SetError(f"{self.self} lists its databases to a stranger; expected security.authorization in /etc/mongod.conf")

    def expect_least_privilege(self, application: dict) -> None:
        """The application may not alter what a collection accepts: that is the migrator's."""
        with closing(self.connect(self.local(), application)) as client:
            try:
                client[self.asked["database"]].command("collMod", "converge_check", validationLevel="off")
            except OperationFailure as error:
                if error.code == UNAUTHORIZED:
                    return
                if error.code != NAMESPACE_NOT_FOUND:
                    raise
        raise SetError(f"{application['name']} may change validators in {self.asked['database']}; expected readWrite alone")

    def expect_replication(self, application: dict) -> None:
        """What a majority acknowledged is readable on our own member."""
        database, collection = self.asked["database"], f"converge_check_{self.self.partition('.')[0]}"
        with closing(self.connect(self.primary, application)) as leader, closing(self.connect(self.local(), application)) as own:
            written = leader[database].get_collection(
                collection, write_concern=pymongo.WriteConcern("majority", wtimeout=self.timeout * 1000)
            )
            mark = written.insert_one({"from": self.self}).inserted_id
            mine = own[database].get_collection(collection, read_preference=pymongo.ReadPreference.SECONDARY_PREFERRED)
            until = time.monotonic() + self.timeout
            while mine.find_one({"_id": mark}) is None:
                if time.monotonic() > until:
                    raise SetError(f"a write on {self.primary} has not reached {self.self} within {self.timeout} s")
                time.sleep(0.02)
            written.drop()

    def result(self) -> dict:
        return {
            "changed": bool(self.actions),
            "actions": self.actions,
            "members": self.states,
            "primary": self.primary,
            "unexpected": self.unexpected,
        }


def main() -> None:
    user = {
        "name": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
        "roles": {"type": "list", "elements": "dict", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {
                "choices": ["converged", "inspected", "handed_over", "joined", "verified"],
                "default": "converged",
            },
            "name": {"type": "str", "required": True},
            "members": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"host": {"type": "str", "required": True}, "priority": {"type": "float", "default": 1}},
            },
            "self": {"type": "str", "required": True},
            "settings": {"type": "dict", "default": {}},
            "write_timeout_ms": {"type": "int", "default": 10000},
            "oplog_mb": {"type": "int"},
            "ca_file": {"type": "path", "required": True},
            "key_file": {"type": "path", "required": True, "no_log": False},
            "admin": {"type": "dict", "required": True, "options": user},
            "users": {"type": "list", "elements": "dict", "default": [], "options": user},
            "remove_members": {"type": "bool", "default": False},
            "database": {"type": "str"},
            "application": {"type": "str"},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    if PYMONGO_ERROR:
        if module.check_mode:
            module.exit_json(changed=True, actions=["initiate"], members={}, primary="", unexpected=[])
        module.fail_json(msg=missing_required_lib("pymongo"), exception=PYMONGO_ERROR)
    try:
        replica_set = ReplicaSet(module)
        {
            "converged": replica_set.converge,
            "inspected": replica_set.look,
            "handed_over": replica_set.hand_over,
            "joined": replica_set.join,
            "verified": replica_set.verify,
        }[module.params["state"]]()
    except (SetError, PyMongoError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**replica_set.result())


if __name__ == "__main__":
    main()
