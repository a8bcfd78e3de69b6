"""The same bootstrap, the same authorization server: pymesh-proxy asks what Envoy asks and does what Envoy does."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict

from pymesh.policy_api import CHECK_PATH
from tests.conformance.sides import Answer, Side, Situation, both_proxies
from tests.support.echo import EchoServer

pytestmark = pytest.mark.envoy

Sides = tuple[Side, Side]

BOOTSTRAP = """
static_resources:
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: ${LISTEN}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              grpc_service: {envoy_grpc: {cluster_name: authz}, timeout: 0.5s}
              MORE
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /b, headers: [{name: x-set, present_match: true}]}, route: {cluster: b}}
              - match: {prefix: /b}
                route: {cluster: a}
                response_headers_to_add: [{header: {key: x-level, value: route}}]
  clusters:
  - name: a
    load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${A}}}}}]}]}
  - name: b
    load_assignment: {cluster_name: b, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: ${B}}}}}]}]}
  - name: authz
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: authz, endpoints: [{lb_endpoints: [
      {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: AUTHZ}}}}]}]}
"""


def option(name: str, value: str, *, append: bool = False) -> HeaderValueOption:
    found = HeaderValueOption()
    found.header.key, found.header.value, found.append.value = name, value, append
    return found


def decide(path: str) -> CheckResponse:
    """The answer, which the path asks for."""
    answer = CheckResponse()
    denied = answer.denied_response
    match path.removeprefix("/b").partition("?")[0]:
        case "/headers":
            okay = answer.ok_response
            okay.headers.extend([option("x-set", "new"), option("x-fresh", "new"), option("x-empty", "")])
            okay.headers.extend([option("x-more", "new", append=True), option("x-absent", "new", append=True)])
            okay.headers_to_remove.extend(["x-gone", "x-never"])
            okay.response_headers_to_add.extend([option("x-answer", "1"), option("x-answer", "2")])
            okay.response_headers_to_add.extend(
                [option("x-more", "1", append=True), option("x-more", "2", append=True)]
            )
            for action in range(4):
                for name in ("x-upstream", f"x-action-{action}"):
                    acted = okay.response_headers_to_add.add(append_action=action)
                    acted.header.key, acted.header.value = name, str(action)
        case "/denied":
            answer.status.code = 7
            denied.status.code = 401  # type: ignore[assignment]  # an open enum
            denied.body = "<p>no</p>"
            denied.headers.extend([option("content-type", "text/html"), option("x-why", "a"), option("x-why", "b")])
        case "/denied-text":
            answer.status.code = 7
            denied.body = "no"
        case "/denied-bare":
            answer.status.code = 16
            answer.ClearField("denied_response")
        case "/error":
            answer.status.code = 13
            answer.error_response.status.code = 504  # type: ignore[assignment]  # an open enum
            answer.error_response.body = "trouble"
        case "/slow":
            time.sleep(0.8)
            answer.ok_response.SetInParent()
        case _:
            answer.ok_response.SetInParent()
    return answer


@dataclass
class Server:
    """The authorization server, and what it heard, by the `x-test` of the request."""

    port: int = 0
    heard: dict[str, CheckRequest] = field(default_factory=dict)

    def check(self, data: bytes, _: grpc.ServicerContext) -> bytes:
        request = CheckRequest.FromString(data)
        http = request.attributes.request.http
        self.heard[http.headers["x-test"]] = request
        return decide(http.path).SerializeToString()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        return grpc.unary_unary_rpc_method_handler(self._server.check) if details.method == CHECK_PATH else None


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    with ThreadPoolExecutor(max_workers=8) as pool:
        grpc_server = grpc.server(pool, handlers=[_Handler(found)])
        found.port = grpc_server.add_insecure_port("127.0.0.1:0")
        grpc_server.start()
        yield found
        grpc_server.stop(grace=None).wait()


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[EchoServer, EchoServer]]:
    with EchoServer("a") as a, EchoServer("b") as b:
        yield a, b


@pytest.fixture(scope="module")
def sides(
    server: Server, upstreams: tuple[EchoServer, EchoServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sides]:
    text = BOOTSTRAP.replace("AUTHZ", str(server.port)).replace("MORE", "stat_prefix: x")
    with both_proxies(tmp_path_factory.mktemp("authz"), *upstreams, text) as both:
        yield both


HEADERS = (
    ("x-set", "old"),
    ("x-more", "old"),
    ("x-gone", "1"),
    ("x-two", "a"),
    ("X-Two", "b"),
    ("x-latin", "gr\xfc\xdf"),
)


def situation(path: str, status: int) -> Situation:
    return Situation(path, status, path, "POST", "Any.test:80", HEADERS, b"abc")


@pytest.mark.parametrize("forwarded", ["", "203.0.113.7", "203.0.113.7, 198.51.100.3", "nonsense"])
def test_both_ask_the_same(forwarded: str, sides: Sides, server: Server) -> None:
    asked = situation("/b/allowed?x=y", 200)
    if forwarded:
        asked = replace(asked, name=f"for {forwarded}", headers=(*HEADERS, ("x-forwarded-for", forwarded)))
    for side in sides:
        assert side.ask(asked).status == 200
    envoy, pymesh = (told(server.heard[f"{side.name} {asked.name}"]) for side in sides)
    assert pymesh == envoy


def told(request: CheckRequest) -> dict[str, object]:
    """The question, without what differs between any two requests."""
    attributes = request.attributes
    assert attributes.destination.address.socket_address.port_value
    attributes.source.address.socket_address.port_value = 0
    attributes.destination.address.socket_address.port_value = 0
    assert abs(attributes.request.time.ToSeconds() - time.time()) < 60
    attributes.request.ClearField("time")
    http = attributes.request.http
    assert http.id  # Envoy's is a number of its own, ours the x-request-id
    http.id = ""
    assert http.headers["x-request-id"]
    for name in ("x-request-id", "x-test"):
        del http.headers[name]
    return MessageToDict(request)


@pytest.mark.parametrize(
    "asked",
    [
        situation("/b/allowed", 200),
        situation("/b/headers", 200),
        situation("/b/denied", 401),
        situation("/b/denied-text", 403),
        situation("/b/denied-bare", 403),
        situation("/b/error", 504),
        situation("/b/slow", 403),
        situation("/nowhere", 404),
    ],
    ids=lambda asked: asked.name,
)
def test_both_do_the_same_with_an_answer(asked: Situation, sides: Sides, server: Server) -> None:
    envoy, pymesh = (side.ask(asked) for side in sides)
    assert (envoy.status, pymesh.status) == (asked.status, asked.status)
    same(envoy, pymesh)
    assert (f"pymesh {asked.name}" in server.heard) == (f"envoy {asked.name}" in server.heard)


@pytest.mark.parametrize("path", ["/b/denied", "/b/denied-bare", "/b/denied-text", "/b/error"])
def test_both_tell_a_caller_that_speaks_grpc_in_its_words(path: str, sides: Sides) -> None:
    """200 and grpc-status, whatever the status would be for others."""
    asked = situation(path, 200)
    asked = replace(asked, name=f"grpc {path}", headers=(*HEADERS, ("content-type", "application/grpc")))
    envoy, pymesh = (side.ask(asked) for side in sides)
    assert (envoy.status, pymesh.status) == (200, 200)
    assert dict(pymesh.headers)["grpc-status"]
    same(envoy, pymesh)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ("status_on_error: {code: ServiceUnavailable}", 503),
        ("failure_mode_allow: true\n              failure_mode_allow_header_add: true", 200),
    ],
    ids=["closed", "allowed"],
)
def test_both_do_the_same_without_a_server(
    more: str, status: int, upstreams: tuple[EchoServer, EchoServer], tmp_path: Path
) -> None:
    text = BOOTSTRAP.replace("AUTHZ", "${DEAD}").replace("MORE", more)
    with both_proxies(tmp_path, *upstreams, text) as both:
        envoy, pymesh = (side.ask(situation("/b/away", status)) for side in both)
    assert (envoy.status, pymesh.status) == (status, status)
    same(envoy, pymesh)


_DIFFERENT = {"date", "x-envoy-upstream-service-time", "proxy-status", "content-length", "connection"}


def same(envoy: Answer, pymesh: Answer) -> None:
    """Both answers say the same, and the upstream saw the same."""
    assert shown(pymesh.headers) == shown(envoy.headers)
    if not envoy.upstream:
        assert pymesh.body == envoy.body
        return
    assert pymesh.upstream["server"] == envoy.upstream["server"]
    assert pymesh.upstream["target"] == envoy.upstream["target"]
    assert upstream_headers(pymesh) == upstream_headers(envoy)


def shown(headers: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    return sorted(pair for pair in headers if pair[0] not in _DIFFERENT)


def upstream_headers(answer: Answer) -> list[list[str]]:
    found = answer.upstream["headers"]
    assert isinstance(found, list)
    return sorted(pair for pair in found if pair[0] not in {"x-test", "x-request-id"})
