"""Restarts PostgreSQL through Patroni where settings wait for it: replicas first, then the leader, one at a time.

A leader with a healthy replica hands over first and is restarted as a replica; one that is alone is restarted in place.
With --relieve NAME it only hands leadership away from NAME, if NAME leads and another can. Prints what it did as JSON.
Runs on a database host; facts and actions go through Patroni's REST interface.
"""

import argparse
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from typing import Any

LEADING = ("leader", "primary", "standby_leader")
SYNCHRONOUS = ("sync_standby", "quorum_standby")
# A lower value of these reaches a replica only after the leader runs with it, so a second round may be needed.
ROUNDS = 3


class Patroni:
    """One cluster, asked through any of its members."""

    def __init__(self, api: str, ca: str, certificate: str, key: str, patience: float) -> None:
        self.api, self.patience = api, patience
        self.context = ssl.create_default_context(cafile=ca)
        self.context.load_cert_chain(certificate, key)

    def call(self, url: str, body: dict[str, Any] | None = None, timeout: float = 10) -> Any:
        """JSON of a GET, text of a POST; exits with Patroni's own words on a refusal."""
        request = urllib.request.Request(url, method="GET" if body is None else "POST")  # noqa: S310 - https, by the role or Patroni
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data=data, timeout=timeout, context=self.context) as answer:  # noqa: S310
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                sys.exit(f"{request.method} {url}: {error.code} {error.read().decode().strip()}. Type: patronictl list")
        return json.loads(text) if body is None else text

    def members(self) -> dict[str, dict[str, Any]]:
        return {member["name"]: member for member in self.call(f"{self.api}/cluster")["members"]}

    def wait(self, what: str, well: Any) -> None:
        """Until `well(members)`; exits when patience is over."""
        until = time.monotonic() + self.patience
        while not well(self.members()):
            if time.monotonic() > until:
                sys.exit(f"{what}: not so after {self.patience:.0f} s. Type: patronictl list; journalctl -u patroni")
            time.sleep(0.5)

    def restart(self, member: dict[str, Any]) -> None:
        self.call(f"{member['api_url'].removesuffix('/patroni')}/restart", {"restart_pending": True}, self.patience)
        self.wait(f"{member['name']} runs again", lambda members: healthy(members.get(member["name"], {})))

    def switch_over(self, leader: str, candidate: str) -> None:
        api = self.members()[leader]["api_url"].removesuffix("/patroni")
        self.call(f"{api}/switchover", {"leader": leader, "candidate": candidate}, self.patience)
        # The former leader may have to be restarted before it can follow: that is why it hands over.
        self.wait(
            f"{candidate} leads",
            lambda members: leader_of(members) == candidate and healthy(members[candidate]),
        )


def healthy(member: dict[str, Any]) -> bool:
    return member.get("state") == ("running" if member.get("role") in LEADING else "streaming")


def leader_of(members: dict[str, dict[str, Any]]) -> str | None:
    return next((name for name, member in members.items() if member["role"] in LEADING), None)


def successor(members: dict[str, dict[str, Any]]) -> str | None:
    """The replica that may lead: streaming, a synchronous one before others, the least lag first."""
    able = [
        (member["role"] not in SYNCHRONOUS, str(member.get("lag", 0)).zfill(20), name)
        for name, member in members.items()
        if member["role"] not in LEADING and member["state"] == "streaming" and not member.get("tags", {}).get("nofailover")
    ]
    return min(able)[2] if able else None


def order(members: dict[str, dict[str, Any]]) -> list[str]:
    """Members that wait for a restart: replicas by name, the leader last."""
    waiting = [member for member in members.values() if member.get("pending_restart")]
    return [member["name"] for member in sorted(waiting, key=lambda member: (member["role"] in LEADING, member["name"]))]


def restart_pending(patroni: Patroni) -> list[str]:
    """What was restarted, in order."""
    done: list[str] = []
    for _ in range(ROUNDS):
        turn = order(patroni.members())
        if not turn:
            break
        for name in turn:
            members = patroni.members()
            # In a later round a leader that was switched over to is restarted in place: this always ends.
            if leader_of(members) == name and not done.count(name) and (candidate := successor(members)):
                patroni.switch_over(name, candidate)
            member = patroni.members()[name]
            if member.get("pending_restart"):
                patroni.restart(member)
            done.append(name)
    if left := order(patroni.members()):
        sys.exit(f"still waiting for a restart: {', '.join(left)}. Type: patronictl list; patronictl restart --pending trading")
    return done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--api", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--settle", type=float, default=0, help="seconds in which members may notice new settings")
    parser.add_argument("--patience", type=float, default=120, help="seconds one step may take")
    parser.add_argument("--relieve", default="")
    arguments = parser.parse_args()
    patroni = Patroni(arguments.api, arguments.ca, arguments.certificate, arguments.key, arguments.patience)
    if arguments.relieve:
        members = patroni.members()
        candidate = successor(members) if leader_of(members) == arguments.relieve else None
        if candidate:
            patroni.switch_over(arguments.relieve, candidate)
        print(json.dumps({"switched": candidate is not None, "leader": candidate or leader_of(members)}))
        return
    time.sleep(arguments.settle)
    print(json.dumps({"restarted": restart_pending(patroni)}))


if __name__ == "__main__":
    main()
