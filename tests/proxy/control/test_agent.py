"""Agent mode with everything real but pilot and citadel: TLS, token, child process, SDS, and Envoy itself."""

import asyncio
import importlib
import json
import os
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf import json_format

from pymesh import istio_ca
from pymesh.errors import ConfigError
from pymesh_proxy.control.agent import AgentOptions, run_agent
from pymesh_proxy.control.envoy_bootstrap import envoy_bootstrap
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.subscription import Delta
from pymesh_proxy.control.target import ServerTls, Target
from tests.support.certificates import Authority
from tests.support.envoy import command
from tests.support.waiting import eventually

NAME = "pilot.pymesh-system.svc"
NODE = Node("reviews-0", "default", "10.0.0.7", "reviews", "reviews", user_agent="envoy")


class ControlPlane(grpc.GenericRpcHandler):
    """Signs for the token `good`, and notes who opens an ADS stream."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self.peers: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        def create(data: bytes, context: grpc.ServicerContext) -> bytes:
            if ("authorization", "Bearer good") not in [tuple(pair) for pair in context.invocation_metadata()]:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is not good")
            chain = self._authority.sign(istio_ca.decode_request(data).csr)
            return istio_ca.encode_response([chain.decode(), self._authority.root.decode()])

        def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            self.peers += [identity.decode() for identity in context.peer_identities() or ()]
            for _ in requests:
                pass
            yield from ()

        return {
            istio_ca.PATH: grpc.unary_unary_rpc_method_handler(create),
            Delta.method: grpc.stream_stream_rpc_method_handler(stream),
        }.get(details.method)

    @contextmanager
    def serving(self) -> Iterator[int]:
        certificate = self._authority.issue(dns=(NAME,))
        credentials = grpc.ssl_server_credentials(
            [(certificate.key, certificate.chain)], self._authority.root, require_client_auth=False
        )
        with ThreadPoolExecutor(max_workers=4) as pool:
            server = grpc.server(pool, handlers=[self])
            port = server.add_secure_port("127.0.0.1:0", credentials)
            server.start()
            try:
                yield port
            finally:
                server.stop(grace=None).wait()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def options(tmp_path: Path, authority: Authority) -> Iterator[AgentOptions]:
    """An agent's options; the control plane listens."""
    (tmp_path / "root.pem").write_bytes(authority.root)
    (tmp_path / "token").write_text("good")
    plane = ControlPlane(authority)
    with plane.serving() as port:
        yield AgentOptions(
            node=NODE,
            discovery=Target("127.0.0.1", port, tls=ServerTls(tmp_path / "root.pem", NAME)),
            bootstrap=tmp_path / "envoy.json",
            sds_socket=tmp_path / "sds" / "socket",
            token_file=tmp_path / "token",
            roots_file=tmp_path / "root.pem",
            admin_port=free_port(),
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def running(options: AgentOptions) -> AsyncIterator[asyncio.Task[int]]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_agent(options))
        yield task
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)


def admin(options: AgentOptions, path: str) -> str:
    """What Envoy's admin says."""
    url = f"http://127.0.0.1:{options.admin_port}{path}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.envoy
async def test_envoy_is_run_with_our_certificates_and_reaches_pilot_over_mtls(options: AgentOptions) -> None:
    options = replace(options, envoy=command(options.bootstrap))

    def works() -> bool:
        assert "sa/reviews" in admin(options, "/certs")
        return "control_plane.connected_state: 1" in admin(options, "/stats?filter=connected_state")

    async with running(options) as task:
        await eventually(lambda: asyncio.to_thread(works), timeout=60, what="Envoy, certified and connected")
    assert task.result() == 0
    assert not options.sds_socket.exists()


async def test_the_agent_ends_with_envoy_and_tells_its_status(options: AgentOptions) -> None:
    async with running(replace(options, envoy=["sh", "-c", "exit 7"])) as task:
        assert await asyncio.wait_for(task, 30) == 7


async def test_without_an_envoy_the_agent_serves_until_it_is_told_to_stop(options: AgentOptions) -> None:
    async with running(options) as task:
        await eventually(options.sds_socket.is_socket)
    assert task.result() == 0


async def test_what_the_agent_cannot_work_with(options: AgentOptions, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="15012"):
        await run_agent(replace(options, discovery=Target("127.0.0.1", 15010)))
    with pytest.raises(ConfigError, match="--envoy-bootstrap: cannot write"):
        await run_agent(replace(options, bootstrap=tmp_path / "absent" / "envoy.json"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the agent cannot work"):
        await run_agent(replace(options, sds_socket=tmp_path / "file"))


def test_the_bootstrap_is_one_that_envoys_schema_knows(options: AgentOptions) -> None:
    text = envoy_bootstrap(NODE, options.discovery, options.sds_socket, 15000)
    for module in (  # what the text refers to has to be known
        "filters.http.router.v3.router_pb2",
        "filters.network.http_connection_manager.v3.http_connection_manager_pb2",
        "transport_sockets.tls.v3.tls_pb2",
        "upstreams.http.v3.http_protocol_options_pb2",
    ):
        importlib.import_module(f"envoy.extensions.{module}")
    message = json_format.Parse(text, Bootstrap())
    assert message.node.id == NODE.id
    assert {"xds-grpc", "sds-grpc"} <= {cluster.name for cluster in message.static_resources.clusters}
    assert json.loads(text)["node"]["metadata"]["SERVICE_ACCOUNT"] == "reviews"
