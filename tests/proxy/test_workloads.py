"""Two sidecars, both ends of a request: what they tell each other of their workloads, what they believe and count."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pymesh.istio_metrics import HTTP_LABELS, TCP_LABELS
from pymesh.peer_metadata import header_of, peer_of, workload_metadata
from pymesh.steps import whole
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.secrets import Certificate, Roots
from tests.support.certificates import Authority
from tests.support.inprocess import Json, Running, bootstrap, cluster, http_listener, route, running, tcp_listener
from tests.support.peers import Address, Peer, RawUpstream, client
from tests.support.waiting import eventually

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."

SERVICE = {"host": "reviews.shop.svc.cluster.local", "name": "reviews", "namespace": "shop"}
# Every label of a request from productpage to reviews, as the two sidecars count it, in order.
SOURCE = {
    "reporter": "source",
    "source_workload": "productpage-v1",
    "source_canonical_service": "productpage",
    "source_canonical_revision": "v1",
    "source_workload_namespace": "web",
    "source_principal": "spiffe://cluster.local/ns/web/sa/productpage",
    "source_app": "productpage",
    "source_version": "v1",
    "source_cluster": "Kubernetes",
    "destination_workload": "reviews-v2",
    "destination_workload_namespace": "shop",
    "destination_principal": "spiffe://cluster.local/ns/shop/sa/reviews",
    "destination_app": "reviews",
    "destination_version": "v2",
    "destination_service": "reviews.shop.svc.cluster.local",
    "destination_canonical_service": "reviews",
    "destination_canonical_revision": "v2",
    "destination_service_name": "reviews",
    "destination_service_namespace": "shop",
    "destination_cluster": "Kubernetes",
    "request_protocol": "http",
    "response_code": "200",
    "grpc_response_status": "",
    "response_flags": "-",
    "connection_security_policy": "unknown",
}
DESTINATION = {**SOURCE, "reporter": "destination", "connection_security_policy": "mutual_tls"}
# Of a caller of whom nothing is known.
STRANGER = {
    "source_workload": "unknown", "source_canonical_service": "unknown", "source_canonical_revision": "unknown",
    "source_workload_namespace": "unknown", "source_principal": "unknown", "source_app": "unknown",
    "source_version": "unknown", "source_cluster": "unknown",
}  # fmt: skip


def node(app: str, namespace: str, version: str) -> Node:
    return Node(
        pod=f"{app}-{version}-x", namespace=namespace, ip="10.0.0.1", service_account=app, workload=f"{app}-{version}",
        labels={"app": app, "version": version},
    )  # fmt: skip


PRODUCTPAGE, REVIEWS = node("productpage", "web", "v1"), node("reviews", "shop", "v2")


def mesh_tls(kind: str, *identities: str) -> Json:
    """Mutual TLS as pilot asks for it, with the secrets that citadel gives."""
    matchers = [{"san_type": "URI", "matcher": {"exact": identity}} for identity in identities]
    common = {
        "tls_certificate_sds_secret_configs": [{"name": "default"}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": matchers} if matchers else {},
            "validation_context_sds_secret_config": {"name": "ROOTCA"},
        },
    }
    more = {"require_client_certificate": True} if kind == "DownstreamTlsContext" else {}
    typed = {"@type": _TLS + kind, "common_tls_context": common, **more}
    return {"transport_socket": {"name": "tls", "typed_config": typed}}


def services(**facts: str) -> Json:
    return {"metadata": {"filter_metadata": {"istio": {"services": [facts]}}}}


def to_reviews(address: Address, *, mesh: bool = True) -> Json:
    """The caller's cluster, with the metadata that pilot gives."""
    found = cluster("outbound|9080||reviews.shop.svc.cluster.local", address, **services(**SERVICE))
    [endpoint] = found["load_assignment"]["endpoints"][0]["lb_endpoints"]
    about = {"istio": {"workload": workload_metadata(REVIEWS.peer)}, "pymesh": {"app": "reviews", "version": "v2"}}
    endpoint["metadata"] = {"filter_metadata": about}
    return {**found, **(mesh_tls("UpstreamTlsContext", str(REVIEWS.identity)) if mesh else {})}


def inbound(listener: Json, *, mesh: bool = True) -> Json:
    listener["traffic_direction"] = "INBOUND"
    if mesh:
        listener["filter_chains"][0] |= mesh_tls("DownstreamTlsContext")
    return listener


def outbound(listener: Json) -> Json:
    return {**listener, "traffic_direction": "OUTBOUND"}


@asynccontextmanager
async def sidecar(config: str, of: Node, authority: Authority) -> AsyncIterator[Running]:
    """A sidecar of `of`, with a certificate."""
    async with running(config) as proxy:
        issued = authority.issue(uri=str(of.identity))
        proxy.proxy.secrets.put("default", Certificate(issued.chain, issued.key, uri=str(of.identity)))
        proxy.proxy.secrets.put("ROOTCA", Roots(authority.root))
        proxy.runtime.peers.introduce(
            of.peer, pod=of.pod, node_id=of.id, principal=str(of.identity), sidecar=of.kind == "sidecar"
        )
        yield proxy


@dataclass
class Pair:
    """A caller's sidecar, the callee's sidecar, and the callee's app."""

    caller: Running
    callee: Running
    app: RawUpstream

    async def get(self, *headers: str, answer: bytes = OK) -> tuple[bytes, bytes]:
        """One request through both: what the app saw, and the head of the answer."""
        async with client(self.caller.address) as peer:
            peer.send("\r\n".join(("GET /x HTTP/1.1", "host: reviews", *headers, "", "")).encode())
            served = await self.app.accept()
            seen = await served.head()
            served.send(answer)
            head, _ = await peer.message()
        await self.caller.records(1)
        await self.callee.records(1)
        return seen, head


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def pair(authority: Authority) -> AsyncIterator[Pair]:
    name = "outbound|9080||reviews.shop.svc.cluster.local"
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(RawUpstream())
        own = cluster("inbound|9080||", app.address, **services(**SERVICE))
        listener = inbound(http_listener([route("inbound|9080||", timeout="0s")]))
        callee = await stack.enter_async_context(sidecar(bootstrap([listener], [own]), REVIEWS, authority))
        config = bootstrap([outbound(http_listener([route(name)]))], [to_reviews(callee.address)])
        caller = await stack.enter_async_context(sidecar(config, PRODUCTPAGE, authority))
        yield Pair(caller, callee, app)


def samples(proxy: Running, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels, in the order in which they are written, and values of what is not zero."""
    return [
        (dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(whole(proxy.runtime.istio.writing()))
        for sample in family.samples
        if sample.name == name and sample.value
    ]


def only(proxy: Running, name: str = "istio_requests_total") -> dict[str, str]:
    [(labels, value)] = samples(proxy, name)
    assert value == 1
    return labels


def differing(labels: Mapping[str, str], expected: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if expected.get(name) != value}


async def test_both_sidecars_count_a_request_with_all_labels_in_istio_s_order(pair: Pair) -> None:
    await pair.get()
    for proxy, expected in ((pair.caller, SOURCE), (pair.callee, DESTINATION)):
        assert only(proxy) == expected
        for name in ("istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"):
            assert only(proxy, f"{name}_count") == expected
        [line] = re.findall(r"^istio_requests_total\{(.*)\} 1$", whole(proxy.runtime.istio.writing()), re.MULTILINE)
        assert tuple(re.findall(r'(\w+)="', line)) == tuple(expected) == HTTP_LABELS
        assert samples(proxy, "istio_response_bytes_sum") == [(expected, 2)]


async def test_both_records_agree_on_everything(pair: Pair) -> None:
    await pair.get()
    ours, theirs = await pair.caller.record(), await pair.callee.record()
    assert (ours.source, ours.destination, ours.service) == (theirs.source, theirs.destination, theirs.service)
    assert (ours.source, ours.destination) == (PRODUCTPAGE.peer, REVIEWS.peer)
    assert (ours.security, theirs.security) == ("unknown", "mutual_tls")


async def test_neither_app_sees_an_introduction(pair: Pair) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nX-Envoy-Peer-Metadata: x\r\nx-envoy-peer-metadata-id: y\r\ncontent-length: 2\r\n\r\nok"
    )
    seen, head = await pair.get("X-One: 1", answer=answer)
    assert b"peer-metadata" not in seen.lower() + head.lower()
    assert b"X-One: 1\r\n" in seen  # and what it does see is written as the caller wrote it


async def test_the_callee_is_asked_with_what_istio_s_envoy_understands(authority: Authority, tmp_path: Path) -> None:
    """A mesh peer that is no sidecar of ours shows what it gets."""
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK.replace(b"OK\r\n", b"OK\r\nconnection: close\r\n"))
        writer.close()

    issued = authority.issue(uri=str(REVIEWS.identity))
    (tmp_path / "pem").write_bytes(issued.chain + issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    config = to_reviews(server.sockets[0].getsockname())
    listener = outbound(http_listener([route(config["name"])]))
    async with server, sidecar(bootstrap([listener], [config]), PRODUCTPAGE, authority) as proxy:
        async with client(proxy.address) as peer:
            peer.send(b"GET / HTTP/1.1\r\nhost: a\r\nX-Envoy-Peer-Metadata: forged\r\n\r\n")
            await peer.message()
        head = await received
    assert re.findall(rb"(?i)^(x-envoy-peer-metadata[-id]*): (.*)\r\n", head, re.MULTILINE) == [
        (b"x-envoy-peer-metadata-id", PRODUCTPAGE.id.encode()),
        (b"x-envoy-peer-metadata", header_of(PRODUCTPAGE.peer, PRODUCTPAGE.pod).encode()),
    ]


FORGED = header_of(peer_of("admin", "shop", {"app": "admin"}, "Kubernetes"), "admin")


async def test_an_app_cannot_speak_for_another_workload(pair: Pair) -> None:
    await pair.get(f"x-envoy-peer-metadata: {FORGED}", "X-Envoy-Peer-Metadata-Id: admin")
    assert only(pair.caller) == SOURCE
    assert only(pair.callee) == DESTINATION


async def test_nothing_is_said_to_who_is_not_in_the_mesh(authority: Authority) -> None:
    async with RawUpstream() as upstream:
        config = to_reviews(upstream.address, mesh=False)
        listener = outbound(http_listener([route(config["name"])]))
        async with (
            sidecar(bootstrap([listener], [config]), PRODUCTPAGE, authority) as proxy,
            client(proxy.address) as peer,
        ):
            peer.send(f"GET / HTTP/1.1\r\nhost: a\r\nx-envoy-peer-metadata: {FORGED}\r\n\r\n".encode())
            served = await upstream.accept()
            assert b"peer-metadata" not in (await served.head()).lower()
            served.send(OK)
            await peer.message()
            assert differing(only(proxy), SOURCE) == {"source_principal": "unknown", "destination_principal": "unknown"}


async def test_words_in_plaintext_are_not_believed(authority: Authority) -> None:
    async with RawUpstream() as app:
        own = cluster("inbound|9080||", app.address, **services(**SERVICE))
        listener = inbound(http_listener([route("inbound|9080||")]), mesh=False)
        async with sidecar(bootstrap([listener], [own]), REVIEWS, authority) as proxy, client(proxy.address) as peer:
            peer.send(f"GET / HTTP/1.1\r\nhost: a\r\nX-Envoy-Peer-Metadata: {FORGED}\r\nb: c\r\n\r\n".encode())
            served = await app.accept()
            assert b"peer-metadata" not in (await served.head()).lower()
            served.send(OK)
            await peer.message()
            expected = {**STRANGER, "destination_principal": "unknown", "connection_security_policy": "none"}
            assert differing(only(proxy), DESTINATION) == expected
            assert samples(proxy, "pymesh_peer_metadata_refused_total") == [({}, 1)]


async def test_a_certificate_says_more_than_words(pair: Pair, authority: Authority, tmp_path: Path) -> None:
    """A workload of the mesh that has got hold of its sidecar's key claims to be of another namespace."""
    issued = authority.issue(uri=str(PRODUCTPAGE.identity))
    (tmp_path / "pem").write_bytes(issued.chain + issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.root.decode())
    context.load_cert_chain(tmp_path / "pem")
    peer = Peer(*await asyncio.open_connection(*pair.callee.address, ssl=context))
    peer.send(f"GET / HTTP/1.1\r\nhost: a\r\nx-envoy-peer-metadata: {FORGED}\r\n\r\n".encode())
    served = await pair.app.accept()
    assert b"peer-metadata" not in (await served.head()).lower()
    served.send(OK)
    await peer.message()
    peer.writer.transport.abort()
    known = {"source_workload_namespace", "source_principal"}
    assert differing(only(pair.callee), DESTINATION) == {k: v for k, v in STRANGER.items() if k not in known}
    assert samples(pair.callee, "pymesh_peer_metadata_refused_total") == [({}, 1)]


async def test_opaque_connections_are_counted_while_they_last(authority: Authority) -> None:
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(RawUpstream())
        own = cluster("inbound|9080||", app.address, **services(**SERVICE))
        listener = inbound(tcp_listener("inbound|9080||"))
        callee = await stack.enter_async_context(sidecar(bootstrap([listener], [own]), REVIEWS, authority))
        config = to_reviews(callee.address)
        caller_config = bootstrap([outbound(tcp_listener(config["name"]))], [config])
        caller = await stack.enter_async_context(sidecar(caller_config, PRODUCTPAGE, authority))
        labels = {name: value for name, value in SOURCE.items() if name in TCP_LABELS} | {"request_protocol": "tcp"}
        # Nobody introduces himself on an opaque connection: the callee knows what the certificate says.
        known = ("source_workload_namespace", "source_principal")
        stranger = {k: v for k, v in STRANGER.items() if k not in known}
        theirs = {**labels, **stranger, "reporter": "destination", "connection_security_policy": "mutual_tls"}
        async with client(caller.address) as peer:
            peer.send(b"12345")
            served = await app.accept()
            assert await served.exactly(5) == b"12345"
            served.send(b"abc")
            assert await peer.exactly(3) == b"abc"
            for proxy, expected in ((caller, labels), (callee, theirs)):
                assert only(proxy, "istio_tcp_connections_opened_total") == expected
                assert tuple(expected) == TCP_LABELS
                assert samples(proxy, "istio_tcp_connections_closed_total") == []
                for _ in range(2):  # however often it is asked
                    assert samples(proxy, "istio_tcp_received_bytes_total") == [(expected, 5)]
                    assert samples(proxy, "istio_tcp_sent_bytes_total") == [(expected, 3)]
            peer.send(b"6")
            assert await served.exactly(1) == b"6"
            peer.reset()  # an end in order waits for what may still come over TLS
        for proxy, expected in ((caller, labels), (callee, theirs)):
            await eventually(lambda proxy=proxy: samples(proxy, "istio_tcp_connections_closed_total"), what="the end")
            assert samples(proxy, "istio_tcp_connections_closed_total") == [(expected, 1)]
            assert samples(proxy, "istio_tcp_received_bytes_total") == [(expected, 6)]
            assert samples(proxy, "istio_requests_total") == []
