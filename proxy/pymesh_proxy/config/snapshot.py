"""From xDS resources to the snapshot in force: decoded, checked, compiled, swapped; or refused as a whole.

Pure apart from reading the files that a resource names. What did not change, byte for byte, is not compiled again: its
compiled object is the same one as in the snapshot before, and so are the objects of endpoints that stay.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Generic, TypeVar, cast

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.xds import types
from pymesh.xds.check import check
from pymesh_proxy.config import dump
from pymesh_proxy.config.clusters import CompiledCluster, compile_cluster, compile_endpoints, in_force, resolved
from pymesh_proxy.config.control_cluster import check_control_cluster
from pymesh_proxy.config.fields import grpc_cluster
from pymesh_proxy.config.listeners import compile_listener
from pymesh_proxy.config.model import (
    Cluster,
    Discovery,
    HttpManager,
    Listener,
    PeerValidation,
    SdsName,
    Snapshot,
    TlsClient,
    TlsServer,
)
from pymesh_proxy.config.routes import Context, compile_routes
from pymesh_proxy.routing import RouteTable
from pymesh_proxy.upstream.registry import EndpointRegistry, EndpointSpec

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Resource(Generic[C]):
    """One resource in force: the message as it came, and what it was compiled to."""

    message: Message
    encoded: bytes
    compiled: C


@dataclass(frozen=True, slots=True)
class _State:
    """All resources in force, by name. Replaced, never changed."""

    listeners: Mapping[str, Resource[Listener]] = field(default_factory=dict)
    routes: Mapping[str, Resource[RouteTable]] = field(default_factory=dict)
    clusters: Mapping[str, Resource[CompiledCluster]] = field(default_factory=dict)
    endpoints: Mapping[str, Resource[tuple[EndpointSpec, ...]]] = field(default_factory=dict)
    addresses: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


_KINDS: Final = {
    types.LISTENER: "Listener",
    types.ROUTE: "RouteConfiguration",
    types.CLUSTER: "Cluster",
    types.ENDPOINT: "ClusterLoadAssignment",
}


class Configuration:
    """The last good resources of every type, and the snapshot that they make.

    Each `apply_*` takes what was added or changed, by name, and the names that are gone. It either puts a new snapshot
    in force and returns it, or raises ConfigError (with `resource` and `path`) and leaves everything as it was.
    """

    def __init__(self, endpoints: EndpointRegistry, random: Callable[[], float]) -> None:
        """`endpoints` outlives every snapshot; `random` is uniform in [0, 1), for routes that take a fraction."""
        self.endpoints = endpoints
        self.snapshot = Snapshot(version=0, listeners={}, routes={}, clusters={})
        self._random = random
        self._state = _State()
        self._static: frozenset[tuple[str, str]] = frozenset()

    # --- Applying ---

    def apply_bootstrap(self, bootstrap: Bootstrap) -> Snapshot:
        """Put the static resources of `bootstrap` (already checked by `load_bootstrap`) in force, before any others.

        Raises:
            ConfigError: with the path from the top of the file.
        """
        control = control_clusters(bootstrap)
        for index, service in enumerate(bootstrap.dynamic_resources.ads_config.grpc_services):
            grpc_cluster(service, f"dynamic_resources.ads_config.grpc_services[{index}]")
        clusters: dict[str, Resource[CompiledCluster]] = {}
        for path, cluster in _static("clusters", bootstrap.static_resources.clusters):
            compiled = compile_cluster(cluster, path)
            if compiled.cluster.discovery is Discovery.EDS and not bootstrap.dynamic_resources.HasField("ads_config"):
                raise ConfigError("EDS needs dynamic_resources.ads_config", path=f"{path}.type")
            clusters[cluster.name] = Resource(cluster, _encode(cluster), compiled)
            if cluster.name in control:
                check_control_cluster(cluster, path)
        missing = control - clusters.keys()
        if missing:
            path = "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name"
            raise ConfigError(f"there is no static cluster {min(missing)!r}", path=path)
        context = Context(self._random, clusters.__contains__)
        listeners = {
            listener.name: Resource(listener, _encode(listener), compile_listener(listener, context, path))
            for path, listener in _static("listeners", bootstrap.static_resources.listeners)
        }
        state = replace(self._state, clusters=clusters, listeners=listeners)
        self._static = frozenset(
            {(types.CLUSTER, name) for name in clusters} | {(types.LISTENER, name) for name in listeners}
        )
        return self._commit(state, changed=clusters)

    def apply(self, type_url: str, added: Mapping[str, Message], removed: Iterable[str] = ()) -> Snapshot:
        """What a discovery response of this type says: see `apply_listeners` and its neighbours."""
        match type_url:
            case types.LISTENER:
                return self.apply_listeners(cast("Mapping[str, ListenerMessage]", added), removed)
            case types.ROUTE:
                return self.apply_routes(cast("Mapping[str, RouteConfiguration]", added), removed)
            case types.CLUSTER:
                return self.apply_clusters(cast("Mapping[str, ClusterMessage]", added), removed)
            case types.ENDPOINT:
                return self.apply_endpoints(cast("Mapping[str, ClusterLoadAssignment]", added), removed)
            case _:
                raise ConfigError(f"resources of type {type_url!r} are not supported")

    def check(self, type_url: str, added: Mapping[str, Message]) -> None:
        """Refuse what `apply` would refuse, and change nothing."""
        match type_url:
            case types.LISTENER:
                self._compile_listeners(cast("Mapping[str, ListenerMessage]", added))
            case types.ROUTE:
                self._compile_routes(cast("Mapping[str, RouteConfiguration]", added))
            case types.CLUSTER:
                self._compile_clusters(cast("Mapping[str, ClusterMessage]", added))
            case types.ENDPOINT:
                self._compile_endpoints(cast("Mapping[str, ClusterLoadAssignment]", added))
            case _:
                raise ConfigError(f"resources of type {type_url!r} are not supported")

    def apply_listeners(self, added: Mapping[str, ListenerMessage], removed: Iterable[str] = ()) -> Snapshot:
        """LDS."""
        compiled = self._compile_listeners(added)
        return self._commit(replace(self._state, listeners=self._merge(types.LISTENER, compiled, removed)))

    def apply_routes(self, added: Mapping[str, RouteConfiguration], removed: Iterable[str] = ()) -> Snapshot:
        """RDS."""
        compiled = self._compile_routes(added)
        return self._commit(replace(self._state, routes=self._merge(types.ROUTE, compiled, removed)))

    def apply_clusters(self, added: Mapping[str, ClusterMessage], removed: Iterable[str] = ()) -> Snapshot:
        """CDS. A cluster that is gone takes its endpoints with it."""
        compiled = self._compile_clusters(added)
        changed = {name for name, resource in compiled.items() if resource is not self._state.clusters.get(name)}
        clusters = self._merge(types.CLUSTER, compiled, removed)
        addresses = {name: found for name, found in self._state.addresses.items() if name in clusters}
        return self._commit(replace(self._state, clusters=clusters, addresses=addresses), changed=changed)

    def apply_endpoints(self, added: Mapping[str, ClusterLoadAssignment], removed: Iterable[str] = ()) -> Snapshot:
        """EDS; names are those of the EDS resources (`eds_service_name`, else the cluster's name)."""
        removed = set(removed)
        compiled = self._compile_endpoints(added)
        names = {name for name, resource in compiled.items() if resource is not self._state.endpoints.get(name)}
        endpoints = self._merge(types.ENDPOINT, compiled, removed)
        changed = {
            name
            for name, resource in self._state.clusters.items()
            if resource.compiled.cluster.eds_service_name in names | removed
        }
        return self._commit(replace(self._state, endpoints=endpoints), changed=changed)

    def apply_addresses(self, cluster: str, addresses: Mapping[str, tuple[str, ...]]) -> Snapshot:
        """DNS: the addresses of every resolved name of `cluster`; of a cluster that is gone meanwhile, nothing."""
        if cluster not in self._state.clusters:
            return self.snapshot
        state = replace(self._state, addresses={**self._state.addresses, cluster: addresses})
        return self._commit(state, changed={cluster})

    # --- What the resources in force refer to ---

    def wanted_routes(self) -> frozenset[str]:
        """RDS names that the listeners in force refer to."""
        return frozenset(
            chain.handler.rds
            for listener in self.snapshot.listeners.values()
            for chain in listener.all_chains()
            if isinstance(chain.handler, HttpManager) and chain.handler.rds
        )

    def wanted_endpoints(self) -> frozenset[str]:
        """EDS names that the clusters in force refer to."""
        return frozenset(
            cluster.eds_service_name
            for cluster in self.snapshot.clusters.values()
            if cluster.discovery is Discovery.EDS
        )

    def wanted_secrets(self) -> frozenset[str]:
        """SDS names that listeners and clusters in force refer to."""
        contexts: list[TlsServer | TlsClient | None] = []
        for listener in self.snapshot.listeners.values():
            contexts.extend(chain.tls for chain in listener.all_chains())
        for cluster in self.snapshot.clusters.values():
            contexts.append(cluster.tls)
            contexts.extend(match.tls for match in cluster.transport_matches)
        return frozenset(name for context in contexts if context is not None for name in _secrets(context))

    def messages(self, type_url: str) -> Mapping[str, Message]:
        """The resources of one type in force, as they came."""
        return {name: resource.message for name, resource in self._resources(type_url).items()}

    def dump(self) -> dict[str, object]:
        """Every resource in force, as plain data, for `/config_dump`; see config/dump.py."""
        return dump.dump(self.messages, self.is_static)

    def is_static(self, type_url: str, name: str) -> bool:
        """Whether the resource comes from the bootstrap file."""
        return (type_url, name) in self._static

    # --- Compiling ---

    def _context(self) -> Context:
        return Context(self._random, self._state.clusters.__contains__)

    def _compile_listeners(self, added: Mapping[str, ListenerMessage]) -> dict[str, Resource[Listener]]:
        context = self._context()
        known = [chain for held in self._state.listeners.values() for chain in held.compiled.all_chains()]
        return _compile(
            types.LISTENER, added, self._state.listeners, lambda one: compile_listener(one, context, known=known)
        )

    def _compile_routes(self, added: Mapping[str, RouteConfiguration]) -> dict[str, Resource[RouteTable]]:
        context = self._context()
        return _compile(types.ROUTE, added, self._state.routes, lambda one: compile_routes(one, context))

    def _compile_clusters(self, added: Mapping[str, ClusterMessage]) -> dict[str, Resource[CompiledCluster]]:
        return _compile(types.CLUSTER, added, self._state.clusters, compile_cluster)

    def _compile_endpoints(
        self, added: Mapping[str, ClusterLoadAssignment]
    ) -> dict[str, Resource[tuple[EndpointSpec, ...]]]:
        return _compile(types.ENDPOINT, added, self._state.endpoints, compile_endpoints)

    def _resources(self, type_url: str) -> Mapping[str, Resource[object]]:
        resources = {
            types.LISTENER: self._state.listeners,
            types.ROUTE: self._state.routes,
            types.CLUSTER: self._state.clusters,
            types.ENDPOINT: self._state.endpoints,
        }[type_url]
        return cast("Mapping[str, Resource[object]]", resources)

    def _merge(
        self, type_url: str, compiled: Mapping[str, Resource[C]], removed: Iterable[str]
    ) -> dict[str, Resource[C]]:
        before = cast("Mapping[str, Resource[C]]", self._resources(type_url))
        removed = set(removed)
        for name in sorted({*compiled, *removed}):
            if (type_url, name) in self._static:
                raise ConfigError("is a static resource and cannot be changed", resource=_label(type_url, name))
        return {name: resource for name, resource in before.items() if name not in removed} | dict(compiled)

    # --- The new snapshot ---

    def _commit(self, state: _State, changed: Iterable[str] = ()) -> Snapshot:
        """Put `state` in force. Nothing here can fail, so that it happens whole or not at all."""
        clusters: dict[str, Cluster] = {}
        changed = set(changed)
        for name, resource in state.clusters.items():
            if name in changed or name not in self.snapshot.clusters:
                clusters[name] = self._with_endpoints(resource.compiled, state)
            else:
                clusters[name] = self.snapshot.clusters[name]
        for name in self.snapshot.clusters.keys() - clusters.keys():
            self.endpoints.forget(name)
        self._state = state
        self.snapshot = Snapshot(
            version=self.snapshot.version + 1,
            listeners={name: resource.compiled for name, resource in state.listeners.items()},
            routes={name: resource.compiled for name, resource in state.routes.items()},
            clusters=clusters,
        )
        return self.snapshot

    def _with_endpoints(self, compiled: CompiledCluster, state: _State) -> Cluster:
        cluster = compiled.cluster
        match cluster.discovery:
            case Discovery.STATIC:
                specs = compiled.static
            case Discovery.EDS:
                assignment = state.endpoints.get(cluster.eds_service_name)
                specs = assignment.compiled if assignment is not None else ()
            case Discovery.STRICT_DNS | Discovery.LOGICAL_DNS:
                specs = resolved(cluster, state.addresses.get(cluster.name, {}))
            case Discovery.ORIGINAL_DST:
                specs = ()
        priority = in_force(specs)
        chosen = {(spec.host, spec.port) for spec in specs if spec.priority == priority}
        endpoints = self.endpoints.update(cluster.name, specs)
        return replace(cluster, endpoints=tuple(one for one in endpoints if (one.host, one.port) in chosen))


def control_clusters(bootstrap: Bootstrap) -> set[str]:
    """Names of the static clusters that lead to the control plane."""
    return {service.envoy_grpc.cluster_name for service in bootstrap.dynamic_resources.ads_config.grpc_services}


M = TypeVar("M", bound=Message)
N = TypeVar("N", ListenerMessage, ClusterMessage)


def _compile(
    type_url: str, added: Mapping[str, M], before: Mapping[str, Resource[C]], compile_one: Callable[[M], C]
) -> dict[str, Resource[C]]:
    """Each of `added`, checked and compiled; the resource in force where its bytes are the same."""
    found: dict[str, Resource[C]] = {}
    for name, message in added.items():
        encoded = _encode(message)
        old = before.get(name)
        if old is not None and old.encoded == encoded:
            found[name] = old
            continue
        try:
            check(message)
            found[name] = Resource(message, encoded, compile_one(message))
        except ConfigError as error:
            raise ConfigError(error.problem, path=error.path, resource=_label(type_url, name)) from error
    return found


def _static(kind: str, messages: Iterable[N]) -> Iterator[tuple[str, N]]:
    """Each static resource with its path; a name may be given once."""
    seen: set[str] = set()
    for index, message in enumerate(messages):
        path = f"static_resources.{kind}[{index}]"
        if message.name in seen:
            raise ConfigError(f"the name {message.name!r} is given twice", path=f"{path}.name")
        seen.add(message.name)
        yield path, message


def _secrets(context: TlsServer | TlsClient) -> Iterator[str]:
    if isinstance(context.certificate, SdsName):
        yield context.certificate.name
    if isinstance(context.validation, PeerValidation) and isinstance(context.validation.roots, SdsName):
        yield context.validation.roots.name


def _encode(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def _label(type_url: str, name: str) -> str:
    return f"{_KINDS[type_url]} {name}"
