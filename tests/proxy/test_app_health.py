"""What a sidecar asks its app in the kubelet's stead, of real servers over TCP, HTTP, TLS and gRPC."""

import asyncio
import json
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from pymesh.app_probes import VARIABLE, AppProbe, Check, GrpcCheck, HttpCheck, TcpCheck
from pymesh.errors import ConfigError
from pymesh_proxy import app_health as module
from pymesh_proxy import options
from pymesh_proxy.admin import CONNECTION_TIMEOUT, Answer, Page
from pymesh_proxy.app_health import MAX_BODY, AppHealth, app_health
from tests.support.certificates import Authority
from tests.support.proxy_process import PYMESH_PROXY, ProxyProcess, free_port

PATH = "/app-health/app/readyz"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HERE = "127.0.0.1"


class App:
    """An app on loopback that says what `answers` has for a path, and remembers what it was asked."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self.answers = answers
        self.heads: list[bytes] = []
        self.peers: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            self.peers.append(writer.get_extra_info("peername")[0])
            writer.write(self.answers[head.split()[1].decode()].replace(b"PORT", str(self.port).encode()))
            await reader.read()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def app(answers: Mapping[str, bytes], tls: ssl.SSLContext | None = None) -> AsyncIterator[App]:
    found = App(answers)
    server = await asyncio.start_server(found.serve, HERE, 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


async def ask(check: Check, timeout: int = 5) -> tuple[int, str]:
    """Status and text of the sidecar's answer."""
    page: Page = AppHealth({PATH: AppProbe(check, timeout)}, HERE).pages()[PATH]
    found = page.answer({})
    answer = found if isinstance(found, Answer) else await found
    return answer.status, answer.body.decode().strip()


def answer(status: int, *headers: str, body: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (OK, (200, "ok")),
        (answer(204), (200, "ok")),
        (answer(399), (200, "ok")),
        (answer(404, body="no such"), (404, "the app answers 404")),
        (answer(503, body="secret"), (503, "the app answers 503")),
        (b"SSH-2.0-x\r\n\r\n", (503, "no HTTP")),
        (b"", (503, "no answer within 1 s")),
    ],
)
async def test_an_http_probe_is_as_good_as_the_apps_answer(said: bytes, expected: tuple[int, str]) -> None:
    """And tells nothing that the app has said: whoever reaches the pod can ask."""
    async with app({"/": said}) as found:
        assert await ask(HttpCheck(found.port), timeout=1) == expected


async def test_it_is_asked_as_a_kubelet_asks_with_the_headers_of_the_probe_from_the_inbound_source() -> None:
    async with app({"/a%20b?q=%41&r=%C3%BC": OK}) as found:
        headers = (("Host", "books.example"), ("X-Check", "1"), ("x-check", "2"))
        assert await ask(HttpCheck(found.port, "a b?q=%41&r=ü", headers=headers)) == (200, "ok")
        [head] = found.heads
        assert b"\r\nhost: books.example\r\n" in head.lower()
        assert b"\r\nx-check: 1\r\nx-check: 2\r\n" in head.lower()
        assert b"\r\nuser-agent: kube-probe/" in head.lower()
        assert found.peers == ["127.0.0.6"]


async def test_a_slow_app_fails_in_the_time_of_its_probe() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, HERE, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await ask(HttpCheck(port), timeout=1) == (503, "no answer within 1 s")


async def test_redirects_on_the_same_host_are_followed_and_others_pass() -> None:
    answers = {
        "/here": answer(302, "location: /there?x=1"),
        "/there?x=1": answer(301, "location: http://127.0.0.1:PORT/end"),
        "/end": answer(500, body="broken"),
        "/away": answer(302, "location: http://example.com/"),
        "/nowhere": answer(302),
        "/round": answer(307, "location: /round"),
        "/own": answer(302, "location: http://127.0.0.1:15000/quitquitquit"),
        "/odd": answer(302, "location: http://[x/"),
    }
    async with app(answers) as found:
        assert await ask(HttpCheck(found.port, "/here")) == (500, "the app answers 500")
        for passing in ("/away", "/nowhere", "/own", "/odd"):
            assert await ask(HttpCheck(found.port, passing)) == (200, "ok"), passing
        assert await ask(HttpCheck(found.port, "/round")) == (503, "more than 10 redirects")


async def test_an_endless_body_is_not_read_to_its_end() -> None:
    body = b"HTTP/1.1 500 x\r\n\r\n" + b"x" * (4 * MAX_BODY)
    async with app({"/": body}) as found:
        assert await ask(HttpCheck(found.port)) == (500, "the app answers 500")


async def test_https_is_asked_whatever_the_certificate(tmp_path: Path) -> None:
    issued = Authority().issue(dns=("other.example",))
    (tmp_path / "cert.pem").write_bytes(issued.chain)
    (tmp_path / "key.pem").write_bytes(issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with app({"/": OK}, context) as found:
        assert await ask(HttpCheck(found.port, secure=True)) == (200, "ok")
        status, _ = await ask(HttpCheck(found.port))
        assert status == 503


async def test_an_app_that_speaks_no_tls_fails_and_the_log_has_the_words_of_the_library(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(plain, HERE, 0)
    async with server:
        assert await ask(HttpCheck(server.sockets[0].getsockname()[1], secure=True)) == (503, "no TLS")
    assert "fails: no TLS: '[SSL" in caplog.text


async def test_tcp_is_a_connection() -> None:
    async with app({}) as found:
        assert await ask(TcpCheck(found.port)) == (200, "ok")
    assert await ask(TcpCheck(free_port())) == (503, "Connection refused")


class Health(grpc.GenericRpcHandler):
    """grpc.health.v1, by grpcio."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]  # grpcio's stubs
        async def check(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            service = StringValue.FromString(request).value
            if service == "unknown":
                await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
            return Int32Value(value=1 if service in {"", "books"} else 2).SerializeToString()

        wanted = details.method == "/grpc.health.v1.Health/Check"
        return grpc.unary_unary_rpc_method_handler(check) if wanted else None


async def test_grpc_asks_the_health_service(caplog: pytest.LogCaptureFixture) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Health()])
    port = server.add_insecure_port(f"{HERE}:0")
    await server.start()
    try:
        assert await ask(GrpcCheck(port)) == (200, "ok")
        assert await ask(GrpcCheck(port, "books")) == (200, "ok")
        assert await ask(GrpcCheck(port, "films")) == (503, "gRPC: service 'films' has status 2, not SERVING")
        assert await ask(GrpcCheck(port, "unknown")) == (503, "gRPC: NOT_FOUND")
        assert "fails: gRPC: NOT_FOUND: 'unknown service'" in caplog.text
    finally:
        await server.stop(None)
    assert await ask(GrpcCheck(port)) == (503, "gRPC: UNAVAILABLE")
    assert "refused" in caplog.text
    async with app({}) as found:
        status, _ = await ask(GrpcCheck(found.port), timeout=1)
        assert status == 503


async def test_the_log_tells_why_once_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", module.log.name)
    async with app({"/": answer(500)}) as found:
        page = AppHealth({PATH: AppProbe(HttpCheck(found.port))}, HERE).pages()[PATH]
        for said in (answer(500), answer(500), OK, OK):
            found.answers = {"/": said}
            await page.answer({})  # type: ignore[misc]  # an app is always waited for
    assert [record.getMessage() for record in caplog.records] == [
        f"{PATH} fails: the app answers 500",
        f"{PATH} passes again",
    ]


def test_what_is_configured_comes_from_the_environment() -> None:
    ported = options.parse(["--status-port", "15020"])
    assert app_health(ported, {}) is None
    probes = json.dumps({PATH: {"tcpSocket": {"port": 80}, "timeoutSeconds": 60}})
    found = app_health(ported, {VARIABLE: probes, "INSTANCE_IP": "10.0.0.1"})
    assert found is not None
    assert list(found.pages()) == [PATH]
    assert found.patience > 60 > CONNECTION_TIMEOUT
    for environment, opts, words in (
        ({VARIABLE: probes}, ported, "INSTANCE_IP"),
        ({VARIABLE: probes, "INSTANCE_IP": "10.0.0.1"}, options.parse([]), "--status-port"),
        ({VARIABLE: "{]", "INSTANCE_IP": "10.0.0.1"}, ported, "not JSON"),
    ):
        with pytest.raises(ConfigError, match=words):
            app_health(opts, environment)


@pytest.fixture(scope="module")
def sidecar() -> Iterator[tuple[ProxyProcess, int]]:
    """A proxy whose app, at 127.0.0.1, has one probe of a port where nobody listens."""
    status, listen = free_port(), free_port()
    variable = json.dumps({PATH: {"tcpSocket": {"port": free_port()}}})
    environment = {VARIABLE: variable, "INSTANCE_IP": HERE}
    with ProxyProcess("--listen", str(listen), "--status-port", str(status), env=environment) as proxy:
        yield proxy, status


def test_the_status_port_has_what_was_configured_and_the_metrics(sidecar: tuple[ProxyProcess, int]) -> None:
    proxy, port = sidecar
    assert proxy.ask(port, PATH).status == 503
    assert "Connection refused" in proxy.ask(port, PATH).text
    assert "envoy_server_live" in proxy.ask(port, "/stats/prometheus").text
    for other in ("/app-health/app/livez", "/app-health/other/readyz", "/quitquitquit", "/config_dump", "/"):
        assert proxy.ask(port, other).status == 404, other


def test_a_variable_that_makes_no_sense_ends_the_proxy_with_the_field() -> None:
    environment = {**os.environ, VARIABLE: '{"/x": 1}', "INSTANCE_IP": HERE}
    command = [*PYMESH_PROXY, "--listen", "0", "--status-port", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=20)
    assert done.returncode == 1
    assert f"{VARIABLE}[/x]: not a path of the form" in done.stderr
