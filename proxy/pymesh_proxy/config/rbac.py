"""envoy RBAC → RbacFilter, NetworkRbac."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, TypeAlias

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal
from envoy.config.rbac.v3.rbac_pb2 import Policy as PolicyMessage
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from envoy.extensions.filters.network.rbac.v3.rbac_pb2 import RBAC as NetworkRBAC  # noqa: N811 - there are two
from envoy.extensions.path.match.uri_template.v3.uri_template_match_pb2 import UriTemplateMatchConfig
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.range_pb2 import Int32Range
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.xds.check import join, unpack
from pymesh_proxy.config import matchers, value_matchers
from pymesh_proxy.config.fields import network, one_of, required
from pymesh_proxy.config.uri_template import uri_template
from pymesh_proxy.filters.access_rules import (
    Action,
    All,
    Not,
    OfConnection,
    OfRequest,
    Paths,
    Policy,
    Rule,
    Rules,
    Some,
    without_query,
)
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.network_rbac import NetworkRbac
from pymesh_proxy.filters.rbac import NAME, RbacFilter, RbacSettings
from pymesh_proxy.routing import PathKind
from pymesh_proxy.transport.facts import Facts

# Levels of rules within rules; people write three or four. Much deeper ones would exhaust Python's stack.
MAX_DEPTH: Final = 32

# Addresses remembered as numbers, for all rules: a connection asks with each of its requests.
_KNOWN: Final = 1024
_MAX_PORT: Final = 65_535

_ACTIONS: Final = {rbac_pb2.RBAC.ALLOW: Action.ALLOW, rbac_pb2.RBAC.DENY: Action.DENY, rbac_pb2.RBAC.LOG: Action.LOG}

# Relative costs of questions. The cheapest is for a header, since most requests do not have it: then all is said.
_HEADER: Final = 1
_START_LINE: Final = 2
_PATTERN: Final = 6
_VALUE: Final = 8

Inside: TypeAlias = Callable[[str], bool]
# The field of a permission or a principal that is set, its value and its path → the question that it asks.
Ask: TypeAlias = Callable[[str, object, str], Rule]


def rbac(message: Message, path: str) -> HttpFilter:
    """The filter.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    assert isinstance(message, RBAC)
    found = RbacFilter(_settings(message, message.rules_stat_prefix, path, _question))
    return HttpFilter(NAME, found.on_request, connect=found.connect)


def network_rbac(message: NetworkRBAC, path: str) -> NetworkRbac:
    """The rules for connections.

    Raises:
        ConfigError: with the path of what is wrong, or asks something that connections do not know.
    """
    prefix = required(message.stat_prefix, join(path, "stat_prefix"))
    return NetworkRbac(_settings(message, prefix, path, _question_to_connection))


def _settings(message: RBAC | NetworkRBAC, prefix: str, path: str, ask: Ask) -> RbacSettings:
    rules = _rules(message.rules, join(path, "rules"), ask) if message.HasField("rules") else None
    shadow = _rules(message.shadow_rules, join(path, "shadow_rules"), ask) if message.HasField("shadow_rules") else None
    return RbacSettings(rules, shadow, prefix, message.shadow_rules_stat_prefix)


def _rules(message: rbac_pb2.RBAC, path: str, ask: Ask) -> Rules:
    # By name, as Envoy tries them: which one is named in the log must not depend on how a map is iterated.
    policies = sorted(message.policies.items())
    here = join(path, "policies")
    return Rules(_ACTIONS[message.action], [Policy(name, _policy(of, f"{here}[{name}]", ask)) for name, of in policies])


def _policy(message: PolicyMessage, path: str, ask: Ask) -> Rule:
    may = _each(message.permissions, join(path, "permissions"), 0, ask)
    who = _each(message.principals, join(path, "principals"), 0, ask)
    return All((Some(may), Some(who)))


def _each(items: Sequence[Permission | Principal], path: str, depth: int, ask: Ask) -> tuple[Rule, ...]:
    if not items:
        raise ConfigError("at least one is required", path=path)
    return tuple([_rule(item, f"{path}[{index}]", depth, ask) for index, item in enumerate(items)])


def _rule(message: Permission | Principal, path: str, depth: int, ask: Ask) -> Rule:
    """A permission or a principal: both nest in the same way."""
    if depth > MAX_DEPTH:
        raise ConfigError(f"rules within rules, more than {MAX_DEPTH} deep", path=path)
    which = one_of(message, "rule" if isinstance(message, Permission) else "identifier", path)
    here, value = join(path, which), getattr(message, which)
    match which:
        case "and_rules" | "and_ids":
            return All(_each(*_set(value, here), depth + 1, ask))
        case "or_rules" | "or_ids":
            return Some(_each(*_set(value, here), depth + 1, ask))
        case "not_rule" | "not_id":
            return Not(_rule(value, here, depth + 1, ask))
        case "any":
            if not value:
                raise ConfigError("must be true", path=here)
            return True
        case _:
            return ask(which, value, here)


def _set(message: Permission.Set | Principal.Set, path: str) -> tuple[Sequence[Permission | Principal], str]:
    if isinstance(message, Permission.Set):
        return message.rules, join(path, "rules")
    return message.ids, join(path, "ids")


def _question(which: str, value: object, path: str) -> Rule:
    """A question to the connection if it can answer it, else to the request."""
    return _of_connection(which, value, path) or _of_request(which, value, path)


def _question_to_connection(which: str, value: object, path: str) -> Rule:
    """A question to the connection: opaque bytes know no requests."""
    if which == "remote_ip":  # without a header that says more, it is who connects
        which = "direct_remote_ip"
    question = _of_connection(which, value, path)
    if question is None:
        raise ConfigError("asks about requests, and opaque bytes have none", path=path)
    return question


# --- What a connection is asked ---


def _of_connection(which: str, value: object, path: str) -> OfConnection | None:
    """A question to the connection; None if only a request can answer it. Equal messages make equal keys."""
    holds = _holds(which, value, path)
    if holds is None:
        return None
    text = value.SerializeToString(deterministic=True) if isinstance(value, Message) else str(value).encode()
    return OfConnection((which, text), holds)


def _holds(which: str, value: object, path: str) -> Callable[[Facts], bool] | None:
    match which:
        case "authenticated":
            assert isinstance(value, Principal.Authenticated)
            return _authenticated(value, path)
        case "source_ip" | "direct_remote_ip":
            inside = _within(value, path)
            return lambda facts: inside(facts.remote.rpartition(":")[0])
        case "destination_ip":
            inside = _within(value, path)
            return lambda facts: inside(_destination(facts).rpartition(":")[0])
        case "destination_port":
            assert isinstance(value, int)
            if value > _MAX_PORT:
                raise ConfigError(f"{value} is not a port", path=path)
            return lambda facts: _destination_port(facts) == value
        case "destination_port_range":
            assert isinstance(value, Int32Range)
            return _port_range(value, path)
        case "requested_server_name":
            assert isinstance(value, StringMatcher)
            name = matchers.string(value, path)
            return lambda facts: name(facts.sni.encode())
        case _:
            return None


def _port_range(message: Int32Range, path: str) -> Callable[[Facts], bool]:
    start, end = message.start, message.end
    if not 0 <= start < end <= _MAX_PORT + 1:
        raise ConfigError(f"{start} to below {end} is no range of ports", path=path)
    return lambda facts: start <= _destination_port(facts) < end


def _authenticated(message: Principal.Authenticated, path: str) -> Callable[[Facts], bool]:
    """Anybody with a certificate; with a name, whose URI, else one of whose DNS names, else whose subject matches."""
    if not message.HasField("principal_name"):
        return lambda facts: bool(facts.peer_certificate_hash)
    accepts = matchers.string(message.principal_name, join(path, "principal_name"))

    def matches(facts: Facts) -> bool:
        if not facts.peer_certificate_hash:
            return False
        names = (*((facts.peer,) if facts.peer else ()), *facts.peer_dns, facts.peer_subject)
        return any(accepts(name.encode()) for name in names)

    return matches


def _within(cidr: object, path: str) -> Inside:
    """Whether an address is one of the network."""
    assert isinstance(cidr, CidrRange)
    wanted = network(cidr, path)
    version, mask, first = wanted.version, int(wanted.netmask), int(wanted.network_address)

    def holds(address: str) -> bool:
        found, number = _parsed(address)
        return found == version and number & mask == first

    return holds


@lru_cache(maxsize=_KNOWN)
def _parsed(host: str) -> tuple[int, int]:
    """IP version and number of an address, in brackets or not; version 0 where there is none."""
    if not host:
        return 0, 0
    address = ip_address(host.strip("[]"))
    return address.version, int(address)


def _destination(facts: Facts) -> str:
    """Where a redirected connection was going, as Envoy's `original_dst` restores it."""
    return facts.original or facts.local


def _destination_port(facts: Facts) -> int:
    port = _destination(facts).rpartition(":")[2]
    return int(port) if port else 0


# --- What a request is asked ---


def _of_request(which: str, value: object, path: str) -> Rule:
    match which:
        case "header":
            assert isinstance(value, HeaderMatcher)
            return _header(value, path)
        case "url_path":
            assert isinstance(value, PathMatcher)
            return _url_path(value.path, join(path, "path"))
        case "uri_template":
            assert isinstance(value, TypedExtensionConfig)
            return _uri_template(value, path)
        case "remote_ip":
            inside = _within(value, path)
            return OfRequest(lambda context: inside(context.client), _PATTERN)
        case "metadata":
            assert isinstance(value, MetadataMatcher)
            return _metadata(value, path)
        case "sourced_metadata":
            assert isinstance(value, rbac_pb2.SourcedMetadata)
            return _metadata(value.metadata_matcher, join(path, "metadata_matcher"))
        case _:
            raise ConfigError("is not supported; see docs/support.md", path=path)


def _header(message: HeaderMatcher, path: str) -> Rule:
    matches = matchers.header(message, path)
    plain = message.string_match.WhichOneof("match_pattern") == "exact" and not message.string_match.ignore_case
    if message.name == ":method" and plain and not message.invert_match:
        method = message.string_match.exact.encode()
        return OfRequest(lambda context: context.request.method == method, _START_LINE)
    of_presence = message.WhichOneof("header_match_specifier") in {None, "present_match"}
    if (
        of_presence
        or message.treat_missing_header_as_empty
        or message.name.startswith(":")
        or message.name.lower() == "host"
    ):
        return OfRequest(lambda context: matches(context.request), _PATTERN)
    name = message.name.lower().encode()  # without it, it cannot match
    return OfRequest(lambda context: context.request.has(name) and matches(context.request), _HEADER)


def _url_path(message: StringMatcher, path: str) -> Rule:
    """The path without query and fragment."""
    accepts = matchers.string(message, path)
    which = message.WhichOneof("match_pattern")
    if message.ignore_case or which not in {"exact", "prefix"}:
        return OfRequest(lambda context: accepts(without_query(context.request.path)), _PATTERN)
    wanted: bytes = getattr(message, which).encode()
    if b"?" in wanted or b"#" in wanted:
        return False
    only: Paths
    if which == "prefix":  # which it then has with its query, too
        only = ((PathKind.PREFIX, wanted),)
        return OfRequest(lambda context: context.request.path.startswith(wanted), _START_LINE, only, of_path=True)
    only = ((PathKind.EXACT, wanted),)
    return OfRequest(lambda context: without_query(context.request.path) == wanted, _START_LINE, only, of_path=True)


def _uri_template(message: TypedExtensionConfig, path: str) -> Rule:
    here = join(path, "typed_config")
    config = unpack(message.typed_config, here)
    if not isinstance(config, UriTemplateMatchConfig):
        raise ConfigError("a path template is a UriTemplateMatchConfig", path=here)
    accepts, start = uri_template(config.path_template, join(here, "path_template"))
    only: Paths = ((PathKind.PREFIX, start),)
    return OfRequest(lambda context: accepts(without_query(context.request.path)), _PATTERN, only)


def _metadata(message: MetadataMatcher, path: str) -> Rule:
    matches = value_matchers.metadata(message, path)
    return OfRequest(lambda context: matches(context.record.metadata), _VALUE)
