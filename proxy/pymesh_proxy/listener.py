"""What a listener does with a connection, top to bottom: where was it going, which way, which chain, TLS, handler.

    serve                    whose it is and where it was going (`_arrived`), and a look at what has come already
      ├ _wait                the client has not said enough: wait for it (`_inspect`)
      │   └ _silent_client   it says nothing at all: perhaps its server speaks first
      └ _hand_over           the filter chain, and its handler: a DownstreamConnection or a Relay
          └ _over_tls        after a handshake, as whoever the certificate says
              └ _serve_either   opaque by the client's ALPN, towards our own app: look at what it says within TLS

Whoever is not served leaves by a Refusal, which is counted, or by an OSError, in one place: `_turn_away`.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from pymesh_proxy.codec.detect import OPAQUE, Detection, Protocol, detect
from pymesh_proxy.config.model import Direction, FilterChain, HttpManager, Listener, TcpProxy, TlsServer
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.filter_chain import candidates, find_chain, http_beside, inspected
from pymesh_proxy.origin import Identify, Origin
from pymesh_proxy.relay import Relay
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.telemetry.metrics import ListenerStats
from pymesh_proxy.transport.accept import PeerName, attach
from pymesh_proxy.transport.direction import Refused, classify
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.transport.first_bytes import FirstBytes
from pymesh_proxy.transport.half import Half
from pymesh_proxy.transport.original_dst import original_destination
from pymesh_proxy.transport.peek import look, peek, readable
from pymesh_proxy.transport.peer_certificate import PeerCertificate, peer_certificate
from pymesh_proxy.transport.tls import TlsError, check_names, failure_reason
from pymesh_proxy.transport.tls_connections import accept_tls

log = logging.getLogger("pymesh.listener")

Address = tuple[str, int]

# How long a client may be silent before its upstream is asked whether it speaks first. Long enough for any client that
# sends as soon as it is connected, short enough for a person who waits for a greeting.
SILENT_CLIENT_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Interception:
    """What an intercepting socket has to know to tell directions apart.

    Attributes:
        own_addresses: the pod's addresses, without loopback, at this moment.
        ports: the proxy's own ports that accept redirected connections.
    """

    own_addresses: Callable[[], frozenset[str]]
    ports: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Either:
    """Who serves a connection, according to what its client says within TLS."""

    opaque: TcpProxy
    http: HttpManager


class Arrival(NamedTuple):
    """An accepted connection: its socket, whose it is, how it came in, and what else is known of it."""

    sock: socket.socket
    listener: Listener
    origin: Origin
    facts: Facts


class Refusal(Exception):  # noqa: N818 - a decision, not a fault
    """The connection is closed unserved; `kind` is the word it is counted under."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind = kind
        super().__init__(reason)


class ListenerServer:
    """Serves the connections of one listening socket.

    `name` picks the listener out of the snapshot in force for each connection, so a new configuration applies to the
    next connection. With `interception`, the direction picks it: one socket serves both. With `port`, it is the
    listener of that port: the socket is another one's, on an address that the configuration does not know.
    """

    def __init__(
        self, runtime: Runtime, name: str, interception: Interception | None = None, *, port: int | None = None
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._interception = interception
        self._port = port
        self._stats = runtime.stats.listeners.setdefault(name, ListenerStats())

    def serve(self, sock: socket.socket, peer: PeerName) -> None:
        """Take over an accepted, non-blocking socket, at once where nothing has to be waited for."""
        self._stats.cx_total += 1
        try:
            arrival = self._arrived(sock, peer)
            detection: Detection | None = OPAQUE
            if candidates(arrival.listener, arrival.origin.destination).inspected:
                detection = look(sock, wary=_wary(arrival.listener))
            if detection is None:
                self._runtime.spawn(self._wait(arrival))
            else:
                self._hand_over(arrival, detection)
        except (Refusal, OSError) as error:
            self._turn_away(sock, error)
        except BaseException:
            sock.close()
            raise

    async def _wait(self, arrival: Arrival) -> None:
        """Serve a connection whose client has not said enough yet."""
        sock, listener, origin, facts = arrival
        relay: Relay | None = None
        try:
            detection = await self._inspect(sock, listener)
            if detection is None:
                opaque = find_chain(listener, origin.destination, OPAQUE)
                if opaque is not None and opaque.tls is None and isinstance(opaque.handler, TcpProxy):
                    relay = Relay(self._runtime, opaque.handler, facts, origin)
                detection = await self._silent_client(sock, listener, relay)
            self._hand_over(self._now(arrival), detection, relay)
        except BaseException as error:
            if relay is not None:
                relay.abandon()
            if not isinstance(error, (Refusal, OSError)):
                sock.close()
                raise
            self._turn_away(sock, error)

    def _turn_away(self, sock: socket.socket, error: Refusal | OSError) -> None:
        sock.close()
        if isinstance(error, OSError):
            log.debug("%s: connection broke before it was served: %s", self._name, error)
            return
        self._stats.cx_refused += 1
        self._stats.refusals[error.kind] = self._stats.refusals.get(error.kind, 0) + 1
        log.warning("%s: refused: %s", self._name, error)

    def _arrived(self, sock: socket.socket, peer: PeerName) -> Arrival:
        """Whose connection it is, and what is known of it before its first byte."""
        name: PeerName = sock.getsockname()
        local, remote = _address(name), _address(peer)
        interception, original, direction = self._interception, None, Direction.UNSPECIFIED
        if interception is not None:
            original = original_destination(sock, name[0])
            found = classify(local, remote, original, interception.own_addresses(), interception.ports)
            if isinstance(found, Refused):
                raise Refusal("not_for_this_pod" if original and original != local else "not_redirected", found.reason)
            direction = found
        listener = self._required(direction)
        if interception is None and self._port is None and listener.use_original_dst:
            original = original_destination(sock, name[0])
        destination = original or local
        facts = Facts(
            direction=listener.direction.value,
            remote=_text(remote),
            local=_text(local),
            original=_text(original) if original else "",
            original_destination=destination,
        )
        return Arrival(sock, listener, Origin(self, self._runtime.generation, direction, destination), facts)

    def _now(self, arrival: Arrival) -> Arrival:
        """`arrival` after a wait, in which the configuration may have changed."""
        if arrival.origin.generation == self._runtime.generation:
            return arrival
        arrival.origin.generation = self._runtime.generation
        return arrival._replace(listener=self._required(arrival.origin.direction))

    def listener(self, direction: Direction) -> Listener | None:
        """See origin.Entrance."""
        listeners = self._runtime.snapshot.listeners
        if self._port is not None:
            return next((item for item in listeners.values() if item.port == self._port and item.bind_to_port), None)
        if self._interception is None:
            return listeners.get(self._name)
        return next(
            (item for item in listeners.values() if item.direction is direction and item.use_original_dst), None
        )

    def opaque(self, proxy: TcpProxy, facts: Facts, origin: Origin) -> Half:
        """See origin.Entrance."""
        return Relay(self._runtime, proxy, facts, origin).on_accept(lambda _: facts)

    def _required(self, direction: Direction) -> Listener:
        found = self.listener(direction)
        if found is None:
            what = f"port {self._port}" if self._port is not None else f"{direction.value} connections"
            raise Refusal("no_listener", f"no listener for {what}: the configuration has none yet")
        return found

    async def _inspect(self, sock: socket.socket, listener: Listener) -> Detection | None:
        """What the client speaks; None if it is silent. The bytes stay in the socket."""
        loop = self._runtime.loop
        try:
            async with asyncio.timeout(SILENT_CLIENT_SECONDS):
                await readable(loop, sock)
        except TimeoutError:
            return None
        if (detection := look(sock, wary=_wary(listener))) is not None:
            return detection
        try:  # it has begun: half of a ClientHello may be as slow as the network
            async with asyncio.timeout(listener.inspect_timeout):
                return await peek(loop, sock, None, wary=_wary(listener))
        except TimeoutError:
            if _wary(listener):  # what follows half a line may be headers that only we may set
                raise Refusal("silent", f"half a first line, and nothing for {listener.inspect_timeout:g} s") from None
            return self._undetected(listener)

    @staticmethod
    def _undetected(listener: Listener) -> Detection:
        """The time for telling what the client speaks is over."""
        if not listener.inspect_timeout_continues:
            raise Refusal("silent", f"what is spoken could not be told within {listener.inspect_timeout:g} s")
        return OPAQUE

    async def _silent_client(self, sock: socket.socket, listener: Listener, relay: Relay | None) -> Detection:
        """Wait for a client that does not begin to speak: perhaps the server does, which `relay` can find out."""
        loop, patience, wary = self._runtime.loop, listener.inspect_timeout, _wary(listener)
        if relay is not None and wary:
            patience = relay.proxy.idle_timeout  # a client that outwaits us must not become opaque by that
        try:
            async with asyncio.timeout(patience):
                if relay is not None and await relay.listen_first(readable(loop, sock)):
                    return OPAQUE
                detection = await peek(loop, sock, None, wary=wary)
        except TimeoutError:
            if relay is not None and wary:
                raise Refusal("silent", "neither side has said anything") from None
            return self._undetected(listener)
        assert detection is not None
        return detection

    def _hand_over(self, arrival: Arrival, detection: Detection, relay: Relay | None = None) -> None:
        """Choose the filter chain, and let it serve the connection; by `relay`, where that is what it would make."""
        sock, listener, origin, facts = arrival
        origin.detection = detection
        detection = inspected(listener, detection)
        chain = find_chain(listener, origin.destination, detection)
        if relay is not None and (chain is None or chain.handler is not relay.proxy):
            relay.abandon()
            relay = None
        if chain is None:
            self._stats.no_filter_chain += 1
            raise Refusal("no_filter_chain", f"no filter chain of {listener.name} for {_text(origin.destination)}")
        if detection.server_name:
            facts = replace(facts, sni=detection.server_name)
            arrival = arrival._replace(facts=facts)
        if chain.tls is not None:
            origin.tls = chain.tls
            self._runtime.spawn(self._over_tls(arrival, chain, chain.tls))
        else:
            attach(self._runtime.loop, sock, lambda: self._protocol(chain.handler, arrival, lambda _: facts, relay))

    def _protocol(
        self, handler: HttpManager | TcpProxy, arrival: Arrival, identify: Identify, relay: Relay | None = None
    ) -> DownstreamConnection | Half:
        if isinstance(handler, HttpManager):
            return DownstreamConnection(self._runtime, handler, identify, arrival.origin)
        return (relay or Relay(self._runtime, handler, arrival.facts, arrival.origin)).on_accept(identify)

    async def _over_tls(self, arrival: Arrival, chain: FilterChain, tls: TlsServer) -> None:
        """Serve a connection that is encrypted to us."""
        sock, facts, runtime = arrival.sock, arrival.facts, self._runtime

        def identify(transport: asyncio.BaseTransport) -> Facts | None:
            peer = peer_certificate(transport.get_extra_info("ssl_object"))
            try:
                check_names(peer, tls.validation)
            except TlsError as error:
                self._tls_failed(facts, error)
                return None
            return _with_identity(facts, peer, runtime.own_identity(tls.certificate))

        either = self._either(chain, arrival)
        first = None if either is None else FirstBytes()

        def above() -> asyncio.BaseProtocol | Half:
            return self._protocol(chain.handler, arrival, identify) if first is None else first

        try:
            await accept_tls(runtime.loop, sock, runtime.tls.server(tls), above, chain.handshake_timeout)
        except (TlsError, OSError, TimeoutError) as error:
            sock.close()
            self._tls_failed(facts, error)
            return
        if either is not None and first is not None:
            await self._serve_either(arrival, either, first, identify)

    async def _serve_either(self, arrival: Arrival, either: Either, first: FirstBytes, identify: Identify) -> None:
        """Serve a connection of which only its first bytes, within TLS, say what is spoken."""
        relay = Relay(self._runtime, either.opaque, arrival.facts, arrival.origin)
        try:
            if await self._speaks_http(first, arrival.listener, relay):
                relay.abandon()
                first.hand_over(self._protocol(either.http, arrival, identify))
            else:
                first.hand_over(self._protocol(either.opaque, arrival, identify, relay))
        except (Refusal, OSError) as error:
            self._turn_away(arrival.sock, error)

    @staticmethod
    def _either(chain: FilterChain, arrival: Arrival) -> Either | None:
        """What of mutual TLS may carry requests as well as opaque bytes, towards our own app."""
        http = http_beside(arrival.listener, arrival.origin.destination, chain)
        if http is None or not _wary(arrival.listener) or not isinstance(chain.handler, TcpProxy):
            return None
        return Either(chain.handler, http)

    async def _speaks_http(self, first: FirstBytes, listener: Listener, relay: Relay) -> bool:
        """Whether a client that came as an opaque one sends requests, whose headers only we may pass on.

        Raises:
            Refusal: it does not say, or is gone.
        """
        try:
            if not first.data:
                async with asyncio.timeout(relay.proxy.idle_timeout):
                    if await relay.listen_first(first.more()):
                        return False
            async with asyncio.timeout(listener.inspect_timeout):
                while (found := detect(first.data, ended=first.ended, wary=True)) is None:
                    await first.more()
            if first.lost:
                raise ConnectionResetError("the client is gone")
        except BaseException as error:
            relay.abandon()
            first.abort()
            if isinstance(error, TimeoutError):
                raise Refusal(
                    "silent", "no whole first line within TLS (a protocol without lines? name its port tcp-…)"
                ) from None
            raise
        return found.protocol is Protocol.HTTP1

    def _tls_failed(self, facts: Facts, error: Exception) -> None:
        self._stats.cx_tls_error += 1
        log.info("%s: TLS with %s failed: %s", self._name, facts.remote, failure_reason(error) or error)


def _wary(listener: Listener) -> bool:
    """Whether bytes that only resemble HTTP are to be taken for it: towards our own app, whom we tell who calls."""
    return listener.direction is Direction.INBOUND


def _with_identity(facts: Facts, peer: PeerCertificate, own: str) -> Facts:
    return replace(
        facts,
        tls=True,
        peer=peer.identity,
        own=own,
        peer_certificate_hash=peer.hash,
        peer_subject=peer.subject,
        peer_dns=peer.dns,
    )


def _address(name: PeerName) -> Address:
    host = name[0]
    return (host[7:] if host.startswith("::ffff:") and "." in host else host), name[1]


def _text(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
