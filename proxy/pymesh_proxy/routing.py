"""Which route a request takes: virtual host by authority, then the first route whose every clause holds. Pure.

Source: envoy.config.route.v3 (VirtualHost.domains search order: exact, suffix wildcard, prefix wildcard, `*`).
"""

from collections.abc import Callable, Mapping
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
    # RBAC, policy and other per-route overrides by filter name.
    per_filter: Mapping[str, object] = field(default_factory=dict)


class RouteTable:
    """A compiled RouteConfiguration."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def find(self, request: Head) -> Route | None:
        """The route for `request`, or None if no virtual host or no route of it matches."""
        raise NotImplementedError
