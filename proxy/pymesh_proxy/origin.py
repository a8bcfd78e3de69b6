"""How a connection came in, and by that, who serves it: when it begins, and again whenever listeners have changed.

What belongs to the connection stays as it was: where it was going, what its client said first, the handshake, who the
client proved to be. Everything else is the configuration's: filters, limits, timeouts, and whether such a connection is
served at all. So the configuration in force is asked again, by what belongs to the connection; the next request is
judged by what it says, and a connection that would not be let in any more serves none.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from pymesh_proxy.codec import detect
from pymesh_proxy.codec.detect import OPAQUE, Detection
from pymesh_proxy.config.model import Direction, HttpManager, Listener, TcpProxy, TlsServer
from pymesh_proxy.errors import Flag
from pymesh_proxy.filter_chain import find_chain, http_beside, inspected
from pymesh_proxy.filters.base import HttpFilter, LocalReply
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.transport.half import Half
from pymesh_proxy.transport.peer_certificate import peer_certificate
from pymesh_proxy.transport.tls import accepts

# Tells the facts of a connection once it is made; None if it is not to be served.
Identify: TypeAlias = Callable[[asyncio.BaseTransport], Facts | None]
# Envoy's response code details of a connection that no filter chain takes.
NO_CHAIN: Final = "filter_chain_not_found"

_HTTP1: Final = Detection(detect.Protocol.HTTP1)
_TLS: Final = Detection(detect.Protocol.TLS)


class Entrance(Protocol):
    """The listening socket that a connection came in by."""

    def listener(self, direction: Direction) -> Listener | None:
        """The listener in force that serves what comes in here, this way; None if there is none."""

    def opaque(self, proxy: TcpProxy, facts: Facts, origin: "Origin") -> Half:
        """The downstream protocol of a connection whose bytes `proxy` passes on."""


@dataclass(slots=True)
class Origin:
    """A connection's; small, since there may be thousands.

    What serves the connection keeps `generation` up to date; `detection` and `tls` come once its first bytes are known.

    Attributes:
        entrance: where it came in.
        generation: that of the listeners (`Runtime.generation`) by which it is served.
        direction: which way, as `entrance` tells listeners apart.
        destination: where it was going, (ip, port).
        detection: what the client said first, where anybody looked; else OPAQUE.
        tls: as what the handshake was made; None in the clear.
    """

    entrance: Entrance
    generation: int
    direction: Direction
    destination: tuple[str, int]
    detection: Detection = OPAQUE
    tls: TlsServer | None = None

    def handler(
        self, facts: Facts, transport: asyncio.BaseTransport, *, requests: bool
    ) -> HttpManager | TcpProxy | None:
        """Who serves the connection by the configuration in force; None if it would not be let in.

        `requests`: it is read as such, whatever anybody knew of it when it began.
        """
        listener = self.entrance.listener(self.direction)
        if listener is None or listener.direction.value != facts.direction:
            return None
        chain = find_chain(listener, self.destination, inspected(listener, self._spoken(requests=requests)))
        if chain is None or not self._has_proved(chain.tls, facts, transport):
            return None
        if requests and listener.direction is Direction.INBOUND:  # also those within TLS that came as opaque
            return http_beside(listener, self.destination, chain) or chain.handler
        return chain.handler

    def _spoken(self, *, requests: bool) -> Detection:
        """What is known of it now: more than at first, where nobody had to look."""
        if self.tls is not None:
            return _TLS if self.detection is OPAQUE else self.detection
        return _HTTP1 if requests else self.detection

    def _has_proved(self, now: TlsServer | None, facts: Facts, transport: asyncio.BaseTransport) -> bool:
        """Whether a handshake for `now` would have taken what the one of then has proved.

        Roots are the same if they have the same SDS name, or the same text inline: what comes under that name by now is
        not asked. Nor is whether the certificate has ended since: a connection may outlive it, as everywhere, or a
        database's would be cut every day. What the handshake proved of us does not matter.
        """
        then = self.tls
        if then is None or now is None:
            return then is now
        asked, asks = then.validation, now.validation
        if (asked and asked.roots) != (asks and asks.roots) or then.minimum_version < now.minimum_version:
            return False
        if now.require_client_certificate and not facts.peer_certificate_hash:
            return False
        return asks is asked or accepts(asks, peer_certificate(transport.get_extra_info("ssl_object")))


_BODY: Final = b"no listener takes this connection any more; make another one\n"
_MISDIRECTED: Final = LocalReply(421, Flag.NO_ROUTE, NO_CHAIN, _BODY, grpc_status=14)

# Answers what still comes on a connection that would not be let in any more: 421 (Misdirected Request), after which any
# request, idempotent or not, may be sent again on another connection (RFC 9110 15.5.20); to gRPC, UNAVAILABLE.
MISDIRECTED: Final = HttpFilter("listener", on_request=lambda _: _MISDIRECTED)
