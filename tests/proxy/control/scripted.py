"""xDS resources and responses by hand, and a consumer that remembers: what the ADS tests are written with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryResponse,
    Resource,
)
from google.protobuf.message import DecodeError, Message

from pymesh.errors import ConfigError
from pymesh.steps import Steps, whole
from pymesh.xds import types
from pymesh_proxy.control.ads import Ads, XdsStats
from pymesh_proxy.control.resources import EVERYTHING, Interest, name_in
from pymesh_proxy.control.subscription import Delta


def cluster(name: str, *, eds: bool = True, service: str = "", note: str = "") -> Cluster:
    result = Cluster(name=name, type=Cluster.EDS if eds else Cluster.STATIC, alt_stat_name=note)
    if service:
        result.eds_cluster_config.service_name = service
    return result


def endpoints(name: str) -> ClusterLoadAssignment:
    return ClusterLoadAssignment(cluster_name=name)


def listener(name: str, *routes: str) -> Listener:
    result = Listener(name=name)
    for route in routes:
        manager = HttpConnectionManager()
        manager.rds.route_config_name = route
        chain = result.filter_chains.add()
        chain.filters.add(name="http").typed_config.Pack(manager)
    return result


def tls_listener(name: str, *secrets: str) -> Listener:
    """One with a chain that needs each of `secrets`."""
    result = Listener(name=name)
    for secret in secrets:
        context = DownstreamTlsContext()
        context.common_tls_context.tls_certificate_sds_secret_configs.add(name=secret)
        result.filter_chains.add().transport_socket.typed_config.Pack(context)
    return result


def secret(name: str) -> Secret:
    return Secret(name=name)


def routes(name: str) -> RouteConfiguration:
    return RouteConfiguration(name=name)


def delta(
    type_url: str, nonce: str, *resources: Message, version: str = "1", removed: Iterable[str] = ()
) -> DeltaDiscoveryResponse:
    message = DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=removed)
    for resource in resources:
        entry = Resource(name=whole(name_in(resource.SerializeToString())), version=version)
        entry.resource.Pack(resource)
        message.resources.append(entry)
    return message


def sotw(type_url: str, version: str, *resources: Message) -> DiscoveryResponse:
    message = DiscoveryResponse(type_url=type_url, version_info=version, nonce=f"n{version}")
    for resource in resources:
        message.resources.add().Pack(resource)
    return message


@dataclass
class Remembering:
    """A consumer that keeps what it is given, and refuses the resources named in `refuse`."""

    refuse: set[str] = field(default_factory=set)
    staged: dict[str, dict[str, Message]] = field(default_factory=lambda: {url: {} for url in _KINDS})
    in_force: dict[str, dict[str, Message]] = field(default_factory=lambda: {url: {} for url in _KINDS})
    published: int = 0

    def apply(
        self, type_url: str, added: Mapping[str, bytes], removed: set[str], version: str
    ) -> Steps[dict[str, ConfigError]]:
        refused: dict[str, ConfigError] = {}
        taken: dict[str, Message] = {}
        for name, encoded in added.items():
            yield
            try:
                taken[name] = _KINDS[type_url].FromString(encoded)
            except DecodeError as error:
                refused[name] = ConfigError(str(error), resource=name)
            if name in self.refuse:
                refused[name] = ConfigError("is not supported", path="some.field", resource=name)
        staged = {name: resource for name, resource in self.staged[type_url].items() if name not in removed}
        self.staged[type_url] = staged | {name: taken[name] for name in taken if name not in refused}
        return refused

    def publish(self) -> Steps[None]:
        yield
        self.published += 1
        self.in_force = {url: dict(resources) for url, resources in self.staged.items()}

    def names(self, type_url: str) -> set[str]:
        """Names in force."""
        return set(self.in_force[type_url])


_KINDS: dict[str, type[Message]] = {
    types.CLUSTER: Cluster,
    types.ENDPOINT: ClusterLoadAssignment,
    types.LISTENER: Listener,
    types.ROUTE: RouteConfiguration,
    types.SECRET: Secret,
}


class Scripted:
    """An Ads of the delta dialect, with requests decoded."""

    def __init__(self, interest: Interest = EVERYTHING) -> None:
        self.consumer = Remembering()
        self.stats = XdsStats()
        self.ads = Ads(Delta(), NodeMessage(id="me"), self.consumer, self.stats, interest)
        self.now = 100.0

    def open(self) -> list[DeltaDiscoveryRequest]:
        return [DeltaDiscoveryRequest.FromString(data) for data in self.ads.open(self.now)]

    def receive(self, response: DeltaDiscoveryResponse) -> list[DeltaDiscoveryRequest]:
        requests = whole(self.ads.receive(response.SerializeToString(), self.now))
        return [DeltaDiscoveryRequest.FromString(data) for data in requests]

    def complete(self) -> None:
        """A first configuration: cluster a with endpoints, listener l with routes 80."""
        self.open()
        self.receive(delta(types.CLUSTER, "1", cluster("a")))
        self.receive(delta(types.ENDPOINT, "2", endpoints("a")))
        self.receive(delta(types.LISTENER, "3", listener("l", "80")))
        self.receive(delta(types.ROUTE, "4", routes("80")))
        assert self.ads.ready
