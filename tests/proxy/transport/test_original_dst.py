"""The original destination, asked of a real kernel. Redirected connections are in tests/e2e/test_redirect.py."""

import socket
from collections.abc import Iterator

import pytest

from pymesh_proxy.transport.original_dst import original_destination
from tests.support.netns import Network, Pod


def accept(server: socket.socket) -> tuple[str, int] | None:
    accepted, _ = server.accept()
    with accepted:
        return original_destination(accepted)


@pytest.fixture(scope="module")
def tracked() -> Iterator[Pod]:
    """A pod with a redirect that concerns none of the test's connections: it makes the kernel track them."""
    with Network() as net:
        pod = net.pod("a")
        for iptables in ("iptables", "ip6tables"):
            pod.run([iptables, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "1", "-j", "REDIRECT"])
        yield pod


@pytest.mark.netns
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_without_connection_tracking_there_is_none(host: str) -> None:
    with Network() as net:
        pod = net.pod("a")
        with pod.listen((host, 0)) as server, pod.connect(server.getsockname()[:2]):
            assert accept(server) is None


@pytest.mark.netns
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.77.0.2", "fd77::2"])
def test_a_connection_that_was_not_redirected_has_its_own_address(tracked: Pod, host: str) -> None:
    with tracked.listen((host, 0)) as server, tracked.connect(server.getsockname()[:2]):
        assert accept(server) == server.getsockname()[:2]


def test_a_socket_that_is_not_ip_is_an_error() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(OSError, match="not supported"):
        original_destination(one)
