"""How much a resource may hold: what is too much is refused by its count, before anything walks it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.resources import check, sizes
from pymesh.resources.parse import Refused, read
from pymesh.resources.resource import Positions

NOWHERE = Positions("", {})
TO = {"destination": {"host": "reviews"}}
ROUTE = {"route": [TO]}
TLS = {"match": [{"sniHosts": ["reviews"]}], "route": [TO]}


def resource(kind: str, spec: object) -> dict[str, Any]:
    group = "security" if kind == "AuthorizationPolicy" else "networking"
    return {"apiVersion": f"{group}.istio.io/v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}


def refused(kind: str, spec: object) -> list[str]:
    found = read(resource(kind, spec), NOWHERE)
    return [f"{error.path}: {error.problem}" for error in found.errors] if isinstance(found, Refused) else []


def hosts(count: int) -> list[str]:
    return [f"h{number}.example.com" for number in range(count)]


def virtual(**spec: object) -> dict[str, object]:
    return {"hosts": ["reviews"], "http": [ROUTE], **spec}


def entry(**spec: object) -> dict[str, object]:
    return {"hosts": ["a.example.com"], "ports": [{"number": 80, "name": "http"}], **spec}


def server(count: int) -> dict[str, object]:
    return {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": hosts(count)}


def calls(operations: int, paths: int) -> dict[str, object]:
    return {"rules": [{"to": [{"operation": {"notPaths": ["/a"] * paths}}] * operations}]}


def asks(sources: int, values: int) -> dict[str, object]:
    """A condition counts for each source."""
    rule = {"from": [{"source": {}}] * sources, "when": [{"key": "source.ip", "notValues": ["10.0.0.1"] * values}]}
    return {"rules": [rule]}


def matches(count: int) -> dict[str, object]:
    return {"match": [{"uri": {"prefix": f"/{number}"}} for number in range(count)], "route": [TO]}


@pytest.mark.parametrize(
    ("kind", "most", "beyond", "expected"),
    [
        ("VirtualService", virtual(hosts=hosts(100)), virtual(hosts=hosts(101)), "spec.hosts: 101 hosts, and 100"),
        ("VirtualService", virtual(http=[ROUTE] * 500), virtual(http=[ROUTE] * 501), "spec.http: 501 http routes"),
        ("VirtualService", virtual(tls=[TLS] * 500), virtual(tls=[TLS] * 501), "spec.tls: 501 tls routes"),
        ("VirtualService", virtual(tcp=[ROUTE] * 500), virtual(tcp=[ROUTE] * 501), "spec.tcp: 501 tcp routes"),
        ("VirtualService", virtual(http=[matches(100)]), virtual(http=[matches(101)]), "spec.http[0].match: 101 match"),
        (
            "VirtualService",
            virtual(http=[{"route": [TO] * 100}]),
            virtual(http=[ROUTE, {"route": [TO] * 101}]),
            "spec.http[1].route: 101 destinations, and 100 is the most: split it into several resources",
        ),
        (
            "VirtualService",
            virtual(http=[{"route": [TO] * 100}] * 20),
            virtual(http=[{"route": [TO] * 100}] * 21),
            "spec: 2100 destinations in all, and 2000",
        ),
        (
            "VirtualService",
            virtual(hosts=hosts(20), http=[ROUTE] * 500),
            virtual(hosts=hosts(21), http=[ROUTE] * 500),
            "spec: 10500 routes x matches x hosts, and 10000",
        ),
        ("ServiceEntry", entry(hosts=hosts(200)), entry(hosts=hosts(201)), "spec.hosts: 201 hosts"),
        ("ServiceEntry", entry(endpoints=[{}] * 1000), entry(endpoints=[{}] * 1001), "spec.endpoints: 1001 endpoints"),
        ("ServiceEntry", entry(addresses=["10.0.0.1"] * 100), entry(addresses=[""] * 101), "spec.addresses: 101 addr"),
        (
            "ServiceEntry",
            entry(hosts=hosts(20), endpoints=[{}] * 1000),
            entry(hosts=hosts(21), endpoints=[{}] * 1000),
            "spec: 21000 hosts x ports x endpoints",
        ),
        (
            "DestinationRule",
            {"host": "reviews", "subsets": [{"name": "v1"}] * 100},
            {"host": "reviews", "subsets": [{"name": "v1"}] * 101},
            "spec.subsets: 101 subsets",
        ),
        ("Gateway", {"servers": [server(1)] * 100}, {"servers": [server(1)] * 101}, "spec.servers: 101 servers"),
        ("Gateway", {"servers": [server(100)]}, {"servers": [server(101)]}, "spec.servers[0].hosts: 101 hosts"),
        ("AuthorizationPolicy", {"rules": [{}] * 200}, {"rules": [{}] * 201}, "spec.rules: 201 rules"),
        ("AuthorizationPolicy", calls(100, 1), calls(101, 1), "spec.rules[0].to: 101 operations"),
        (
            "AuthorizationPolicy",
            calls(1, 200),
            calls(1, 201),
            "spec.rules[0].to[0].operation.notPaths: 201 values",
        ),
        ("AuthorizationPolicy", calls(25, 200), calls(26, 200), "spec: 5200 values in all, and 5000"),
        ("AuthorizationPolicy", asks(25, 200), asks(26, 200), "spec: 5200 values in all, and 5000"),
    ],
)
def test_the_most_is_read_and_one_more_is_refused(kind: str, most: object, beyond: object, expected: str) -> None:
    assert refused(kind, most) == []
    (sentence,) = refused(kind, beyond)
    assert sentence.startswith(expected)


def test_what_is_too_long_is_walked_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def walked(*_: object) -> object:
        raise AssertionError("the resource was walked")

    monkeypatch.setattr(check, "convert", walked)
    assert refused("ServiceEntry", entry(hosts=hosts(80_000)))
    assert refused("VirtualService", virtual(http=[ROUTE] * 15_000))


def test_only_so_many_lists_are_told_of() -> None:
    assert len(refused("VirtualService", virtual(http=[matches(101)] * 200))) == sizes.MAX_TOLD


def test_a_name_of_a_connection_counts_as_an_entry() -> None:
    names = {"match": [{"sniHosts": hosts(100)}], "route": [TO]}
    (sentence,) = refused("VirtualService", {"hosts": ["*.example.com"], "tls": [names] * 101})
    assert sentence.startswith("spec: 10100 routes x matches x hosts")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["http", "match", "route", "hosts", "rules", "to"]), inner)
    ),
)


@given(PLAIN)
def test_whatever_it_is_counting_does_not_fail(spec: object) -> None:
    for kind in ("VirtualService", "ServiceEntry", "DestinationRule", "Gateway", "AuthorizationPolicy", "Pod"):
        assert sizes.excesses(kind, {"spec": spec}) == []
