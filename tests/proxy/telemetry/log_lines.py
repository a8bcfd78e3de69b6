"""A request's record, and every operator of a format with what it says of it, in Envoy and here."""

from collections.abc import Mapping

from pymesh_proxy.codec.http1 import parse_request, parse_response
from pymesh_proxy.routing import Forward, Route
from pymesh_proxy.telemetry.log_format import compile_format
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.endpoint import Endpoint

FACTS = Facts(
    direction="inbound",
    remote="10.244.0.7:40000",
    local="10.244.0.8:15001",
    original="10.244.0.8:9080",
    tls=True,
    peer="spiffe://cluster.local/ns/default/sa/productpage",
    own="spiffe://cluster.local/ns/default/sa/reviews",
    peer_certificate_hash="ab" * 32,
    peer_subject="O=cluster.local",
    sni="outbound_.9080_._.reviews.default.svc.cluster.local",
)
WALL = 1795383392.862771


def record(request: bytes = b"", response: bytes = b"x-envoy-upstream-service-time: 5\r\n") -> RequestRecord:
    """A request that went well."""
    found = RequestRecord(FACTS, WALL, 100.0)
    head = parse_request(b"GET /reviews/1?x=y HTTP/1.1\r\nHost: reviews:9080\r\n" + request + b"\r\n")
    answer = parse_response(b"HTTP/1.1 200 OK\r\n" + response + b"\r\n")
    assert head is not None
    assert answer is not None
    found.headers, found.response_headers = head[0], answer[0]
    found.said = (b"GET", b"reviews:9080", b"/reviews/1?x=y")
    found.request_id = "c71d8373"
    found.status, found.details = 200, "via_upstream"
    found.t_filtered, found.t_connected, found.t_first_byte, found.t_end = 100.001, 100.002, 100.0105, 100.0123
    found.matched, found.cluster, found.picked = route("default"), "inbound|9080||", Endpoint("10.244.0.8", 9080)
    found.upstream_local, found.upstream_peer = "127.0.0.6:50000", "spiffe://cluster.local/ns/default/sa/reviews"
    found.attempts, found.bytes_received, found.bytes_sent = 1, 5, 357
    return found


def route(name: str) -> Route:
    """A route of this name."""
    return Route(name, "", "", lambda _: True, Forward((("inbound|9080||", 1),)))


def made(text: str | Mapping[str, str], of: RequestRecord) -> str:
    """The line that a format makes of a record."""
    return compile_format(text)(of, of.headers, of.response_headers).decode()


OPERATORS = {
    "BYTES_RECEIVED": ("5", "0"),
    "BYTES_SENT": ("357", "0"),
    "CONNECTION_TERMINATION_DETAILS": ("-", "-"),
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": ("10.244.0.7:40000", "-"),
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": ("10.244.0.7", "-"),
    "DOWNSTREAM_LOCAL_ADDRESS": ("10.244.0.8:9080", "-"),
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": ("10.244.0.8", "-"),
    "DOWNSTREAM_LOCAL_PORT": ("9080", "-"),
    "DOWNSTREAM_LOCAL_URI_SAN": ("spiffe://cluster.local/ns/default/sa/reviews", "-"),
    "DOWNSTREAM_PEER_FINGERPRINT_256": ("ab" * 32, "-"),
    "DOWNSTREAM_PEER_SUBJECT": ("O=cluster.local", "-"),
    "DOWNSTREAM_PEER_URI_SAN": ("spiffe://cluster.local/ns/default/sa/productpage", "-"),
    "DOWNSTREAM_REMOTE_ADDRESS": ("10.244.0.7:40000", "-"),
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": ("10.244.0.7", "-"),
    "DOWNSTREAM_REMOTE_PORT": ("40000", "-"),
    "DURATION": ("12", "-"),
    "PROTOCOL": ("HTTP/1.1", "HTTP/1.1"),
    "REQ(:AUTHORITY)": ("reviews:9080", "-"),
    "REQ(Host)": ("reviews:9080", "-"),
    "REQ(:METHOD)": ("GET", "-"),
    "REQ(:PATH)": ("/reviews/1?x=y", "-"),
    "REQ(:SCHEME)": ("https", "-"),
    "REQ(X-Forwarded-Proto)": ("https", "-"),
    "REQ(X-NONE)": ("-", "-"),
    "REQ(X-NONE?:PATH)": ("/reviews/1?x=y", "-"),
    "REQ(x-forwarded-proto?:PATH)": ("https", "-"),
    "REQ(:PATH):8": ("/reviews", "-"),
    "REQ(:PATH):800": ("/reviews/1?x=y", "-"),
    "REQUESTED_SERVER_NAME": ("outbound_.9080_._.reviews.default.svc.cluster.local", "-"),
    "RESP(:STATUS)": ("200", "-"),
    "RESP(X-Envoy-Upstream-Service-Time)": ("5", "-"),
    "RESPONSE_CODE": ("200", "0"),
    "RESPONSE_CODE_DETAILS": ("via_upstream", "-"),
    "RESPONSE_DURATION": ("10", "-"),
    "RESPONSE_FLAGS": ("-", "-"),
    "RESPONSE_TX_DURATION": ("1", "-"),
    "ROUTE_NAME": ("default", "-"),
    "START_TIME": ("2026-11-22T21:36:32.862Z", "2026-11-22T21:36:32.862Z"),
    "UPSTREAM_CLUSTER": ("inbound|9080||", "-"),
    "UPSTREAM_CLUSTER_RAW": ("inbound|9080||", "-"),
    "UPSTREAM_HOST": ("10.244.0.8:9080", "-"),
    "UPSTREAM_LOCAL_ADDRESS": ("127.0.0.6:50000", "-"),
    "UPSTREAM_PEER_URI_SAN": ("spiffe://cluster.local/ns/default/sa/reviews", "-"),
    "UPSTREAM_REMOTE_ADDRESS": ("10.244.0.8:9080", "-"),
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": ("10.244.0.8", "-"),
    "UPSTREAM_REMOTE_PORT": ("9080", "-"),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": ("1", "0"),
    "UPSTREAM_TRANSPORT_FAILURE_REASON": ("-", "-"),
}
