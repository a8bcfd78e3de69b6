"""`pymesh-proxy --listen 15001` and nothing else, in pods with the redirect: connections go where they were going.

Pod `app` has the sidecar (as uid 1337) and real servers; `peer` is a neighbour without one. What the sidecar did is
read from its own admin port.
"""

import hashlib
import http.client
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.netns import Address, Network, Pod
from tests.support.proxy_process import PROXY_UID, PYMESH_INIT, ProxyProcess
from tests.support.waiting import eventually_sync

pytestmark = [pytest.mark.netns, pytest.mark.e2e]

WEB = 8000  # python -m http.server on every address
POD_ONLY = 8001  # nginx on the pod's own addresses only
ECHO = 9000  # opaque
SMTP = 2525  # the server speaks first
FOREIGN = "198.51.100.5"
MB = 1 << 20


class Echo:
    """A raw server of this process in a pod: a thread a connection, each handled by `serve`."""

    def __init__(self, pod: Pod, address: Address, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self.listener = pod.listen(address)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(accepted,), daemon=True).start()

    def _one(self, accepted: socket.socket) -> None:
        with accepted:
            accepted.settimeout(20)
            try:
                self._serve(accepted)
            except OSError:
                return


def echo(sock: socket.socket) -> None:
    """Everything back, as it comes; then the end."""
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def smtp(sock: socket.socket) -> None:
    """A greeting before anything was said."""
    sock.sendall(b"220 mail ESMTP\r\n")
    while line := sock.recv(1024):
        if line.startswith(b"QUIT"):
            sock.sendall(b"221 bye\r\n")
            return
        sock.sendall(b"250 ok\r\n")


@dataclass
class World:
    """The two pods and the sidecar of the first."""

    net: Network
    app: Pod
    peer: Pod
    proxy: ProxyProcess
    servers: list[Echo] = field(default_factory=list)

    def connect(self, source: Pod, host: str, port: int) -> socket.socket:
        """A connection from a pod."""
        return source.connect((host, port), timeout=20.0)

    def http(self, source: Pod, host: str, port: int) -> http.client.HTTPConnection:
        """An HTTP connection from a pod."""
        connection = http.client.HTTPConnection(host, port, timeout=20)
        connection.sock = self.connect(source, host, port)
        return connection

    def last(self, wanted: Callable[[dict[str, object]], bool]) -> dict[str, object]:
        """The newest record that is `wanted`."""
        found: list[dict[str, object]] = []

        def look() -> bool:
            found[:] = [record for record in self.proxy.requests() if wanted(record)]
            return bool(found)

        eventually_sync(look, what="the record")
        return found[-1]


# Bytes that the kernel holds of a connection, at most: some machines let it have 32 MB a socket, and then it is the
# kernel that swells, and takes whole what nobody reads.
SMALL_BUFFERS = ("net.ipv4.tcp_rmem=4096 131072 2097152", "net.ipv4.tcp_wmem=4096 16384 2097152")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text("hello from the app\n")
    (site / "big").write_bytes(bytes(range(256)) * 4096)
    for directory in (site, *site.parents):
        if directory.stat().st_uid == 0 and str(directory).startswith("/tmp/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    with Network() as net:
        app, peer = net.pod("app"), net.pod("peer")
        app.run(PYMESH_INIT)
        for pod in (app, peer):
            pod.run(["sysctl", "-qw", *SMALL_BUFFERS])
            pod.popen(
                [sys.executable, "-m", "http.server", str(WEB), "--bind", "::", "--directory", str(site)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            nginx(pod, site, tmp_path_factory.mktemp("nginx"))
        with ProxyProcess("--listen", "15001", namespace=app) as proxy:
            world = World(net, app, peer, proxy)
            for pod in (app, peer):
                for port, serve in ((ECHO, echo), (SMTP, smtp)):
                    world.servers += [Echo(pod, (host, port), serve) for host in (pod.ip, pod.ipv6)]
            for pod in (app, peer):
                for port in (WEB, POD_ONLY):
                    eventually_sync(lambda pod=pod, port=port: pod.connect((pod.ip, port)).close() or True)
            yield world
            for server in world.servers:
                server.listener.close()
            proxy.settled()
            assert proxy.process.poll() is None
            assert not [line for line in proxy.log if "Traceback" in line or " ERROR " in line]


def nginx(pod: Pod, site: Path, work: Path) -> None:
    """nginx, bound to the pod's own addresses."""
    config = work / "nginx.conf"
    config.write_text(
        f"""daemon off; master_process off; pid {work}/pid; error_log stderr warn; events {{}}
        http {{ access_log off; client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
        uwsgi_temp_path {work}/u; scgi_temp_path {work}/s; server {{ listen {pod.ip}:{POD_ONLY};
        listen [{pod.ipv6}]:{POD_ONLY}; root {site}; location /who {{ return 200 "$remote_addr\\n"; }} }} }}"""
    )
    pod.popen(["nginx", "-c", str(config), "-p", str(work)])


@pytest.fixture(params=["ipv4", "ipv6"])
def ip(request: pytest.FixtureRequest) -> Callable[[Pod], str]:
    """A pod's address in one family."""
    return (lambda pod: pod.ip) if request.param == "ipv4" else (lambda pod: pod.ipv6)


Ip = Callable[[Pod], str]


def address(host: str, port: int) -> str:
    """As records write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- HTTP ---


@pytest.mark.parametrize("port", [WEB, POD_ONLY])
@pytest.mark.parametrize("direction", ["inbound", "outbound"])
def test_requests_arrive_and_each_is_counted_and_recorded(world: World, ip: Ip, direction: str, port: int) -> None:
    source, target = (world.peer, world.app) if direction == "inbound" else (world.app, world.peer)
    host = ip(target)
    before = world.proxy.counter("envoy_http_downstream_rq_total", envoy_http_conn_manager_prefix=direction)
    with closing(world.http(source, host, port)) as connection:
        for _ in range(3):
            connection.request("GET", "/")
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"hello from the app\n")
            connection.sock = connection.sock or world.connect(source, host, port)  # HTTP/1.0 servers close
    after = world.proxy.counter("envoy_http_downstream_rq_total", envoy_http_conn_manager_prefix=direction)
    assert after == before + 3
    record = world.last(lambda record: record["original_destination"] == address(host, port))
    assert record["direction"] == direction
    assert record["endpoint"] == address(host, port)
    assert (record["method"], record["path"], record["status"], record["flag"]) == ("GET", "/", 200, "-")
    assert record["request_id"]
    assert str(record["downstream_remote"]).startswith(address(ip(source), 0)[:-1])


def test_the_app_sees_the_inbound_source_and_the_world_sees_the_pod(world: World, ip: Ip) -> None:
    for source, target, seen in [
        (world.peer, world.app, "127.0.0.6" if "." in ip(world.app) else "::6"),
        (world.app, world.peer, ip(world.app)),
    ]:
        with closing(world.http(source, ip(target), POD_ONLY)) as connection:
            connection.request("GET", "/who")
            assert connection.getresponse().read().decode().strip() == seen


def test_a_large_answer_arrives_whole(world: World) -> None:
    with closing(world.http(world.peer, world.app.ip, POD_ONLY)) as connection:
        connection.request("GET", "/big")
        body = connection.getresponse().read()
        assert hashlib.sha256(body).digest() == hashlib.sha256(bytes(range(256)) * 4096).digest()


def test_the_pod_calls_itself_by_its_own_address(world: World, ip: Ip) -> None:
    """As the app: past the sidecar. As something that the sidecar's uid dials: in by the front door."""
    with closing(world.http(world.app, ip(world.app), WEB)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
    host = ip(world.app)
    url = f"http://{address(host, WEB)}/as-the-sidecar"
    done = world.app.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url], user=PROXY_UID)
    assert done.stdout == "404"
    record = world.last(lambda record: record["path"] == "/as-the-sidecar")
    assert (record["direction"], record["original_destination"]) == ("inbound", address(host, WEB))


def test_a_client_half_way_through_its_request_does_not_disturb_fifty_others(world: World) -> None:
    with closing(world.connect(world.peer, world.app.ip, POD_ONLY)) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        for number in range(50):
            with closing(world.http(world.peer, world.app.ip, POD_ONLY)) as connection:
                connection.request("GET", f"/?{number}")
                assert connection.getresponse().status == 200
            slow.sendall(b"%d" % (number % 10))
        slow.sendall(b"\r\n\r\n")
        assert slow.recv(12) == b"HTTP/1.1 200"


# --- Opaque ---


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
def test_opaque_bytes_pass_and_each_half_ends_by_itself(world: World, ip: Ip, direction: str) -> None:
    source, target = (world.peer, world.app) if direction == "inbound" else (world.app, world.peer)
    with closing(world.connect(source, ip(target), ECHO)) as sock:
        sock.sendall(b"\x00\x01opaque")
        assert sock.recv(100) == b"\x00\x01opaque"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""
    record = world.last(
        lambda record: record["protocol"] == "TCP" and record["original_destination"] == address(ip(target), ECHO)
    )
    assert (record["direction"], record["bytes_received"], record["bytes_sent"]) == (direction, 8, 8)
    labels = {"envoy_tcp_prefix": direction}
    assert world.proxy.counter("envoy_tcp_downstream_bytes_received_total", **labels) >= 8


def test_fifty_megabytes_pass_a_reader_that_stops_and_the_sidecar_does_not_swell(world: World) -> None:
    """The echo blocks, since its answer is not read; so does the sender; so nothing is held in between."""
    size = 50 * MB
    block = hashlib.sha256(b"seed").digest() * 2048
    sock = world.connect(world.peer, world.app.ip, ECHO)
    with closing(sock):
        sock.sendall(b"\x00")
        assert sock.recv(1) == b"\x00"
        before = world.proxy.memory()
        sent, progress = hashlib.sha256(), [0]

        def send() -> None:
            while progress[0] < size:
                sock.sendall(block)
                sent.update(block)
                progress[0] += len(block)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        seen = [-1]

        def stalled() -> bool:
            last, seen[0] = seen[0], progress[0]
            return last == seen[0] > 0

        eventually_sync(stalled, what="the sender is blocked", interval=0.3)
        assert progress[0] < size * 3 // 4  # the kernels' buffers on the way, and little more
        assert world.proxy.memory() - before < 8 * MB
        received = hashlib.sha256()
        left = size
        while left:
            data = sock.recv(MB)
            assert data
            received.update(data)
            left -= len(data)
        assert sock.recv(1) == b""
        sender.join()
        assert received.digest() == sent.digest()
        assert world.proxy.memory() - before < 12 * MB


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
def test_a_server_that_speaks_first_is_heard(world: World, direction: str) -> None:
    source, target = (world.peer, world.app) if direction == "inbound" else (world.app, world.peer)
    with closing(world.connect(source, target.ip, SMTP)) as sock, sock.makefile("rwb") as file:
        assert file.readline() == b"220 mail ESMTP\r\n"
        sock.sendall(b"HELO a\r\n")
        assert file.readline() == b"250 ok\r\n"
        sock.sendall(b"QUIT\r\n")
        assert file.readline() == b"221 bye\r\n"
        assert file.read() == b""


def test_nobody_there_is_told_as_directly_as_without_a_sidecar(world: World, ip: Ip) -> None:
    for source, target in ((world.peer, world.app), (world.app, world.peer)):
        with closing(world.connect(source, ip(target), 4321)) as sock:
            sock.sendall(b"\x00")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        destination = address(ip(target), 4321)
        record = world.last(lambda record, wanted=destination: record["original_destination"] == wanted)
        assert record["flag"] == "UF"
        assert "refused" in str(record["notes"])


# --- Refused ---


def test_a_neighbour_that_routes_foreign_destinations_through_the_pod_is_refused(world: World) -> None:
    world.peer.run(["ip", "route", "replace", FOREIGN, "via", world.app.ip])
    before = world.proxy.counter("pymesh_listener_refused_total", reason="not_for_this_pod")
    with closing(world.connect(world.peer, FOREIGN, 80)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ended(sock)
    assert world.proxy.counter("pymesh_listener_refused_total", reason="not_for_this_pod") == before + 1
    assert world.proxy.logged(f"for {FOREIGN}:80 through this pod, which does not own that address")
    assert not [record for record in world.proxy.requests() if FOREIGN in str(record["original_destination"])]


def ended(sock: socket.socket) -> bool:
    """Nothing comes, and then the end."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_dialling_the_sidecar_itself_is_refused_with_a_sentence(world: World, ip: Ip) -> None:
    before = world.proxy.counter("pymesh_listener_refused_total", reason="not_redirected")
    with closing(world.connect(world.peer, ip(world.app), 15001)) as sock:
        sock.sendall(b"\x00garbage\xff\r\n\r\n")
        assert ended(sock)
    with closing(world.connect(world.app, "127.0.0.1", 15001)) as sock:
        assert ended(sock)
    assert world.proxy.counter("pymesh_listener_refused_total", reason="not_redirected") == before + 2
    assert world.proxy.logged("connected to the proxy's own listener")


def test_resets_at_any_moment_leave_nothing(world: World) -> None:
    for said in (b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00" * 100):
        for _ in range(5):
            sock = world.connect(world.peer, world.app.ip, POD_ONLY)
            sock.sendall(said)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    world.proxy.settled()
