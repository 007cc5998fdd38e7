"""Says, as JSON, how the PostgreSQL member on this host and its cluster are; with --wait, once they are well.

Runs on a database host with nothing but its own Python. Facts come from Patroni's REST interface. Changes nothing.
Exit 1, with the reason and what to type next, when the member is not well in time.
"""

import argparse
import json
import ssl
import sys
import time
import urllib.error
import urllib.request

LEADING = ("leader", "primary", "standby_leader")


def get(url: str, context: ssl.SSLContext) -> dict:
    """A JSON document; statuses above 399 carry one as well."""
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:  # noqa: S310 - the role's own https address
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def state(name: str, api: str, context: ssl.SSLContext) -> dict:
    """The cluster as the roles need it."""
    members = get(f"{api}/cluster", context).get("members", [])
    return {
        "member": get(f"{api}/patroni", context),
        "members": {member["name"]: member for member in members},
        "leader": next((member["name"] for member in members if member["role"] in LEADING), None),
        "pending_restart": sorted(member["name"] for member in members if member.get("pending_restart")),
        "config": get(f"{api}/config", context),
        "name": name,
    }


def complaint(seen: dict, *, leader_only: bool = False) -> str:
    """Why the member, or only the leader, is not well; empty when it is."""
    own = seen["members"].get(seen["name"], {})
    if seen["leader"] is None:
        return "the cluster has no leader"
    if seen["members"][seen["leader"]]["state"] != "running":
        return f"the leader {seen['leader']} is {seen['members'][seen['leader']]['state']}"
    if leader_only:
        return ""
    if not own:
        return f"{seen['name']} has not joined the cluster"
    if seen["leader"] != seen["name"] and own["state"] != "streaming":
        return f"{seen['name']} is {own['state']}, not streaming from {seen['leader']}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--api", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--wait", type=float, default=0)
    parser.add_argument("--leader-only", action="store_true", help="this member is about to be restarted: it need not be well")
    arguments = parser.parse_args()
    context = ssl.create_default_context(cafile=arguments.ca)
    until = time.monotonic() + arguments.wait
    while True:
        try:
            seen = state(arguments.name, arguments.api, context)
            problem = complaint(seen, leader_only=arguments.leader_only)
        except (OSError, ValueError) as error:
            problem = f"Patroni does not answer at {arguments.api}: {error}"
        if not problem:
            print(json.dumps(seen))
            return
        if time.monotonic() >= until:
            sys.exit(f"After {arguments.wait:.0f} s: {problem}. Type: patronictl list; journalctl -u patroni -n 50")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
