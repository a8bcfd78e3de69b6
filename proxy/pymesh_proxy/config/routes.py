"""envoy.config.route.v3.RouteConfiguration → RouteTable.

A route's clauses become one function: the path's alone where there is no other, which is the common case, so that
matching it costs one call.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from envoy.config.core.v3.base_pb2 import Metadata, RuntimeFractionalPercent
from envoy.config.route.v3.route_components_pb2 import (
    Route as RouteMessage,
)
from envoy.config.route.v3.route_components_pb2 import (
    RouteMatch,
)
from envoy.config.route.v3.route_components_pb2 import (
    VirtualHost as VirtualHostMessage,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.message import DecodeError, Message

from pymesh.errors import ConfigError
from pymesh.steps import Steps, whole
from pymesh.xds.check import check, join
from pymesh.xds.wire import split
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config import header_mutations, matchers
from pymesh_proxy.config.actions import MAX_DIRECT_RESPONSE_BYTES, ActionContext, action, retry_policy
from pymesh_proxy.config.fields import flag, metadata, number, one_of, required
from pymesh_proxy.config.patterns import full_match
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.routing import PathKind, RetryPolicy, Route, RouteTable, VirtualHost

M = TypeVar("M", bound=Message)
HeadMatch = Callable[[Head], bool]

_DENOMINATORS: Final = {
    FractionalPercent.HUNDRED: 100,
    FractionalPercent.TEN_THOUSAND: 10_000,
    FractionalPercent.MILLION: 1_000_000,
}
# Istio writes the source of a route as the API path of its VirtualService.
_ISTIO_CONFIG: Final = re.compile(r"/apis/[^/]+/[^/]+/namespaces/([^/]+)/virtual-service/([^/]+)")


@dataclass(frozen=True, slots=True)
class Context:
    """What routes are compiled against.

    Attributes:
        random: uniform in [0, 1), for routes that take a fraction of the requests.
        cluster_exists: whether there is a cluster of this name.
        filters: of every HTTP connection, after those of its own configuration (`--filter`).
    """

    random: Callable[[], float]
    cluster_exists: Callable[[str], bool]
    filters: tuple[HttpFilter, ...] = ()


def _any_cluster(_: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class _Host:
    """What the routes of a virtual host take from it."""

    name: str
    source: str
    retry: RetryPolicy | None
    attempt_count: bool
    attempt_count_in_response: bool
    request_headers: header_mutations.Level
    response_headers: header_mutations.Level


class RouteCompiler:
    """Compiles one table, virtual host by virtual host, in the order of the table."""

    def __init__(self, table: RouteConfiguration, context: Context, path: str, *, inline: bool) -> None:
        """`table` may be without its virtual hosts, which come one by one."""
        self._table = table
        self._random = context.random
        self._path = join(path, "virtual_hosts")
        check_clusters = flag(table, "validate_clusters", default=inline)
        self._cluster_exists = context.cluster_exists if check_clusters else _any_cluster
        self._request_headers = self._level(table, "request", path)
        self._response_headers = self._level(table, "response", path)
        self._max_body = number(table, "max_direct_response_body_size_bytes", MAX_DIRECT_RESPONSE_BYTES)
        self._hosts: dict[str, VirtualHost] = {}
        self._domains: dict[str, str] = {}  # in lower case → name of the virtual host

    def add(self, message: VirtualHostMessage, routes: Iterable[RouteMessage]) -> Steps[None]:
        """The next virtual host, and its routes.

        Raises:
            ConfigError: with the path of what is wrong.
        """
        path = f"{self._path}[{len(self._hosts)}]"
        if message.name in self._hosts:
            raise ConfigError(f"the virtual host {message.name!r} is given twice", path=f"{path}.name")
        required(message.name, join(path, "name"))
        if not message.domains:
            raise ConfigError("at least one domain is required", path=join(path, "domains"))
        for index, domain in enumerate(message.domains):
            self._add_domain(domain, message.name, f"{path}.domains[{index}]")
        here = join(path, "retry_policy")
        host = _Host(
            name=message.name,
            source=_source(message.metadata),
            retry=retry_policy(message.retry_policy, here) if message.HasField("retry_policy") else None,
            attempt_count=message.include_request_attempt_count,
            attempt_count_in_response=message.include_attempt_count_in_response,
            request_headers=self._level(message, "request", path),
            response_headers=self._level(message, "response", path),
        )
        compiled = []
        for index, route in enumerate(routes):
            compiled.append(self._route(route, host, f"{path}.routes[{index}]"))
            yield
        self._hosts[message.name] = VirtualHost(message.name, tuple(message.domains), tuple(compiled))

    def table(self) -> Steps[RouteTable]:
        """The table, all of whose virtual hosts were added."""
        ignore_port = self._table.ignore_port_in_host_matching
        return RouteTable.building(self._table.name, self._hosts.values(), ignore_port=ignore_port)

    def _add_domain(self, domain: str, host: str, path: str) -> None:
        _check_domain(domain, path)
        first = self._domains.get(domain.lower())
        if first is not None:
            raise ConfigError(f"the domain {domain!r} is already given in virtual host {first!r}", path=path)
        self._domains[domain.lower()] = host

    def _route(self, message: RouteMessage, host: "_Host", path: str) -> Route:
        request_headers = [self._level(message, "request", path), host.request_headers, self._request_headers]
        response_headers = [self._level(message, "response", path), host.response_headers, self._response_headers]
        if self._table.most_specific_header_mutations_wins:
            request_headers.reverse()
            response_headers.reverse()
        return Route(
            name=message.name,
            virtual_host=host.name,
            source=_source(message.metadata) or host.source,
            matches=self._match(message.match, join(path, "match")),
            action=action(
                message,
                ActionContext(
                    host.retry,
                    self._max_body,
                    self._cluster_exists,
                    host.attempt_count,
                    host.attempt_count_in_response,
                ),
                path,
            ),
            request_headers=header_mutations.fold(request_headers),
            response_headers=header_mutations.fold(response_headers),
            path=_indexed(message.match),
        )

    @staticmethod
    def _level(
        message: RouteConfiguration | VirtualHostMessage | RouteMessage, kind: str, path: str
    ) -> header_mutations.Level:
        add, remove = f"{kind}_headers_to_add", f"{kind}_headers_to_remove"
        return header_mutations.level(
            getattr(message, add), getattr(message, remove), join(path, add), join(path, remove)
        )

    def _match(self, match: RouteMatch, path: str) -> HeadMatch:
        clauses = _clauses(match, path)
        if match.HasField("runtime_fraction"):
            clauses.append(_fraction(match.runtime_fraction, self._random, join(path, "runtime_fraction")))
        return _all(clauses)


def compile_routes(table: RouteConfiguration, context: Context, path: str = "", *, inline: bool = False) -> RouteTable:
    """The compiled `table`, already checked by `pymesh.xds.check`; `path` is where it stands.

    Clusters that do not exist are an error if `validate_clusters` says so; by default, as in Envoy, in tables that are
    `inline` in a connection manager.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    compiler = RouteCompiler(table, context, path, inline=inline)
    for host in table.virtual_hosts:
        whole(compiler.add(host, host.routes))
    return whole(compiler.table())


def compile_encoded_routes(data: bytes, context: Context) -> Steps[RouteTable]:
    """The table that `data` is the encoding of, not checked yet, in steps of one route each.

    It is taken apart on the wire and parsed piece by piece: as one message, a table of ten thousand routes takes
    longer to parse, and to free, than any request should have to wait.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    rest, hosts = yield from split(data, RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER)
    compiler = RouteCompiler(_checked(RouteConfiguration, rest, ""), context, "", inline=False)
    for index, (start, end) in enumerate(hosts):
        path = f"virtual_hosts[{index}]"
        encoded = data[start:end]
        try:
            rest, routes = yield from split(encoded, VirtualHostMessage.ROUTES_FIELD_NUMBER)
        except ConfigError as error:
            raise error.at(path) from error
        host = _checked(VirtualHostMessage, rest, path)
        pieces = (
            _checked(RouteMessage, encoded[start:end], f"{path}.routes[{number_}]")
            for number_, (start, end) in enumerate(routes)
        )
        yield from compiler.add(host, pieces)
    return (yield from compiler.table())


def _checked(kind: type[M], data: bytes, path: str) -> M:
    """The message in `data`, which holds nothing that is not supported."""
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise ConfigError(f"is not a well-formed {kind.DESCRIPTOR.full_name}: {error}", path=path) from error
    check(message, path)
    return message


def _check_domain(domain: str, path: str) -> None:
    body = domain.strip("*")
    if not domain or "*" in body or domain.count("*") > 1:
        raise ConfigError(f"{domain!r} is not a name, `*.suffix`, `prefix.*` or `*`", path=path)


def request_match(match: RouteMatch, path: str) -> HeadMatch:
    """Whether a request is one of `match`, for rules that must not depend on chance.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    if match.HasField("runtime_fraction"):
        raise ConfigError("is not for drawing lots about this", path=join(path, "runtime_fraction"))
    return _all(_clauses(match, path))


def _clauses(match: RouteMatch, path: str) -> list[HeadMatch]:
    clauses = [_path_clause(match, path)]
    for index, header in enumerate(match.headers):
        clauses.append(matchers.header(header, f"{path}.headers[{index}]"))
    for index, parameter in enumerate(match.query_parameters):
        clauses.append(matchers.query_parameter(parameter, f"{path}.query_parameters[{index}]"))
    return clauses


def _path_clause(match: RouteMatch, path: str) -> HeadMatch:
    """The clause for the path, compared without its query."""
    which = one_of(match, "path_specifier", path)
    here = join(path, which)
    if which == "safe_regex":
        accepts = full_match(match.safe_regex, here)
        return lambda head: accepts(head.path.partition(b"?")[0])
    text: str = getattr(match, which)
    if "?" in text or "#" in text:
        raise ConfigError("a path is compared without its query: `?` and `#` cannot match", path=here)
    ignore_case = not flag(match, "case_sensitive", default=True)
    wanted = (text.lower() if ignore_case else text).encode()
    if which == "prefix":
        return _prefix(wanted, ignore_case=ignore_case)
    if which == "path":
        return _exact(wanted, ignore_case=ignore_case)
    if not text.startswith("/") or text.endswith("/"):
        raise ConfigError("begins with a slash and does not end with one", path=here)
    exact, below = _exact(wanted, ignore_case=ignore_case), _prefix(wanted + b"/", ignore_case=ignore_case)
    return lambda head: exact(head) or below(head)


def _indexed(match: RouteMatch) -> tuple[PathKind, bytes] | None:
    """See routing.Route: the path as plain bytes, where it is one."""
    which = match.WhichOneof("path_specifier")
    if which == "safe_regex" or not flag(match, "case_sensitive", default=True):
        return None
    return PathKind(which), getattr(match, which).encode()


def _prefix(wanted: bytes, *, ignore_case: bool) -> HeadMatch:
    if ignore_case:
        return lambda head: head.path.lower().startswith(wanted)
    return lambda head: head.path.startswith(wanted)


def _exact(wanted: bytes, *, ignore_case: bool) -> HeadMatch:
    if ignore_case:
        return lambda head: head.path.partition(b"?")[0].lower() == wanted
    return lambda head: head.path == wanted or head.path.partition(b"?")[0] == wanted


def _fraction(fraction: RuntimeFractionalPercent, random: Callable[[], float], path: str) -> HeadMatch:
    if not fraction.HasField("default_value"):
        raise ConfigError("is required", path=join(path, "default_value"))
    share = fraction.default_value.numerator / _DENOMINATORS[fraction.default_value.denominator]
    return lambda _: random() < share


def _all(clauses: Sequence[HeadMatch]) -> HeadMatch:
    if len(clauses) == 1:
        return clauses[0]
    if len(clauses) == 2:
        first, second = clauses
        return lambda head: first(head) and second(head)
    every = tuple(clauses)
    return lambda head: all(clause(head) for clause in every)


def _source(message: Metadata) -> str:
    """The resource that a route was written in: pilot's own words, or Istio's API path."""
    own = metadata(message, "pymesh").get("source", "")
    if own:
        return own
    config = metadata(message, "istio").get("config", "")
    match = _ISTIO_CONFIG.fullmatch(config)
    return f"VirtualService {match[1]}/{match[2]}" if match else config
