"""What a gateway offers → its listeners: one for each port of the pod. Pure.

Plain HTTP needs one filter chain. With TLS each server has one of its own, told by the server name that the client asks
for; a client that asks for another, or speaks no TLS, finds none and is cut off.
"""

from collections.abc import Iterable

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from pymesh_controlplane.pilot.filters import gateway_http
from pymesh_controlplane.pilot.gateways import PLAIN, Offer
from pymesh_controlplane.pilot.messages import socket_address


def route_name(offer: Offer) -> str:
    """`http.8080` for all plain HTTP of a port; `https.443.https.bookinfo.default` for a server with TLS."""
    server, gateway = offer.server, offer.gateway.key
    if server.port.protocol in PLAIN:
        return f"http.{offer.port}"
    return f"https.{server.port.number}.{server.port.name}.{gateway.name}.{gateway.namespace}"


def listener(port: int, offers: Iterable[Offer]) -> listener_pb2.Listener:
    """The listener for what is offered on `port` of the pod."""
    chains = [_plain_chain(offer) for offer in offers][:1]
    return listener_pb2.Listener(
        name=f"0.0.0.0_{port}",
        address=socket_address("0.0.0.0", port),  # noqa: S104  clients come from everywhere
        traffic_direction=base_pb2.OUTBOUND,
        filter_chains=chains,
    )


def _plain_chain(offer: Offer) -> listener_components_pb2.FilterChain:
    handler = gateway_http(offer.port, route_name(offer), mutual=False)
    return listener_components_pb2.FilterChain(name=f"{offer.port}_http", filters=[handler])
