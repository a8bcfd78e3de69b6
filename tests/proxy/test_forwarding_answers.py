"""What is changed in answers on their way back, and the answers of our own."""

import re
import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy import forwarding
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_response
from pymesh_proxy.config.model import HttpManager, ServerHeader
from pymesh_proxy.errors import CAUSES, Flag
from pymesh_proxy.filters.base import LocalReply
from pymesh_proxy.routing import HeaderMutation
from tests.support.heads import read_response

MANAGER = HttpManager("test", routes=None, rds="r")

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
    head = passed_on(read_response(b"Connection: close, X-Hop", b"X-Hop: 1", b"Keep-Alive: 5", b"X: y", b"Server: app"))
    assert {name.lower() for name, _ in head.items()} == {b"x", b"server", b"date", b"x-envoy-upstream-service-time"}
    assert head.get(b"server") == b"envoy"
    assert head.get(b"x-envoy-upstream-service-time") == b"12"
    assert head.get(b"date") is not None
    assert head.persistent


def test_an_http_1_0_response_is_ours_in_version() -> None:
    head = passed_on(read_response(b"Date: then", start=b"HTTP/1.0 404 Nope"))
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
    assert passed_on(read_response(), manager).get(b"server") == absent
    assert passed_on(read_response(b"Server: app"), manager).get(b"server") == present


def test_what_becomes_of_the_connection_is_said() -> None:
    assert passed_on(read_response(), close=True).get(b"connection") == b"close"
    assert passed_on(read_response(), minor=0).get(b"connection") == b"keep-alive"
    assert passed_on(read_response()).get(b"connection") is None
    switched = passed_on(
        read_response(b"Connection: Upgrade", b"Upgrade: websocket", start=b"HTTP/1.1 101 Switching Protocols")
    )
    assert (switched.get(b"connection"), switched.upgrade) == (b"upgrade", b"websocket")


def test_a_body_without_a_length_becomes_chunked() -> None:
    assert passed_on(read_response(), wrap=True).chunked


def test_the_request_id_in_the_response() -> None:
    assert passed_on(read_response()).get(b"x-request-id") is None
    telling = replace(MANAGER, always_set_request_id_in_response=True)
    assert passed_on(read_response(), telling).get(b"x-request-id") == b"id"


def test_via_tells_the_client_the_way_back() -> None:
    signing = replace(MANAGER, via=b"1.1 me")
    assert passed_on(read_response(b"Via: 1.1 c"), signing).get(b"via") == b"1.1 c, 1.1 me"
    assert passed_on(read_response()).get(b"via") is None
    ours, _ = reply_to(LocalReply(404, Flag.NO_ROUTE, "route_not_found"), manager=signing)
    assert ours.get(b"via") == b"1.1 me"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b'pymesh; error=connection_refused; details="x"', False),
        (b'nginx, pymesh; error=connection_refused; details="x"', False),
        (b"nginx; error=connection_refused", True),
    ],
)
def test_an_app_does_not_speak_in_its_sidecars_name(value: bytes, kept: bool) -> None:
    head = read_response(b"Proxy-Status: " + value, start=b"HTTP/1.1 503 No")
    forwarding.disown(head)
    assert head.has(b"proxy-status") is kept


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
    head = read_response(b"Proxy-Status: " + told, start=b"HTTP/1.1 403 No")
    forwarding.discreet(head)
    assert head.get(b"proxy-status") == left


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
