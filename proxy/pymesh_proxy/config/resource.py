"""One xDS resource from its bytes to what it is compiled to, in steps; and the bytes kept, to know it again.

What is kept of a resource is its encoding and the compiled object: parsed, the message would take ten times the memory,
and only `/config_dump` asks for it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from envoy.config.cluster.v3.cluster_pb2 import Cluster as ClusterMessage
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener as ListenerMessage
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import DecodeError, Message

from pymesh.errors import ConfigError
from pymesh.steps import Steps
from pymesh.xds import types
from pymesh.xds.check import checking
from pymesh_proxy.config.clusters import CompiledCluster, compile_cluster, compiling_endpoints
from pymesh_proxy.config.listeners import compiling_listener
from pymesh_proxy.config.model import FilterChain, Listener
from pymesh_proxy.config.routes import Context
from pymesh_proxy.upstream.registry import EndpointSpec

C = TypeVar("C")
M = TypeVar("M", bound=Message)

KINDS: Final[Mapping[str, type[Message]]] = {
    types.LISTENER: ListenerMessage,
    types.ROUTE: RouteConfiguration,
    types.CLUSTER: ClusterMessage,
    types.ENDPOINT: ClusterLoadAssignment,
}


@dataclass(frozen=True, slots=True)
class Resource(Generic[C]):
    """One resource that was accepted: its bytes, and what they were compiled to."""

    encoded: bytes
    compiled: C


def label(type_url: str, name: str) -> str:
    """How errors call a resource: `Cluster reviews`."""
    return f"{KINDS[type_url].DESCRIPTOR.name} {name}"


def encode(message: Message) -> bytes:
    """The same bytes for the same message."""
    return message.SerializeToString(deterministic=True)


def listener(data: bytes, context: Context, known: Iterable[FilterChain]) -> Steps[Listener]:
    """A listener; its filter chains that are `known` are not compiled again. Raises ConfigError with the path."""
    message = _decoded(ListenerMessage, data)
    yield from checking(message)
    return (yield from compiling_listener(message, context, known=known))


def cluster(data: bytes) -> Steps[CompiledCluster]:
    """A cluster without its endpoints, unless they stand in it. Raises ConfigError with the path."""
    message = _decoded(ClusterMessage, data)
    yield from checking(message)
    return compile_cluster(message)


def endpoints(data: bytes) -> Steps[tuple[EndpointSpec, ...]]:
    """The endpoints of an assignment. Raises ConfigError with the path."""
    message = _decoded(ClusterLoadAssignment, data)
    yield from checking(message)
    return (yield from compiling_endpoints(message))


def compiling(
    type_url: str,
    added: Mapping[str, bytes],
    before: Mapping[str, Resource[C]],
    compile_one: Callable[[bytes], Steps[C]],
) -> Steps[tuple[dict[str, Resource[C]], dict[str, ConfigError]]]:
    """Each of `added`, compiled or refused; one whose bytes are those that are there is the same as before."""
    found: dict[str, Resource[C]] = {}
    refused: dict[str, ConfigError] = {}
    for name, encoded in added.items():
        old = before.get(name)
        if old is not None and old.encoded == encoded:
            found[name] = old
        else:
            try:
                found[name] = Resource(encoded, (yield from compile_one(encoded)))
            except ConfigError as error:
                refused[name] = ConfigError(error.problem, path=error.path, resource=label(type_url, name))
        yield
    return found, refused


def _decoded(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ConfigError(f"is not a well-formed {kind.DESCRIPTOR.full_name}: {error}") from error
