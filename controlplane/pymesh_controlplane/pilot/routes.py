"""World → route configurations: one per port on which HTTP services listen. Pure.

A request on a port is routed by its authority: to the service of that name by the VirtualService for it, or, to a host
that nobody knows, on to where the application wanted it to go.
"""

import base64
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2

from pymesh import names
from pymesh.resources.fields import seconds
from pymesh.resources.istio.virtual_service import (
    Destination,
    HeaderOperations,
    Headers,
    HTTPDirectResponse,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
    HTTPRouteDestination,
    VirtualService,
)
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot import callers, hosts
from pymesh_controlplane.pilot.callers import Caller
from pymesh_controlplane.pilot.matching import ANYTHING, MESH, applies, route_match
from pymesh_controlplane.pilot.messages import METADATA, duration, metadata, packed
from pymesh_controlplane.pilot.model import Protocol, Service, World

# What is retried where nobody says anything: failures before the upstream can have acted on the request (Istio's set).
DEFAULT_RETRY_ON: Final = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
DEFAULT_RETRIES: Final = 2
RETRY_HOST_ATTEMPTS: Final = 5  # how often to look for an endpoint that was not tried yet
BLOCKED: Final = 502  # what a request for an unknown host gets under REGISTRY_ONLY; Istio's answer
MAX_DIRECT_BODY: Final = 1024 * 1024  # bytes; Envoy's default of 4 KiB is less than an error page, this is Istio's

_REDIRECTS: Final = {
    301: route_components_pb2.RedirectAction.MOVED_PERMANENTLY,
    302: route_components_pb2.RedirectAction.FOUND,
    303: route_components_pb2.RedirectAction.SEE_OTHER,
    307: route_components_pb2.RedirectAction.TEMPORARY_REDIRECT,
    308: route_components_pb2.RedirectAction.PERMANENT_REDIRECT,
}
_Append = base_pb2.HeaderValueOption.HeaderAppendAction


class Target(NamedTuple):
    """The service that a destination means.

    Attributes:
        host: its full name.
        port: its only port; None unless it has just one.
        undeclared: its ports of which nobody said what is spoken there.
    """

    host: str
    port: int | None
    undeclared: frozenset[int] = frozenset()


# By host as a destination writes it.
Targets: TypeAlias = Mapping[str, Target]


class Plan(NamedTuple):
    """Everything that a virtual host is made of.

    Attributes:
        service: `default/reviews`; empty if there is no service of this host.
        written: the VirtualService for it.
        targets: what the destinations of `written` mean.
        caller: who sends the requests; ANYBODY if that makes no difference.
    """

    host: str
    port: int
    domains: tuple[str, ...]
    service: str
    written: Resource[VirtualService] | None
    targets: Targets
    caller: Caller


def plans(caller: Caller, world: World) -> dict[int, list[Plan]]:
    """The virtual hosts of every port on which some service speaks, or may speak, HTTP, as `caller` sees them.

    A name that two of them could have is the Kubernetes service's, as for the resolver of a pod, or else the first's.
    """
    virtual = world.routing
    by_port: dict[int, list[Plan]] = {
        port.port: [] for service in world.services.values() for port in service.ports if port.protocol.may_be_http
    }
    taken: set[tuple[int, str]] = set()
    every = sorted({*world.services, *_hosts_of_their_own(virtual)})
    for host in sorted(every, key=lambda host: host not in world.services or not world.services[host].kubernetes):
        service = world.services.get(host)
        written = virtual.get(hosts.most_specific(host, virtual) or "")
        if written is not None and not written.value.spec.http:
            written = None  # it routes connections, not requests
        meant = targets(written, world) if written is not None else {}
        known_as = f"{service.namespace}/{service.name}" if service is not None else ""
        who = caller if written is not None and callers.matter_to_requests(written) else callers.ANYBODY
        for port in sorted(by_port) if service is None else _http_ports(service):
            # Another name that has routes of its own is a host of its own.
            aliases = [alias for alias in world.aliases.get(host, ()) if alias.host not in virtual]
            known = hosts.known_as(service, caller.namespace, aliases) if service else [host]
            domains = [d for name in known for d in (name, f"{name}:{port}") if (port, d) not in taken]
            if domains:
                taken.update((port, domain) for domain in domains)
                by_port[port].append(Plan(host, port, tuple(domains), known_as, written, meant, who))
    return {port: sorted(found, key=lambda plan: plan.host) for port, found in sorted(by_port.items())}


def _http_ports(service: Service) -> list[int]:
    return [port.port for port in service.ports if port.protocol.may_be_http]


def _hosts_of_their_own(virtual: Mapping[str, Resource[VirtualService]]) -> Iterator[str]:
    """Hosts that exist only because a VirtualService names them; `*` would swallow what is meant to pass through."""
    return (host for host, written in virtual.items() if host != "*" and written.value.spec.http)


def virtual_host(plan: Plan) -> route_components_pb2.VirtualHost:
    """The routes for one host on one port."""
    if plan.written is not None:
        routes = list(virtual_service_routes(plan.written, plan.port, plan.caller, plan.targets))
    else:
        routes = [_default_route(names.outbound_cluster(plan.port, plan.host), f"Service {plan.service}")]
    return route_components_pb2.VirtualHost(name=f"{plan.host}:{plan.port}", domains=plan.domains, routes=routes)


def configuration(
    port: int, virtual_hosts: Iterable[route_components_pb2.VirtualHost], registry_only: bool
) -> route_pb2.RouteConfiguration:
    """The route configuration for connections to `port`; under REGISTRY_ONLY hosts that nobody knows are refused."""
    message = route_pb2.RouteConfiguration(name=str(port), virtual_hosts=virtual_hosts)
    message.max_direct_response_body_size_bytes.value = MAX_DIRECT_BODY
    message.virtual_hosts.append(_block_all() if registry_only else _allow_any())
    return message


# --- Routes --------------------------------------------------------------------------------------------------------


def targets(resource: Resource[VirtualService], world: World) -> Targets:
    """What every destination of `resource` means in this world."""
    found: dict[str, Target] = {}
    for written in {destination.host for _, destination in resource.value.spec.destinations()}:
        host = hosts.destination(written, resource.key.namespace, world)
        service = world.services.get(host)
        ports = service.ports if service is not None else ()
        undeclared = frozenset(port.port for port in ports if port.protocol is Protocol.AUTO)
        found[written] = Target(host, ports[0].port if len(ports) == 1 else None, undeclared)
    return found


def virtual_service_routes(
    resource: Resource[VirtualService], port: int, caller: Caller, meant: Targets, gateways: Container[str] = MESH
) -> Iterator[route_components_pb2.Route]:
    """The routes of a VirtualService for what `caller` sends to `port`; the first that matches wins.

    `gateways` are the names that `resource` may call the gateway by whose requests these are.
    """
    for index, http in enumerate(resource.value.spec.http):
        for match in http.match or [ANYTHING]:
            if applies(match, port, caller, gateways):
                yield route_for(resource, index, match, port, meant)


def route_for(
    resource: Resource[VirtualService], index: int, match: HTTPMatchRequest, port: int, meant: Targets
) -> route_components_pb2.Route:
    """The route for the requests to `port` that fit one `match` of `http[index]`."""
    route = _route(resource, index, match)
    _act(route, resource.value.spec.http[index], port, meant)
    return route


def _route(resource: Resource[VirtualService], index: int, match: HTTPMatchRequest) -> route_components_pb2.Route:
    """A route that says for whom it is and where it was written, and not yet what it does."""
    own = resource.value.spec.http[index].name or f"{resource.key.namespace}/{resource.key.name}.http[{index}]"
    return route_components_pb2.Route(
        name=f"{own}.{match.name}" if match.name else own,
        match=route_match(match),
        metadata=metadata({METADATA: {"source": f"{resource.key} http[{index}]"}}),
    )


def _act(route: route_components_pb2.Route, http: HTTPRoute, port: int, meant: Targets) -> None:
    if http.redirect is not None:
        route.redirect.CopyFrom(_redirect(http.redirect))
    elif http.direct_response is not None:
        route.direct_response.CopyFrom(_direct_response(http.direct_response))
    else:
        route.route.CopyFrom(_forward(http, port, meant))
    _apply_headers(route, http.headers)
    if len(http.route) == 1:
        _apply_headers(route, http.route[0].headers)


def _forward(http: HTTPRoute, port: int, meant: Targets) -> route_components_pb2.RouteAction:
    action = route_components_pb2.RouteAction(timeout=duration(seconds(http.timeout) if http.timeout else 0))
    if len(http.route) == 1:
        action.cluster = cluster_of(http.route[0].destination, port, meant)
    else:
        for item in http.route:
            if item.weight:
                action.weighted_clusters.clusters.append(_weighted(item, port, meant))
    policy = _retry(http.retries)
    if policy is not None:
        action.retry_policy.CopyFrom(policy)
    _rewrite(action, http.rewrite)
    for headers in (http.headers, http.route[0].headers if len(http.route) == 1 else None):
        host = _host_header(headers)
        if host is not None:
            action.host_rewrite_literal = host
    return action


def cluster_of(destination: Destination, port: int, meant: Targets) -> str:
    """Name of the cluster that a destination means."""
    host = meant[destination.host].host
    return names.outbound_cluster(port_of(destination, port, meant), host, destination.subset)


def port_of(destination: Destination, port: int, meant: Targets) -> int:
    """The port that a destination means. If it does not say, it is the service's only one, or the caller's `port`."""
    if destination.port is not None:
        return destination.port.number
    return meant[destination.host].port or port


def _weighted(
    item: HTTPRouteDestination, port: int, meant: Targets
) -> route_components_pb2.WeightedCluster.ClusterWeight:
    cluster = route_components_pb2.WeightedCluster.ClusterWeight(name=cluster_of(item.destination, port, meant))
    cluster.weight.value = item.weight
    _apply_headers(cluster, item.headers)
    return cluster


def _default_route(cluster: str, source: str) -> route_components_pb2.Route:
    action = route_components_pb2.RouteAction(cluster=cluster, timeout=duration(0), retry_policy=_retry(None))
    return route_components_pb2.Route(
        name="default", match=route_match(ANYTHING), route=action, metadata=metadata({METADATA: {"source": source}})
    )


def _allow_any() -> route_components_pb2.VirtualHost:
    action = route_components_pb2.RouteAction(cluster=names.PASSTHROUGH_CLUSTER, timeout=duration(0))
    route = route_components_pb2.Route(name="allow_any", match=route_match(ANYTHING), route=action)
    return route_components_pb2.VirtualHost(name="allow_any", domains=["*"], routes=[route])


def _block_all() -> route_components_pb2.VirtualHost:
    """As Istio has it: 502, and nothing is sent anywhere."""
    response = route_components_pb2.DirectResponseAction(status=BLOCKED)
    route = route_components_pb2.Route(name="block_all", match=route_match(ANYTHING), direct_response=response)
    return route_components_pb2.VirtualHost(name="block_all", domains=["*"], routes=[route])


# --- What a route does ---------------------------------------------------------------------------------------------


def _retry(retries: HTTPRetry | None) -> route_components_pb2.RetryPolicy | None:
    if retries is not None and retries.attempts == 0:
        return None
    policy = route_components_pb2.RetryPolicy(retry_on=DEFAULT_RETRY_ON)
    policy.num_retries.value = DEFAULT_RETRIES
    if retries is not None:
        policy.num_retries.value = retries.attempts
        words = [word.strip() for word in (retries.retry_on or DEFAULT_RETRY_ON).split(",") if word.strip()]
        codes = [int(word) for word in words if word.isdecimal()]
        words = [word for word in words if not word.isdecimal()]
        if codes and "retriable-status-codes" not in words:
            words.append("retriable-status-codes")
        policy.retry_on = ",".join(words)
        policy.retriable_status_codes.extend(codes)
        if retries.per_try_timeout is not None:
            policy.per_try_timeout.CopyFrom(duration(seconds(retries.per_try_timeout)))
        if retries.backoff is not None:
            policy.retry_back_off.base_interval.CopyFrom(duration(seconds(retries.backoff)))
    if retries is None or retries.retry_ignore_previous_hosts is not False:
        policy.host_selection_retry_max_attempts = RETRY_HOST_ATTEMPTS
        policy.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate()),
        )
    return policy


def _rewrite(action: route_components_pb2.RouteAction, rewrite: HTTPRewrite | None) -> None:
    if rewrite is None:
        return
    if rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
        action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite
    elif rewrite.uri is not None:
        action.prefix_rewrite = rewrite.uri
    if rewrite.authority is not None:
        action.host_rewrite_literal = rewrite.authority


def _redirect(redirect: HTTPRedirect) -> route_components_pb2.RedirectAction:
    action = route_components_pb2.RedirectAction(response_code=_REDIRECTS[redirect.redirect_code])
    if redirect.uri is not None:
        action.path_redirect = redirect.uri
    if redirect.authority is not None:
        action.host_redirect = redirect.authority
    if redirect.port is not None:
        action.port_redirect = redirect.port
    if redirect.scheme is not None:
        action.scheme_redirect = redirect.scheme
    return action


def _direct_response(response: HTTPDirectResponse) -> route_components_pb2.DirectResponseAction:
    action = route_components_pb2.DirectResponseAction(status=response.status)
    if response.body is not None and response.body.string is not None:
        action.body.inline_string = response.body.string
    elif response.body is not None and response.body.bytes is not None:
        action.body.inline_bytes = base64.b64decode(response.body.bytes)
    return action


def _host_header(headers: Headers | None) -> str | None:
    """The value that `host` is to be set to: for Envoy that is not a header but a property of the route."""
    changed = headers.request.set if headers is not None else {}
    return next((value for name, value in changed.items() if name.lower() in {"host", ":authority"}), None)


def _apply_headers(
    target: route_components_pb2.Route | route_components_pb2.WeightedCluster.ClusterWeight, headers: Headers | None
) -> None:
    if headers is None:
        return
    target.request_headers_to_add.extend(_additions(headers.request))
    target.request_headers_to_remove.extend(name.lower() for name in headers.request.remove)
    target.response_headers_to_add.extend(_additions(headers.response))
    target.response_headers_to_remove.extend(name.lower() for name in headers.response.remove)


def _additions(operations: HeaderOperations) -> Sequence[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name.lower(), value=value), append_action=action)
        for values, action in (
            (operations.set, _Append.OVERWRITE_IF_EXISTS_OR_ADD),
            (operations.add, _Append.APPEND_IF_EXISTS_OR_ADD),
        )
        for name, value in sorted(values.items())
        if name.lower() not in {"host", ":authority"}
    ]
