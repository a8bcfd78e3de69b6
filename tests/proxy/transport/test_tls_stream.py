"""TLS over memory buffers, against Python's own TLS objects: at every split of the record stream, and at every cut."""

import asyncio
import contextlib
import socket
import ssl

import pytest

from pymesh_proxy.transport.tls_connections import accept_tls, connect_tls
from pymesh_proxy.transport.tls_records import MAX_IDLE_RECORDS, TooManyRecords
from pymesh_proxy.transport.tls_stream import READ_SIZE, SMALL, TURN_RECORDS, Truncated
from tests.proxy.transport.tls_pair import App, Contexts, Pair
from tests.support.certificates import Authority
from tests.support.key_updates import updates
from tests.support.waiting import eventually

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module", params=VERSIONS, ids=["1.2", "1.3"])
def contexts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """Of a server and of a client."""
    issued = Authority().issue(dns=("a.example",))
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(issued.chain + b"\n" + issued.key)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(file)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    for context in (server, client):
        context.maximum_version = request.param
    return server, client


@pytest.fixture(params=[True, False], ids=["server", "client"])
def server(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


async def test_the_handshake_may_come_in_any_two_parts(contexts: Contexts) -> None:
    length = at = 0
    while at <= length:
        pair = Pair(contexts, server=True)
        with pytest.raises(ssl.SSLWantReadError):
            pair.peer.do_handshake()
        hello = pair._out.read()
        length = len(hello)
        pair.feed(hello[:at])
        pair.feed(hello[at:])
        pair._in.write(pair.take())
        pair.shake()
        at += 7


async def test_session_tickets_go_with_what_is_said_first(contexts: Contexts) -> None:
    """In TLS 1.2 they are a part of the handshake, and the client waits for them."""
    pair = Pair(contexts, server=True)
    while not pair.app.events:
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.peer.do_handshake()
        pair._in.write(pair.take())
        pair.feed(pair._out.read())
    if pair.peer.version() == "TLSv1.3":
        assert pair.take() == b""
    else:
        pair.shake()
    pair.app.transport.write(b"hello")
    assert pair.said() == b"hello"
    assert pair.peer.session is not None
    assert pair.peer.session.has_ticket


async def test_data_and_the_end_arrive_whole_at_every_split(contexts: Contexts, server: bool) -> None:
    length = at = 0
    while at <= length:
        pair = Pair(contexts, server=server)
        pair.shake()
        records = pair.says(b"one", b"two", end=True)
        length = len(records)
        pair.feed(records[:at])
        pair.feed(records[at:])
        assert (pair.app.data, pair.app.events) == (b"onetwo", ["made", "end"])
        at += 1


async def test_data_and_the_end_arrive_byte_by_byte(contexts: Contexts, server: bool) -> None:
    pair = Pair(contexts, server=server)
    pair.shake()
    for byte in pair.says(b"one", b"x" * 20_000, end=True):
        pair.feed(bytes([byte]))
    assert (pair.app.data, pair.app.events) == (b"one" + b"x" * 20_000, ["made", "end"])


async def test_after_our_end_the_peer_is_still_heard_at_every_split(contexts: Contexts, server: bool) -> None:
    length = at = 0
    while at <= length:
        pair = Pair(contexts, server=server)
        pair.shake()
        records = pair.says(b"one", b"two")
        length = len(records)
        pair.feed(records[:at])
        pair.app.transport.write(b"bye")
        pair.app.transport.write_eof()
        pair.feed(records[at:])
        assert pair.app.data == b"onetwo"
        assert pair.below.closed == ""
        with pytest.raises(RuntimeError):
            pair.app.transport.write(b"more")
        pair._in.write(pair.take())
        assert (pair.peer.read(), pair.peer.read()) == (b"bye", b"")
        pair.feed(pair.says(b"three"))
        assert pair.app.data == b"onetwothree"
        pair.peer.unwrap()
        for byte in pair._out.read() if at % 2 else [pair._out.read()]:
            pair.feed(byte if isinstance(byte, bytes) else bytes([byte]))
        assert (pair.app.events, pair.below.closed) == (["made", "end"], "")
        at += 5


async def test_after_the_peers_end_it_is_still_spoken_to(contexts: Contexts, server: bool) -> None:
    pair = Pair(contexts, server=server)
    pair.shake()
    pair.feed(pair.says(b"question", end=True))
    assert pair.stream.eof_received() is True  # of TCP, now that TLS's half has ended
    pair.app.transport.write(b"answer")
    pair.app.transport.close()
    assert pair.below.closed == "close"
    pair._in.write(pair.take())
    assert pair.peer.read() == b"answer"
    pair.lose()
    assert pair.app.events == ["made", "end", "lost"]
    assert pair.app.lost is None


async def test_an_end_of_tcp_at_any_byte_is_a_cut_and_no_end(contexts: Contexts, server: bool) -> None:
    length, at = 1, 0
    while at < length:
        pair = Pair(contexts, server=server)
        pair.shake()
        records = pair.says(b"one", b"two", end=True)
        length = len(records)
        pair.feed(records[:at])
        assert pair.stream.eof_received() is False
        pair.lose()
        assert pair.app.events == ["made", "lost"]
        assert isinstance(pair.app.lost, Truncated)
        assert b"onetwo".startswith(pair.app.data)
        at += 3


async def test_a_changed_byte_anywhere_is_an_error_and_never_data(contexts: Contexts, server: bool) -> None:
    length, at = 1, 0
    while at < length:
        pair = Pair(contexts, server=server)
        pair.shake()
        records = bytearray(pair.says(b"one", b"two"))
        length = len(records)
        records[at] ^= 0x55
        pair.feed(bytes(records))
        if not pair.below.closed:  # a length that grew waits for more
            assert pair.stream.eof_received() is False
        assert pair.below.closed == "abort"
        pair.lose()
        assert isinstance(pair.app.lost, ssl.SSLError | Truncated)
        assert pair.app.data in {b"", b"one"}
        at += 2


@pytest.mark.parametrize("contexts", [ssl.TLSVersion.TLSv1_3], indirect=True, ids=["1.3"])
async def test_data_behind_the_handshake_waits_for_who_does_not_read_yet(contexts: Contexts) -> None:
    """In TLS 1.3 a client's first data may come with its last flight of the handshake."""
    pair = Pair(contexts, server=True)
    pair.app.read = False
    with pytest.raises(ssl.SSLWantReadError):
        pair.peer.do_handshake()
    pair.feed(pair._out.read())
    pair._in.write(pair.take())
    pair.peer.do_handshake()
    pair.feed(pair.says(b"early", end=True))
    assert (pair.app.data, pair.app.events) == (b"", ["made"])
    pair.app.transport.resume_reading()
    await asyncio.sleep(0)
    assert (pair.app.data, pair.app.events) == (b"early", ["made", "end"])


async def test_much_goes_through_in_one_go(contexts: Contexts, server: bool) -> None:
    pair = Pair(contexts, server=server)
    pair.shake()
    much = bytes(range(256)) * 4096
    pair.feed(pair.says(much))
    assert pair.app.data == much
    pair.app.transport.write(much)
    pair.app.transport.writelines([b"", b"and", memoryview(b" more")])
    assert pair.said() == much + b"and more"


async def test_a_protocol_that_wants_no_half_open_connection_has_none(contexts: Contexts, server: bool) -> None:
    pair = Pair(contexts, server=server)
    pair.shake()
    pair.app.keep = False
    pair.feed(pair.says(end=True))
    assert pair.below.closed == "close"
    assert pair.said() is None


# --- A peer that says nothing, and much of it ---


only_1_3 = pytest.mark.parametrize("contexts", [ssl.TLSVersion.TLSv1_3], indirect=True, ids=["1.3"])


async def test_what_comes_after_the_end_is_dropped_and_the_end_is_told_once(contexts: Contexts, server: bool) -> None:
    pair = Pair(contexts, server=server)
    pair.shake()
    pair.feed(pair.says(b"last", end=True))
    for size in (10, SMALL, READ_SIZE):
        pair.feed(b"\x17\x03\x03\x40\x00" + b"x" * (size - 5))
        assert pair.stream._incoming.pending == 0
    assert (pair.app.data, pair.app.events, pair.below.closed) == (b"last", ["made", "end"], "")
    pair.app.transport.write(b"answer")
    assert pair.said() == b"answer"
    assert pair.stream.eof_received() is True


@only_1_3
@pytest.mark.parametrize("size", [1, 27, 1000, READ_SIZE])
async def test_key_updates_in_a_row_are_bounded(contexts: Contexts, server: bool, size: int) -> None:
    pair = Pair(contexts, server=server)
    pair.shake()
    pair.feed(pair.says(b"a"))
    for _ in range(2):
        updates(pair.peer, MAX_IDLE_RECORDS)
        flood = pair.says(b"a")
        for at in range(0, len(flood), size):
            pair.feed(flood[at : at + size])
    assert (pair.app.data, pair.below.closed) == (b"aaa", "")
    updates(pair.peer, 500)
    flood = pair.says()
    for at in range(0, min(len(flood), 60 * 27), size):
        pair.feed(flood[at : at + size])
    assert pair.below.closed == "abort"
    pair.lose()
    assert isinstance(pair.app.lost, TooManyRecords)


async def test_very_many_records_are_decrypted_in_turns(contexts: Contexts, server: bool) -> None:
    """Meanwhile nothing more is read, and who pauses waits with them."""
    pair = Pair(contexts, server=server)
    pair.shake()
    count = 1000
    pair.feed(pair.says(*[b"%03d" % number for number in range(count)], end=True))
    most = (TURN_RECORDS + MAX_IDLE_RECORDS) * 3
    assert 0 < len(pair.app.data) <= most
    assert not pair.below.reading
    pair.app.transport.pause_reading()
    so_far = pair.app.data
    await asyncio.sleep(0)
    assert pair.app.data == so_far
    pair.app.transport.resume_reading()
    while "end" not in pair.app.events:
        assert not pair.below.reading
        before = len(pair.app.data)
        await asyncio.sleep(0)
        assert before < len(pair.app.data) <= before + most or "end" in pair.app.events
    assert pair.app.data == b"".join(b"%03d" % number for number in range(count))
    assert pair.below.reading


# --- On real sockets ---


async def serving(contexts: Contexts, app: App, timeout: float = 10.0) -> tuple[asyncio.Task[None], tuple[str, int]]:
    """One connection, accepted in a task."""
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)

    async def accept() -> None:
        with listening:
            sock, _ = await loop.sock_accept(listening)
        await accept_tls(loop, sock, contexts[0], lambda: app, timeout)

    return asyncio.ensure_future(accept()), listening.getsockname()  # noqa: TID251 - every test awaits it


async def test_a_reader_that_stops_stops_the_writer_and_gets_every_byte(contexts: Contexts) -> None:
    reading, writing = App(), App()
    accepted, address = await serving(contexts, reading)
    stream = await connect_tls(asyncio.get_running_loop(), contexts[1], lambda: writing, address)
    await accepted
    reading.transport.pause_reading()
    stream.set_write_buffer_limits(high=256 * 1024)
    block, sent = bytes(range(256)) * 256, 0
    while "pause" not in writing.events:
        stream.write(block)
        sent += len(block)
        await asyncio.sleep(0)
    assert not reading.data
    assert stream.get_write_buffer_size() < 512 * 1024
    reading.transport.resume_reading()
    stream.write_eof()
    await eventually(lambda: "end" in reading.events)
    assert reading.data == block * (sent // len(block))
    assert "resume" in writing.events
    writing.keep = False
    reading.transport.write(b"thanks")
    reading.transport.close()
    await eventually(lambda: "lost" in writing.events and "lost" in reading.events)
    assert (writing.data, writing.lost, reading.lost) == (b"thanks", None, None)


async def test_a_client_that_never_shakes_hands_is_let_go(contexts: Contexts) -> None:
    app = App()
    accepted, address = await serving(contexts, app, timeout=0.05)
    reader, writer = await asyncio.open_connection(*address)
    await eventually(accepted.done)
    with pytest.raises(TimeoutError):
        await accepted
    assert await reader.read() == b""
    writer.close()
    assert app.events == []


async def test_who_gives_up_before_the_socket_is_served_leaves_nothing(contexts: Contexts) -> None:
    app, loop = App(), asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        accepting = accept_tls(loop, ours, contexts[0], lambda: app, 10.0)
        accepting.send(None)
        with pytest.raises(asyncio.CancelledError):
            accepting.throw(asyncio.CancelledError())
        theirs.settimeout(10)
        assert await loop.run_in_executor(None, theirs.recv, 1) == b""
    assert app.events == []


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "no TLS"])
async def test_a_client_that_speaks_no_tls_fails(contexts: Contexts, said: bytes) -> None:
    app = App()
    accepted, address = await serving(contexts, app)
    _, writer = await asyncio.open_connection(*address)
    writer.write(said)
    writer.write_eof()
    with pytest.raises(OSError, match="handshake" if not said else "HTTP_REQUEST|WRONG_VERSION|http request"):
        await accepted
    writer.close()
    assert app.events == []


async def test_a_server_whose_certificate_nobody_knows_is_not_connected_to(contexts: Contexts) -> None:
    app, other = App(), App()
    accepted, address = await serving(contexts, app)
    wary = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    wary.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect_tls(asyncio.get_running_loop(), wary, lambda: other, address)
    with contextlib.suppress(OSError):  # TLS 1.2 tells the server during the handshake, TLS 1.3 after it
        await accepted
        await eventually(lambda: "lost" in app.events)
    assert other.events == []
