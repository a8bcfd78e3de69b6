"""How much one resource may hold. Every source asks here, through `parse`, before anything else walks the resource.

One resource is translated for every sidecar of the mesh, and lists multiply: what a person can write in half a megabyte
becomes tens of megabytes of routes in each of them. So lists are counted in the plain values, which costs next to
nothing, from the outermost inwards: what is below a list that is too long is never looked at.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from math import prod
from typing import Final, NamedTuple

from pymesh.resources.resource import child_path

# Hosts of a VirtualService: it is for one service under a few names; Istio's largest examples have a dozen.
MAX_HOSTS: Final = 100
# Routes of each kind in a VirtualService. The largest that are known, of API gateways, have some two hundred; proxies
# try one after the other, so that a longer list is better cut into several hosts anyway.
MAX_ROUTES: Final = 500
# Matches of a route, and names, subnets, gateways or headers of a match: written by hand they are a handful.
MAX_MATCHES: Final = 100
# Destinations of a route (a canary has two), and of all routes of a VirtualService: four for each of the most routes.
MAX_DESTINATIONS: Final = 100
MAX_ALL_DESTINATIONS: Final = 2_000
# Routes x matches x hosts: what becomes an entry in each sidecar, 370 bytes on the wire and 5 kB in its memory. So one
# VirtualService is at most 4 MB of the 16 MiB that a message to a proxy may have; 200 routes for 3 hosts are 600.
MAX_ROUTE_ENTRIES: Final = 10_000

# Hosts of a ServiceEntry: lists of what may be called outside have some dozens; several entries make a longer one.
MAX_ENTRY_HOSTS: Final = 200
# Ports of one: a range of ports is written out one by one.
MAX_ENTRY_PORTS: Final = 100
# Endpoints of one: as many as Kubernetes puts into an Endpoints object.
MAX_ENDPOINTS: Final = 1_000
# Addresses of one: a provider's published ranges are some dozens.
MAX_ADDRESSES: Final = 100
# Hosts x ports x endpoints: what becomes an endpoint in each sidecar, some 100 bytes.
MAX_ENTRY_ENDPOINTS: Final = 20_000

# Subsets of a DestinationRule, each a cluster of its own in every sidecar; they stand for versions that run at once.
MAX_SUBSETS: Final = 100
# Settings of a policy by port: as many as a Service may sensibly have ports.
MAX_PORT_SETTINGS: Final = 100

# Servers of a Gateway and hosts of each: of a gateway for many domains, each with a certificate of its own.
MAX_SERVERS: Final = 100
MAX_SERVER_HOSTS: Final = 100

# Rules of an AuthorizationPolicy, which proxies try one after the other, with each request.
MAX_RULES: Final = 200
# Sources, operations and conditions of one rule; and values of each list: written by hand they are a handful.
MAX_CLAUSES: Final = 100
MAX_VALUES: Final = 200
# Values in all; a condition's count for each source and operation of its rule. What a request may have to be compared
# with, at some 0.2 us each, and 30 bytes of each listener.
MAX_ALL_VALUES: Final = 5_000

# Lists that are too long which are told of; when those are mended, the rest shows up.
MAX_TOLD: Final = 10


class Excess(NamedTuple):
    """A list that is too long: where it is, and one sentence."""

    path: str
    sentence: str


class _Limit(NamedTuple):
    """At most `most` of `what` in each list (or group of fields) at `path`; `[]` stands for every item of a list."""

    path: str
    what: str
    most: int


_PARTS_OF_RULES: Final = (("from", "sources"), ("to", "operations"), ("when", "conditions"))
_SOURCES: Final = tuple(
    name
    for field in ("principals", "requestPrincipals", "namespaces", "serviceAccounts", "ipBlocks", "remoteIpBlocks")
    for name in (field, f"not{field[0].upper()}{field[1:]}")
)
_OPERATIONS: Final = tuple(
    name for field in ("hosts", "ports", "methods", "paths") for name in (field, f"not{field.title()}")
)

# Outermost first: what is below a list is only looked at once that list is short enough.
_LIMITS: Final[Mapping[str, tuple[_Limit, ...]]] = {
    "VirtualService": (
        _Limit("hosts", "hosts", MAX_HOSTS),
        _Limit("gateways", "gateways", MAX_MATCHES),
        _Limit("exportTo", "namespaces", MAX_HOSTS),
        *(_Limit(kind, f"{kind} routes", MAX_ROUTES) for kind in ("http", "tls", "tcp")),
        *(_Limit(f"{kind}[].match", "matches", MAX_MATCHES) for kind in ("http", "tls", "tcp")),
        *(_Limit(f"{kind}[].route", "destinations", MAX_DESTINATIONS) for kind in ("http", "tls", "tcp")),
    ),
    "ServiceEntry": (
        _Limit("hosts", "hosts", MAX_ENTRY_HOSTS),
        _Limit("exportTo", "namespaces", MAX_HOSTS),
        _Limit("addresses", "addresses", MAX_ADDRESSES),
        _Limit("ports", "ports", MAX_ENTRY_PORTS),
        _Limit("endpoints", "endpoints", MAX_ENDPOINTS),
    ),
    "DestinationRule": (
        _Limit("subsets", "subsets", MAX_SUBSETS),
        _Limit("exportTo", "namespaces", MAX_HOSTS),
        _Limit("trafficPolicy.portLevelSettings", "ports", MAX_PORT_SETTINGS),
        _Limit("subsets[].trafficPolicy.portLevelSettings", "ports", MAX_PORT_SETTINGS),
    ),
    "Gateway": (
        _Limit("servers", "servers", MAX_SERVERS),
        _Limit("servers[].hosts", "hosts", MAX_SERVER_HOSTS),
    ),
    "AuthorizationPolicy": (
        _Limit("rules", "rules", MAX_RULES),
        _Limit("targetRefs", "targets", MAX_CLAUSES),
        *(_Limit(f"rules[].{part}", what, MAX_CLAUSES) for part, what in _PARTS_OF_RULES),
        *(_Limit(f"rules[].from[].source.{field}", "values", MAX_VALUES) for field in _SOURCES),
        *(_Limit(f"rules[].to[].operation.{field}", "values", MAX_VALUES) for field in _OPERATIONS),
        *(_Limit(f"rules[].when[].{field}", "values", MAX_VALUES) for field in ("values", "notValues")),
    ),
}
# Of a match; looked at once it is known that there are not too many matches in all.
_IN_MATCHES: Final = tuple(
    _Limit(f"{kind}[].match[].{field}", what, MAX_MATCHES)
    for kind, field, what in (
        ("http", "headers", "headers"),
        ("http", "withoutHeaders", "headers"),
        ("http", "queryParams", "parameters"),
        ("http", "gateways", "gateways"),
        ("tls", "sniHosts", "names"),
        ("tls", "destinationSubnets", "ranges"),
        ("tls", "gateways", "gateways"),
        ("tcp", "destinationSubnets", "ranges"),
        ("tcp", "gateways", "gateways"),
    )
)


def excesses(kind: str, value: Mapping[str, object]) -> list[Excess]:
    """What a resource of `kind` has too much of, at most MAX_TOLD; of the outermost lists alone.

    `value` is any plain value: what is no list is passed over, and is for others to complain of.
    """
    spec = value.get("spec")
    for limit in _LIMITS.get(kind, ()):
        if found := list(islice(_too_long(spec, limit), MAX_TOLD)):
            return found
    if kind == "VirtualService":
        return _of_virtual_service(spec)
    if kind == "ServiceEntry":
        parts = [len(_list(spec, name)) or 1 for name in ("hosts", "ports", "endpoints")]
        return _product("hosts x ports x endpoints", prod(parts), MAX_ENTRY_ENDPOINTS)
    if kind == "AuthorizationPolicy":
        values = sum(map(_values, _list(spec, "rules")))
        return [Excess("spec", _sentence(values, "values in all", MAX_ALL_VALUES))] if values > MAX_ALL_VALUES else []
    return []


def _values(rule: object) -> int:
    """How many values there are to compare a request with."""
    sources, operations = _list(rule, "from"), _list(rule, "to")
    conditions = sum(len(_list(item, field)) for item in _list(rule, "when") for field in ("values", "notValues"))
    within = [
        item.get(word)
        for items, word in ((sources, "source"), (operations, "operation"))
        for item in items
        if isinstance(item, dict)
    ]
    lists = sum(
        len(values) for item in within if isinstance(item, dict) for values in item.values() if isinstance(values, list)
    )
    return lists + conditions * max(1, len(sources), len(operations))


def _of_virtual_service(spec: object) -> list[Excess]:
    routes = [route for kind in ("http", "tls", "tcp") for route in _list(spec, kind)]
    destinations = sum(len(_list(route, "route")) for route in routes)
    if destinations > MAX_ALL_DESTINATIONS:
        return [Excess("spec", _sentence(destinations, "destinations in all", MAX_ALL_DESTINATIONS))]
    hosts = len(_list(spec, "hosts")) or 1
    matches = sum(len(_list(route, "match")) or 1 for route in routes)
    if matches * hosts > MAX_ROUTE_ENTRIES:
        return _product("routes x matches x hosts", matches * hosts, MAX_ROUTE_ENTRIES)
    for limit in _IN_MATCHES:
        if found := list(islice(_too_long(spec, limit), MAX_TOLD)):
            return found
    # A name or a range of a connection's match is an entry of its own.
    wide = sum(sum(map(_width, _list(route, "match"))) or 1 for route in routes)
    return _product("routes x matches x hosts", wide * hosts, MAX_ROUTE_ENTRIES)


def _width(match: object) -> int:
    return max(1, len(_list(match, "sniHosts")), len(_list(match, "destinationSubnets")))


def _product(what: str, size: int, most: int) -> list[Excess]:
    return [Excess("spec", _sentence(size, what, most))] if size > most else []


def _sentence(size: int, what: str, most: int) -> str:
    return f"{size} {what}, and {most} is the most: split it into several resources"


def _too_long(spec: object, limit: _Limit) -> Iterator[Excess]:
    for path, found in _at(spec, limit.path.split("."), "spec"):
        if isinstance(found, list | dict) and len(found) > limit.most:
            yield Excess(path, _sentence(len(found), limit.what, limit.most))


def _at(value: object, steps: list[str], path: str) -> Iterator[tuple[str, object]]:
    """What is at `steps` below `value`, with its path."""
    if not steps:
        yield path, value
        return
    if not isinstance(value, dict):
        return
    name = steps[0].removesuffix("[]")
    below, here = value.get(name), child_path(path, name)
    if name == steps[0]:
        yield from _at(below, steps[1:], here)
    elif isinstance(below, list):
        for index, item in enumerate(below):
            yield from _at(item, steps[1:], child_path(here, index))


def _list(value: object, name: str) -> list[object]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
