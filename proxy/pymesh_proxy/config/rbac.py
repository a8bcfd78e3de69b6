"""envoy RBAC → RbacFilter."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, TypeVar

from envoy.config.core.v3.address_pb2 import CidrRange
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal
from envoy.config.rbac.v3.rbac_pb2 import Policy as PolicyMessage
from envoy.extensions.filters.http.rbac.v3.rbac_pb2 import RBAC
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.xds.check import join
from pymesh_proxy.config import matchers
from pymesh_proxy.config.fields import network, one_of
from pymesh_proxy.filters.base import HttpFilter, RequestContext
from pymesh_proxy.filters.rbac import Action, Match, Policy, RbacFilter, RbacSettings, Rules
from pymesh_proxy.transport.facts import Facts

NAME: Final = "envoy.filters.http.rbac"
# Rules within rules; a person writes three or four. Deeper ones could not be decided on Python's stack.
MAX_DEPTH: Final = 32

Item = TypeVar("Item")

# Addresses remembered as numbers, for all rules: a connection asks with each of its requests.
_KNOWN: Final = 1024

_ACTIONS: Final = {rbac_pb2.RBAC.ALLOW: Action.ALLOW, rbac_pb2.RBAC.DENY: Action.DENY, rbac_pb2.RBAC.LOG: Action.LOG}


def rbac(message: Message, path: str) -> HttpFilter:
    """The filter.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    assert isinstance(message, RBAC)
    found = RbacFilter(
        RbacSettings(
            rules=_rules(message.rules, join(path, "rules")) if message.HasField("rules") else None,
            shadow_rules=(
                _rules(message.shadow_rules, join(path, "shadow_rules")) if message.HasField("shadow_rules") else None
            ),
            prefix=message.rules_stat_prefix,
            shadow_prefix=message.shadow_rules_stat_prefix,
        )
    )
    return HttpFilter(NAME, found.on_request, connect=found.connect)


def _rules(message: rbac_pb2.RBAC, path: str) -> Rules:
    # By name, as Envoy tries them: which one is named in the log must not depend on how a map is iterated.
    return Rules(
        _ACTIONS[message.action],
        tuple(
            Policy(name, _policy(message.policies[name], f"{join(path, 'policies')}[{name}]"))
            for name in sorted(message.policies)
        ),
    )


def _policy(message: PolicyMessage, path: str) -> Match:
    may = _any([_permission(item, here, 0) for item, here in _each(message.permissions, path, "permissions")])
    who = _any([_principal(item, here, 0) for item, here in _each(message.principals, path, "principals")])
    return _all([may, who])


def _permission(message: Permission, path: str, depth: int) -> Match:
    which = one_of(message, "rule", path)
    here = join(path, which)
    deeper = _deeper(depth, path)
    match which:
        case "and_rules" | "or_rules":
            rules = getattr(message, which).rules
            found = [_permission(item, at, deeper) for item, at in _each(rules, here, "rules")]
            return _all(found) if which == "and_rules" else _any(found)
        case "not_rule":
            return _not(_permission(message.not_rule, here, deeper))
        case "header":
            return _of_head(matchers.header(message.header, here))
        case "url_path":
            return _of_path(matchers.string(message.url_path.path, join(here, "path")))
        case "destination_ip":
            inside = _within(message.destination_ip, here)
            return lambda context: inside(_destination(context.record.facts))
        case "destination_port":
            port = message.destination_port
            return _of_facts(lambda facts: _destination_port(facts) == port)
        case "destination_port_range":
            start, end = message.destination_port_range.start, message.destination_port_range.end
            return _of_facts(lambda facts: start <= _destination_port(facts) < end)
        case "requested_server_name":
            name = matchers.string(message.requested_server_name, here)
            return _of_facts(lambda facts: name(facts.sni.encode()))
        case _:
            return _anybody(message.any, here)


def _principal(message: Principal, path: str, depth: int) -> Match:
    which = one_of(message, "identifier", path)
    here = join(path, which)
    deeper = _deeper(depth, path)
    match which:
        case "and_ids" | "or_ids":
            ids = getattr(message, which).ids
            found = [_principal(item, at, deeper) for item, at in _each(ids, here, "ids")]
            return _all(found) if which == "and_ids" else _any(found)
        case "not_id":
            return _not(_principal(message.not_id, here, deeper))
        case "authenticated":
            return _of_facts(_authenticated(message.authenticated, here))
        case "source_ip" | "direct_remote_ip":
            inside = _within(getattr(message, which), here)
            return lambda context: inside(context.record.facts.remote)
        case "header":
            return _of_head(matchers.header(message.header, here))
        case "url_path":
            return _of_path(matchers.string(message.url_path.path, join(here, "path")))
        case _:
            return _anybody(message.any, here)


def _deeper(depth: int, path: str) -> int:
    if depth >= MAX_DEPTH:
        raise ConfigError(f"rules within rules, more than {MAX_DEPTH} deep", path=path)
    return depth + 1


# --- What is matched ---


def _of_head(matches: matchers.HeadMatch) -> Match:
    return lambda context: matches(context.request)


def _of_path(matches: matchers.ValueMatch) -> Match:
    """The path without query and fragment."""
    return lambda context: matches(context.request.path.partition(b"?")[0].partition(b"#")[0])


def _of_facts(matches: Callable[[Facts], bool]) -> Match:
    return lambda context: matches(context.record.facts)


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


def _within(cidr: CidrRange, path: str) -> Callable[[str], bool]:
    """Whether an address, with its port, is one of the network."""
    wanted = network(cidr, path)
    version, mask, first = wanted.version, int(wanted.netmask), int(wanted.network_address)

    def holds(address: str) -> bool:
        found, number = _parsed(address.rpartition(":")[0])
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


# --- Together ---


def _each(items: Sequence[Item], path: str, field: str) -> list[tuple[Item, str]]:
    """Each with its path; there must be one."""
    if not items:
        raise ConfigError("at least one is required", path=join(path, field))
    return [(item, f"{join(path, field)}[{index}]") for index, item in enumerate(items)]


def _all(found: list[Match]) -> Match:
    found = [match for match in found if match is not _everybody]
    if not found:
        return _everybody
    if len(found) == 1:
        return found[0]
    if len(found) == 2:
        one, other = found
        return lambda context: one(context) and other(context)

    def all_of_them(context: RequestContext) -> bool:
        for match in found:  # noqa: SIM110 - `all` costs twice as much
            if not match(context):
                return False
        return True

    return all_of_them


def _any(found: list[Match]) -> Match:
    if _everybody in found:
        return _everybody
    if len(found) == 1:
        return found[0]

    def any_of_them(context: RequestContext) -> bool:
        for match in found:  # noqa: SIM110 - `any` costs twice as much
            if match(context):
                return True
        return False

    return any_of_them


def _not(match: Match) -> Match:
    return lambda context: not match(context)


def _anybody(value: bool, path: str) -> Match:
    if not value:
        raise ConfigError("must be true", path=path)
    return _everybody


def _everybody(_: RequestContext) -> bool:
    return True
