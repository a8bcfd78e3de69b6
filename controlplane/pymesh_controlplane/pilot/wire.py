"""Between the messages of the xDS protocol and the values that the session works with."""

from typing import TypeAlias

from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy.service.discovery.v3.discovery_pb2 import Resource as ResourceMessage
from google.protobuf.any_pb2 import Any as AnyMessage

from pymesh_controlplane.pilot.session import DeltaRequest, SotwRequest
from pymesh_controlplane.pilot.subscription import Response

RequestMessage: TypeAlias = DiscoveryRequest | DeltaDiscoveryRequest

CONTROL_PLANE = "pymesh-pilot"


def decode_request(data: bytes, *, delta: bool) -> RequestMessage:
    """The request in `data`.

    Raises:
        google.protobuf.message.DecodeError: it is none.
    """
    return DeltaDiscoveryRequest.FromString(data) if delta else DiscoveryRequest.FromString(data)


def encode_response(response: Response, *, delta: bool) -> bytes:
    """`response` as it travels."""
    return (_delta(response) if delta else _sotw(response)).SerializeToString()


def node_in(message: RequestMessage) -> NodeMessage | None:
    """The node of a request; only the first one of a stream must have it."""
    return message.node if message.HasField("node") else None


def request_of(message: RequestMessage) -> SotwRequest | DeltaRequest:
    """What a proxy said."""
    error = (message.error_detail.message or "no reason given") if message.HasField("error_detail") else None
    if isinstance(message, DiscoveryRequest):
        return SotwRequest(message.type_url, message.response_nonce, tuple(message.resource_names), error)
    return DeltaRequest(
        message.type_url,
        message.response_nonce,
        tuple(message.resource_names_subscribe),
        tuple(message.resource_names_unsubscribe),
        dict(message.initial_resource_versions),
        error,
    )


def _sotw(response: Response) -> DiscoveryResponse:
    message = DiscoveryResponse(version_info=response.version, type_url=response.type_url, nonce=response.nonce)
    message.resources.extend(
        AnyMessage(type_url=response.type_url, value=resource.body) for resource in response.resources
    )
    message.control_plane.identifier = CONTROL_PLANE
    return message


def _delta(response: Response) -> DeltaDiscoveryResponse:
    message = DeltaDiscoveryResponse(
        system_version_info=response.version, type_url=response.type_url, nonce=response.nonce
    )
    message.resources.extend(
        ResourceMessage(
            name=resource.name,
            version=resource.version,
            resource=AnyMessage(type_url=response.type_url, value=resource.body),
        )
        for resource in response.resources
    )
    message.removed_resources.extend(response.removed)
    message.control_plane.identifier = CONTROL_PLANE
    return message
