"""The SDS server, asked by grpcio and by a real Envoy."""

import asyncio
import json
import queue
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.message import Message

from pymesh.xds.types import CLUSTER, HTTP_CONNECTION_MANAGER, SECRET
from pymesh_proxy.control.envoy_bootstrap import SDS_CLUSTER, sds_cluster, sds_secret
from pymesh_proxy.control.sds import MAX_NAMES, SdsServer
from pymesh_proxy.control.secrets import Certificate, Roots, SecretStore
from tests.support.certificates import Authority
from tests.support.envoy import envoy_process
from tests.support.waiting import eventually

SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService"
REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def enrol(store: SecretStore, authority: Authority, uri: str = REVIEWS) -> Certificate:
    issued = authority.issue(uri=uri)
    certificate = Certificate(issued.chain, issued.key)
    store.put("default", certificate)
    return certificate


@asynccontextmanager
async def serving(store: SecretStore, path: Path, *, mode: int = 0o600) -> AsyncIterator[SdsServer]:
    server = SdsServer(store, path, mode=mode)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        await server.listening.wait()
        yield server
        task.cancel()


class Client:
    """A blocking grpcio client with a stream: `say` a request, `hear` a response."""

    def __init__(self, channel: grpc.Channel, method: str) -> None:
        self._out: queue.Queue[Message | None] = queue.Queue()
        self._call = channel.stream_stream(f"{SERVICE}/{method}")(self._requests())

    def _requests(self) -> Iterator[bytes]:
        while (message := self._out.get()) is not None:
            yield message.SerializeToString()

    def say(self, message: Message) -> None:
        self._out.put(message)

    async def hear(self) -> bytes:
        return await asyncio.wait_for(asyncio.to_thread(next, self._call), 10)

    async def end(self) -> grpc.StatusCode:
        self._out.put(None)
        return await asyncio.to_thread(self._call.code)


@contextmanager
def dialled(path: Path) -> Iterator[Callable[[str], Client]]:
    """Makes clients of a method; the connection and their threads end with the context."""
    clients: list[Client] = []
    with grpc.insecure_channel(f"unix:{path}") as channel:

        def dial(method: str) -> Client:
            clients.append(Client(channel, method))
            return clients[-1]

        yield dial
        for client in clients:
            client._out.put(None)


async def test_delta_secrets_and_their_rotation(tmp_path: Path, authority: Authority) -> None:
    store = SecretStore()
    async with serving(store, tmp_path / "sds" / "socket") as server:
        with dialled(tmp_path / "sds" / "socket") as dial:
            client = dial("DeltaSecrets")
            client.say(DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=["default", "ROOTCA"]))
            first = enrol(store, authority)  # asked for before it was there
            response = DeltaDiscoveryResponse.FromString(await client.hear())
            assert [(entry.name, entry.version) for entry in response.resources] == [("default", "1")]
            secret = Secret()
            assert response.resources[0].resource.Unpack(secret)
            assert secret.tls_certificate.certificate_chain.inline_bytes == first.chain
            assert secret.tls_certificate.private_key.inline_bytes == first.key
            client.say(DeltaDiscoveryRequest(type_url=SECRET, response_nonce=response.nonce))

            store.put("ROOTCA", Roots(authority.root))
            response = DeltaDiscoveryResponse.FromString(await client.hear())
            assert response.resources[0].resource.Unpack(secret)
            assert secret.validation_context.trusted_ca.inline_bytes == authority.root

            enrol(store, authority)
            response = DeltaDiscoveryResponse.FromString(await client.hear())
            assert [(entry.name, entry.version) for entry in response.resources] == [("default", "2")]
            nack = DeltaDiscoveryRequest(type_url=SECRET, response_nonce=response.nonce)
            nack.error_detail.message = "bad key"
            client.say(nack)
            await eventually(lambda: server.refusals == 1)
            assert server.pushes == 3

            client.say(DeltaDiscoveryRequest(type_url=SECRET, resource_names_unsubscribe=["default"]))
            assert await client.end() is grpc.StatusCode.OK


async def test_state_of_the_world_secrets(tmp_path: Path, authority: Authority) -> None:
    store = SecretStore()
    enrol(store, authority)
    store.put("ROOTCA", Roots(authority.root))
    async with serving(store, tmp_path / "socket"):
        with dialled(tmp_path / "socket") as dial:
            client = dial("StreamSecrets")
            client.say(DiscoveryRequest(type_url=SECRET, resource_names=["default", "ROOTCA"]))
            response = DiscoveryResponse.FromString(await client.hear())
            assert response.type_url == SECRET
            assert len(response.resources) == 2
            ack = DiscoveryRequest(type_url=SECRET, version_info=response.version_info, response_nonce=response.nonce)
            ack.resource_names.extend(["default", "ROOTCA"])
            client.say(ack)  # is not answered: nothing has changed
            enrol(store, authority)
            again = DiscoveryResponse.FromString(await client.hear())
            assert again.version_info != response.version_info
            assert len(again.resources) == 2


async def test_what_is_not_served(tmp_path: Path) -> None:
    async with serving(SecretStore(), tmp_path / "socket"):
        with dialled(tmp_path / "socket") as dial:
            wrong = dial("DeltaSecrets")
            wrong.say(DeltaDiscoveryRequest(type_url=CLUSTER))
            assert await wrong.end() is grpc.StatusCode.INVALID_ARGUMENT
            many = dial("StreamSecrets")
            many.say(DiscoveryRequest(resource_names=[str(number) for number in range(MAX_NAMES + 1)]))
            assert await many.end() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await dial("FetchSecrets").end() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_is_for_its_owner_and_goes_away_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with serving(SecretStore(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # left behind by a killed run
    async with serving(SecretStore(), path, mode=0o660):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_a_path_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "socket").write_text("somebody's file")
    with pytest.raises((OSError, ExceptionGroup)):
        await SdsServer(SecretStore(), tmp_path / "socket").run()
    assert (tmp_path / "socket").read_text() == "somebody's file"


GARBAGE = {
    "http1": b"GET / HTTP/1.1\r\n\r\n" * 9,
    "zeros": b"\0" * 100,
    "a bad frame": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff" * 3,
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_on_the_socket_ends_that_connection_alone(
    tmp_path: Path, kind: str, authority: Authority
) -> None:
    store = SecretStore()
    enrol(store, authority)
    async with serving(store, tmp_path / "socket"):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "socket"))
        writer.write(GARBAGE[kind])
        await asyncio.wait_for(reader.read(), 10)  # until the server closes
        writer.close()
        await writer.wait_closed()
        with dialled(tmp_path / "socket") as dial:
            client = dial("DeltaSecrets")
            client.say(DeltaDiscoveryRequest(type_url=SECRET, resource_names_subscribe=["default"]))
            assert await client.hear()


# --- a real Envoy ---------------------------------------------------------------------------------------------------


def bootstrap(sds: Path, port: int) -> str:
    """An Envoy that answers 200 over mTLS, with certificate and roots from SDS."""
    http = {
        "@type": HTTP_CONNECTION_MANAGER,
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [sds_secret("default")],
            "validation_context_sds_secret_config": sds_secret("ROOTCA"),
        },
    }
    listener = {
        "name": "in",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": http}],
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
            }
        ],
    }
    static = {"listeners": [listener], "clusters": [sds_cluster(sds)]}
    return json.dumps({"node": {"id": "e", "cluster": SDS_CLUSTER}, "static_resources": static})


@pytest.mark.envoy
async def test_a_real_envoy_serves_with_our_certificates_and_follows_their_rotation(
    tmp_path: Path, authority: Authority, free_port: int
) -> None:
    store = SecretStore()
    store.put("ROOTCA", Roots(authority.root))
    client = authority.issue(uri="spiffe://cluster.local/ns/default/sa/client")
    (tmp_path / "client.pem").write_bytes(client.chain + client.key)

    def served() -> bytes:
        """The certificate that Envoy shows; one HTTP request was answered over mTLS."""
        context = ssl.create_default_context(cadata=authority.root.decode())
        context.check_hostname = False
        context.load_cert_chain(tmp_path / "client.pem")
        with socket.create_connection(("127.0.0.1", free_port), 5) as raw, context.wrap_socket(raw) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert tls.recv(15) == b"HTTP/1.1 200 OK"
            return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"").encode()

    async def shows(certificate: Certificate) -> bool:
        return (await asyncio.to_thread(served)).split() == certificate.chain.split()

    envoy = envoy_process(bootstrap(tmp_path / "sds", free_port), tmp_path)
    async with serving(store, tmp_path / "sds") as server, envoy:
        first = enrol(store, authority)
        await eventually(lambda: shows(first), timeout=30, what="Envoy with the first certificate")
        second = enrol(store, authority)
        await eventually(lambda: shows(second), timeout=30, what="Envoy with the second certificate")
        assert server.refusals == 0


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
