"""What a listener does with a connection, top to bottom: where was it going, which way, which chain, TLS, handler."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from pymesh_proxy.codec.detect import OPAQUE, Detection, Protocol, detect
from pymesh_proxy.config.model import Direction, FilterChain, HttpManager, Listener, TcpProxy
from pymesh_proxy.connection import DownstreamConnection
from pymesh_proxy.filter_chain import candidates, find_chain, http_beside, inspected
from pymesh_proxy.relay import Relay
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.telemetry.metrics import ListenerStats
from pymesh_proxy.transport.direction import Refused, classify
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.transport.first_bytes import FirstBytes
from pymesh_proxy.transport.original_dst import original_destination
from pymesh_proxy.transport.peek import peek, readable
from pymesh_proxy.transport.tls import TlsError, dns_names, failure_reason, peer_identity, verify_san
from pymesh_proxy.transport.tls_stream import accept_tls

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

    def serve(self, sock: socket.socket) -> None:
        """Take over an accepted, non-blocking socket."""
        self._stats.cx_total += 1
        self._runtime.spawn(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        taken = False
        try:
            local, remote = _address(sock.getsockname()), _address(sock.getpeername())
            original, direction = self._destination(sock, local, remote)
            listener = self._listener(direction)
            destination = original or local
            facts = Facts(
                direction=listener.direction.value,
                remote=_text(remote),
                local=_text(local),
                original=_text(original) if original else "",
                original_destination=destination,
            )
            relay: Relay | None = None
            detection = await self._inspect(sock, listener, destination)
            if detection is None:
                opaque = find_chain(listener, destination, OPAQUE)
                if opaque is not None and opaque.tls is None and isinstance(opaque.handler, TcpProxy):
                    relay = Relay(self._runtime, opaque.handler, facts)
                detection = await self._silent_client(sock, listener, relay)
            detection = inspected(listener, detection)
            chain = find_chain(listener, destination, detection)
            if relay is not None and (chain is None or chain.handler is not relay.proxy):
                relay.abandon()
                relay = None
            if chain is None:
                self._stats.no_filter_chain += 1
                raise Refusal("no_filter_chain", f"no filter chain of {listener.name} for {_text(destination)}")
            taken = True
            await self._hand_over(sock, listener, chain, replace(facts, sni=detection.server_name), relay)
        except Refusal as refusal:
            self._stats.cx_refused += 1
            self._stats.refusals[refusal.kind] = self._stats.refusals.get(refusal.kind, 0) + 1
            log.warning("%s: refused: %s", self._name, refusal)
        except OSError as error:
            log.debug("%s: connection broke before it was served: %s", self._name, error)
        finally:
            if not taken:
                sock.close()

    def _destination(self, sock: socket.socket, local: Address, remote: Address) -> tuple[Address | None, Direction]:
        """Where the connection was going before a redirect, and which way that is."""
        interception = self._interception
        if interception is None:
            listener = self._runtime.snapshot.listeners.get(self._name)
            wanted = listener is not None and listener.use_original_dst
            return (original_destination(sock) if wanted else None), Direction.UNSPECIFIED
        original = original_destination(sock)
        direction = classify(local, remote, original, interception.own_addresses(), interception.ports)
        if isinstance(direction, Refused):
            raise Refusal("not_for_this_pod" if original and original != local else "not_redirected", direction.reason)
        return original, direction

    def _listener(self, direction: Direction) -> Listener:
        listeners = self._runtime.snapshot.listeners
        if self._port is not None:
            found = next((item for item in listeners.values() if item.port == self._port and item.bind_to_port), None)
        elif self._interception is None:
            found = listeners.get(self._name)
        else:
            found = next(
                (item for item in listeners.values() if item.direction is direction and item.use_original_dst), None
            )
        if found is None:
            what = f"port {self._port}" if self._port is not None else f"{direction.value} connections"
            raise Refusal("no_listener", f"no listener for {what}: the configuration has none yet")
        return found

    async def _inspect(self, sock: socket.socket, listener: Listener, destination: Address) -> Detection | None:
        """What the client speaks, where a chain depends on it; None if it is silent. The bytes stay in the socket."""
        chains = candidates(listener, *destination)
        if not any(
            chain.match.transport_protocol or chain.match.application_protocols or chain.match.server_names
            for chain in chains
        ):
            return OPAQUE
        loop = self._runtime.loop
        try:
            async with asyncio.timeout(SILENT_CLIENT_SECONDS):
                await readable(loop, sock)
        except TimeoutError:
            return None
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
        """Wait for a client that does not begin to speak: perhaps the server does, where that can be found out."""
        loop = self._runtime.loop
        patience = listener.inspect_timeout
        if relay is not None and _wary(listener):
            patience = relay.proxy.idle_timeout  # a client that outwaits us must not become opaque by that
        try:
            async with asyncio.timeout(patience):
                if relay is not None and await relay.listen_first(readable(loop, sock)):
                    return OPAQUE
                detection = await peek(loop, sock, None, wary=_wary(listener))
        except TimeoutError:
            try:
                if relay is not None and _wary(listener):
                    raise Refusal("silent", "neither side has said anything")
                return self._undetected(listener)
            except Refusal:
                if relay is not None:
                    relay.abandon()
                raise
        except OSError:
            if relay is not None:
                relay.abandon()
            raise
        assert detection is not None
        return detection

    async def _hand_over(
        self, sock: socket.socket, listener: Listener, chain: FilterChain, facts: Facts, relay: Relay | None
    ) -> None:
        """Make the transport, with TLS where the chain says so, and the protocol that serves it."""
        runtime, tls = self._runtime, chain.tls

        def identify(transport: asyncio.BaseTransport) -> Facts | None:
            if tls is None:
                return facts
            ssl_object: ssl.SSLObject = transport.get_extra_info("ssl_object")
            try:
                peer = verify_san(ssl_object, tls.validation) if tls.validation else peer_identity(ssl_object)
            except TlsError as error:
                self._tls_failed(facts, error)
                return None
            return _with_identity(facts, ssl_object, peer, runtime.own_identity(tls.certificate))

        def protocol(handler: HttpManager | TcpProxy = chain.handler) -> asyncio.Protocol:
            if isinstance(handler, HttpManager):
                return DownstreamConnection(runtime, handler, identify)
            return (relay or Relay(runtime, handler, facts)).on_accept(identify)

        try:
            if tls is None:
                await runtime.loop.connect_accepted_socket(protocol, sock)
                return
            context, either = runtime.tls.server(tls), self._either(chain, listener, facts)
            if either is None:
                await accept_tls(runtime.loop, sock, context, protocol, chain.handshake_timeout)
                return
            first = FirstBytes()
            await accept_tls(runtime.loop, sock, context, lambda: first, chain.handshake_timeout)
        except (TlsError, OSError, TimeoutError) as error:
            sock.close()
            self._tls_failed(facts, error)
            return
        relay = Relay(runtime, either.opaque, facts)
        if await self._speaks_http(first, listener, relay):
            relay.abandon()
            first.hand_over(protocol(either.http))
        else:
            first.hand_over(protocol(either.opaque))

    @staticmethod
    def _either(chain: FilterChain, listener: Listener, facts: Facts) -> "Either | None":
        """What of mutual TLS may carry requests as well as opaque bytes, towards our own app."""
        destination = facts.original_destination
        http = None if destination is None else http_beside(listener, destination, chain)
        if http is None or not _wary(listener) or not isinstance(chain.handler, TcpProxy):
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


def _with_identity(facts: Facts, ssl_object: ssl.SSLObject, peer: str, own: str) -> Facts:
    certificate = ssl_object.getpeercert(binary_form=True)
    return replace(
        facts,
        tls=True,
        peer=peer,
        own=own,
        peer_certificate_hash=sha256(certificate).hexdigest() if certificate else "",
        peer_subject=_subject(ssl_object) if certificate else "",
        peer_dns=dns_names(ssl_object) if certificate else (),
    )


def _subject(ssl_object: ssl.SSLObject) -> str:
    """The peer's subject as RFC 2253 writes it; SPIFFE leaves have an empty one."""
    subject = (ssl_object.getpeercert() or {}).get("subject", ())
    names = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    pairs = [pair for part in reversed(subject) if isinstance(part, tuple) for pair in part]
    return ",".join(f"{names.get(pair[0], pair[0])}={pair[1]}" for pair in pairs if isinstance(pair, tuple))


def _address(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    host = name[0]
    return (host[7:] if host.startswith("::ffff:") and "." in host else host), name[1]


def _text(address: Address) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
