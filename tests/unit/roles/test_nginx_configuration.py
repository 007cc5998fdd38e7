"""What the role nginx renders: one configuration that keeps every promise of the edge, for one edge and for three."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from rendered_role import BOOKWORM, ROOT, TRIXIE, RenderedRole

HEADERS = {
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Referrer-Policy",
    "Content-Security-Policy",
    "Permissions-Policy",
    "Strict-Transport-Security",
    "X-Request-Id",
}


@dataclass
class Block:
    """One `name arguments { … }` of the configuration."""

    name: str
    arguments: str
    directives: list[tuple[str, str]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [value for directive, value in self.directives if directive == name]

    def one(self, name: str) -> str:
        values = self.all(name)
        assert len(values) == 1, f"{name} in {self.name} {self.arguments}: {values}"
        return values[0]

    def within(self, name: str) -> list[Block]:
        return [block for block in self.blocks if block.name == name]

    def location(self, arguments: str) -> Block:
        found = [block for block in self.within("location") if block.arguments == arguments]
        assert len(found) == 1, f"location {arguments}: {len(found)}"
        return found[0]

    def headers(self) -> set[str]:
        return {value.split()[0] for value in self.all("add_header")}


TOKEN = re.compile(r"""\s+|\#[^\n]*|(?P<word>(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|\$\{\w+\}|[^\s;{}"'])+)|(?P<mark>[;{}])""")


def parse(text: str) -> Block:
    """A small reader of Nginx's syntax; refuses what does not balance."""
    root, words, position = Block("main", ""), [], 0
    open_blocks = [root]
    while position < len(text):
        match = TOKEN.match(text, position)
        assert match, f"unreadable at: {text[position : position + 60]!r}"
        position = match.end()
        if match["word"]:
            words.append(match["word"])
        elif match["mark"] == ";":
            open_blocks[-1].directives.append((words[0], " ".join(words[1:])))
            words = []
        elif match["mark"] == "{":
            block = Block(words[0], " ".join(words[1:]))
            open_blocks[-1].blocks.append(block)
            open_blocks.append(block)
            words = []
        elif match["mark"] == "}":
            assert not words, f"no semicolon after {words}"
            open_blocks.pop()
    assert open_blocks == [root], "a block is not closed"
    return root


def http(inventory: str = "lab_ha", host: str = "lab1", **stated: Any) -> Block:
    rendered = RenderedRole("nginx", inventory, host, **stated).template(ROOT / "nginx/nginx.conf.j2")
    return parse(rendered).within("http")[0]


def server(block: Block, listens: str, name: str) -> Block:
    found = [s for s in block.within("server") if s.one("server_name") == name and s.all("listen")[0].startswith(listens)]
    assert len(found) == 1
    return found[0]


def platform(block: Block) -> Block:
    return server(block, "443", "trading.lab.test")


@pytest.fixture(scope="module")
def edge() -> Block:
    return http()


def test_the_gateway_is_every_platform_host_by_least_connections(edge: Block) -> None:
    upstream = next(u for u in edge.within("upstream") if u.arguments == "gateway")
    assert [s.split()[0] for s in upstream.all("server")] == ["10.213.0.11:8443", "10.213.0.12:8443", "10.213.0.13:8443"]
    assert all("max_fails=3 fail_timeout=5s" in s for s in upstream.all("server"))
    assert upstream.all("least_conn") == [""]
    assert upstream.one("keepalive") == "32"


def test_every_way_to_the_gateway_is_mutual_tls_verified_by_name(edge: Block) -> None:
    proxied = [loc for s in edge.within("server") for loc in s.within("location") if loc.all("proxy_pass") == ["https://gateway"]]
    # /health, /api/, the two strict paths and /ws; then the inside paths.
    assert len(proxied) == 5 + len(RenderedRole("nginx").value("nginx_inside_paths"))
    for location in proxied:
        assert location.one("proxy_ssl_verify") == "on"
        assert location.one("proxy_ssl_name") == "platform.trading.internal"
        assert location.one("proxy_ssl_trusted_certificate") == "/etc/trading-tls/ca.pem"
        assert location.one("proxy_ssl_certificate_key") == "/etc/trading-tls/host.key"
        assert location.one("proxy_next_upstream") == "error timeout http_502"


def test_a_client_cannot_say_who_it_is(edge: Block) -> None:
    for location in platform(edge).within("location"):
        if location.all("proxy_pass"):
            headers = dict(value.split(maxsplit=1) for value in location.all("proxy_set_header"))
            assert headers["X-Forwarded-For"] == headers["X-Real-IP"] == "$remote_addr"
            assert headers["Forwarded"] == '""'
    assert not edge.all("set_real_ip_from")


def test_behind_load_balancers_only_they_name_the_client() -> None:
    behind = http(nginx_trusted_proxies=["10.9.0.0/24"])
    assert behind.all("set_real_ip_from") == ["10.9.0.0/24"]
    assert behind.one("real_ip_recursive") == "on"


def test_limits_are_zones_of_http_and_answer_429(edge: Block) -> None:
    assert edge.all("limit_req_zone") == [
        "$binary_remote_addr zone=trading:10m rate=100r/s",
        "$binary_remote_addr zone=strict:10m rate=100r/m",
    ]
    assert edge.one("limit_req_status") == edge.one("limit_conn_status") == "429"
    site = platform(edge)
    assert site.location("^~ /api/").all("limit_req") == ["zone=trading burst=200 nodelay"]
    for path in ("/api/auth/", "/api/admin/"):
        assert site.location(f"^~ {path}").all("limit_req") == ["zone=trading burst=200 nodelay", "zone=strict burst=20 nodelay"]


def test_a_websocket_is_upgraded_lives_long_and_is_not_counted_as_requests(edge: Block) -> None:
    socket = platform(edge).location("= /ws")
    assert not socket.all("limit_req")
    assert socket.one("proxy_read_timeout") == "3600s"
    assert {"Upgrade $http_upgrade", "Connection $edge_connection"} <= set(socket.all("proxy_set_header"))
    assert 'Connection ""' in platform(edge).location("^~ /api/").all("proxy_set_header")


def test_every_response_carries_the_security_headers_errors_included(edge: Block) -> None:
    for block in edge.within("server"):
        if block.one("server_name") in ("acme-peer.trading.internal",) or "444" in block.all("return"):
            continue
        assert block.headers() >= HEADERS
        for location in block.within("location"):
            assert not location.all("add_header") or location.headers() >= HEADERS, location.arguments
            assert all(value.endswith(" always") for value in location.all("add_header"))


def test_the_platform_cannot_answer_with_headers_that_the_edge_owns(edge: Block) -> None:
    hidden = set(platform(edge).location("^~ /api/").all("proxy_hide_header"))
    assert {"X-Frame-Options", "Access-Control-Allow-Origin", "X-Request-Id", "Strict-Transport-Security"} <= hidden


@pytest.mark.parametrize("code", [400, 403, 404, 405, 408, 413, 414, 421, 429, 500, 502, 503, 504])
def test_errors_of_the_edge_are_problem_documents(edge: Block, code: int) -> None:
    problem = platform(edge).location(f"= /.edge/{code}")
    assert problem.one("default_type") == "application/problem+json"
    assert problem.one("return").startswith(f"{code} ")
    assert f'"status":{code}' in problem.one("return")
    assert "internal" in dict(problem.directives)
    assert any(value.split()[-1] == f"/.edge/{code}" for value in platform(edge).all("error_page"))


def test_http2_is_said_the_way_each_release_of_nginx_wants() -> None:
    old, new = http(ansible_facts=BOOKWORM), http(ansible_facts=TRIXIE)
    assert platform(old).all("listen") == ["443 ssl http2", "[::]:443 ssl http2"]
    assert not platform(old).all("http2")
    assert platform(new).all("listen") == ["443 ssl", "[::]:443 ssl"]
    assert platform(new).one("http2") == "on"
    installed = http(ansible_facts={"distribution_major_version": "12", "packages": {"nginx": [{"version": "1.26.3-1"}]}})
    assert platform(installed).one("http2") == "on"


def test_port_80_redirects_all_but_challenges(edge: Block) -> None:
    plain = server(edge, "80", "trading.lab.test")
    assert plain.location("/").one("return") == "301 https://$host$request_uri"
    assert plain.location("^~ /.well-known/acme-challenge/").one("try_files") == "$uri @acme_peers"


def test_a_challenge_is_asked_of_the_other_edges_which_ask_nobody(edge: Block) -> None:
    peers = next(u for u in edge.within("upstream") if u.arguments == "acme_peers")
    assert [s.split()[0] for s in peers.all("server")] == ["10.213.0.12:80", "10.213.0.13:80"]
    relay = server(edge, "80", "trading.lab.test").location("@acme_peers")
    assert relay.one("proxy_set_header") == "Host acme-peer.trading.internal"
    answering = server(edge, "80", "acme-peer.trading.internal")
    assert answering.location("^~ /.well-known/acme-challenge/").one("try_files") == "$uri =404"
    assert not [loc for loc in answering.within("location") if loc.all("proxy_pass")]


def test_a_single_edge_asks_nobody() -> None:
    single = http("lab_single")
    assert [u.arguments for u in single.within("upstream")] == ["gateway"]
    assert server(single, "80", "trading.lab.test").location("^~ /.well-known/acme-challenge/").one("try_files") == "$uri =404"


def test_unknown_names_get_nothing(edge: Block) -> None:
    assert server(edge, "80", "_").one("return") == "444"
    unknown = server(edge, "443", "_")
    assert unknown.one("ssl_reject_handshake") == "on"
    assert unknown.location("/").one("return") == "421"


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/metrics", "/api/debug", "/api/docs"])
def test_the_insides_are_closed_to_the_outside(edge: Block, path: str) -> None:
    gate = platform(edge).location(f"^~ {path}").within("if")[0]
    assert (gate.arguments, gate.one("return")) == ("($edge_outside)", "404")


def test_only_listed_networks_may_look_inside() -> None:
    assert [b.directives for b in http().within("geo")] == [[("default", "1")]]
    assert ("10.8.0.0/24", "0") in http(nginx_inside_networks=["10.8.0.0/24"]).within("geo")[0].directives


def test_the_api_is_open_to_all_addresses_or_to_a_list(edge: Block) -> None:
    assert not platform(edge).location("^~ /api/").all("deny")
    listed = platform(http(nginx_api_allowed_networks=["10.8.0.0/24"]))
    for location in ("^~ /api/", "^~ /api/auth/", "= /ws"):
        assert listed.location(location).all("allow") == ["10.8.0.0/24"]
        assert listed.location(location).all("deny") == ["all"]
    assert not listed.location("= /health").all("deny")


def test_health_is_the_platforms_own_and_not_logged(edge: Block) -> None:
    health = platform(edge).location("= /health")
    assert health.one("access_log") == "off"
    assert health.one("proxy_pass") == "https://gateway"


def test_hsts_is_a_promise_of_production_only() -> None:
    def promise(**stated: Any) -> list[tuple[str, str]]:
        return next(m for m in http(**stated).within("map") if m.arguments.endswith("$edge_hsts")).directives

    assert promise() == [("default", "''")]
    assert promise(trading_environment="production")[-1] == ("on", '"max-age=300"')
    assert promise(nginx_hsts_seconds=31536000, nginx_hsts_subdomains=True)[-1] == ("on", '"max-age=31536000; includeSubDomains"')


def test_other_sites_are_let_in_by_name_only() -> None:
    def origins(**stated: Any) -> list[tuple[str, str]]:
        return next(m for m in http(**stated).within("map") if m.arguments == "$http_origin $edge_cors_origin").directives

    assert origins() == [("default", "''")]
    assert origins(nginx_cors_origins=["https://desk.company.test"])[-1] == ('"https://desk.company.test"', "$http_origin")


def test_tls_is_modern_and_the_certificate_is_a_link(edge: Block) -> None:
    assert edge.one("ssl_protocols") == "TLSv1.2 TLSv1.3"
    assert edge.one("ssl_certificate") == "/etc/nginx/tls/site/fullchain.pem"
    assert all(name.startswith("ECDHE-") for name in edge.one("ssl_ciphers").split(":"))
    assert not edge.all("ssl_stapling")


def test_the_access_log_is_json_without_queries(edge: Block) -> None:
    log = edge.one("log_format")
    assert log.startswith("edge escape=json")
    for part in ("$edge_request_id", "$upstream_response_time", "$status", "$edge_path"):
        assert part in log
    assert "$request_uri" not in log
    assert "$args" not in log
    assert '$request"' not in log


def test_further_names_are_served_by_the_same_site() -> None:
    assert server(http(nginx_extra_names=["api.lab.test"]), "443", "trading.lab.test api.lab.test")


def test_a_host_without_ipv6_listens_on_none() -> None:
    assert all("[::]" not in value for s in http(nginx_ipv6=False).within("server") for value in s.all("listen"))


def test_what_edge_check_reads_is_shell() -> None:
    conf = RenderedRole("nginx").template(ROOT / "roles/nginx/templates/edge.conf.j2")
    assert "EDGE_NAME=trading.lab.test\n" in conf
    assert "EDGE_CLOSED=(/docs /redoc /openapi.json /metrics /api/debug" in conf
    assert "EDGE_LIMIT=300\n" in conf
