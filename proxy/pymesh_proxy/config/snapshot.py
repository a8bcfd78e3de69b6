"""From xDS resources to the snapshot in force: decoded, checked, compiled, swapped; or refused as a whole.

Pure apart from reading the certificate files that a resource names.
"""

from collections.abc import Callable, Iterable, Mapping

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from pymesh_proxy.config.model import Snapshot
from pymesh_proxy.upstream.registry import EndpointRegistry


class Configuration:
    """The last good resources of every type, and the snapshot that they make.

    Each `apply_*` takes what was added or changed, by name, and the names that are gone. It either puts a new snapshot
    in force and returns it, or raises ConfigError (with `resource` and `path`) and leaves everything as it was.
    """

    def __init__(self, endpoints: EndpointRegistry, random: Callable[[], float]) -> None:
        self.endpoints = endpoints
        self.snapshot = Snapshot(version=0, listeners={}, routes={}, clusters={})
        raise NotImplementedError

    def apply_bootstrap(self, bootstrap: Bootstrap) -> Snapshot:
        """Put the static resources of `bootstrap` (already checked by `load_bootstrap`) in force."""
        raise NotImplementedError

    def apply_listeners(self, added: Mapping[str, ListenerMessage], removed: Iterable[str] = ()) -> Snapshot:
        """LDS."""
        raise NotImplementedError

    def apply_routes(self, added: Mapping[str, RouteConfiguration], removed: Iterable[str] = ()) -> Snapshot:
        """RDS."""
        raise NotImplementedError

    def apply_clusters(self, added: Mapping[str, ClusterMessage], removed: Iterable[str] = ()) -> Snapshot:
        """CDS."""
        raise NotImplementedError

    def apply_endpoints(self, added: Mapping[str, ClusterLoadAssignment], removed: Iterable[str] = ()) -> Snapshot:
        """EDS; names are those of the EDS resources (`eds_service_name`, else the cluster's name)."""
        raise NotImplementedError

    def apply_addresses(self, cluster: str, addresses: Mapping[str, tuple[str, ...]]) -> Snapshot:
        """DNS: the addresses of every resolved name of `cluster`."""
        raise NotImplementedError

    def wanted_routes(self) -> frozenset[str]:
        """RDS names that the listeners in force refer to."""
        raise NotImplementedError

    def wanted_endpoints(self) -> frozenset[str]:
        """EDS names that the clusters in force refer to."""
        raise NotImplementedError

    def wanted_secrets(self) -> frozenset[str]:
        """SDS names that listeners and clusters in force refer to."""
        raise NotImplementedError
