"""Which route a request takes: virtual host by authority, then the first route whose every clause holds. Pure.

Source: envoy.config.route.v3 (VirtualHost.domains search order: exact, suffix wildcard, prefix wildcard, `*`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from pymesh_proxy.codec.headers import Head


@dataclass(frozen=True, slots=True)
class HeaderMutation:
    """Headers to remove, set, set if absent and add: apply them in that order.

    What table, virtual host and route ask for is folded into one of these when the configuration is compiled, so that
    this order gives what Envoy's level by level evaluation would.
    """

    add: tuple[tuple[bytes, bytes], ...] = ()
    set: tuple[tuple[bytes, bytes], ...] = ()
    set_if_absent: tuple[tuple[bytes, bytes], ...] = ()
    remove: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When and how often to try again. `on` holds Envoy's words: "connect-failure", "5xx", "reset" ..."""

    on: frozenset[str]
    attempts: int = 1
    per_try_timeout: float | None = None
    status_codes: frozenset[int] = frozenset()
    base_interval: float = 0.025
    max_interval: float = 0.25


@dataclass(frozen=True, slots=True)
class Forward:
    """Send the request to one of `clusters`, chosen by weight."""

    clusters: tuple[tuple[str, int], ...]
    timeout: float | None = 15.0
    idle_timeout: float | None = None
    retry: RetryPolicy | None = None
    # New path for the one that matched, query excluded; None leaves it alone.
    rewrite: Callable[[bytes], bytes] | None = None
    host_rewrite: bytes | None = None
    auto_host_rewrite: bool = False
    upgrades: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Redirect:
    """Answer with a redirect. `location` makes the Location value from (scheme, authority, path with query)."""

    status: int
    location: Callable[[bytes, bytes, bytes], bytes]


@dataclass(frozen=True, slots=True)
class DirectResponse:
    """Answer with this status and body."""

    status: int
    body: bytes = b""


Action: TypeAlias = Forward | Redirect | DirectResponse


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One route of a virtual host, compiled: `matches` is all its clauses in one function."""

    name: str
    virtual_host: str
    source: str  # resource it was written in: "VirtualService default/reviews http[0]"; empty when not known
    matches: Callable[[Head], bool]
    action: Action
    request_headers: HeaderMutation = HeaderMutation()
    response_headers: HeaderMutation = HeaderMutation()


@dataclass(frozen=True, slots=True)
class VirtualHost:
    """The routes for some domains: names, `*.suffix`, `prefix.*` or `*`, with a port where it matters; any case."""

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]


Routes: TypeAlias = tuple[Route, ...]


class RouteTable:
    """A compiled RouteConfiguration.

    Domains are searched as Envoy does, whatever order they were given in: an exact name; the longest `*suffix`; the
    longest `prefix*`; `*`. A wildcard stands for at least one character. Names are in a dictionary and wildcards in one
    for each length, so the number of virtual hosts does not matter. Only the first virtual host that matches is looked
    into: if none of its routes matches, the request has no route.
    """

    __slots__ = ("_default", "_exact", "_ignore_port", "_prefixes", "_suffixes", "name", "virtual_hosts")

    def __init__(self, name: str, virtual_hosts: Iterable[VirtualHost], *, ignore_port: bool = False) -> None:
        """`ignore_port`: the port in a request's authority plays no part (ignore_port_in_host_matching).

        Raises:
            ValueError: a domain is given twice; the message names it.
        """
        self.name = name
        self.virtual_hosts = tuple(virtual_hosts)
        self._ignore_port = ignore_port
        self._exact: dict[bytes, Routes] = {}
        self._default: Routes | None = None
        suffixes: dict[int, dict[bytes, Routes]] = {}
        prefixes: dict[int, dict[bytes, Routes]] = {}
        seen: set[str] = set()
        for host in self.virtual_hosts:
            for domain in map(str.lower, host.domains):
                if domain in seen:
                    raise ValueError(f"the domain {domain!r} is given twice")
                seen.add(domain)
                key = domain.strip("*").encode()
                if domain == "*":
                    self._default = host.routes
                elif domain.startswith("*"):
                    suffixes.setdefault(len(key), {})[key] = host.routes
                elif domain.endswith("*"):
                    prefixes.setdefault(len(key), {})[key] = host.routes
                else:
                    self._exact[key] = host.routes
        self._suffixes = sorted(suffixes.items(), reverse=True)
        self._prefixes = sorted(prefixes.items(), reverse=True)

    def find(self, request: Head) -> Route | None:
        """The route for `request`, or None if no virtual host or no route of it matches."""
        # Names are kept in lower case, so a hit as it came in is a true hit; that is the common case.
        routes = None if self._ignore_port else self._exact.get(request.authority)
        if routes is None:
            routes = self._search(request.authority)
        for route in routes:
            if route.matches(request):
                return route
        return None

    def _search(self, authority: bytes) -> Routes:
        host = authority.lower()
        if self._ignore_port:
            host = without_port(host)
        routes = self._exact.get(host)
        if routes is not None:
            return routes
        for length, by_suffix in self._suffixes:
            if length < len(host):
                routes = by_suffix.get(host[-length:])
                if routes is not None:
                    return routes
        for length, by_prefix in self._prefixes:
            if length < len(host):
                routes = by_prefix.get(host[:length])
                if routes is not None:
                    return routes
        return self._default or ()


def without_port(authority: bytes) -> bytes:
    """`reviews:9080` to `reviews`, `[::1]:80` to `[::1]`; anything else as it is."""
    host, colon, port = authority.rpartition(b":")
    return host if colon and port.isdigit() and (b":" not in host or host.endswith(b"]")) else authority
