"""Bytes to and from a port of a pod, against a server that keeps the kubelet's side of the protocol to the letter."""

import base64
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.sync.server import ServerConnection, serve

from pymesh_controlplane.kube import pods, portforward
from pymesh_controlplane.kube.api import Api, ApiError
from pymesh_controlplane.kube.kubeconfig import load
from pymesh_controlplane.kube.pods import PodHttp
from pymesh_controlplane.kube.portforward import PROTOCOL, forward
from tests.support.certificates import Authority
from tests.support.waiting import DEADLINE

PORT = 15014
PATH = f"/api/v1/namespaces/shop/pods/web-1/portforward?ports={PORT}"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"

Handler = Callable[[ServerConnection], None]


@contextmanager
def cluster(
    tmp_path: Path, handler: Handler, refuse: Callable[[ServerConnection, Request], Response | None] | None = None,
    protocols: tuple[str, ...] = (PROTOCOL,),
) -> Iterator[Api]:  # fmt: skip
    """An API server whose pods' ports are `handler`; every connection to it is one of them."""
    server = serve(
        handler, "127.0.0.1", 0, subprotocols=list(protocols), process_request=refuse, compression=None,
        select_subprotocol=lambda _, offered: next((one for one in offered if one in protocols), None),
    )  # fmt: skip
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with Api(load([kubeconfig(tmp_path, f"http://127.0.0.1:{server.socket.getsockname()[1]}")])) as api:
            yield api
    finally:
        server.shutdown()
        thread.join()


def kubeconfig(tmp_path: Path, url: str, **cluster: str) -> Path:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": {"token": "s3cret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "test",
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(config))
    return file


@contextmanager
def secured(tmp_path: Path, greeted: Callable[[ssl.SSLSocket], object]) -> Iterator[Api]:
    """An API server by TLS 1.3 whose connections stay open, whatever it says: `greeted` is called with each.

    The handshake's end are two session tickets, so that something comes even from a server that never says a word.
    """
    authority, kept = Authority(), list[socket.socket]()
    issued = authority.issue(ips=("127.0.0.1",))
    (tmp_path / "cert.pem").write_bytes(issued.chain)
    (tmp_path / "key.pem").write_bytes(issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    def serving() -> None:
        with suppress(OSError):  # the end of the test
            while True:
                connection = context.wrap_socket(listening.accept()[0], server_side=True)
                kept.append(connection)
                greeted(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serving)
        thread.start()
        encoded = {"certificate-authority-data": base64.b64encode(authority.root).decode()}
        try:
            with Api(load([kubeconfig(tmp_path, f"https://127.0.0.1:{listening.getsockname()[1]}", **encoded)])) as api:
                yield api
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def upgraded(connection: ssl.SSLSocket) -> None:
    """Answer that it forwards."""
    protocol = ServerProtocol(subprotocols=[PROTOCOL])
    while not (events := protocol.events_received()):
        protocol.receive_data(connection.recv(65536))
    [request] = events
    assert isinstance(request, Request)
    protocol.send_response(protocol.accept(request))
    connection.sendall(b"".join(protocol.data_to_send()))


def complaint(act: Callable[[], object]) -> str:
    """The error with which `act` ends by itself: in a thread, so that one that never does is a failure as well."""
    said: list[str] = []

    def acting() -> None:
        try:
            act()
        except ApiError as error:
            said.append(str(error))

    thread = threading.Thread(target=acting, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive(), "it waits for ever"
    [sentence] = said
    return sentence


def greet(socket: ServerConnection, port: int = PORT) -> None:
    for channel in (0, 1):
        socket.send(bytes((channel,)) + struct.pack("<H", port))


def test_bytes_go_both_ways_with_the_credentials_of_the_kubeconfig(tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def echo(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append((socket.request.path, socket.request.headers.get("Authorization")))
        greet(socket)
        for message in socket:
            assert isinstance(message, bytes)
            socket.send(message)

    with cluster(tmp_path, echo) as api, forward(api, "shop", "web-1", PORT) as stream:
        for data in (b"x", b"\0" * 100_000):
            stream.send(data)
            assert stream.receive() == data
    assert asked == [(PATH, "Bearer s3cret")]


def test_data_may_come_along_with_the_port_and_ends_with_the_connection(tmp_path: Path) -> None:
    def early(socket: ServerConnection) -> None:
        socket.send(b"\0" + struct.pack("<H", PORT) + b"220 hello")
        socket.send(b"\0")

    with cluster(tmp_path, early) as api, forward(api, "shop", "web-1", PORT) as stream:
        assert stream.receive() == b"220 hello"
        assert stream.receive() == b""


def test_the_nodes_reason_is_told(tmp_path: Path) -> None:
    def refused(socket: ServerConnection) -> None:
        greet(socket)
        socket.send(b"\1error forwarding port 15014 to pod web-1: connection refused\x1b[2J")

    with (
        cluster(tmp_path, refused) as api,
        forward(api, "shop", "web-1", PORT) as stream,
        pytest.raises(ApiError, match=r"context test: shop/web-1 port 15014: error .*: connection refused\\x1b\[2J"),
    ):
        stream.receive()


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b"\0" + struct.pack("<H", 80), "forwarded another port"),
        (b"\0\x01", "forwarded another port"),
        (b"\2abc", "what is not v4.channel.k8s.io"),
        (b"", "what is not v4.channel.k8s.io"),
        ("text", "what is not v4.channel.k8s.io"),
    ],
)
def test_another_protocol_is_no_data(tmp_path: Path, sent: bytes | str, sentence: str) -> None:
    with (
        cluster(tmp_path, lambda socket: socket.send(sent)) as api,
        forward(api, "shop", "web-1", PORT) as stream,
        pytest.raises(ApiError, match=sentence),
    ):
        stream.receive()


def test_a_refusal_is_told_in_the_servers_words_with_the_verbs_that_are_missing(tmp_path: Path) -> None:
    def forbid(socket: ServerConnection, _: Request) -> Response:
        return socket.respond(403, '{"kind": "Status", "message": "pods \\"web-1\\" is forbidden"}\n')

    with cluster(tmp_path, lambda _: None, forbid) as api, pytest.raises(ApiError) as caught:  # noqa: SIM117
        with forward(api, "shop", "web-1", PORT):
            pass
    assert str(caught.value) == (
        'context test: shop/web-1 port 15014: not permitted: pods "web-1" is forbidden; '
        "it takes the verbs get and create on pods/portforward in this namespace"
    )


def test_a_redirect_to_a_login_page_is_told(tmp_path: Path) -> None:
    def to_login(socket: ServerConnection, _: Request) -> Response:
        answer = socket.respond(302, "")
        answer.headers["Location"] = "https://login.example.com/"
        return answer

    with cluster(tmp_path, lambda _: None, to_login) as api, pytest.raises(ApiError, match="does not forward"):  # noqa: SIM117
        with forward(api, "shop", "web-1", PORT):
            pass


def test_a_server_that_only_knows_other_protocols_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    with cluster(tmp_path, lambda _: None, protocols=("v9.channel.k8s.io",)) as api:  # noqa: SIM117
        with pytest.raises(ApiError, match=r"forwards, but not by v4\.channel\.k8s\.io"):
            with forward(api, "shop", "web-1", PORT):
                pass
    with pytest.raises(ApiError, match="no connection through the API server"):  # noqa: SIM117
        with forward(api, "shop", "web-1", PORT):
            pass


def test_an_api_server_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portforward, "OPEN_TIMEOUT", 0.5)
    with secured(tmp_path, lambda _: None) as api:
        for _ in range(2):
            sentence = "context test: shop/web-1 port 15014: no connection through the API server within 0.5 s"
            assert complaint(lambda: PodHttp(api, "shop", "web-1", PORT).get("/ready")) == sentence


def test_who_asks_is_the_only_one_at_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL loses what one thread writes while another reads a session ticket: a question that never arrives."""
    monkeypatch.setattr(portforward, "CLOSE_TIMEOUT", 0.1)
    with secured(tmp_path, upgraded) as api:
        before = threading.enumerate()
        with forward(api, "shop", "web-1", PORT) as stream:
            stream.send(b"x")
            assert threading.enumerate() == before


def test_a_connection_that_stalls_is_given_up_whichever_way_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent is not answered, or not even taken; nor is the goodbye."""
    for name, seconds in (("READ_TIMEOUT", 0.2), ("WRITE_TIMEOUT", 0.3), ("CLOSE_TIMEOUT", 0.1)):
        monkeypatch.setattr(portforward, name, seconds)

    def sent(*parts: bytes) -> None:
        with forward(api, "shop", "web-1", PORT) as stream:
            for part in parts:
                stream.send(part)
            stream.receive()

    with secured(tmp_path, upgraded) as api:
        where = "context test: shop/web-1 port 15014"
        assert complaint(lambda: sent(b"x")) == f"{where}: no answer within 0.2 s"
        more_than_sockets_hold = bytes(16 * 1024 * 1024)
        assert (
            complaint(lambda: sent(more_than_sockets_hold, bytes(100_000)))
            == f"{where}: nothing could be sent within 0.3 s"
        )


def test_http_keeps_its_connection_and_makes_another_where_that_was_closed(tmp_path: Path) -> None:
    """Of each connection two questions are answered; the third finds it closed, and is asked again on a new one."""
    connections: list[int] = []

    def server(socket: ServerConnection) -> None:
        connections.append(0)
        greet(socket)
        while connections[-1] < 2:
            message = socket.recv()
            assert isinstance(message, bytes)
            assert message.startswith(b"\0GET /ready HTTP/1.1\r\n")
            connections[-1] += 1
            for byte in ANSWER:
                socket.send(bytes((0, byte)))

    with cluster(tmp_path, server) as api:
        http = PodHttp(api, "shop", "web-1", PORT)
        assert [http.get("/ready") for _ in range(5)] == [(200, b"yes")] * 5
        http.close()
    assert connections == [2, 2, 1]


def test_a_question_is_asked_again_only_where_a_kept_connection_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that took too long, or had too long an answer, would only do so again."""
    monkeypatch.setattr(portforward, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(pods, "MAX_ANSWER", 5)

    def asked(second: bytes | None) -> int:
        """How often the second question arrived; `second` is what is said to it, None: the connection is closed."""
        questions: list[bytes | str] = []

        def server(socket: ServerConnection) -> None:
            greet(socket)
            for message in socket:
                questions.append(message)
                if len(questions) > 1 and second is None:
                    return
                socket.send(b"\0" + (second if len(questions) > 1 and second is not None else ANSWER))

        with cluster(tmp_path, server) as api:
            http = PodHttp(api, "shop", "web-1", PORT)
            assert http.get("/ready") == (200, b"yes")
            with pytest.raises(ApiError):
                http.get("/ready")
            http.close()
        return len(questions) - 1

    assert asked(b"") == 1, "no answer in time"
    assert asked(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nyesyes") == 1, "too long an answer"
    assert asked(None) == 2, "closed"


def test_an_answer_that_is_not_http_or_ends_early_is_an_error(tmp_path: Path) -> None:
    def answer(data: bytes) -> Handler:
        def handler(socket: ServerConnection) -> None:
            greet(socket)
            socket.recv()
            socket.send(b"\0" + data)

        return handler

    for data, sentence in (
        (b"220 smtp.example.com\r\n\r\n", "not an HTTP response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ny", "web-1 port 15014"),
    ):
        with cluster(tmp_path, answer(data)) as api, pytest.raises(ApiError, match=sentence):
            PodHttp(api, "shop", "web-1", PORT).get("/ready")
