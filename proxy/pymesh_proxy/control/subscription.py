"""What has been asked for and what is held, type by type, and how that is said in the two dialects of ADS. Sans-IO.

`Delta` and `StateOfTheWorld` translate between `Subscription`/`Response` and the messages on the wire; everything else
is the same for both and stands in `ads`. Source: xds_protocol, "xDS REST and gRPC protocol".

A response may be of many megabytes. It is never parsed as a whole: its resources are cut out on the wire, and stay
encoded until they are compiled, one by one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from pymesh.errors import ConfigError
from pymesh.grpc.status import Code
from pymesh.steps import Steps
from pymesh.xds.wire import Range, split
from pymesh_proxy.control.resources import name_in

M = TypeVar("M", bound=Message)
R = TypeVar("R", DeltaDiscoveryResponse, DiscoveryResponse)

_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"


@dataclass(slots=True)
class Subscription:
    """One type of resource.

    Attributes:
        wildcard: all resources of the type are wanted (clusters, listeners); otherwise `names`.
        held: names that the consumer has accepted, with their versions.
        version: version of the last response that was accepted whole.
        nonce: of the last response on this stream.
        opened: whether the type has been asked for on this stream.
        answered: whether there was ever a response.
    """

    type_url: str
    wildcard: bool
    names: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    version: str = ""
    nonce: str = ""
    opened: bool = False
    answered: bool = False


@dataclass(slots=True)
class Item:
    """One resource in a response, still encoded. `name` is empty where only the resource itself knows it."""

    name: str
    version: str
    type_url: str
    encoded: bytes


@dataclass(slots=True)
class Response:
    """A response in either dialect. `complete` says that it lists all that exists: what is missing is gone."""

    type_url: str
    version: str
    nonce: str
    items: list[Item]
    removed: set[str]
    complete: bool


class Dialect(Protocol):
    """One of the two ways to speak ADS. Requests are wire bytes, ready to be sent."""

    @property
    def method(self) -> str:
        """The gRPC method."""

    def open(self, sub: Subscription, node: NodeMessage | None) -> bytes:
        """The first request for a type on a stream; `node` is in the very first of them."""

    def change(self, sub: Subscription, added: Iterable[str], removed: Iterable[str]) -> bytes:
        """`sub.names` has changed by these."""

    def acknowledge(self, sub: Subscription, error: str) -> bytes:
        """Accept the response `sub.nonce`, or refuse it because of `error`."""

    def decode(self, data: bytes) -> Steps[Response]:
        """A response; raises ConfigError."""


class Delta:
    """DeltaAggregatedResources: only what has changed is sent."""

    method = f"{_SERVICE}/DeltaAggregatedResources"

    def open(self, sub: Subscription, node: NodeMessage | None) -> bytes:
        """See Dialect. The server hears what is held, and sends only what differs."""
        return DeltaDiscoveryRequest(
            node=node,
            type_url=sub.type_url,
            resource_names_subscribe=sorted(sub.names),
            initial_resource_versions=sub.held,
        ).SerializeToString()

    def change(self, sub: Subscription, added: Iterable[str], removed: Iterable[str]) -> bytes:
        """See Dialect."""
        return DeltaDiscoveryRequest(
            type_url=sub.type_url,
            resource_names_subscribe=sorted(added),
            resource_names_unsubscribe=sorted(removed),
        ).SerializeToString()

    def acknowledge(self, sub: Subscription, error: str) -> bytes:
        """See Dialect."""
        return DeltaDiscoveryRequest(
            type_url=sub.type_url, response_nonce=sub.nonce, error_detail=_detail(error)
        ).SerializeToString()

    def decode(self, data: bytes) -> Steps[Response]:
        """See Dialect."""
        message, pieces = yield from _taken_apart(DeltaDiscoveryResponse, data)
        items = []
        for start, end in pieces:
            entry = _parsed(Resource, data[start:end])
            items.append(Item(entry.name, entry.version, entry.resource.type_url, entry.resource.value))
            yield
        removed = set(message.removed_resources)
        return Response(message.type_url, message.system_version_info, message.nonce, items, removed, complete=False)


class StateOfTheWorld:
    """StreamAggregatedResources: each response for clusters and listeners lists all of them."""

    method = f"{_SERVICE}/StreamAggregatedResources"

    def open(self, sub: Subscription, node: NodeMessage | None) -> bytes:
        """See Dialect. The server hears the version last accepted."""
        return self._request(sub, node=node)

    def change(self, sub: Subscription, added: Iterable[str], removed: Iterable[str]) -> bytes:
        """See Dialect."""
        return self._request(sub)

    def acknowledge(self, sub: Subscription, error: str) -> bytes:
        """See Dialect."""
        return self._request(sub, error=error)

    def _request(self, sub: Subscription, *, node: NodeMessage | None = None, error: str = "") -> bytes:
        return DiscoveryRequest(
            version_info=sub.version,
            node=node,
            resource_names=sorted(sub.names),
            type_url=sub.type_url,
            response_nonce=sub.nonce,
            error_detail=_detail(error),
        ).SerializeToString()

    def decode(self, data: bytes) -> Steps[Response]:
        """See Dialect."""
        message, pieces = yield from _taken_apart(DiscoveryResponse, data)
        items = []
        for start, end in pieces:
            packed = _parsed(AnyMessage, data[start:end])
            items.append(Item("", message.version_info, packed.type_url, packed.value))
            yield
        return Response(message.type_url, message.version_info, message.nonce, items, set(), complete=True)


def _detail(error: str) -> Status | None:
    return Status(code=Code.INVALID_ARGUMENT, message=error) if error else None


def _taken_apart(kind: type[R], data: bytes) -> Steps[tuple[R, list[Range]]]:
    """A response without its resources, and where in `data` each of those is."""
    try:
        rest, pieces = yield from split(data, kind.RESOURCES_FIELD_NUMBER)
    except ConfigError as error:
        raise ConfigError(f"not a {kind.__name__}: {error}") from error
    return _parsed(kind, rest), pieces


def _parsed(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ConfigError(f"not a {kind.__name__}: {error}") from error


def read_item(type_url: str, index: int, item: Item) -> Steps[str]:
    """The name of an item, which has to be a `type_url`; raises ConfigError with its place in the response."""
    place = f"resources[{index}]"
    if item.type_url != type_url:
        problem = f"is a {item.type_url or 'nothing'}, where a {type_url} should be"
        raise ConfigError(problem, path=place, resource=item.name)
    try:
        name = yield from name_in(item.encoded)
    except ConfigError as error:
        problem = f"is not a well-formed {type_url}: {error.problem}"
        raise ConfigError(problem, path=place, resource=item.name) from error
    if not name:
        raise ConfigError("the resource has no name", path=place)
    if item.name and item.name != name:
        raise ConfigError(f"sent as {item.name!r}, but calls itself {name!r}", path=place)
    return name
