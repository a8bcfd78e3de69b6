"""Virtual hosts are found by Envoy's search order, whatever their number and order; then the first matching route."""

from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.steps import whole
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.routing import DirectResponse, Route, RouteTable, VirtualHost, without_port
from tests.support.heads import request


def route(name: str, prefix: bytes = b"/") -> Route:
    def matches(head: Head) -> bool:
        return head.path.startswith(prefix)

    return Route(name=name, virtual_host="", source="", matches=matches, action=DirectResponse(200))


def table(hosts: Sequence[Sequence[str]], *, ignore_port: bool = False) -> RouteTable:
    """A table with a virtual host for each list of domains, whose only route is called like its first domain."""
    return RouteTable(
        "t", [VirtualHost(found[0], tuple(found), (route(found[0]),)) for found in hosts], ignore_port=ignore_port
    )


def found(routes: RouteTable, host: str) -> str | None:
    chosen = routes.find(request(host=host))
    return chosen.name if chosen is not None else None


DOMAINS = [
    ["*"], ["*.com"], ["*.bar.com", "exact.org"], ["*-bar.com"], ["foo.*"], ["foo.bar.*"], ["foo.bar.com"],
    ["reviews:9080"], ["UPPER.example"],
]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("foo.bar.com", "foo.bar.com"),  # exact before every wildcard
        ("FOO.Bar.Com", "foo.bar.com"),  # hosts have no case
        ("upper.EXAMPLE", "UPPER.example"),
        ("x.bar.com", "*.bar.com"),  # the longest suffix
        ("x-bar.com", "*-bar.com"),
        ("a.com", "*.com"),
        (".bar.com", "*.com"),  # a wildcard stands for at least one character
        ("foo.bar.net", "foo.bar.*"),  # the longest prefix
        ("foo.net", "foo.*"),
        ("foo.x.com", "*.com"),  # suffixes before prefixes
        ("foo.", "*"),
        ("exact.org", "*.bar.com"),
        ("reviews:9080", "reviews:9080"),
        ("reviews", "*"),
        ("foo.bar.com:80", "foo.bar.*"),  # the port is part of the name
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_search_order(host: str, expected: str, reverse: bool) -> None:
    hosts = [*reversed(DOMAINS)] if reverse else DOMAINS
    assert found(table(hosts), host) == expected


def test_ports_play_no_part_if_told_so() -> None:
    routes = table([["foo.com"], ["*.org"], ["[::1]"]], ignore_port=True)
    assert found(routes, "foo.com:8080") == "foo.com"
    assert found(routes, "x.org:1") == "*.org"
    assert found(routes, "[::1]:80") == "[::1]"
    assert found(routes, "foo.com") == "foo.com"


def test_no_virtual_host_and_no_route_are_both_none() -> None:
    assert found(table([["a.com"]]), "b.com") is None
    assert found(RouteTable("empty", []), "a") is None


def test_only_the_best_virtual_host_is_looked_into() -> None:
    hosts = [VirtualHost("exact", ("a.com",), (route("api", b"/api"),)), VirtualHost("all", ("*",), (route("all"),))]
    routes = RouteTable("t", hosts)
    assert routes.find(request("/other", "a.com")) is None


def test_the_first_matching_route_wins() -> None:
    routes = RouteTable("t", [VirtualHost("v", ("*",), (route("b", b"/b"), route("first"), route("second")))])
    chosen = [routes.find(request(path)) for path in ("/b", "/a")]
    assert [one.name for one in chosen if one is not None] == ["b", "first"]


def test_a_domain_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'a\.com' is given twice"):
        table([["a.com"], ["x.com", "A.com"]])


@pytest.mark.parametrize(
    ("authority", "host"),
    [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("::1", "::1"), ("a:", "a:"), ("", "")],
)
def test_without_port(authority: str, host: str) -> None:
    assert without_port(authority.encode()) == host.encode()


names = st.text("ab.-", min_size=1, max_size=5)
domains = st.one_of(names, names.map("*{}".format), names.map("{}*".format), st.just("*"))


def oracle(hosts: list[list[str]], host: str) -> str | None:
    """Envoy's rule, word for word: exact, longest suffix, longest prefix, `*`."""
    every = [(domain, owner[0]) for owner in hosts for domain in owner]
    ranked: list[tuple[int, int, str]] = []
    for domain, owner in every:
        if domain == host:
            ranked.append((0, 0, owner))
        elif domain == "*":
            ranked.append((3, 0, owner))
        elif domain.startswith("*") and host.endswith(domain[1:]) and len(host) >= len(domain):
            ranked.append((1, -len(domain), owner))
        elif domain.endswith("*") and host.startswith(domain[:-1]) and len(host) >= len(domain):
            ranked.append((2, -len(domain), owner))
    return min(ranked)[2] if ranked else None


@given(
    st.lists(st.lists(domains, min_size=1, max_size=3, unique=True), max_size=6).filter(
        lambda hosts: len(list(chain(*hosts))) == len(set(chain(*hosts)))
    ),
    st.text("ab.-", min_size=1, max_size=7),
)
def test_search_agrees_with_the_rule(hosts: list[list[str]], host: str) -> None:
    assert found(table(hosts), host) == oracle(hosts, host)


def test_the_index_of_many_routes_is_made_with_the_table_in_steps() -> None:
    routes = tuple(route(f"r{number}", b"/%d/" % number) for number in range(3000))
    building = RouteTable.building("t", [VirtualHost("h", ("*",), routes)])
    assert sum(1 for _ in building) >= 15
    made = whole(RouteTable.building("t", [VirtualHost("h", ("*",), routes)]))
    assert made._default is not None
    assert not made._default._unready, "the first request finds it"
    chosen = made.find(request(path="/2999/x"))
    assert chosen is routes[2999]
