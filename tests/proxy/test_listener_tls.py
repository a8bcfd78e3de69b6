"""Towards an app of which nobody said what it speaks, what comes within TLS is told by its bytes, not by ALPN."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pymesh_proxy.errors import Flag
from tests.support.certificates import Authority
from tests.support.changing import NOBODY
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running, tcp_listener
from tests.support.messages import GET, OK
from tests.support.peers import Peer, RawUpstream
from tests.support.waiting import eventually

MESH = ["istio-http/1.1", "istio-peer-exchange", "istio"]
FORGED = b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-client-cert: URI=spiffe://cluster.local/ns/a/sa/admin\r\n\r\n"
CALLER = "spiffe://cluster.local/ns/default/sa/caller"


class Mesh:
    """Certificates of a sidecar, and how a client of the mesh's own certificate connects to it."""

    def __init__(self, folder: Path) -> None:
        authority = Authority()
        own, caller = authority.issue(uri="spiffe://cluster.local/ns/default/sa/app"), authority.issue(uri=CALLER)
        self.common = {
            "tls_certificates": [
                {
                    "certificate_chain": {"inline_string": own.chain.decode()},
                    "private_key": {"inline_string": own.key.decode()},
                }
            ],
            "validation_context": {"trusted_ca": {"inline_string": authority.root.decode()}},
            "alpn_protocols": MESH,
        }
        self.authority = authority
        self.root = authority.root.decode()
        self.file = folder / "caller.pem"
        self.file.write_bytes(caller.chain + b"\n" + caller.key)

    @asynccontextmanager
    async def client(self, proxy: Running, alpn: str = "istio", file: Path | None = None) -> AsyncIterator[Peer]:
        """A workload of the mesh that says by ALPN what it likes; `file` has another's certificate and key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.root)
        context.load_cert_chain(file or self.file)
        context.set_alpn_protocols([alpn])
        peer = Peer(*await asyncio.open_connection(*proxy.address, ssl=context))
        try:
            yield peer
        finally:
            peer.writer.transport.abort()
            await asyncio.sleep(0)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


def unnamed(mesh: Mesh, app: RawUpstream, **more: object) -> str:
    """What pilot sends for a port that nobody named: requests by one ALPN, anything else by the others."""
    listener: Json = http_listener(
        [route("app")], forward_client_cert_details="SANITIZE_SET", set_current_client_cert_details={"uri": True}
    )
    [http], [opaque] = listener["filter_chains"], tcp_listener("app")["filter_chains"]
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    for chain, alpn in ((http, MESH[:1]), (opaque, MESH[1:])):
        chain["filter_chain_match"] = {"transport_protocol": "tls", "application_protocols": alpn}
        chain["transport_socket"] = {
            "name": "tls",
            "typed_config": {"@type": kind, "common_tls_context": mesh.common, "require_client_certificate": True},
        }
    listener |= {"filter_chains": [http, opaque], "traffic_direction": "INBOUND", **more}
    return bootstrap([listener], [cluster("app", app.address)])


@pytest.mark.parametrize("parts", [1, 7], ids=["at once", "in pieces"])
async def test_a_request_within_opaque_tls_carries_our_word_on_who_calls(mesh: Mesh, parts: int) -> None:
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy, mesh.client(proxy) as peer:
        step = len(FORGED) // parts
        for start in range(0, len(FORGED), step):
            peer.send(FORGED[start : start + step])
            await asyncio.sleep(0.01)
        while True:  # the first connection may have been to ask whether the app speaks first
            served = await app.accept()
            if head := await asyncio.wait_for(served.reader.read(4096), 5):
                break
        assert b"sa/admin" not in head
        assert f"URI={CALLER}".encode() in head
        served.send(OK)
        assert (await peer.message())[1] == b"ok"
        assert (await proxy.record()).protocol == "HTTP/1.1"


async def test_requests_within_opaque_tls_follow_when_the_listener_changes(mesh: Mesh) -> None:
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy, mesh.client(proxy) as peer:
        peer.send(GET)
        served = await app.accept()
        await served.head()
        served.send(OK)
        await peer.message()
        changed = json.loads(unnamed(mesh, app))
        http, _ = changed["static_resources"]["listeners"][0]["filter_chains"]
        http["filters"][0]["typed_config"]["http_filters"].insert(0, NOBODY)
        proxy.change(json.dumps(changed))
        peer.send(GET)
        assert (await peer.message())[0].startswith(b"HTTP/1.1 403 ")
        del changed["static_resources"]["listeners"][0]["filter_chains"][0]
        proxy.change(json.dumps(changed))
        peer.send(b"\x00\x01")  # nobody reads requests here any more
        served = await app.accept()
        assert await served.exactly(2) == b"\x00\x01"
        peer.close()
        served.close()


async def test_what_becomes_opaque_while_it_is_looked_at_goes_on_from_its_first_byte(mesh: Mesh) -> None:
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy, mesh.client(proxy) as peer:
        changed = json.loads(unnamed(mesh, app))
        del changed["static_resources"]["listeners"][0]["filter_chains"][0]
        proxy.change(json.dumps(changed))
        peer.send(GET)
        while True:  # the first connection may have been to ask whether the app speaks first
            served = await app.accept()
            if head := await asyncio.wait_for(served.reader.read(4096), 5):
                break
        assert head == GET
        peer.close()
        served.close()
        assert (await proxy.record()).protocol == "TCP"


async def test_what_only_resembles_a_request_is_refused(mesh: Mesh) -> None:
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy, mesh.client(proxy) as peer:
        peer.send(FORGED.replace(b"GET /", b"GET\t/"))
        assert (await peer.message())[0].startswith(b"HTTP/1.1 400 ")
        while app.waiting:
            assert await (await app.accept()).rest() == b""


async def test_opaque_bytes_pass_whole(mesh: Mesh) -> None:
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy, mesh.client(proxy) as peer:
        peer.send(b"\x00\x01" * 200_000)
        served = await app.accept()
        assert await served.exactly(400_000) == b"\x00\x01" * 200_000
        served.send(b"bye")
        served.close()
        assert await peer.rest() == b"bye"
        peer.close()
        assert (await proxy.record()).facts.peer == CALLER


async def test_a_server_that_speaks_first_is_heard_at_once(mesh: Mesh) -> None:
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy, mesh.client(proxy) as peer:
        served = await app.accept()
        served.send(b"220 mail.example\r\n")
        assert await peer.until(b"\r\n") == b"220 mail.example\r\n"
        peer.send(b"GET me\r\n")  # an opaque connection by now
        assert await served.until(b"\r\n") == b"GET me\r\n"
        served.close()
        assert await peer.rest() == b""


async def test_half_a_request_line_becomes_opaque_by_no_waiting(mesh: Mesh) -> None:
    async with RawUpstream() as app:
        config = unnamed(mesh, app, listener_filters_timeout="0.15s", continue_on_listener_filters_timeout=True)
        async with running(config) as proxy, mesh.client(proxy) as peer:
            peer.send(b"GET")
            assert await peer.ended()
            assert proxy.counter("pymesh_listener_refused_total") == 1
        while app.waiting:
            assert await (await app.accept()).ended()


async def test_a_client_that_leaves_while_it_is_looked_at_leaves_nothing(mesh: Mesh) -> None:
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy:
        for said in (b"", b"GE"):
            async with mesh.client(proxy) as peer:
                peer.send(said)
                asked = None if said else await app.accept()
            if asked is not None:
                assert await asked.ended()
        await eventually(lambda: not proxy.runtime._tasks, what="nobody is looked at any more")


async def test_an_app_that_is_not_there_is_told(mesh: Mesh) -> None:
    async with RawUpstream() as app:
        app.close()
        async with running(unnamed(mesh, app)) as proxy, mesh.client(proxy) as peer:
            assert await peer.ended()
            assert (await proxy.record()).flag is Flag.UPSTREAM_CONNECTION_FAILURE


@pytest.mark.parametrize(
    ("uri", "taken"),
    [
        (CALLER, True),
        ("spiffe://old.example/ns/default/sa/caller", True),
        ("spiffe://cluster.local.attacker.example/ns/default/sa/caller", False),
        ("spiffe://other.example/ns/default/sa/caller", False),
    ],
)
async def test_a_caller_is_of_the_meshs_trust_domain_or_of_one_that_stands_for_it(
    tmp_path: Path, uri: str, taken: bool
) -> None:
    """As pilot sends it: the root may stand above other meshes, whose certificates lead to it as well."""
    mesh = Mesh(tmp_path)
    other, file = mesh.authority.issue(uri=uri), tmp_path / "other.pem"
    file.write_bytes(other.chain + b"\n" + other.key)
    mesh.common["validation_context"]["match_typed_subject_alt_names"] = [  # type: ignore[index]  # as written above
        {"san_type": "URI", "matcher": {"prefix": f"spiffe://{domain}/"}} for domain in ("cluster.local", "old.example")
    ]
    async with RawUpstream() as app, running(unnamed(mesh, app)) as proxy:
        async with mesh.client(proxy, MESH[0], file) as peer:
            peer.send(FORGED)
            if taken:
                served = await app.accept()
                assert f"URI={uri}".encode() in await served.reader.readuntil(b"\r\n\r\n")
                served.send(OK)
                assert (await peer.message())[1] == b"ok"
            else:
                assert await peer.rest() == b""
        assert taken or not app.waiting
