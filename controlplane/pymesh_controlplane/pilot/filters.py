"""The network filters at the end of a filter chain: requests or opaque bytes. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from pymesh_controlplane.pilot.messages import ads, duration, packed
from pymesh_controlplane.pilot.policy_filters import PortLimits, put_before_router

SERVER_NAME: Final = "pymesh"
HTTP_FILTER: Final = "envoy.filters.network.http_connection_manager"
TCP_FILTER: Final = "envoy.filters.network.tcp_proxy"
ROUTER: Final = "envoy.filters.http.router"

# Seconds for a client from outside to send the head of a request: who takes longer holds a connection for nothing.
HEAD_TIMEOUT: Final = 15.0

_Manager = http_connection_manager_pb2.HttpConnectionManager


class Before(NamedTuple):
    """What is passed on the way in, in this order: by every request, and by every opaque connection."""

    requests: tuple[http_connection_manager_pb2.HttpFilter, ...] = ()
    connections: tuple[listener_components_pb2.Filter, ...] = ()


NOTHING_BEFORE: Final = Before()


class Where(NamedTuple):
    """A port of the pod (None stands for every undeclared one), and the cluster that leads to it."""

    port: int | None
    cluster: str

    @property
    def name(self) -> str:
        """What its chains and metrics are called."""
        return str(self.port) if self.port is not None else "passthrough"


def tcp(cluster: str, stat_prefix: str) -> listener_components_pb2.Filter:
    """Opaque bytes to `cluster`."""
    return listener_components_pb2.Filter(
        name=TCP_FILTER, typed_config=packed(tcp_proxy_pb2.TcpProxy(stat_prefix=stat_prefix, cluster=cluster))
    )


def tcp_to(shares: Sequence[tuple[str, int]], name: str) -> listener_components_pb2.Filter:
    """Opaque bytes to one of several clusters, each with its share. For one alone metrics are called by it."""
    if len(shares) == 1:
        return tcp(shares[0][0], shares[0][0])
    message = tcp_proxy_pb2.TcpProxy(stat_prefix=name)
    for cluster, weight in shares:
        message.weighted_clusters.clusters.add(name=cluster, weight=weight)
    return listener_components_pb2.Filter(name=TCP_FILTER, typed_config=packed(message))


def outbound_http(port: int) -> listener_components_pb2.Filter:
    """Requests, routed by the route configuration that is named after the port."""
    manager = _manager(f"outbound_0.0.0.0_{port}")
    manager.rds.route_config_name = str(port)
    manager.rds.config_source.CopyFrom(ads())
    return _http(manager)


def inbound_http(
    where: Where, held: PortLimits | None = None, before_router: Sequence[http_connection_manager_pb2.HttpFilter] = ()
) -> listener_components_pb2.Filter:
    """Requests to the pod's own port. Who called is told in x-forwarded-client-cert, which only we may write.

    First they pass `before_router`; of those that are let in, and where limits hold, the policy service is asked.
    """
    manager = _manager(f"inbound_0.0.0.0_{where.name}")
    manager.route_config.CopyFrom(_all_to(where.cluster, f"inbound|http|{where.name}"))
    manager.server_header_transformation = _Manager.PASS_THROUGH
    _tell_who_called(manager)
    _put_first(manager, before_router)
    if held is not None:
        put_before_router(manager, held)
    return _http(manager)


def gateway_http(
    port: int,
    route_configuration: str,
    before_router: Sequence[http_connection_manager_pb2.HttpFilter] = (),
    *,
    mutual: bool = False,
    of_the_mesh: bool = False,
) -> listener_components_pb2.Filter:
    """Requests at the edge of the mesh: what a client says of itself and its path is not believed.

    With `mutual`, its certificate was demanded and verified: it is told in x-forwarded-client-cert. If it is
    `of_the_mesh`, the request has an id already. The answer tells the id, by which the request is found.
    """
    manager = _manager(f"outbound_0.0.0.0_{port}")
    manager.rds.route_config_name = route_configuration
    manager.rds.config_source.CopyFrom(ads())
    manager.use_remote_address.value = True
    manager.preserve_external_request_id = of_the_mesh
    manager.always_set_request_id_in_response = True
    manager.request_headers_timeout.CopyFrom(duration(HEAD_TIMEOUT))
    if mutual:
        _tell_who_called(manager)
    else:
        manager.forward_client_cert_details = _Manager.SANITIZE
    _put_first(manager, before_router)
    return _http(manager)


def _tell_who_called(manager: _Manager) -> None:
    """In x-forwarded-client-cert, from the client's certificate alone."""
    manager.forward_client_cert_details = _Manager.SANITIZE_SET
    manager.set_current_client_cert_details.subject.value = True
    manager.set_current_client_cert_details.dns = True
    manager.set_current_client_cert_details.uri = True


def _put_first(manager: _Manager, filters: Sequence[http_connection_manager_pb2.HttpFilter]) -> None:
    others = list(manager.http_filters)
    del manager.http_filters[:]
    manager.http_filters.extend([*filters, *others])


def _manager(stat_prefix: str) -> _Manager:
    manager = _Manager(
        codec_type=_Manager.AUTO,
        stat_prefix=stat_prefix,
        server_name=SERVER_NAME,
        # How long a stream may be idle is for the route and the application to say, as in Istio.
        stream_idle_timeout=duration(0),
        http_filters=[http_connection_manager_pb2.HttpFilter(name=ROUTER, typed_config=packed(router_pb2.Router()))],
        upgrade_configs=[_Manager.UpgradeConfig(upgrade_type="websocket")],
    )
    manager.use_remote_address.value = False  # the pod is not an edge: what stands in x-forwarded-for is the edge's
    manager.normalize_path.value = True
    manager.http_protocol_options.accept_http_10 = True
    return manager


def _http(manager: _Manager) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=HTTP_FILTER, typed_config=packed(manager))


def _all_to(cluster: str, virtual_host: str) -> route_pb2.RouteConfiguration:
    action = route_components_pb2.RouteAction(cluster=cluster, timeout=duration(0))
    route = route_components_pb2.Route(name="default", match=route_components_pb2.RouteMatch(prefix="/"), route=action)
    host = route_components_pb2.VirtualHost(name=virtual_host, domains=["*"], routes=[route])
    return route_pb2.RouteConfiguration(name=cluster, virtual_hosts=[host])
