"""From xDS resources to the snapshot in force: decoded, checked, compiled, swapped; or refused, one by one.

Pure apart from reading the files that a resource names. What did not change, byte for byte, is not compiled again: its
compiled object is the same one as in the snapshot before, and so are the objects of endpoints that stay.

All of it is in steps (`pymesh.steps`), so that a proxy that serves is never stopped by what comes: resources are
compiled (`staging`), a new snapshot is made of them and put in force by one assignment (`publishing`), and what is of
no use any more is let go (`clearing`). Only one of the first two may be under way at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar, cast

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage

from pymesh.errors import ConfigError
from pymesh.steps import Steps, whole
from pymesh.xds import types
from pymesh_proxy.config import dump
from pymesh_proxy.config.clusters import CompiledCluster, compile_cluster, resolved
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
from pymesh_proxy.config.remains import Remains
from pymesh_proxy.config.resource import Resource, compiling, encode, label
from pymesh_proxy.config.resource import cluster as compiled_cluster
from pymesh_proxy.config.resource import endpoints as compiled_endpoints
from pymesh_proxy.config.resource import listener as compiled_listener
from pymesh_proxy.config.routes import Context, compile_encoded_routes
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.routing import RouteTable
from pymesh_proxy.upstream.registry import EndpointRegistry, EndpointSpec

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class _State:
    """All resources in force, by name. Replaced, never changed."""

    listeners: Mapping[str, Resource[Listener]] = field(default_factory=dict)
    routes: Mapping[str, Resource[RouteTable]] = field(default_factory=dict)
    clusters: Mapping[str, Resource[CompiledCluster]] = field(default_factory=dict)
    endpoints: Mapping[str, Resource[tuple[EndpointSpec, ...]]] = field(default_factory=dict)
    addresses: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


class _Built(NamedTuple):
    """A cluster of the snapshot in force, and what it was made of: made of the same, it is the same."""

    cluster: Cluster
    compiled: CompiledCluster
    source: object


class Configuration:
    """The last good resources of every type, and the snapshot that they make.

    Attributes:
        snapshot: what is in force.
        remains: what was in force, and is not freed yet.
    """

    def __init__(
        self, endpoints: EndpointRegistry, random: Callable[[], float], filters: tuple[HttpFilter, ...] = ()
    ) -> None:
        """`endpoints` outlives every snapshot; `random` is uniform in [0, 1), for routes that take a fraction;
        `filters` are those of every HTTP connection, beside the configured ones.
        """
        self.endpoints = endpoints
        self.snapshot = Snapshot(version=0, listeners={}, routes={}, clusters={})
        self._random = random
        self._filters = filters
        self.remains = Remains()
        self._state = _State()
        self._built: dict[str, _Built] = {}
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
            clusters[cluster.name] = Resource(encode(cluster), compiled)
            if cluster.name in control:
                check_control_cluster(cluster, path)
        missing = control - clusters.keys()
        if missing:
            path = "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name"
            raise ConfigError(f"there is no static cluster {min(missing)!r}", path=path)
        context = Context(self._random, clusters.__contains__, self._filters)
        listeners: dict[str, Resource[Listener]] = {}
        for path, listener in _static("listeners", bootstrap.static_resources.listeners):
            serving = compile_listener(listener, context, path)
            if _rds_names(serving) and not bootstrap.dynamic_resources.HasField("ads_config"):
                raise ConfigError("RDS needs dynamic_resources.ads_config", path=f"{path}.filter_chains")
            listeners[listener.name] = Resource(encode(listener), serving)
        self._state = replace(self._state, clusters=clusters, listeners=listeners)
        self._static = frozenset(
            {(types.CLUSTER, name) for name in clusters} | {(types.LISTENER, name) for name in listeners}
        )
        snapshot = whole(self.publishing())
        whole(self.clearing())
        return snapshot

    def staging(
        self, type_url: str, added: Mapping[str, bytes], removed: Iterable[str] = ()
    ) -> Steps[dict[str, ConfigError]]:
        """Take in what a discovery response says, but not into force: encoded resources and names that are gone.

        Returns the errors of what is refused, by name; that stays as it was, and everything else is taken in.
        """
        removed = set(removed)
        refused = self._static_ones(type_url, {*added, *removed})
        removed -= refused.keys()
        added = {name: encoded for name, encoded in added.items() if name not in refused}
        match type_url:
            case types.LISTENER:
                refused |= yield from self._stage_listeners(added, removed)
            case types.ROUTE:
                refused |= yield from self._stage_routes(added, removed)
            case types.CLUSTER:
                refused |= yield from self._stage_clusters(added, removed)
            case types.ENDPOINT:
                refused |= yield from self._stage_endpoints(added, removed)
            case _:
                raise ConfigError(f"resources of type {type_url!r} are not supported")
        return refused

    def publishing(self) -> Steps[Snapshot]:
        """Make a snapshot of all that was taken in, and put it in force.

        Endpoints that are gone are still to be retired, and the old snapshot to be freed: see `clearing`.
        """
        state, before = self._state, self._built
        built: dict[str, _Built] = {}
        clusters: dict[str, Cluster] = {}
        for name, resource in state.clusters.items():
            built[name] = self._build(resource.compiled, state)
            clusters[name] = built[name].cluster
            yield
        replaced: list[object] = [old for name, old in before.items() if built.get(name) is not old]
        gone = before.keys() - built.keys()
        yield
        # From here on, all is one step. Addresses may have come in the meantime.
        for name, addresses in self._state.addresses.items():
            if name in built and addresses is not state.addresses.get(name):
                built[name] = self._build(built[name].compiled, self._state)
                clusters[name] = built[name].cluster
        for name in gone:
            self.endpoints.forget(name)
        self.remains.keep(self.snapshot, replaced)
        self._built = built
        self.snapshot = Snapshot(
            version=self.snapshot.version + 1,
            listeners={name: resource.compiled for name, resource in state.listeners.items()},
            routes={name: resource.compiled for name, resource in state.routes.items()},
            clusters=clusters,
        )
        return self.snapshot

    def clearing(self) -> Steps[None]:
        """Retire the endpoints that are gone, and free what nobody refers to any more."""
        yield from self.endpoints.retiring()
        yield from self.remains.letting_go()

    def apply_addresses(self, cluster: str, addresses: Mapping[str, tuple[str, ...]]) -> Snapshot:
        """DNS: the addresses of every resolved name of `cluster`; of a cluster that is gone meanwhile, nothing.

        Of what was taken in but is not in force yet, nothing comes into force with them.
        """
        if cluster not in self._state.clusters:
            return self.snapshot
        self._state = replace(self._state, addresses={**self._state.addresses, cluster: addresses})
        old = self._built.get(cluster)
        if old is None:
            return self.snapshot
        new = self._build(old.compiled, self._state)
        self._built = {**self._built, cluster: new}
        clusters = {**self.snapshot.clusters, cluster: new.cluster}
        self.snapshot = replace(self.snapshot, version=self.snapshot.version + 1, clusters=clusters)
        return self.snapshot

    # --- What the resources in force refer to ---

    def wanted_routes(self) -> frozenset[str]:
        """RDS names that the listeners in force refer to."""
        return frozenset(name for listener in self.snapshot.listeners.values() for name in _rds_names(listener))

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

    def encoded(self, type_url: str) -> Mapping[str, bytes]:
        """The resources of one type that were taken in, as they came."""
        return {name: resource.encoded for name, resource in self._resources(type_url).items()}

    def dumping(self) -> Steps[dict[str, object]]:
        """Every resource in force, as plain data, for `/config_dump`; see config/dump.py."""
        return dump.dumping(self.encoded, self.is_static)

    def is_static(self, type_url: str, name: str) -> bool:
        """Whether the resource comes from the bootstrap file."""
        return (type_url, name) in self._static

    # --- Compiling ---

    def _context(self) -> Context:
        return Context(self._random, self._state.clusters.__contains__, self._filters)

    def _stage_listeners(self, added: Mapping[str, bytes], removed: set[str]) -> Steps[dict[str, ConfigError]]:
        context, before = self._context(), self._state.listeners
        known = [chain for held in before.values() for chain in held.compiled.all_chains()]
        found, refused = yield from compiling(
            types.LISTENER, added, before, lambda data: compiled_listener(data, context, known)
        )
        self._state = replace(self._state, listeners=_merged(before, found, removed))
        kept = {id(chain) for held in self._state.listeners.values() for chain in held.compiled.all_chains()}
        for chain in known:
            if id(chain) not in kept and isinstance(chain.handler, HttpManager) and chain.handler.routes is not None:
                yield from self._outlive(chain.handler.routes)
        return refused

    def _stage_routes(self, added: Mapping[str, bytes], removed: set[str]) -> Steps[dict[str, ConfigError]]:
        context, before = self._context(), self._state.routes
        found, refused = yield from compiling(
            types.ROUTE, added, before, lambda data: compile_encoded_routes(data, context)
        )
        self._state = replace(self._state, routes=_merged(before, found, removed))
        for name, old in before.items():
            if self._state.routes.get(name) is not old:
                yield from self._outlive(old.compiled)
        return refused

    def _stage_clusters(self, added: Mapping[str, bytes], removed: set[str]) -> Steps[dict[str, ConfigError]]:
        """A cluster that is gone takes its addresses with it."""
        found, refused = yield from compiling(types.CLUSTER, added, self._state.clusters, compiled_cluster)
        clusters = _merged(self._state.clusters, found, removed)
        addresses = {name: known for name, known in self._state.addresses.items() if name in clusters}
        self._state = replace(self._state, clusters=clusters, addresses=addresses)
        return refused

    def _stage_endpoints(self, added: Mapping[str, bytes], removed: set[str]) -> Steps[dict[str, ConfigError]]:
        """Names are those of the EDS resources (`eds_service_name`, else the cluster's name)."""
        found, refused = yield from compiling(types.ENDPOINT, added, self._state.endpoints, compiled_endpoints)
        self._state = replace(self._state, endpoints=_merged(self._state.endpoints, found, removed))
        return refused

    def _outlive(self, table: RouteTable) -> Steps[None]:
        """Free the routes of `table` piece by piece, once nobody looks for one in it any more."""
        pieces: list[object] = []
        for host in table.virtual_hosts:
            pieces += host.routes
            yield
        self.remains.keep(table, pieces)

    def _static_ones(self, type_url: str, names: Iterable[str]) -> dict[str, ConfigError]:
        """The errors of those of `names` that come from the bootstrap."""
        return {
            name: ConfigError("is a static resource and cannot be changed", resource=label(type_url, name))
            for name in sorted(names)
            if (type_url, name) in self._static
        }

    def _resources(self, type_url: str) -> Mapping[str, Resource[object]]:
        resources = {
            types.LISTENER: self._state.listeners,
            types.ROUTE: self._state.routes,
            types.CLUSTER: self._state.clusters,
            types.ENDPOINT: self._state.endpoints,
        }[type_url]
        return cast("Mapping[str, Resource[object]]", resources)

    # --- The new snapshot ---

    def _build(self, compiled: CompiledCluster, state: _State) -> _Built:
        """A cluster with its endpoints; the one in force, if nothing of it has changed."""
        cluster = compiled.cluster
        source: object = None
        if cluster.discovery is Discovery.EDS:
            source = state.endpoints.get(cluster.eds_service_name)
        elif cluster.dns_targets:
            source = state.addresses.get(cluster.name)
        old = self._built.get(cluster.name)
        if old is not None and old.compiled is compiled and old.source is source:
            return old
        return _Built(self._with_endpoints(compiled, state), compiled, source)

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
        endpoints = self.endpoints.update(cluster.name, specs, checked=cluster.health_check is not None)
        return replace(cluster, endpoints=endpoints)


def _rds_names(listener: Listener) -> list[str]:
    handlers = [chain.handler for chain in listener.all_chains()]
    return [handler.rds for handler in handlers if isinstance(handler, HttpManager) and handler.rds]


def control_clusters(bootstrap: Bootstrap) -> set[str]:
    """Names of the static clusters that lead to the control plane."""
    return {service.envoy_grpc.cluster_name for service in bootstrap.dynamic_resources.ads_config.grpc_services}


N = TypeVar("N", ListenerMessage, ClusterMessage)


def _merged(
    before: Mapping[str, Resource[C]], found: Mapping[str, Resource[C]], removed: set[str]
) -> dict[str, Resource[C]]:
    return {name: resource for name, resource in before.items() if name not in removed} | dict(found)


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
