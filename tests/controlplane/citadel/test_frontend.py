"""TLS in front of gRPC: who may come in, who is remembered, what is bounded."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pymesh_controlplane.citadel import serving
from pymesh_controlplane.citadel.attestation import TlsPeer
from pymesh_controlplane.citadel.authority import LEAF_LIFETIME, Authority, self_signed
from pymesh_controlplane.citadel.frontend import TlsFrontend, server_context
from pymesh_controlplane.citadel.trust import Trust
from pymesh_controlplane.metrics import Metrics
from tests.controlplane.citadel.support import REVIEWS, csr_for, key_pem, new_key
from tests.support.waiting import eventually

AUTHORITY = self_signed("cluster.local", now=datetime.now(UTC))


@dataclass
class Door:
    """A frontend, and an echo behind it that notes who is there."""

    frontend: TlsFrontend
    context: ssl.SSLContext
    metrics: Metrics
    port: int
    seen: list[TlsPeer | None]


@asynccontextmanager
async def door(
    handshake_timeout: float = 10.0,
    max_connections: int = 100,
    max_per_address: int = 100,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Door]:
    """A running one."""
    seen: list[TlsPeer | None] = []
    seen_out: list[None] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(made.frontend.peer_of("ipv4:{}:{}".format(*writer.get_extra_info("peername"))))
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        seen_out.append(None)

    backend = await asyncio.start_server(echo, "127.0.0.1", 0)
    context, metrics = server_context(AUTHORITY.root_pem), Metrics()
    serving.renew(AUTHORITY, context, now=datetime.now(UTC))
    listener = socket.create_server(("127.0.0.1", 0))
    frontend = TlsFrontend(
        listener,
        context,
        backend.sockets[0].getsockname()[1],
        metrics,
        handshake_timeout=handshake_timeout,
        max_connections=max_connections,
        max_per_address=max_per_address,
        clock=clock,
    )
    made = Door(frontend, context, metrics, listener.getsockname()[1], seen)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(frontend.serve())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.wait([running])
            listener.close()
            await eventually(lambda: len(seen) == len(seen_out), what="the echo to end")
            backend.close()
            await backend.wait_closed()


def client_context(folder: Path, authority: Authority | None = None) -> ssl.SSLContext:
    """A client that knows the mesh's root, with a certificate of `authority` if there is one."""
    context = ssl.create_default_context(cadata=AUTHORITY.root_pem)
    if authority is not None:
        key = new_key()
        issued = authority.issue_workload(csr_for(key), REVIEWS, now=datetime.now(UTC))
        (folder / "pair.pem").write_bytes(key_pem(key) + issued.chain[0].encode())
        context.load_cert_chain(folder / "pair.pem")
    return context


@asynccontextmanager
async def connected(
    port: int, context: ssl.SSLContext, source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TLS connection."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="pilot", local_addr=(source, 0)
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """What comes back."""
    writer.write(data)
    return await reader.readexactly(len(data))


async def test_a_connection_is_relayed_and_its_owner_remembered(tmp_path: Path) -> None:
    """With a certificate, and without one."""
    async with door() as there:
        async with connected(there.port, client_context(tmp_path, AUTHORITY)) as known:
            assert await echoed(*known, b"x" * 1_000_000) == b"x" * 1_000_000
            local = known[1].get_extra_info("sockname")
            assert there.seen[-1] == TlsPeer(f"127.0.0.1:{local[1]}", (str(REVIEWS),))
        async with connected(there.port, client_context(tmp_path)) as unknown:
            assert await echoed(*unknown, b"hello") == b"hello"
            assert there.seen[-1] is not None
            assert there.seen[-1].uris is None
        assert there.frontend.peer_of("ipv4:127.0.0.1:1") is None


async def test_a_certificate_that_does_not_verify_ends_the_handshake(tmp_path: Path) -> None:
    """Nothing reaches gRPC."""
    stranger = self_signed("cluster.local", now=datetime.now(UTC))
    async with door() as there:
        with pytest.raises((OSError, EOFError)):
            async with connected(there.port, client_context(tmp_path, stranger)) as link:
                await echoed(*link, b"hello")
        await eventually(lambda: there.metrics.counted("controlplane_tls_refused", "handshake") == 1)
        assert there.seen == []


async def test_a_handshake_has_a_time_limit() -> None:
    """Half a ClientHello and silence: cut off, and counted."""
    async with door(handshake_timeout=0.2) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        assert await reader.read() == b""
        writer.close()
        assert there.metrics.counted("controlplane_tls_refused", "handshake") == 1


async def test_connections_are_bounded(tmp_path: Path) -> None:
    """One too many is closed at once; when one goes, the next may come."""
    async with door(max_connections=1) as there:
        async with connected(there.port, client_context(tmp_path)) as first:
            await echoed(*first, b"hello")
            with pytest.raises((OSError, EOFError)):
                async with connected(there.port, client_context(tmp_path)):
                    pass
            assert there.metrics.counted("controlplane_tls_refused", "connections") == 1

        async def again() -> bytes:
            async with connected(there.port, client_context(tmp_path)) as next_one:
                return await echoed(*next_one, b"hello")

        assert await eventually(again) == b"hello"


async def test_who_takes_nothing_does_not_keep_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the side behind it; and the log tells of it."""
    caplog.set_level("INFO")
    monkeypatch.setattr("pymesh_controlplane.citadel.frontend.TAKE_TIMEOUT", 0.2)
    context = client_context(tmp_path)
    async with door(max_connections=1) as there, connected(there.port, context) as (_, writer):
        writer.write(bytes(32 * 1024 * 1024))  # more than fits between, there and back: nobody reads the echo

        async def next_one() -> bytes:
            async with connected(there.port, context) as link:
                return await echoed(*link, b"hello")

        assert await eventually(next_one) == b"hello"
        assert "takes nothing any more" in caplog.text


async def test_one_address_cannot_keep_the_others_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It has its share, and no more; each refusal is counted, and the log has the first."""
    context = client_context(tmp_path)
    async with door(max_per_address=1) as there, connected(there.port, context) as first:
        await echoed(*first, b"hello")
        for _ in range(3):
            with pytest.raises((OSError, EOFError)):
                async with connected(there.port, context):
                    pass
        assert there.metrics.counted("controlplane_tls_refused", "address") == 3
        assert caplog.text.count("refuses connections: 127.0.0.1 has 1 connections, the most of one address") == 1
        async with connected(there.port, context, "127.0.0.2") as other:
            assert await echoed(*other, b"hello") == b"hello"
        first[1].transport.abort()

        async def again() -> bytes:
            async with connected(there.port, context) as next_one:
                return await echoed(*next_one, b"hello")

        assert await eventually(again) == b"hello"


async def test_a_new_certificate_is_shown_from_the_next_handshake_on(tmp_path: Path) -> None:
    """Without a restart, and connections that are open stay so."""

    def shown(link: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
        certificate: bytes = link[1].get_extra_info("ssl_object").getpeercert(binary_form=True)
        return certificate

    async with door() as there, connected(there.port, client_context(tmp_path)) as before:
        serving.renew(AUTHORITY, there.context, now=datetime.now(UTC))
        async with connected(there.port, client_context(tmp_path)) as after:
            assert shown(before) != shown(after)
            assert await echoed(*after, b"hello") == await echoed(*before, b"hello") == b"hello"


async def test_the_certificate_is_renewed_at_half_its_life(tmp_path: Path) -> None:
    """Again and again; with a life of a moment, one can watch it."""
    async with door() as there:
        life = timedelta(milliseconds=200)
        due = serving.renew(AUTHORITY, there.context, now=datetime.now(UTC), lifetime=timedelta(hours=24))
        assert timedelta(hours=11.9) < due - datetime.now(UTC) < timedelta(hours=12.1)
        seen: set[bytes] = set()

        async def three_different() -> bool:
            async with connected(there.port, unchecked()) as link:
                seen.add(link[1].get_extra_info("ssl_object").getpeercert(binary_form=True))
            return len(seen) >= 3

        async with asyncio.TaskGroup() as tasks:
            renewing = tasks.create_task(
                serving.keep_fresh(
                    Trust(AUTHORITY), there.context, datetime.now(UTC), clock=lambda: datetime.now(UTC), lifetime=life
                )
            )
            await eventually(three_different, what="three certificates")
            renewing.cancel()


def unchecked() -> ssl.SSLContext:
    """A client that takes any certificate: these have ended before one can look."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def test_an_expired_authority_does_not_end_the_control_plane(caplog: pytest.LogCaptureFixture) -> None:
    """The renewal fails and says so; what serves goes on serving."""
    async with door() as there, asyncio.TaskGroup() as tasks:
        later = datetime.now(UTC) + timedelta(days=4000)
        renewing = tasks.create_task(serving.keep_fresh(Trust(AUTHORITY), there.context, later, clock=lambda: later))
        await eventually(lambda: "was not renewed" in caplog.text)
        assert not renewing.done()
        renewing.cancel()


def test_the_servers_names_are_those_that_sidecars_ask_for() -> None:
    """ARCHITECTURE.md: the DNS names of 15012."""
    assert set(serving.SERVER_NAMES) == {
        "pilot.pymesh-system.svc",
        "pilot.pymesh-system.svc.cluster.local",
        "pilot",
    }
    assert AUTHORITY.certificate.public_bytes(Encoding.PEM)


async def test_a_session_is_not_resumed_longer_than_the_certificate_lasts(tmp_path: Path) -> None:
    """OpenSSL verifies a certificate when it is shown, and never again where that session goes on."""

    def answered(session: ssl.SSLSession | None) -> tuple[bytes, bool, ssl.SSLSession | None]:
        plain = socket.create_connection(("127.0.0.1", at_door.port))
        with plain, context.wrap_socket(plain, server_hostname="pilot", session=session) as client:
            client.sendall(b"x")
            with suppress(ConnectionError):
                return client.recv(1), bool(client.session_reused), client.session
            return b"", bool(client.session_reused), None

    now = [time.time()]
    async with door(clock=lambda: now[0]) as at_door:
        context = client_context(tmp_path, AUTHORITY)
        data, _, session = await asyncio.to_thread(answered, None)
        assert data == b"x"
        data, reused, session = await asyncio.to_thread(answered, session)
        assert (data, reused) == (b"x", True)
        now[0] += LEAF_LIFETIME.total_seconds() + 1
        data, reused, _ = await asyncio.to_thread(answered, session)
        assert (data, reused) == (b"", True)
        assert len(at_door.seen) == 2
