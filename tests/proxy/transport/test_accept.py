"""Listening sockets: who may connect, and what happens when the process has no file descriptors left."""

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest

from pymesh.errors import MeshError
from pymesh_proxy.transport import accept as module
from pymesh_proxy.transport.accept import ACCEPT_BATCH, Acceptor, PeerName, listen
from tests.support.waiting import eventually


def test_every_address_of_both_families() -> None:
    with listen("", 0) as sock:
        port = sock.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")])
def test_one_address_is_only_that(host: str, other: str) -> None:
    with listen(host, 0) as sock:
        port = sock.getsockname()[1]
        socket.create_connection((host, port)).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((other, port))


def test_what_cannot_be_listened_on() -> None:
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(MeshError, match=rf"port 127\.0\.0\.1:{port} is in use: .*choose another"):
            listen("127.0.0.1", port)
    with pytest.raises(MeshError, match=r"cannot listen on 192\.0\.2\.1:80: Cannot assign requested address"):
        listen("192.0.2.1", 80)


async def test_connections_are_handed_on_non_blocking_and_with_the_name_of_their_other_end() -> None:
    taken: list[socket.socket] = []
    names: list[PeerName] = []

    def take(sock: socket.socket, peer: PeerName) -> None:
        taken.append(sock)
        names.append(peer)

    acceptor = Acceptor(asyncio.get_running_loop(), listen("127.0.0.1", 0), take)
    acceptor.start()
    count = ACCEPT_BATCH + 5
    clients = [socket.create_connection(acceptor.sock.getsockname()) for _ in range(count)]
    await eventually(lambda: len(taken) == count)
    assert not taken[0].getblocking()
    assert names == [sock.getpeername() for sock in taken]
    assert (taken[0].family, taken[0].type) == (socket.AF_INET, socket.SOCK_STREAM)
    acceptor.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(clients[0].getpeername())
    for sock in (*clients, *taken):
        sock.close()


async def test_without_file_descriptors_it_waits_instead_of_spinning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "EXHAUSTED_PAUSE", 0.05)
    taken: list[socket.socket] = []
    acceptor = Acceptor(asyncio.get_running_loop(), listen("127.0.0.1", 0), lambda sock, _: taken.append(sock))
    acceptor.start()
    client = socket.socket()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    filler: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    try:
        while True:
            try:
                filler.append(os.dup(0))
            except OSError:
                break
        client.connect(acceptor.sock.getsockname())
        await eventually(lambda: acceptor.exhausted >= 2, interval=0.01)
        assert acceptor.exhausted < 20
        assert taken == []
    finally:
        for descriptor in filler:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await eventually(lambda: len(taken) == 1, what="the connection that waited")
    assert "cannot accept: Too many open files; trying again in 0.05 s" in caplog.text
    acceptor.close()
    client.close()
    taken[0].close()


async def test_closing_while_it_waits_for_file_descriptors_leaves_nothing() -> None:
    acceptor = Acceptor(asyncio.get_running_loop(), listen("127.0.0.1", 0), lambda sock, _: sock.close())
    acceptor.start()
    acceptor._pause(OSError(24, "Too many open files"))
    acceptor.close()
    assert acceptor.sock.fileno() < 0
    acceptor.close()
