"""What a proxy changes in the messages that it passes on, and the answers it gives itself. Pure but for the date.

Source: RFC 9110 7.6 (message forwarding), Envoy's HTTP header manipulation page, RFC 9209 (Proxy-Status).
"""

from collections.abc import Iterable, Iterator
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from itertools import product
from random import getrandbits, random
from time import time
from typing import Final

from pymesh_proxy import client_certificate
from pymesh_proxy.client_certificate import XFCC
from pymesh_proxy.codec import path as paths
from pymesh_proxy.codec.headers import Head, quotable
from pymesh_proxy.codec.shape import HOP_BY_HOP
from pymesh_proxy.config.model import EscapedSlashes, HttpManager, ServerHeader, Tracing
from pymesh_proxy.errors import CAUSES, Flag, ProxyError, failure
from pymesh_proxy.filters.base import LocalReply
from pymesh_proxy.routing import NO_CHANGES, DirectResponse, Forward, HeaderMutation, Redirect, Route, without_port
from pymesh_proxy.telemetry import tracing
from pymesh_proxy.telemetry.peers import PEER_HEADERS
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.trust import believe
from pymesh_proxy.upstream.endpoint import Endpoint

_HTTP: Final = b"x-forwarded-proto: http"
_HTTPS: Final = b"x-forwarded-proto: https"
# Envoy's words, for a redirect to the canonical path as well.
_PATH_REFUSED: Final = "path_normalization_failed"
# Fields that a server acts on because a proxy vouches for them, and framing.
_OURS: Final = (
    XFCC, b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id", b"x-envoy-original-path",
    b"content-length", b"transfer-encoding",
)  # fmt: skip


def _lookalikes(names: Iterable[bytes]) -> Iterator[bytes]:
    """`names` with one or more of their dashes as underscores."""
    for name in names:
        words = name.split(b"-")
        for marks in product((b"-", b"_"), repeat=len(words) - 1):
            if b"_" in marks:
                yield b"".join([part for pair in zip(words, (*marks, b""), strict=True) for part in pair])


# Headers that CGI and WSGI servers cannot tell from ours: `X_Forwarded_Client_Cert`. They go, as with nginx.
_LOOKALIKES: Final = frozenset(_lookalikes(_OURS))
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
# What is taken off every response: besides what is meant for one connection an Envoy of Istio's says who it is; here
# endpoints say that.
_NEVER_ANSWERED: Final = HOP_BY_HOP | PEER_HEADERS | {b"x-envoy-upstream-service-time"}
_NOT_EVEN_SERVER: Final = _NEVER_ANSWERED | {b"server"}
_OVERWRITE: Final = ServerHeader.OVERWRITE  # (an attribute of an enumeration costs 40 ns)
_APPEND: Final = ServerHeader.APPEND_IF_ABSENT
_KEEP_SLASHES: Final = EscapedSlashes.KEEP
_SLASH: Final = ord("/")
# A request's id is a UUID of version 4, variant 1 (RFC 9562 5.4). 80 of its bits are drawn for it, the other 42 once in
# a process: to draw and to write all of them anew costs 0.25 us more, and so they tell processes apart besides.
_MIDDLE: Final = b"-%04x-4%03x-%04x-" % (getrandbits(16), getrandbits(12), getrandbits(14) | 0x8000)
# Answers that end with their head (RFC 9110 6.4.1).
_WITHOUT_BODY: Final = frozenset({204, 304})


# --- Requests ------------------------------------------------------------------------------------------------------


def prepare_request(request: Head, manager: HttpManager, facts: Facts) -> str:
    """Give `request` what every request gets before filters and routes see it; its request id.

    Raises:
        ProxyError: HTTP/1.0 where the manager does not accept it (426).
    """
    if request.minor == 0:
        if not manager.accept_http_10:
            raise ProxyError(426, Flag.DOWNSTREAM_PROTOCOL_ERROR, "low_version")
        if not request.authority:
            request.authority = manager.default_host_for_http_10.encode()
            request.set(b"host", request.authority)
        request.remove(b"expect")  # means nothing in HTTP/1.0 (RFC 9110 10.1.1)
    shape = request.shape
    if shape.hop_by_hop:
        _end_hop(request)
    if shape.underscored:
        request.remove_all(_LOOKALIKES)
    if shape.envoy or manager.use_remote_address or manager.internal_networks:
        believe(request, manager, facts)
    if not request.has(b"x-forwarded-proto"):
        request.set_line(b"x-forwarded-proto", _HTTPS if facts.tls else _HTTP)
    if manager.via:
        _sign(request, manager.via)
    if facts.peer or XFCC in shape.where:
        client_certificate.tell(request, manager, facts)
    return _request_id(request, manager)


def _sign(head: Head, via: bytes) -> None:
    """Say in Via that the message came through us (RFC 9110 7.6.3)."""
    before = head.get(b"via")
    head.set(b"via", via if before is None else b"%b, %b" % (before, via))


def _end_hop(request: Head) -> None:
    """Take away what was meant for the connection to us, and say of the next one what is to be said."""
    te = request.get(b"te") if b"te" in request.shape.where else None
    request.remove_hop_by_hop()
    if request.upgrade:  # whether it goes on is for the route to say: `apply_route`
        request.set(b"connection", b"upgrade")
        request.set(b"upgrade", request.upgrade)
    if te is not None and any(word.strip(b" \t").lower() == b"trailers" for word in te.split(b",")):
        request.set(b"te", b"trailers")  # gRPC does not work without; trailers go through us as they are


def trace(request: Head, traced: Tracing, record: RequestRecord) -> None:
    """Give `request` its span, and note it; the id may change by that (see `telemetry.tracing`)."""
    record.request_id, record.span = tracing.begin(request, traced.sampling, record.request_id, random, getrandbits)


def canonicalize(request: Head, manager: HttpManager, facts: Facts) -> LocalReply | None:
    """Give path and host the one form that filters and routes are written for; an answer if that is the end of it."""
    if manager.strip_matching_host_port and request.method != b"CONNECT":
        _strip_port(request, facts)
    target = request.path
    if target[0] != _SLASH or request.method == b"CONNECT":
        return None
    action = manager.escaped_slashes
    if action is _KEEP_SLASHES and not manager.normalize_path and not manager.merge_slashes:
        return None
    unescaped = target if action is _KEEP_SLASHES else paths.unescape_slashes(target)
    redirect = False
    if unescaped is not target and action is not EscapedSlashes.UNESCAPE_FORWARD:
        grpc = (request.get(b"content-type") or b"").startswith(b"application/grpc")
        redirect = action is EscapedSlashes.UNESCAPE_REDIRECT and not grpc  # no gRPC client follows one
        if not redirect:
            return LocalReply(400, Flag.NONE, _PATH_REFUSED)
    try:
        path = paths.normalize(unescaped) if manager.normalize_path else unescaped
    except ValueError:
        return LocalReply(400, Flag.NONE, _PATH_REFUSED)
    request.path = paths.merge_slashes(path) if manager.merge_slashes else path
    if redirect:
        return LocalReply(307, Flag.NONE, _PATH_REFUSED, headers=((b"location", request.path),))
    return None


def _strip_port(request: Head, facts: Facts) -> None:
    """The port that the connection was made to says nothing; another one does, and stays."""
    host = without_port(request.authority)
    port = request.authority[len(host) + 1 :]
    if port and facts.original_destination is not None and int(port) == facts.original_destination[1]:
        request.authority = host
        request.set(b"host", host)


def _request_id(request: Head, manager: HttpManager) -> str:
    given = request.get(b"x-request-id")
    if given and (manager.preserve_external_request_id or not manager.use_remote_address):
        return given.decode("latin-1")
    if not manager.generate_request_id:
        return (given or b"").decode("latin-1")
    line = b"x-request-id: %08x%b%012x" % (getrandbits(32), _MIDDLE, getrandbits(48))
    request.set_line(b"x-request-id", line)
    return line[14:].decode()


def mutate(head: Head, changes: HeaderMutation) -> None:
    """Apply a route's header changes: remove, set, set if absent, add."""
    for name in changes.remove:
        head.remove(name)
    for name, value in changes.set:
        head.set(name, value)
    for name, value in changes.set_if_absent:
        if not head.has(name):
            head.set(name, value)
    for name, value in changes.add:
        head.add(name, value)


def apply_route(request: Head, route: Route, action: Forward, manager: HttpManager) -> None:
    """Header changes and rewrites of the route that was chosen, and its word on upgrades."""
    if route.request_headers is not NO_CHANGES:
        mutate(request, route.request_headers)
    if request.upgrade:
        asked = request.upgrade.decode("latin-1")
        if not action.upgrades.get(asked, asked in manager.upgrades):
            request.upgrade = b""
            request.remove(b"connection")
            request.remove(b"upgrade")
    if action.rewrite is not None:
        path, mark, query = request.path.partition(b"?")
        rewritten = action.rewrite(path)
        if not rewritten.startswith(b"/"):  # an empty or absolute target would be another request
            raise failure(Flag.LOCAL_RESET, "path_rewrite_failed", "the route's rewrite leaves no path")
        if rewritten != path:
            request.set(b"x-envoy-original-path", request.path)
            request.path = rewritten + mark + query
    if action.host_rewrite is not None:
        request.set(b"x-envoy-original-host", request.authority)
        request.authority = action.host_rewrite
        request.set(b"host", action.host_rewrite)
    if action.expected_timeout:
        request.set_line(b"x-envoy-expected-rq-timeout-ms", action.expected_timeout)


def request_bytes(
    request: Head, action: Forward, endpoint: Endpoint, introduction: bytes = b"", body: bytes = b""
) -> bytes:
    """The request's head as it goes to `endpoint`, always ours in version (RFC 9110 2.5), and `body`, or its beginning.

    `introduction`: more header lines, for a sidecar at the other end (telemetry/peers.py).
    """
    if action.auto_host_rewrite and endpoint.hostname:
        request.set(b"x-envoy-original-host", request.authority)
        request.set(b"host", endpoint.hostname.encode())
    return request.with_start(b"%b %b HTTP/1.1" % (request.method, request.path), introduction, body)


# --- Responses -----------------------------------------------------------------------------------------------------


def prepare_response(head: Head, route: Route, manager: HttpManager, facts: Facts) -> None:
    """Give a response that is passed on what it gets for its way, and for its route."""
    if facts.direction == "inbound":
        disown(head)
    elif manager.use_remote_address:
        discreet(head)
    if route.response_headers is not NO_CHANGES:
        mutate(head, route.response_headers)


def disown(head: Head) -> None:
    """Take away an app's Proxy-Status that speaks in our name: retries believe what a sidecar says there."""
    if head.has(b"proxy-status") and b"pymesh" in (head.get(b"proxy-status") or b""):
        head.remove(b"proxy-status")


def discreet(head: Head) -> None:
    """Take from an answer that leaves the mesh by which access rule it was given: that is for workloads to know."""
    told = head.get(b"proxy-status")
    if told is not None and b"rbac_access_denied" in told:
        head.set(b"proxy-status", b"pymesh; error=http_request_denied")


def status_line(head: Head) -> bytes:
    """The status line of a response that is passed on; always ours in version (RFC 9112 2.3)."""
    return b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)


def response_bytes(  # noqa: PLR0917 - keywords would cost every response
    head: Head,
    manager: HttpManager,
    request_id: str,
    service_time: float,
    minor: int,
    close: bool,
    wrap: bool,
    body: bytes = b"",
) -> bytes:
    """The response's head as it goes to the client, and `body`, or its beginning.

    Args:
        head: as received, filters' and the route's changes included.
        manager: whose rules apply.
        request_id: repeated in the response where the manager says so.
        service_time: seconds from sending the request to this head.
        minor: of the request: HTTP/1.0 clients are told explicitly that the connection stays.
        close: the client's connection ends with this response.
        wrap: the body had no length and becomes chunked.
        body: framed as it is to go.
    """
    rule = manager.server_header
    head.remove_hop_by_hop(_NOT_EVEN_SERVER if rule is _OVERWRITE else _NEVER_ANSWERED)
    if head.status == 101:  # its Connection and Upgrade go through
        head.set(b"connection", b"upgrade")
        head.set(b"upgrade", head.upgrade)
    elif close:
        head.set(b"connection", b"close")
    elif minor == 0:
        head.set(b"connection", b"keep-alive")
    if wrap:
        head.set(b"transfer-encoding", b"chunked")
    if rule is _OVERWRITE or (rule is _APPEND and not head.has(b"server")):
        head.set_line(b"server", _server_line(manager.server_name))
    if manager.via:
        _sign(head, manager.via)
    if not head.has(b"date"):
        head.set(b"date", http_date(int(time())))
    if manager.always_set_request_id_in_response:
        head.set(b"x-request-id", request_id.encode("latin-1"))
    head.set_line(b"x-envoy-upstream-service-time", b"x-envoy-upstream-service-time: %d" % (service_time * 1000))
    return head.with_start(b"HTTP/1.1 %d %b" % (head.status, head.reason), b"", body)


def direct_answer(request: Head, route: Route, action: Redirect | DirectResponse) -> LocalReply:
    """The answer of a route that leads to no cluster."""
    mutate(request, route.request_headers)
    if isinstance(action, DirectResponse):
        return LocalReply(action.status, Flag.NONE, "direct_response", action.body)
    scheme = request.get(b"x-forwarded-proto") or b"http"
    location = action.location(scheme, request.authority, request.path)
    return LocalReply(action.status, Flag.NONE, "direct_response", headers=((b"location", location),))


def answer_to(error: ProxyError, attempts: int = 0, *, retried: bool = False) -> LocalReply:
    """The answer that a failure becomes, in Envoy's words. `attempts`: how many were made, if that is to be told;
    `retried`: the failure is that of the last of several.
    """
    wrong_request = error.flag is Flag.DOWNSTREAM_PROTOCOL_ERROR
    body = _REASONS[error.status] if wrong_request else CAUSES[error.flag].body.encode()
    if retried:
        body = body.replace(b". reset reason: ", b". retried and the latest reset reason: ")
    if error.reason and error.flag is Flag.UPSTREAM_CONNECTION_FAILURE:
        body += b", transport failure reason: " + error.reason.encode("ascii", "replace")
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if attempts:
        headers = ((b"x-envoy-attempt-count", b"%d" % attempts),)
    if error.flag is Flag.UPSTREAM_OVERFLOW:  # turned away by us: not the upstream's doing
        headers += ((b"x-envoy-overloaded", b"true"),)
    return LocalReply(error.status, error.flag, error.details, body, headers)


def local_reply_bytes(
    reply: LocalReply,
    manager: HttpManager,
    *,
    request_id: str,
    reason: str,
    head_only: bool,
    close: bool,
    response_headers: HeaderMutation | None,
) -> bytes:
    """An answer of our own, head and body. Why it was given is said in Proxy-Status."""
    head = Head()
    for name, value in reply.headers:
        head.add(name, value)
    if reply.body and not head.has(b"content-type"):
        head.set(b"content-type", b"text/plain")
    without_body = reply.status in _WITHOUT_BODY
    if not without_body:
        head.set(b"content-length", b"%d" % len(reply.body))
    if response_headers is not None:
        mutate(head, response_headers)
    if reply.flag is not Flag.NONE:
        head.set(b"proxy-status", proxy_status(reply, reason))
    if manager.server_header is not ServerHeader.PASS_THROUGH:
        head.set(b"server", manager.server_name.encode())
    if manager.via:
        _sign(head, manager.via)
    head.set(b"date", http_date(int(time())))
    if manager.always_set_request_id_in_response and request_id:
        head.set(b"x-request-id", request_id.encode("latin-1"))
    if close:
        head.set(b"connection", b"close")
    body = b"" if head_only or without_body else reply.body
    reason_phrase = _REASONS.get(reply.status, b"")
    return head.with_start(b"HTTP/1.1 %d %b" % (reply.status, reason_phrase), b"", body)


def proxy_status(reply: LocalReply, reason: str) -> bytes:
    """Proxy-Status (RFC 9209): who answered, the kind of error, and the details."""
    cause = CAUSES.get(reply.flag)
    kind = "proxy_internal_error" if cause is None else cause.error
    details = f"{reply.flag.value} {reply.details}" + (f": {reason}" if reason else "")
    return f'pymesh; error={kind}; details="{quotable(details)}"'.encode()


@lru_cache(maxsize=64)
def _server_line(name: str) -> bytes:
    return b"server: " + name.encode()


@lru_cache(maxsize=4)
def http_date(seconds: int) -> bytes:
    """IMF-fixdate (RFC 9110 5.6.7)."""
    return formatdate(seconds, usegmt=True).encode()
