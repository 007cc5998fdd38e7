"""trading.platform.firewall_rules: canonical rules, UFW's files, and what lacks or is stale."""

from __future__ import annotations

import pytest

USER_RULES = """*filter
### RULES ###

### tuple ### limit tcp 22 0.0.0.0/0 any 10.213.0.1 in comment={ssh}
-A ufw-user-input -p tcp --dport 22 -s 10.213.0.1 -m conntrack --ctstate NEW -m recent --set

### tuple ### allow tcp 80,443 0.0.0.0/0 any 0.0.0.0/0 in comment={nginx}

### tuple ### allow tcp 2379 0.0.0.0/0 any 10.0.0.12 in comment={etcd}

### tuple ### allow tcp 5432 0.0.0.0/0 any 10.0.0.12 in
### tuple ### allow udp 123 0.0.0.0/0 any 0.0.0.0/0 - NTP in comment={etcd}
### END RULES ###
"""
USER6_RULES = "### tuple ### allow tcp 80,443 ::/0 any ::/0 in comment={nginx}\n"
COMMENTS = {
    "ssh": b"trading:firewall ssh".hex(),
    "nginx": b"trading:nginx".hex(),
    "etcd": b"trading:etcd clients".hex(),
}


@pytest.fixture
def texts():
    return [USER_RULES.format(**COMMENTS), USER6_RULES.format(**COMMENTS)]


def rule(**given):
    return {"port": ["2379"], "proto": "tcp", "from": ["10.0.0.12"], "action": "allow", "comment": "clients", **given}


def test_own_rules_found_in_ufws_files(firewall_rules, texts):
    complete, halves = firewall_rules.existing_rules(texts)
    assert {str(one) for one in complete} == {
        "limit 22/tcp from 10.213.0.1 # trading:firewall ssh",
        "allow 80,443/tcp from any # trading:nginx",
        "allow 2379/tcp from 10.0.0.12 # trading:etcd clients",
        "allow 5432/tcp from 10.0.0.12 # ",
    }
    assert halves == set()


def test_nothing_lacks_when_all_is_there(firewall_rules, texts):
    wanted = firewall_rules.wanted_rules("etcd", [rule(**{"from": ["10.0.0.12/32"]})])
    assert firewall_rules.compare("etcd", wanted, *firewall_rules.existing_rules(texts), ipv6=True) == ([], [])


def test_any_lacks_while_ipv6_half_is_missing(firewall_rules, texts):
    wanted = firewall_rules.wanted_rules("nginx", [rule(port=["443", "80"], comment="", **{"from": ["any"]})])
    existing = firewall_rules.existing_rules(texts[:1])
    assert [str(one) for one in firewall_rules.compare("nginx", wanted, *existing, ipv6=True)[0]] == [
        "allow 80,443/tcp from any # trading:nginx"
    ]
    assert firewall_rules.compare("nginx", wanted, *existing, ipv6=False) == ([], [])


def test_departed_peer_is_stale_and_new_one_lacks(firewall_rules, texts):
    wanted = firewall_rules.wanted_rules("etcd", [rule(**{"from": ["10.0.0.13"]})])
    lacking, stale = firewall_rules.compare("etcd", wanted, *firewall_rules.existing_rules(texts), ipv6=True)
    assert [one.source for one in lacking] == ["10.0.0.13"]
    assert [one.source for one in stale] == ["10.0.0.12"]


def test_rules_of_others_and_of_the_operator_are_never_stale(firewall_rules, texts):
    lacking, stale = firewall_rules.compare("postgresql", [], *firewall_rules.existing_rules(texts), ipv6=True)
    assert (lacking, stale) == ([], [])


def test_owner_whose_name_begins_like_another_is_another(firewall_rules, texts):
    _, stale = firewall_rules.compare("etc", [], *firewall_rules.existing_rules(texts), ipv6=True)
    assert stale == []


def test_changed_action_is_added_over_the_old_rule_not_deleted(firewall_rules, texts):
    wanted = firewall_rules.wanted_rules("etcd", [rule(action="limit")])
    lacking, stale = firewall_rules.compare("etcd", wanted, *firewall_rules.existing_rules(texts), ipv6=True)
    assert [one.action for one in lacking] == ["limit"]
    assert stale == []


def test_no_peers_give_no_rule(firewall_rules):
    assert firewall_rules.wanted_rules("etcd", [rule(**{"from": []})]) == []


def test_first_rules_keep_their_order_on_top(firewall_rules, monkeypatch):
    calls = []
    monkeypatch.setattr(firewall_rules, "ufw", lambda *arguments: calls.append(" ".join(arguments)))
    wanted = firewall_rules.wanted_rules("firewall", [rule(port=["22"], **{"from": ["10.0.0.1", "10.0.0.2"]})])
    firewall_rules.apply(wanted, [], first=True)
    assert [call.split(" from ")[1].split()[0] for call in calls] == ["10.0.0.2", "10.0.0.1"]
    assert all(call.startswith("prepend allow proto tcp ") for call in calls)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"from": ["10.0.0.5/24"]}, "host bits"),
        ({"from": ["0.0.0.0/0"]}, "write 'any'"),
        ({"from": ["lab1"]}, "neither an address"),
        ({"port": ["0"]}, "neither a port"),
        ({"port": ["70000"]}, "neither a port"),
        ({"port": ["8010:8000"]}, "upwards"),
        ({"port": [str(port) for port in range(1, 17)]}, "at most 15"),
        ({"comment": "it's"}, "without quotes"),
    ],
)
def test_bad_rule_is_refused_with_its_value(firewall_rules, given, complaint):
    with pytest.raises(firewall_rules.FirewallError, match=complaint):
        firewall_rules.wanted_rules("etcd", [rule(**given)])


def test_contradicting_rules_are_refused(firewall_rules):
    with pytest.raises(firewall_rules.FirewallError, match="contradiction"):
        firewall_rules.wanted_rules("etcd", [rule(), rule(action="limit")])
