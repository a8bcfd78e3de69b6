"""Listeners that change while connections are open: what they were, what they become, and what a connection is told.

async with RawUpstream() as app, kept(web(app), app) as (proxy, peer, served):
    proxy.change(web(app, NOBODY))
    peer.send(GET)  # is refused
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pymesh_proxy.errors import Flag
from tests.support.certificates import Authority
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running, tcp_listener
from tests.support.messages import GET, OK
from tests.support.peers import Peer, RawUpstream, client

POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"
CALLER = "spiffe://cluster.local/ns/default/sa/caller"
_TYPE = "type.googleapis.com/envoy.extensions."
ROUTER = {"name": "router", "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"}}


def rbac(kind: str, **policies: Json) -> Json:
    """Access rules that let in what `policies` say."""
    rules = {"action": "ALLOW", "policies": policies}
    prefix = {"stat_prefix": "tcp"} if kind == "network" else {}
    return {"name": "rbac", "typed_config": {"@type": f"{_TYPE}filters.{kind}.rbac.v3.RBAC", "rules": rules, **prefix}}


ANYBODY = {"permissions": [{"any": True}], "principals": [{"any": True}]}
NOBODY = rbac("http")


def web(app: RawUpstream, *filters: Json, **listener: object) -> str:
    """HTTP to `app`."""
    found = http_listener([route("app")], http_filters=[*filters, ROUTER])
    return bootstrap([{**found, **listener}], [cluster("app", app.address)])


def opaque(app: RawUpstream, *filters: Json, **proxy: object) -> str:
    """Bytes to `app`, of a listener that has the name of the one for HTTP."""
    [listener] = [tcp_listener("app", **proxy)]
    listener["filter_chains"][0]["filters"][:0] = filters
    return bootstrap([{**listener, "name": "http"}], [cluster("app", app.address)])


async def answered(app: RawUpstream, served: Peer | None, peer: Peer, request: bytes = GET) -> tuple[Peer, bytes]:
    """One request through the proxy; the connection that it came to the app on, and the head of the answer."""
    peer.send(request)
    served = served or await app.accept()
    await served.head()
    served.send(OK)
    return served, (await peer.message())[0]


@asynccontextmanager
async def kept(config: str, app: RawUpstream) -> AsyncIterator[tuple[Running, Peer, Peer]]:
    """A proxy, a client whose connection has carried a request and waits for the next, and the app's end."""
    async with running(config) as proxy, client(proxy.address) as peer:
        served, head = await answered(app, None, peer)
        assert b"connection:" not in head
        yield proxy, peer, served


def encrypted(config: str, common: Json, **more: object) -> str:
    """The listener of `config`, with TLS."""
    found = json.loads(config)
    context = {"@type": f"{_TYPE}transport_sockets.tls.v3.DownstreamTlsContext", "common_tls_context": common, **more}
    for chain in found["static_resources"]["listeners"][0]["filter_chains"]:
        chain["transport_socket"] = {"name": "tls", "typed_config": context}
    return json.dumps(found)


class Identities:
    """A caller's certificate, and what a server says of itself and of whom it lets in."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.folder = Authority(), folder
        issued = self.authority.issue(uri=CALLER)
        self.caller = folder / "caller.pem"
        self.caller.write_bytes(issued.chain + b"\n" + issued.key)

    def server(self, *names: str, trusts: Authority | None = None, **more: object) -> Json:
        """`common_tls_context` with a certificate of its own; callers have to be one of `names`."""
        own = self.authority.issue(dns=("a.example", "b.example"))
        chain, key = {"inline_string": own.chain.decode()}, {"inline_string": own.key.decode()}
        matchers = [{"san_type": "URI", "matcher": {"exact": name}} for name in names]
        roots = {"trusted_ca": {"inline_string": (trusts or self.authority).root.decode()}}
        if matchers:
            roots["match_typed_subject_alt_names"] = matchers
        ours = [{"certificate_chain": chain, "private_key": key}]
        return {"tls_certificates": ours, "validation_context": roots, **more}

    @asynccontextmanager
    async def client(self, proxy: Running, name: str = "a.example", *, proves: bool = True) -> AsyncIterator[Peer]:
        context = ssl.create_default_context(cadata=self.authority.root.decode())
        if proves:
            context.load_cert_chain(self.caller)
        peer = Peer(*await asyncio.open_connection(*proxy.address, ssl=context, server_hostname=name))
        try:
            yield peer
        finally:
            peer.writer.transport.abort()
            await asyncio.sleep(0)


async def misdirected(proxy: Running, peer: Peer, app: RawUpstream) -> None:
    """Its next request is told to come again on another connection, and has reached nobody."""
    before = len(proxy.runtime.recent)
    peer.send(POST + b"ab")
    head, _ = await peer.message()
    assert head.startswith(b"HTTP/1.1 421 ")
    assert b"connection: close\r\n" in head
    assert b'\r\nproxy-status: pymesh; error=destination_not_found; details="NR filter_chain_not_found"\r\n' in head
    assert await peer.ended()
    record = (await proxy.records(before + 1))[-1]
    assert (record.flag, record.details, record.attempts) == (Flag.NO_ROUTE, "filter_chain_not_found", 0)
