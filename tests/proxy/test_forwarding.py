"""What is changed in requests on their way."""

import re
from dataclasses import replace

import pytest

from pymesh_proxy import forwarding
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import EscapedSlashes, ForwardClientCert, HttpManager
from pymesh_proxy.errors import ProxyError
from pymesh_proxy.routing import Forward, HeaderMutation, Route
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.endpoint import Endpoint
from tests.support.heads import read_request

MANAGER = HttpManager("test", routes=None, rds="r")
EDGE = replace(MANAGER, use_remote_address=True)
PLAIN = Facts("inbound", "10.0.0.7:41000", "10.0.0.8:9080")
MUTUAL = replace(PLAIN, tls=True, peer="spiffe://cluster.local/ns/default/sa/productpage")
FORWARD = Forward((("c", 1),))
ROUTE = Route("r", "v", "", lambda _: True, FORWARD)
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def prepared(
    *lines: bytes, manager: HttpManager = MANAGER, facts: Facts = PLAIN, start: bytes = b"GET /a HTTP/1.1"
) -> Head:
    head = read_request(*lines, start=start)
    forwarding.prepare_request(head, manager, facts)
    return head


# --- Request ids ------------------------------------------------------------------------------------------------------


def test_a_request_id_is_made_where_there_is_none() -> None:
    made = {forwarding.prepare_request(head, MANAGER, PLAIN) for head in [read_request() for _ in range(50)]}
    assert len(made) == 50
    assert all(UUID4.fullmatch(one) for one in made)
    head = read_request(b"X-Request-Id:")
    made_id = forwarding.prepare_request(head, MANAGER, PLAIN)
    assert UUID4.fullmatch(made_id)
    assert head.get(b"x-request-id") == made_id.encode()


@pytest.mark.parametrize(
    ("manager", "kept"),
    [
        (MANAGER, True),
        (EDGE, False),
        (replace(EDGE, preserve_external_request_id=True), True),
        (replace(EDGE, generate_request_id=False), True),
    ],
)
def test_a_request_id_is_kept_inside_and_replaced_at_the_edge(manager: HttpManager, kept: bool) -> None:
    head = read_request(b"X-Request-Id: mine")
    found = forwarding.prepare_request(head, manager, PLAIN)
    assert (found == "mine") is kept
    assert head.get(b"x-request-id") == found.encode()
    assert head.fields().lower().count(b"x-request-id") == 1


def test_no_request_id_where_none_is_to_be_made() -> None:
    head = read_request()
    assert forwarding.prepare_request(head, replace(MANAGER, generate_request_id=False), PLAIN) == ""
    assert not head.has(b"x-request-id")


# --- Where a request comes from ---------------------------------------------------------------------------------------


def test_a_sidecar_keeps_what_a_proxy_before_it_said() -> None:
    head = prepared(b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https", b"X-Envoy-Attempt-Count: 2")
    assert head.get(b"x-forwarded-for") == b"1.2.3.4"
    assert head.get(b"x-forwarded-proto") == b"https"
    assert head.get(b"x-envoy-attempt-count") == b"2"


def test_the_edge_believes_nothing_of_the_kind() -> None:
    head = prepared(
        b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Proto: https", b"X-Envoy-Retry-On: 5xx", b"X-Envoy-Internal: true",
        manager=EDGE,
    )  # fmt: skip
    assert head.get(b"x-forwarded-for") == b"1.2.3.4,10.0.0.7"
    assert head.get(b"x-forwarded-proto") == b"http"
    assert [name for name in head.names() if name.startswith(b"x-envoy")] == [b"x-envoy-external-address"]


@pytest.mark.parametrize(
    "name", [b"X_Forwarded_Client_Cert", b"x-forwarded_for", b"Transfer_Encoding", b"X_REQUEST_ID"]
)
def test_names_that_a_wsgi_server_takes_for_ours_do_not_reach_it(name: bytes) -> None:
    head = read_request(name + b": forged", b"app_own: kept")
    prepare = HttpManager("m", None, "r", forward_client_cert=ForwardClientCert.SANITIZE_SET)
    forwarding.prepare_request(head, prepare, Facts("inbound", "10.0.0.1:1", "10.0.0.2:2"))
    assert b"forged" not in head.fields()
    assert head.get(b"app_own") == b"kept"


@pytest.mark.parametrize(
    ("manager", "remote", "expected"),
    [
        (EDGE, "10.0.0.7:1", b"10.0.0.7"),
        (EDGE, "[fd00::7]:1", b"fd00::7"),
        (replace(EDGE, skip_xff_append=True), "10.0.0.7:1", None),
        (MANAGER, "10.0.0.7:1", None),
    ],
)
def test_x_forwarded_for(manager: HttpManager, remote: str, expected: bytes | None) -> None:
    assert prepared(manager=manager, facts=replace(PLAIN, remote=remote)).get(b"x-forwarded-for") == expected


def test_x_forwarded_proto_says_how_the_client_came() -> None:
    assert prepared().get(b"x-forwarded-proto") == b"http"
    assert prepared(facts=MUTUAL).get(b"x-forwarded-proto") == b"https"
    behind = replace(EDGE, xff_num_trusted_hops=1)
    assert prepared(b"X-Forwarded-Proto: https", manager=behind).get(b"x-forwarded-proto") == b"https"


def test_via_tells_the_server_the_way_in_the_words_of_the_bootstrap() -> None:
    signing = replace(MANAGER, via=b"1.1 me")
    assert prepared(manager=signing).get(b"via") == b"1.1 me"
    assert prepared(b"Via: 1.0 a", b"Via: 1.1 b", manager=signing).get(b"via") == b"1.0 a, 1.1 b, 1.1 me"
    assert prepared(b"Via: 1.0 a").get(b"via") == b"1.0 a"


# --- Connections end here ---------------------------------------------------------------------------------------------


def test_what_is_meant_for_us_goes_no_further() -> None:
    head = prepared(
        b"Connection: keep-alive, X-Hop", b"Keep-Alive: 5", b"Proxy-Connection: close", b"TE: trailers", b"X-Hop: 1",
        b"Trailer: X-Sum", b"X-End: 2",
    )  # fmt: skip
    names = {name.lower() for name, _ in head.items()}
    assert names == {b"host", b"te", b"trailer", b"x-end", b"x-forwarded-proto", b"x-request-id"}


@pytest.mark.parametrize(
    ("allowed", "asked", "sent"),
    [
        ({"websocket"}, b"WebSocket", b"websocket"),
        ({"websocket"}, b"h2c", None),
        ({"websocket"}, b"websocket, h2c", None),
        (set(), b"websocket", None),
    ],
)
def test_an_upgrade_goes_on_only_where_it_is_allowed(allowed: set[str], asked: bytes, sent: bytes | None) -> None:
    manager = replace(MANAGER, upgrades=frozenset(allowed))
    head = prepared(b"Connection: Upgrade, X-Hop", b"Upgrade: " + asked, b"X-Hop: 1", manager=manager)
    forwarding.apply_route(head, ROUTE, FORWARD, manager)
    assert head.get(b"upgrade") == sent
    assert head.get(b"connection") == (b"upgrade" if sent else None)
    assert head.upgrade == (sent or b"")
    assert not head.has(b"x-hop")


@pytest.mark.parametrize(
    ("manager", "route", "sent"),
    [
        ({"websocket"}, {"websocket": False}, False),
        (set(), {"websocket": True}, True),
        ({"websocket"}, {"h2c": False}, True),
        (set(), {"h2c": True}, False),
    ],
)
def test_a_route_has_the_last_word_on_upgrades(manager: set[str], route: dict[str, bool], sent: bool) -> None:
    allowing = replace(MANAGER, upgrades=frozenset(manager))
    head = prepared(b"Connection: upgrade", b"Upgrade: websocket", manager=allowing)
    forwarding.apply_route(head, ROUTE, replace(FORWARD, upgrades=route), allowing)
    assert head.get(b"upgrade") == (b"websocket" if sent else None)
    assert bool(head.upgrade) is sent


@pytest.mark.parametrize(
    ("te", "sent"),
    [(b"trailers", b"trailers"), (b"gzip;q=0.5, Trailers", b"trailers"), (b"gzip", None), (b"", None)],
)
def test_of_te_only_trailers_goes_on(te: bytes, sent: bytes | None) -> None:
    assert prepared(b"Connection: te", b"TE: " + te).get(b"te") == sent


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        (b"a:9080", 9080, b"a"),
        (b"[::1]:9080", 9080, b"[::1]"),
        (b"a:80", 9080, b"a:80"),
        (b"a", 9080, b"a"),
        (b"[::1]", 1, b"[::1]"),
    ],
)
def test_the_port_that_was_connected_to_is_stripped(host: bytes, port: int, expected: bytes) -> None:
    head = read_request(host=b"Host: " + host)
    facts = replace(PLAIN, original_destination=("10.0.0.8", port))
    assert forwarding.canonicalize(head, replace(MANAGER, strip_matching_host_port=True), facts) is None
    assert (head.authority, head.get(b"host")) == (expected, expected)
    untouched = read_request(host=b"Host: " + host)
    forwarding.canonicalize(untouched, MANAGER, facts)
    assert untouched.authority == host


@pytest.mark.parametrize(
    ("rule", "fields", "status"),
    [
        (EscapedSlashes.KEEP, (), None),
        (EscapedSlashes.UNESCAPE_FORWARD, (), None),
        (EscapedSlashes.REJECT, (), 400),
        (EscapedSlashes.UNESCAPE_REDIRECT, (), 307),
        (EscapedSlashes.UNESCAPE_REDIRECT, (b"Content-Type: application/grpc",), 400),
    ],
)
def test_escaped_slashes(rule: EscapedSlashes, fields: tuple[bytes, ...], status: int | None) -> None:
    manager = replace(MANAGER, normalize_path=True, escaped_slashes=rule)
    head = read_request(*fields, start=b"GET /a%2F..%2fb?c=%2f HTTP/1.1")
    reply = forwarding.canonicalize(head, manager, PLAIN)
    assert (reply and reply.status) == status
    if reply is None:
        assert head.path == (b"/b?c=%2f" if rule is EscapedSlashes.UNESCAPE_FORWARD else b"/a%2F..%2fb?c=%2f")
    elif status == 307:
        assert reply.headers == ((b"location", b"/b?c=%2f"),)


@pytest.mark.parametrize(
    ("normalize", "merge", "path"),
    [
        (False, False, b"/a//./b/../c"),
        (True, False, b"/a//c"),
        (False, True, b"/a/./b/../c"),
        (True, True, b"/a/c"),
    ],
)
def test_a_path_gets_the_form_that_is_configured(normalize: bool, merge: bool, path: bytes) -> None:
    head = read_request(start=b"GET /a//./b/../c HTTP/1.1")
    assert forwarding.canonicalize(head, replace(MANAGER, normalize_path=normalize, merge_slashes=merge), PLAIN) is None
    assert head.path == path


def test_what_is_no_path_is_left_alone() -> None:
    manager = replace(
        MANAGER, normalize_path=True, merge_slashes=True, strip_matching_host_port=True,
        escaped_slashes=EscapedSlashes.REJECT,
    )  # fmt: skip
    for start, authority in ((b"OPTIONS * HTTP/1.1", b"a"), (b"CONNECT b:9080 HTTP/1.1", b"b:9080")):
        head = read_request(start=start)
        target = head.path
        facts = replace(PLAIN, original_destination=("10.0.0.8", 9080))
        assert forwarding.canonicalize(head, manager, facts) is None
        assert (head.path, head.authority) == (target, authority)


def test_http_1_0_only_where_it_is_accepted() -> None:
    head = read_request(start=b"GET / HTTP/1.0", host=b"")
    with pytest.raises(ProxyError) as caught:
        forwarding.prepare_request(head, MANAGER, PLAIN)
    assert (caught.value.status, caught.value.details) == (426, "low_version")
    accepting = replace(MANAGER, accept_http_10=True, default_host_for_http_10="home")
    forwarding.prepare_request(head, accepting, PLAIN)
    assert (head.authority, head.get(b"host")) == (b"home", b"home")


# --- Routes -----------------------------------------------------------------------------------------------------------


def test_mutations_in_their_order() -> None:
    head = read_request(b"A: 1", b"B: 1", b"C: 1")
    changes = HeaderMutation(
        add=((b"c", b"2"), (b"e", b"2")),
        set=((b"b", b"2"), (b"d", b"2")),
        set_if_absent=((b"b", b"3"), (b"f", b"3"), (b"a", b"3")),
        remove=(b"a", b"absent"),
    )
    forwarding.mutate(head, changes)
    assert {name: head.get(name) for name in (b"a", b"b", b"c", b"d", b"e", b"f")} == {
        b"a": b"3", b"b": b"2", b"c": b"1, 2", b"d": b"2", b"e": b"2", b"f": b"3",
    }  # fmt: skip


def routed(action: Forward, start: bytes = b"GET /old/x?q=/old HTTP/1.1") -> Head:
    head = read_request(start=start)
    route = Route("r", "v", "", lambda _: True, action, request_headers=HeaderMutation(set=((b"x-route", b"r"),)))
    forwarding.apply_route(head, route, action, MANAGER)
    return head


def test_a_rewrite_keeps_the_query_and_tells_the_old_path() -> None:
    head = routed(Forward((("c", 1),), rewrite=lambda path: path.replace(b"/old", b"/new")))
    assert head.path == b"/new/x?q=/old"
    assert head.get(b"x-envoy-original-path") == b"/old/x?q=/old"
    assert head.get(b"x-route") == b"r"
    same = routed(Forward((("c", 1),), rewrite=lambda path: path))
    assert not same.has(b"x-envoy-original-path")


@pytest.mark.parametrize("left", [b"", b"http://elsewhere/x", b"x"])
def test_a_rewrite_that_leaves_no_path_ends_the_request(left: bytes) -> None:
    with pytest.raises(ProxyError, match="500 LR path_rewrite_failed"):
        forwarding.apply_route(read_request(), ROUTE, replace(FORWARD, rewrite=lambda _: left), MANAGER)


def test_a_host_rewrite_changes_host_and_authority() -> None:
    head = routed(Forward((("c", 1),), host_rewrite=b"b:80"))
    assert (head.authority, head.get(b"host")) == (b"b:80", b"b:80")
    assert head.get(b"x-envoy-original-host") == b"a"
    assert head.fields().lower().count(b"\r\nhost:") == 1


@pytest.mark.parametrize(("timeout", "expected"), [(15.0, b"15000"), (1.001, b"1001"), (None, None)])
def test_the_upstream_hears_how_long_it_has(timeout: float | None, expected: bytes | None) -> None:
    assert routed(Forward((("c", 1),), timeout=timeout)).get(b"x-envoy-expected-rq-timeout-ms") == expected


def test_a_request_as_it_goes_out() -> None:
    endpoint = Endpoint("10.0.0.1", 80, hostname="backend.example")
    plain = Forward((("c", 1),))
    assert (
        forwarding.request_bytes(read_request(b"X: y"), plain, endpoint)
        == b"GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"
    )
    absolute = read_request(start=b"GET http://b/p?q HTTP/1.1")
    assert forwarding.request_bytes(absolute, plain, endpoint) == b"GET /p?q HTTP/1.1\r\nhost: b\r\n\r\n"
    auto = replace(plain, auto_host_rewrite=True)
    assert b"\r\nhost: backend.example\r\n" in forwarding.request_bytes(read_request(), auto, endpoint)
    nameless = Endpoint("10.0.0.1", 80)
    assert b"\r\nHost: a\r\n" in forwarding.request_bytes(read_request(), auto, nameless)
