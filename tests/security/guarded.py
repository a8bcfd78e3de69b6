"""An app behind its sidecar, in the test's own process: policies as people write them, translated by pilot, in force in
the proxy; every caller has a certificate of the mesh, or whatever else he tries.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from pymesh.resources.istio.authorization_policy import AuthorizationPolicy
from pymesh.resources.parse import parse
from pymesh.resources.resource import Resource
from pymesh_controlplane.pilot import authorization
from pymesh_controlplane.pilot.filters import Where, inbound_http
from tests.support.certificates import Authority, Issued
from tests.support.inprocess import Json, Running, bootstrap, cluster, running
from tests.support.peers import Address, Peer, client

DOMAIN = "cluster.local"
ACCOUNTS = f"spiffe://{DOMAIN}/ns/default/sa/"
FRIEND = f"{ACCOUNTS}friend"
STRANGER = f"{ACCOUNTS}stranger"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


class App:
    """Answers every request with its request line, and keeps the heads that it has seen."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.seen.append(head)
                line = head.partition(b"\r\n")[0]
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(line), line))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Address]:
        """Its address."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()
        finally:
            server.close()
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0)


class Guarded:
    """The app behind its sidecar, and the certificates of callers."""

    def __init__(self, app: App, proxy: Running, authority: Authority, folder: Path) -> None:
        self.app = app
        self.proxy = proxy
        self.authority = authority
        self._folder = folder

    @contextlib.asynccontextmanager
    async def caller(self, identity: str = FRIEND, issued: Issued | None = None) -> AsyncIterator[Peer]:
        """A connection of a workload; with `issued`, of whoever has that."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.authority.root.decode())
        shown = issued or self.authority.issue(uri=identity)
        chain, key = self._folder / "chain.pem", self._folder / "key.pem"
        chain.write_bytes(shown.chain)
        key.write_bytes(shown.key)
        context.load_cert_chain(chain, key)
        async with client(self.proxy.address, tls=context) as peer:
            yield peer

    async def status(self, request: bytes, identity: str = FRIEND) -> int:
        """The status of the answer to a request, sent as it is; 0 if the connection is cut instead."""
        async with self.caller(identity) as peer:
            peer.send(request)
            try:
                return int((await peer.head()).split(b" ", 2)[1])
            except (ConnectionError, asyncio.IncompleteReadError):
                return 0


@contextlib.asynccontextmanager
async def guarded(policies: str, folder: Path, *, paths: str = "BASE") -> AsyncIterator[Guarded]:
    """An app before which `policies` hold; `paths` is MeshConfig's `pathNormalization`."""
    authority, app = Authority(), App()
    async with app.listening() as address:
        config = bootstrap([_listener(policies, authority, paths)], [cluster("inbound|80||", address)])
        async with running(config) as proxy:
            yield Guarded(app, proxy, authority, folder)


def _listener(policies: str, authority: Authority, paths: str) -> Json:
    before = authorization.filters(_policies(policies), authorization.Settings((DOMAIN,), {}, False))
    manager = inbound_http(Where(80, "inbound|80||"), None, before.requests)
    found = MessageToDict(manager, preserving_proto_field_name=True)
    found["typed_config"] |= {
        "merge_slashes": paths in {"MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"},
        "path_with_escaped_slashes_action": (
            "UNESCAPE_AND_FORWARD" if paths == "DECODE_AND_MERGE_SLASHES" else "KEEP_UNCHANGED"
        ),
    }
    own = authority.issue(uri=f"{ACCOUNTS}app", dns=("localhost",))
    certificate = {
        "certificate_chain": {"inline_string": own.chain.decode()},
        "private_key": {"inline_string": own.key.decode()},
    }
    common = {
        "tls_certificates": [certificate],
        "validation_context": {"trusted_ca": {"inline_string": authority.root.decode()}},
    }
    tls = {"@type": _TLS, "require_client_certificate": True, "common_tls_context": common}
    return {
        "name": "virtualInbound",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "traffic_direction": "INBOUND",
        "filter_chains": [{"filters": [found], "transport_socket": {"name": "tls", "typed_config": tls}}],
    }


def _policies(text: str) -> list[Resource[AuthorizationPolicy]]:
    parsed = parse(text, "policies.yaml")
    assert not parsed.errors, parsed.errors
    return [resource for resource in parsed.resources if isinstance(resource.value, AuthorizationPolicy)]
