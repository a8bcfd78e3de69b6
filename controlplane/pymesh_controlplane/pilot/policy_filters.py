"""World → what sidecars ask the policy service before they let a request in. Pure.

pymesh-proxy gets a filter of our own (a TypedStruct): it holds slots, remembers decisions, and knows what each rule
wants done while nobody answers. Any other proxy gets Envoy's ext_authz, which knows less: no slots, and one of two
things to do then for each filter, so that there are two, and LastDecision becomes what the rule says `otherwise`.

The filter is there whether a policy service runs or not: a mesh without one is a mesh in which it is away.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from envoy.config.core.v3 import config_source_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf.struct_pb2 import Struct
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh import names, policy_api
from pymesh.xds.filter_names import HTTP_EXT_AUTHZ, HTTP_JWT_AUTHN
from pymesh_controlplane.pilot.messages import grpc_service, packed
from pymesh_controlplane.pilot.model import Service, ServicePort
from pymesh_controlplane.policy.quota import leased
from pymesh_controlplane.policy.rules import Code, FailureMode, Otherwise, Rule, Slots

POLICY_CLUSTER: Final = names.outbound_cluster(
    names.PORT_MESH_GRPC, names.service_host("policy", names.SYSTEM_NAMESPACE)
)
# Seconds. An answer takes a millisecond; a request that has waited for this long goes by the rule's failure mode. A
# function in Python has its own time on top.
TIMEOUT: Final = 0.05

_MODES: Final[Mapping[FailureMode | Otherwise, str]] = {
    "Open": "OPEN",
    "Closed": "CLOSED",
    "LastDecision": "LAST_DECISION",
}

_Manager = http_connection_manager_pb2.HttpConnectionManager
_Filter = http_connection_manager_pb2.HttpFilter


class PortLimits(NamedTuple):
    """The rules for one port of a pod, and whether its proxy is pymesh-proxy."""

    port: int
    rules: tuple[Rule, ...]
    ours: bool


def limits(
    services: Mapping[int, Iterable[tuple[Service, ServicePort]]], by_host: Mapping[str, Iterable[Rule]], *, ours: bool
) -> tuple[PortLimits, ...]:
    """The rules (`by_host` of the service) for the ports of a pod with these `services`; others are left out.

    What a caller asked for is a service, and what comes in is a connection to a port: where two services share one, a
    rule for either holds for both.
    """
    found: list[PortLimits] = []
    for port, behind in sorted(services.items()):
        rules = {rule.name: rule for service, _ in behind for rule in by_host.get(service.host, ())}
        if rules:
            found.append(PortLimits(port, tuple(rules[name] for name in sorted(rules)), ours))
    return tuple(found)


def put_before_router(manager: _Manager, held: PortLimits) -> None:
    """Have the proxy ask about `held.rules` before it routes a request."""
    *others, router = manager.http_filters
    if held.ours:
        filters = [_own(held.rules)]
    else:
        open_ones, closed_ones = _by_outcome(rule for rule in held.rules if not isinstance(rule.limit, Slots))
        filters = []
        for name, rules, allow in ((f"{HTTP_EXT_AUTHZ}.open", open_ones, True), (HTTP_EXT_AUTHZ, closed_ones, False)):
            if rules:
                filters.append(_ext_authz(name, _budget(rules), allow=allow))
                for host in manager.route_config.virtual_hosts:
                    _name_rules(host, name, rules)
    del manager.http_filters[:]
    manager.http_filters.extend([*others, *filters, router])


def _own(rules: Sequence[Rule]) -> _Filter:
    value = Struct()
    described = [_described(rule) for rule in rules]
    value.update({"cluster": POLICY_CLUSTER, "timeout": f"{_budget(rules):g}s", "rules": described})
    config = TypedStruct(type_url=policy_api.FILTER_TYPE, value=value)
    return _Filter(name=policy_api.FILTER, typed_config=packed(config))


def _budget(rules: Iterable[Rule]) -> float:
    """Seconds that a request may wait for the answer to all of them; functions are asked side by side."""
    return TIMEOUT + max((rule.limit.timeout for rule in rules if isinstance(rule.limit, Code)), default=0.0)


def _described(rule: Rule) -> Struct:
    about = Struct()
    modes = {"failure_mode": _MODES[rule.failure_mode], "otherwise": _MODES[rule.otherwise]}
    about.update({"name": rule.name, **modes})
    if rule.dry_run:
        about.update({"dry_run": True})
    if isinstance(rule.limit, Slots):
        about.update({"kind": "slots", "max": rule.limit.max})
    elif isinstance(rule.limit, Code):
        memory = rule.limit.memory
        about.update({"kind": "check", "by": list(memory.by if memory is not None else ()), "remembered": True})
    elif leased(rule.limit):
        rate = rule.limit
        about.update({"kind": "rate", "requests": rate.requests, "period": f"{rate.period}s", "burst": rate.burst})
    else:
        about.update({"kind": "check", "by": list(rule.limit.by)})
    return about


def _by_outcome(rules: Iterable[Rule]) -> tuple[list[Rule], list[Rule]]:
    """Those that let requests in while nobody answers, and those that do not."""
    found: tuple[list[Rule], list[Rule]] = [], []
    for rule in rules:
        mode = rule.otherwise if rule.failure_mode == "LastDecision" else rule.failure_mode
        found[mode == "Closed"].append(rule)
    return found


def _ext_authz(name: str, budget: float, *, allow: bool) -> _Filter:
    config = ext_authz_pb2.ExtAuthz(
        grpc_service=grpc_service(POLICY_CLUSTER, timeout=budget),
        transport_api_version=config_source_pb2.ApiVersion.V3,
        failure_mode_allow=allow,
        status_on_error=http_status_pb2.HttpStatus(code=http_status_pb2.ServiceUnavailable),
        metadata_context_namespaces=[HTTP_JWT_AUTHN],
    )
    return _Filter(name=name, typed_config=packed(config))


def _name_rules(host: route_components_pb2.VirtualHost, name: str, rules: Iterable[Rule]) -> None:
    settings = ext_authz_pb2.CheckSettings(
        context_extensions={policy_api.RULES_EXTENSION: ",".join(rule.name for rule in rules)}
    )
    host.typed_per_filter_config[name].CopyFrom(packed(ext_authz_pb2.ExtAuthzPerRoute(check_settings=settings)))
