"""TLS contexts on real sockets, on both event loops, and against OpenSSL's own verdicts."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from pymesh_proxy.codec.detect import detect
from pymesh_proxy.config.model import InlineCertificate, InlineRoots, PeerValidation, SdsName, TlsClient, TlsServer
from pymesh_proxy.control.secrets import Certificate, Roots, SecretStore
from pymesh_proxy.transport.peer_certificate import peer_certificate
from pymesh_proxy.transport.tls import (
    MAX_CONTEXTS,
    MAX_SESSIONS,
    TlsContexts,
    TlsError,
    failure_reason,
    verify_san,
)
from tests.support.certificates import Authority
from tests.support.waiting import eventually

REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"
PRODUCTPAGE = "spiffe://cluster.local/ns/default/sa/productpage"
ROOTS = SdsName("ROOTCA")
OWN = SdsName("default")

SERVER = TlsServer(OWN, PeerValidation(ROOTS), require_client_certificate=True, alpn=("istio", "h2"))
CLIENT = TlsClient(OWN, PeerValidation(ROOTS), sni="outbound_.9080_._.reviews", alpn=("istio-http/1.1", "istio"))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def store_for(authority: Authority, uri: str) -> SecretStore:
    store = SecretStore()
    enrol(store, authority, uri)
    store.put("ROOTCA", Roots(authority.root))
    return store


def enrol(store: SecretStore, authority: Authority, uri: str) -> None:
    issued = authority.issue(uri=uri)
    store.put("default", Certificate(issued.chain, issued.key))


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[None]], None]:
    """Run a coroutine on each of the event loops, whatever loop pytest has."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(main: Awaitable[None]) -> None:
        async def body() -> None:
            await main

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(body())

    return run


class Echo(asyncio.Protocol):
    """A server that answers each chunk with itself, and remembers the TLS of its connections."""

    def __init__(self, server: "Server") -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._server.transports.append(transport)
        self._server.seen.append(transport.get_extra_info("ssl_object"))

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]  both loops' transports have it


class Server:
    """Accepts as the proxy does: the context is asked for at each connection."""

    def __init__(self, contexts: TlsContexts, tls: TlsServer) -> None:
        self.contexts = contexts
        self.tls = tls
        self.seen: list[ssl.SSLObject] = []
        self.transports: list[asyncio.BaseTransport] = []
        self.problems: list[str] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)

            async def accept() -> None:
                while True:
                    sock, _ = await loop.sock_accept(listener)
                    try:
                        await loop.connect_accepted_socket(lambda: Echo(self), sock, ssl=self.contexts.server(self.tls))
                    except OSError as error:
                        self.problems.append(failure_reason(error))

            async with asyncio.TaskGroup() as group:
                accepting = group.create_task(accept())
                try:
                    yield listener.getsockname()[1]
                finally:
                    accepting.cancel()
                    for transport in self.transports:  # uvloop does not close with connections open
                        transport.abort()  # type: ignore[attr-defined]  both loops' transports have it


class Connection:
    """A client's connection that has echoed once."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.tls: ssl.SSLObject = writer.get_extra_info("ssl_object")

    async def echo(self) -> None:
        self.writer.write(b"ping")
        assert await self.reader.readexactly(4) == b"ping"

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def connect(contexts: TlsContexts, tls: TlsClient, port: int, key: str = "") -> Connection:
    context = contexts.client(tls, key or f"127.0.0.1:{port}")
    connection = Connection(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=""))
    await connection.echo()
    contexts.keep_session(tls, key or f"127.0.0.1:{port}", connection.tls)
    return connection


def test_mutual_tls_names_both_ends(run: Callable[[Awaitable[None]], None], authority: Authority) -> None:
    async def main() -> None:
        server = Server(TlsContexts(store_for(authority, REVIEWS)), SERVER)
        client = TlsContexts(store_for(authority, PRODUCTPAGE))
        async with server.listening() as port:
            connection = await connect(client, CLIENT, port)
            assert peer_certificate(connection.tls).identity == REVIEWS
            assert peer_certificate(server.seen[0]).identity == PRODUCTPAGE
            assert connection.tls.selected_alpn_protocol() == "istio"
            assert connection.tls.version() == "TLSv1.3"
            await connection.close()

    run(main())


@pytest.mark.parametrize("name", [CLIENT.sni, ""])
def test_the_server_is_asked_for_by_name_where_there_is_one(name: str, authority: Authority) -> None:
    contexts = TlsContexts(store_for(authority, PRODUCTPAGE))
    said = ssl.MemoryBIO()
    machine = contexts.client(replace(CLIENT, sni=name), "a").wrap_bio(ssl.MemoryBIO(), said)
    with pytest.raises(ssl.SSLWantReadError):
        machine.do_handshake()
    hello = detect(said.read())
    assert hello is not None
    assert hello.server_name == name


def test_a_rotation_reaches_new_handshakes_and_spares_old_connections(
    run: Callable[[Awaitable[None]], None], authority: Authority
) -> None:
    async def main() -> None:
        server_store, client_store = store_for(authority, REVIEWS), store_for(authority, PRODUCTPAGE)
        server, client = Server(TlsContexts(server_store), SERVER), TlsContexts(client_store)
        async with server.listening() as port:
            old = await connect(client, CLIENT, port)
            first = old.tls.getpeercert(binary_form=True)
            enrol(server_store, authority, REVIEWS)
            new = await connect(client, CLIENT, port)
            assert new.tls.getpeercert(binary_form=True) != first
            assert not new.tls.session_reused  # tickets die with the context
            await old.echo()

            # The root changes everywhere: whoever has not followed is refused, old connections stand.
            next_root = Authority("next root")
            for store, uri in ((server_store, REVIEWS), (client_store, PRODUCTPAGE)):
                enrol(store, next_root, uri)
            server_store.put("ROOTCA", Roots(next_root.root))
            with pytest.raises(ssl.SSLCertVerificationError) as refused:
                await connect(client, CLIENT, port)
            assert "CERTIFICATE_VERIFY_FAILED" in failure_reason(refused.value)
            client_store.put("ROOTCA", Roots(next_root.root))
            newest = await connect(client, CLIENT, port)
            assert peer_certificate(newest.tls).identity == REVIEWS
            await old.echo()
            for connection in (old, new, newest):
                await connection.close()

    run(main())


def test_sessions_are_resumed_per_endpoint_and_dropped_at_rotation(
    run: Callable[[Awaitable[None]], None], authority: Authority
) -> None:
    async def main() -> None:
        client_store = store_for(authority, PRODUCTPAGE)
        server, client = Server(TlsContexts(store_for(authority, REVIEWS)), SERVER), TlsContexts(client_store)
        async with server.listening() as port:

            async def resumed(key: str, tls: TlsClient = CLIENT) -> bool:
                connection = await connect(client, tls, port, key)
                assert verify_san(connection.tls, tls.validation) == REVIEWS
                assert peer_certificate(server.seen[-1]).identity == PRODUCTPAGE  # also when resumed
                reused = bool(connection.tls.session_reused)
                await connection.close()
                return reused

            assert [await resumed("a"), await resumed("a"), await resumed("a")] == [False, True, True]
            assert not await resumed("b")
            assert not await resumed("a", TlsClient(OWN, PeerValidation(ROOTS), sni="another.name", alpn=CLIENT.alpn))
            enrol(client_store, authority, PRODUCTPAGE)
            assert [await resumed("a"), await resumed("a")] == [False, True]

    run(main())


def test_the_names_accepted_are_checked_after_the_handshake(
    run: Callable[[Awaitable[None]], None], authority: Authority
) -> None:
    async def main() -> None:
        server = Server(TlsContexts(store_for(authority, REVIEWS)), SERVER)
        client = TlsContexts(store_for(authority, PRODUCTPAGE))
        async with server.listening() as port:
            connection = await connect(client, CLIENT, port)
            accepted = PeerValidation(ROOTS, (lambda name: name == "no", lambda name: name == REVIEWS))
            assert verify_san(connection.tls, accepted) == REVIEWS
            with pytest.raises(
                TlsError, match=r"SAN_matcher,_certificate_SANs_are_.spiffe://cluster.local/ns/default/sa/reviews.:TLS"
            ):
                verify_san(connection.tls, PeerValidation(ROOTS, (lambda name: name == PRODUCTPAGE,)))
            await connection.close()

    run(main())


def test_a_client_without_certificate_is_refused_or_let_in_as_configured(
    run: Callable[[Awaitable[None]], None], authority: Authority
) -> None:
    async def main() -> None:
        contexts = TlsContexts(store_for(authority, REVIEWS))
        anonymous = TlsClient(None, PeerValidation(InlineRoots(authority.root)))
        strict = Server(contexts, SERVER)
        async with strict.listening() as port:
            with pytest.raises((OSError, asyncio.IncompleteReadError)):
                await connect(contexts, anonymous, port)
        lenient = Server(contexts, TlsServer(OWN, PeerValidation(ROOTS)))
        async with lenient.listening() as port:
            connection = await connect(contexts, anonymous, port)
            assert peer_certificate(lenient.seen[0]).identity == ""
            await connection.close()

    run(main())


def test_strangers_are_refused_by_either_side(run: Callable[[Awaitable[None]], None], authority: Authority) -> None:
    async def main() -> None:
        stranger = Authority("stranger")
        ours, theirs = TlsContexts(store_for(authority, REVIEWS)), TlsContexts(store_for(stranger, REVIEWS))
        for server_side, client_side in ((ours, theirs), (theirs, ours)):
            server = Server(server_side, SERVER)
            async with server.listening() as port:
                with pytest.raises(ssl.SSLCertVerificationError) as error:
                    await connect(client_side, CLIENT, port)
                reason = failure_reason(error.value)
                assert reason == (
                    "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:"
                    "_X509_verify_cert:_certificate_verification_error:_"
                    f"{error.value.verify_message.replace(' ', '_')}:TLS_error_end"
                )

    run(main())


def test_an_expired_certificate_and_an_old_protocol_are_refused(
    run: Callable[[Awaitable[None]], None], authority: Authority
) -> None:
    async def main() -> None:
        store = store_for(authority, REVIEWS)
        expired = authority.issue(uri=REVIEWS, begins=-7200, lasts=3600)
        own = InlineCertificate(expired.chain, expired.key)
        contexts = TlsContexts(store)
        server = Server(contexts, TlsServer(own))
        async with server.listening() as port:
            with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
                await connect(contexts, CLIENT, port)
        server = Server(contexts, TlsServer(OWN, minimum_version="TLSv1_3"))
        async with server.listening() as port:
            with pytest.raises(OSError):  # the alert, or the reset that follows it
                await connect(contexts, TlsClient(maximum_version="TLSv1_2"), port)
            await eventually(lambda: "UNSUPPORTED_PROTOCOL" in "".join(server.problems))

    run(main())


# --- without sockets ------------------------------------------------------------------------------------------------


def test_a_secret_that_has_not_arrived_is_said_in_envoys_words(authority: Authority) -> None:
    store = SecretStore()
    contexts = TlsContexts(store)
    for make in (lambda: contexts.server(SERVER), lambda: contexts.client(CLIENT, "a")):
        with pytest.raises(TlsError, match="TLS_error:_Secret_is_not_supplied_by_SDS"):
            make()
    store.put("default", Roots(authority.root))  # of the wrong kind
    with pytest.raises(TlsError, match="not_supplied"):
        contexts.server(TlsServer(OWN))


@pytest.mark.parametrize("chain", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_cannot_be_used(chain: bytes, authority: Authority) -> None:
    contexts = TlsContexts(SecretStore())
    with pytest.raises(TlsError, match="cannot be used"):
        contexts.server(TlsServer(InlineCertificate(chain, authority.issue(uri=REVIEWS).key)))
    with pytest.raises(TlsError, match="cannot be used"):
        contexts.client(TlsClient(validation=PeerValidation(InlineRoots(chain))), "a")


def test_a_required_certificate_needs_roots(authority: Authority) -> None:
    contexts = TlsContexts(store_for(authority, REVIEWS))
    with pytest.raises(TlsError, match="no validation context"):
        contexts.server(TlsServer(OWN, require_client_certificate=True))


def test_clusters_that_differ_in_names_only_share_a_context(authority: Authority) -> None:
    contexts = TlsContexts(store_for(authority, REVIEWS))
    for number in range(3 * MAX_CONTEXTS):
        contexts.client(TlsClient(OWN, PeerValidation(ROOTS, (str.isupper,)), sni=f"service-{number}"), "a")
    assert len(contexts._contexts) == 1


def test_contexts_and_sessions_are_bounded(authority: Authority) -> None:
    contexts = TlsContexts(store_for(authority, REVIEWS))
    for number in range(MAX_CONTEXTS + 5):
        contexts.client(TlsClient(alpn=(f"protocol-{number}",)), "a")
    assert len(contexts._contexts) == MAX_CONTEXTS
    assert MAX_SESSIONS < 10_000


def test_an_unrelated_secret_keeps_the_contexts(authority: Authority) -> None:
    store = store_for(authority, REVIEWS)
    contexts = TlsContexts(store)
    before = contexts.server(SERVER)
    store.put("other", Roots(authority.root))
    assert contexts.server(SERVER) is before
    store.put("ROOTCA", Roots(authority.root + b"\n"))
    assert contexts.server(SERVER) is not before


def test_reasons() -> None:
    assert failure_reason(ConnectionRefusedError()) == ""
    assert failure_reason(TlsError("TLS_error: x")) == "TLS_error: x"
