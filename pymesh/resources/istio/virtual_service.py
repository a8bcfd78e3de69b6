"""Istio's VirtualService: how requests to a set of hosts are routed.

Source: istio.io/docs/reference/config/networking/virtual-service, release 1.27.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pymesh.resources.fields import Block, Duration, NotYet, ObjectMeta, Port, Weight
from pymesh.resources.istio.common import (
    Hosts,
    Labels,
    PortSelector,
)


class StringMatch(Block, frozen=True):
    """One of exact, prefix, regex (RE2, whole value)."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class HTTPMatchRequest(Block, frozen=True):
    """Clauses that must all hold for a request."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: NotYet = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = {}
    without_headers: dict[str, StringMatch] = {}
    query_params: dict[str, StringMatch] = {}
    port: Port | None = None
    source_labels: Labels = {}
    source_namespace: str = ""
    gateways: list[str] = []
    ignore_uri_case: bool = False
    stat_prefix: NotYet = None


class Destination(Block, frozen=True):
    """Where requests go: a service of the registry, perhaps a subset of it."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


class HeaderOperations(Block, frozen=True):
    """Headers to set, add and remove."""

    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: list[str] = []


class Headers(Block, frozen=True):
    """Changes to request and response headers."""

    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


class HTTPRouteDestination(Block, frozen=True):
    """One destination and its share."""

    destination: Destination
    weight: Weight = 0
    headers: Headers | None = None


class HTTPRedirect(Block, frozen=True):
    """Answer with a redirect."""

    uri: str | None = None
    authority: str | None = None
    port: Port | None = None
    derive_port: NotYet = None
    scheme: Literal["http", "https"] | None = None
    redirect_code: Literal[301, 302, 303, 307, 308] = 301


class HTTPBody(Block, frozen=True):
    """The body of an answer: text, or base64."""

    string: str | None = None
    bytes: str | None = None


class HTTPDirectResponse(Block, frozen=True):
    """Answer with a fixed response."""

    status: Annotated[int, Meta(ge=200, le=599, description="a status between 200 and 599")]
    body: HTTPBody | None = None


class RegexRewrite(Block, frozen=True):
    """Replace what `match` (RE2) finds in the path by `rewrite`."""

    match: str
    rewrite: str


class HTTPRewrite(Block, frozen=True):
    """Change path and authority before the request is sent on."""

    uri: str | None = None
    authority: str | None = None
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Block, frozen=True):
    """When and how often to try again."""

    attempts: Annotated[int, Meta(ge=0, le=100, description="a number between 0 and 100")]
    per_try_timeout: Duration | None = None
    retry_on: str | None = None
    retry_remote_localities: NotYet = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


class HTTPRoute(Block, frozen=True):
    """What happens to the requests that one of `match` describes; no match describes all."""

    name: str = ""
    match: list[HTTPMatchRequest] = []
    route: list[HTTPRouteDestination] = []
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    headers: Headers | None = None
    delegate: NotYet = None
    fault: NotYet = None
    mirror: NotYet = None
    mirrors: NotYet = None
    mirror_percent: NotYet = msgspec.field(default=None, name="mirror_percent")
    mirror_percentage: NotYet = None
    cors_policy: NotYet = None


class RouteDestination(Block, frozen=True):
    """One destination of opaque connections and its share."""

    destination: Destination
    weight: Weight = 0


class TLSMatchAttributes(Block, frozen=True):
    """Clauses that must all hold for a TLS connection, which stays closed."""

    sni_hosts: Annotated[list[str], Meta(min_length=1, description="a list with at least one server name")]
    destination_subnets: list[str] = []
    port: Port | None = None
    source_labels: Labels = {}
    source_namespace: str = ""
    gateways: list[str] = []


class TLSRoute(Block, frozen=True):
    """What happens to the TLS connections that one of `match` describes."""

    match: Annotated[list[TLSMatchAttributes], Meta(min_length=1, description="a list with at least one match")]
    route: list[RouteDestination] = []


class L4MatchAttributes(Block, frozen=True):
    """Clauses that must all hold for a connection of which nothing but its ends is known."""

    destination_subnets: list[str] = []
    port: Port | None = None
    source_labels: Labels = {}
    source_namespace: str = ""
    source_subnet: NotYet = None
    gateways: list[str] = []


class TCPRoute(Block, frozen=True):
    """What happens to the connections that one of `match` describes; no match describes all."""

    match: list[L4MatchAttributes] = []
    route: list[RouteDestination] = []


class VirtualServiceSpec(Block, frozen=True):
    """networking.istio.io VirtualService."""

    hosts: Hosts
    gateways: list[str] = []
    http: list[HTTPRoute] = []
    tls: list[TLSRoute] = []
    tcp: list[TCPRoute] = []
    export_to: list[str] = []

    def routes(self) -> Iterator[tuple[str, HTTPRoute | TLSRoute | TCPRoute]]:
        """Every route of every kind, with its field path."""
        kinds: dict[str, Sequence[HTTPRoute | TLSRoute | TCPRoute]]
        kinds = {"http": self.http, "tls": self.tls, "tcp": self.tcp}
        for kind, routes in kinds.items():
            for index, route in enumerate(routes):
                yield f"spec.{kind}[{index}]", route

    def destinations(self) -> Iterator[tuple[str, Destination]]:
        """Every destination of every route, with its field path."""
        for path, route in self.routes():
            items: Sequence[HTTPRouteDestination | RouteDestination] = route.route
            for index, item in enumerate(items):
                yield f"{path}.route[{index}].destination", item.destination

    def matches(self) -> Iterator[tuple[str, HTTPMatchRequest | TLSMatchAttributes | L4MatchAttributes]]:
        """Every match of every route, with its field path."""
        for path, route in self.routes():
            matches: Sequence[HTTPMatchRequest | TLSMatchAttributes | L4MatchAttributes] = route.match
            for index, match in enumerate(matches):
                yield f"{path}.match[{index}]", match


class VirtualService(Block, frozen=True):
    """How requests to a set of hosts are routed."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: VirtualServiceSpec
    status: object | None = None
