"""What is changed in messages on their way, and the answers of our own."""

import re
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy import forwarding
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request, parse_response
from pymesh_proxy.config.model import EscapedSlashes, ForwardClientCert, HttpManager, ServerHeader
from pymesh_proxy.errors import CAUSES, Flag, ProxyError
from pymesh_proxy.filters.base import LocalReply
from pymesh_proxy.routing import Forward, HeaderMutation, Route
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.upstream.endpoint import Endpoint

MANAGER = HttpManager("test", routes=None, rds="r")
EDGE = replace(MANAGER, use_remote_address=True)
PLAIN = Facts("inbound", "10.0.0.7:41000", "10.0.0.8:9080")
MUTUAL = replace(PLAIN, tls=True, peer="spiffe://cluster.local/ns/default/sa/productpage")
FORWARD = Forward((("c", 1),))
ROUTE = Route("r", "v", "", lambda _: True, FORWARD)
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def request(*lines: bytes, start: bytes = b"GET /a HTTP/1.1", host: bytes = b"Host: a") -> Head:
    parsed = parse_request(b"\r\n".join((start, *([host] if host else []), *lines, b"", b"")))
    assert parsed is not None
    return parsed[0]


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> Head:
    parsed = parse_response(b"\r\n".join((start, *lines, b"", b"")))
    assert parsed is not None
    return parsed[0]


def prepared(
    *lines: bytes, manager: HttpManager = MANAGER, facts: Facts = PLAIN, start: bytes = b"GET /a HTTP/1.1"
) -> Head:
    head = request(*lines, start=start)
    forwarding.prepare_request(head, manager, facts)
    return head


# --- Request ids ------------------------------------------------------------------------------------------------------


def test_a_request_id_is_made_where_there_is_none() -> None:
    made = {forwarding.prepare_request(head, MANAGER, PLAIN) for head in [request() for _ in range(50)]}
    assert len(made) == 50
    assert all(UUID4.fullmatch(one) for one in made)
    head = request(b"X-Request-Id:")
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
    head = request(b"X-Request-Id: mine")
    found = forwarding.prepare_request(head, manager, PLAIN)
    assert (found == "mine") is kept
    assert head.get(b"x-request-id") == found.encode()
    assert head.fields().lower().count(b"x-request-id") == 1


def test_no_request_id_where_none_is_to_be_made() -> None:
    head = request()
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
    head = request(host=b"Host: " + host)
    facts = replace(PLAIN, original_destination=("10.0.0.8", port))
    assert forwarding.canonicalize(head, replace(MANAGER, strip_matching_host_port=True), facts) is None
    assert (head.authority, head.get(b"host")) == (expected, expected)
    untouched = request(host=b"Host: " + host)
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
    head = request(*fields, start=b"GET /a%2F..%2fb?c=%2f HTTP/1.1")
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
    head = request(start=b"GET /a//./b/../c HTTP/1.1")
    assert forwarding.canonicalize(head, replace(MANAGER, normalize_path=normalize, merge_slashes=merge), PLAIN) is None
    assert head.path == path


def test_what_is_no_path_is_left_alone() -> None:
    manager = replace(
        MANAGER, normalize_path=True, merge_slashes=True, strip_matching_host_port=True,
        escaped_slashes=EscapedSlashes.REJECT,
    )  # fmt: skip
    for start, authority in ((b"OPTIONS * HTTP/1.1", b"a"), (b"CONNECT b:9080 HTTP/1.1", b"b:9080")):
        head = request(start=start)
        target = head.path
        facts = replace(PLAIN, original_destination=("10.0.0.8", 9080))
        assert forwarding.canonicalize(head, manager, facts) is None
        assert (head.path, head.authority) == (target, authority)


def test_http_1_0_only_where_it_is_accepted() -> None:
    head = request(start=b"GET / HTTP/1.0", host=b"")
    with pytest.raises(ProxyError) as caught:
        forwarding.prepare_request(head, MANAGER, PLAIN)
    assert (caught.value.status, caught.value.details) == (426, "low_version")
    accepting = replace(MANAGER, accept_http_10=True, default_host_for_http_10="home")
    forwarding.prepare_request(head, accepting, PLAIN)
    assert (head.authority, head.get(b"host")) == (b"home", b"home")


# --- Routes -----------------------------------------------------------------------------------------------------------


def test_mutations_in_their_order() -> None:
    head = request(b"A: 1", b"B: 1", b"C: 1")
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
    head = request(start=start)
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
    assert forwarding.request_bytes(request(b"X: y"), plain, endpoint) == b"GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"
    absolute = request(start=b"GET http://b/p?q HTTP/1.1")
    assert forwarding.request_bytes(absolute, plain, endpoint) == b"GET /p?q HTTP/1.1\r\nhost: b\r\n\r\n"
    auto = replace(plain, auto_host_rewrite=True)
    assert b"\r\nhost: backend.example\r\n" in forwarding.request_bytes(request(), auto, endpoint)
    nameless = Endpoint("10.0.0.1", 80)
    assert b"\r\nHost: a\r\n" in forwarding.request_bytes(request(), auto, nameless)


# --- Responses --------------------------------------------------------------------------------------------------------


def passed_on(
    head: Head,
    manager: HttpManager = MANAGER,
    *,
    wrap: bool = False,
    close: bool = False,
    minor: int = 1,
) -> Head:
    data = forwarding.response_bytes(
        head, manager, request_id="id", service_time=0.0129, minor=minor, close=close, wrap=wrap
    )
    parsed = parse_response(data)
    assert parsed is not None
    assert parsed[1] == len(data)
    return parsed[0]


def test_a_response_as_it_goes_out() -> None:
    head = passed_on(response(b"Connection: close, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"X: y", b"Server: app"))
    assert {name.lower() for name, _ in head.items()} == {b"x", b"server", b"date", b"x-envoy-upstream-service-time"}
    assert head.get(b"server") == b"envoy"
    assert head.get(b"x-envoy-upstream-service-time") == b"12"
    assert head.get(b"date") is not None
    assert head.persistent


def test_an_http_1_0_response_is_ours_in_version() -> None:
    head = passed_on(response(b"Date: then", start=b"HTTP/1.0 404 Nope"))
    assert (head.minor, head.status, head.reason, head.get(b"date")) == (1, 404, b"Nope", b"then")


@pytest.mark.parametrize(
    ("rule", "absent", "present"),
    [
        (ServerHeader.OVERWRITE, b"envoy", b"envoy"),
        (ServerHeader.APPEND_IF_ABSENT, b"envoy", b"app"),
        (ServerHeader.PASS_THROUGH, None, b"app"),
    ],
)
def test_the_server_header(rule: ServerHeader, absent: bytes | None, present: bytes) -> None:
    manager = replace(MANAGER, server_header=rule)
    assert passed_on(response(), manager).get(b"server") == absent
    assert passed_on(response(b"Server: app"), manager).get(b"server") == present


def test_what_becomes_of_the_connection_is_said() -> None:
    assert passed_on(response(), close=True).get(b"connection") == b"close"
    assert passed_on(response(), minor=0).get(b"connection") == b"keep-alive"
    assert passed_on(response()).get(b"connection") is None
    switched = passed_on(
        response(b"Connection: Upgrade", b"Upgrade: websocket", start=b"HTTP/1.1 101 Switching Protocols")
    )
    assert (switched.get(b"connection"), switched.upgrade) == (b"upgrade", b"websocket")


def test_a_body_without_a_length_becomes_chunked() -> None:
    assert passed_on(response(), wrap=True).chunked


def test_the_request_id_in_the_response() -> None:
    assert passed_on(response()).get(b"x-request-id") is None
    telling = replace(MANAGER, always_set_request_id_in_response=True)
    assert passed_on(response(), telling).get(b"x-request-id") == b"id"


def test_via_tells_both_sides_the_way_in_the_words_of_the_bootstrap() -> None:
    signing = replace(MANAGER, via=b"1.1 me")
    assert prepared(manager=signing).get(b"via") == b"1.1 me"
    assert prepared(b"Via: 1.0 a", b"Via: 1.1 b", manager=signing).get(b"via") == b"1.0 a, 1.1 b, 1.1 me"
    assert passed_on(response(b"Via: 1.1 c"), signing).get(b"via") == b"1.1 c, 1.1 me"
    assert prepared(b"Via: 1.0 a").get(b"via") == b"1.0 a"
    assert passed_on(response()).get(b"via") is None
    ours, _ = reply_to(LocalReply(404, Flag.NO_ROUTE, "route_not_found"), manager=signing)
    assert ours.get(b"via") == b"1.1 me"


# --- Answers of our own -----------------------------------------------------------------------------------------------


def reply_to(
    reply: LocalReply,
    *,
    manager: HttpManager = MANAGER,
    head_only: bool = False,
    close: bool = False,
    response_headers: HeaderMutation | None = None,
) -> tuple[Head, bytes]:
    data = forwarding.local_reply_bytes(
        reply, manager, request_id="id", reason="Connection refused", head_only=head_only, close=close,
        response_headers=response_headers,
    )  # fmt: skip
    parsed = parse_response(data)
    assert parsed is not None
    return parsed[0], data[parsed[1] :]


def test_an_answer_says_what_and_why() -> None:
    head, body = reply_to(LocalReply(503, Flag.UPSTREAM_CONNECTION_FAILURE, "details", b"no way"))
    assert (head.status, head.reason, head.content_length, body) == (503, b"Service Unavailable", 6, b"no way")
    assert head.get(b"content-type") == b"text/plain"
    assert head.get(b"server") == b"envoy"
    assert head.get(b"proxy-status") == (b'pymesh; error=connection_refused; details="UF details: Connection refused"')
    assert head.persistent


def test_the_answer_to_head_has_the_length_and_not_the_body() -> None:
    head, body = reply_to(LocalReply(404, Flag.NO_ROUTE, "route_not_found", b"nothing"), head_only=True)
    assert (head.content_length, body) == (7, b"")


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_announces_none(status: int) -> None:
    head, body = reply_to(LocalReply(status, Flag.NONE, "direct_response", b"unwanted"))
    assert (head.content_length, body) == (None, b"")


def test_an_answers_own_headers_and_the_routes() -> None:
    reply = LocalReply(302, Flag.NONE, "direct_response", b"", ((b"location", b"/there"), (b"content-type", b"x/y")))
    head, _ = reply_to(reply, close=True, response_headers=HeaderMutation(add=((b"x-added", b"1"),)))
    assert head.get(b"location") == b"/there"
    assert head.get(b"content-type") == b"x/y"
    assert head.get(b"x-added") == b"1"
    assert head.get(b"proxy-status") is None
    assert head.content_length == 0
    assert not head.persistent


def test_an_answer_may_tell_the_request_id() -> None:
    telling = replace(MANAGER, always_set_request_id_in_response=True, server_header=ServerHeader.PASS_THROUGH)
    head, _ = reply_to(LocalReply(404, Flag.NO_ROUTE, "route_not_found"), manager=telling)
    assert head.get(b"x-request-id") == b"id"
    assert head.get(b"server") is None


# RFC 8941 section 3: a list of one token with two parameters, a token and a string.
PROXY_STATUS = re.compile(rb'pymesh; error=[a-z_]+; details="(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\"|\\\\)*"')


@given(st.sampled_from(list(Flag)), st.text(max_size=30), st.text(string.printable + "äß\x00\u2028", max_size=60))
def test_proxy_status_is_a_structured_field_whatever_it_quotes(flag: Flag, details: str, reason: str) -> None:
    field = forwarding.proxy_status(LocalReply(503, flag, details), reason)
    assert PROXY_STATUS.fullmatch(field)
    kind = CAUSES[flag].error if flag in CAUSES else "proxy_internal_error"
    assert field.startswith(f"pymesh; error={kind};".encode())


def test_dates_are_as_http_has_them() -> None:
    assert forwarding.http_date(784111777) == b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    "name", [b"X_Forwarded_Client_Cert", b"x-forwarded_for", b"Transfer_Encoding", b"X_REQUEST_ID"]
)
def test_names_that_a_wsgi_server_takes_for_ours_do_not_reach_it(name: bytes) -> None:
    head = request(name + b": forged", b"app_own: kept")
    prepare = HttpManager("m", None, "r", forward_client_cert=ForwardClientCert.SANITIZE_SET)
    forwarding.prepare_request(head, prepare, Facts("inbound", "10.0.0.1:1", "10.0.0.2:2"))
    assert b"forged" not in head.fields()
    assert head.get(b"app_own") == b"kept"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b'pymesh; error=connection_refused; details="x"', False),
        (b'nginx, pymesh; error=connection_refused; details="x"', False),
        (b"nginx; error=connection_refused", True),
    ],
)
def test_an_app_does_not_speak_in_its_sidecars_name(value: bytes, kept: bool) -> None:
    head = response(b"Proxy-Status: " + value, start=b"HTTP/1.1 503 No")
    forwarding.disown(head)
    assert head.has(b"proxy-status") is kept


@pytest.mark.parametrize("left", [b"", b"http://elsewhere/x", b"x"])
def test_a_rewrite_that_leaves_no_path_ends_the_request(left: bytes) -> None:
    head = parse_request(b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n")
    assert head is not None
    with pytest.raises(ProxyError, match="500 LR path_rewrite_failed"):
        forwarding.apply_route(head[0], ROUTE, replace(FORWARD, rewrite=lambda _: left), MANAGER)


@pytest.mark.parametrize(
    ("told", "left"),
    [
        (b'pymesh; error=http_request_denied; details="rbac_access_denied_matched_policy[x]"',
         b"pymesh; error=http_request_denied"),
        (b'pymesh; error=connection_refused; details="UF"', b'pymesh; error=connection_refused; details="UF"'),
        (b"nginx", b"nginx"),
    ],
)  # fmt: skip
def test_which_rule_has_denied_a_request_does_not_leave_the_mesh(told: bytes, left: bytes) -> None:
    head = response(b"Proxy-Status: " + told, start=b"HTTP/1.1 403 No")
    forwarding.discreet(head)
    assert head.get(b"proxy-status") == left
