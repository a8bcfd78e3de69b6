"""Authorization/Check by HTTP, as Envoy's ext_authz asks with `http_service`: a request about a request.

Its method, host and headers are those of the request in question; its path is that one's behind PREFIX, which Envoy's
`path_prefix` writes; and RULES names the rules, which `authorization_request.headers_to_add` writes:

    http_service:
      server_uri: {uri: "http://policy", cluster: policy, timeout: 0.05s}
      path_prefix: /check
      authorization_request: {headers_to_add: [{key: x-pymesh-rules, value: "RateLimit default/hello"}]}

200 lets in; the answer to anything else is for the caller. Who calls is the last `URI` of x-forwarded-client-cert, and
where from the last address of x-forwarded-for, as the asking proxy has written them: it must be told to pass them on
(`allowed_headers`), and is believed, since it may ask about its own workload's rules only.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pymesh import policy_api
from pymesh.identity import Identity
from pymesh_controlplane.pilot.server import StreamError

PREFIX: Final = "/check"
RULES: Final = "x-pymesh-rules"

# Who is at the other end of the connection with this inner address. Raises StreamError.
Identify = Callable[[str], Awaitable[Identity]]
# The CheckResponse to a CheckRequest of this caller. Raises StreamError.
Check = Callable[[bytes, Identity], Awaitable[bytes]]

_URI: Final = re.compile(r'(?:^|[;,])URI=(?:"([^"]*)"|([^;,"]*))', re.IGNORECASE)
# What Envoy takes for an error, not for a decision: status_on_error and failure_mode_allow are for these.
_NO_DECISION: Final = 503


def application(identify: Identify, check: Check, refused: Callable[[StreamError], None]) -> Starlette:
    """The pages below PREFIX; `refused` is called with each error that is answered instead of a decision."""

    async def page(request: Request) -> Response:
        try:
            identity = await identify(_inner(request))
            return response_to(CheckResponse.FromString(await check(question(request), identity)))
        except StreamError as error:
            refused(error)
            return PlainTextResponse(f"{error}\n", _NO_DECISION)

    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
    return Starlette(routes=[Route(f"{PREFIX}{{path:path}}", page, methods=methods)])


def question(request: Request) -> bytes:
    """The CheckRequest about the request that `request` is about.

    Raises:
        StreamError: it does not say which rules, or says so twice.
    """
    rules = request.headers.getlist(RULES)
    if len(rules) != 1:
        sentence = f"the rules are to be named by one header {RULES}, and there are {len(rules)}"
        raise StreamError(grpc.StatusCode.INVALID_ARGUMENT, sentence, "garbage")
    message = CheckRequest()
    attributes = message.attributes
    attributes.context_extensions[policy_api.RULES_EXTENSION] = rules[0]
    seen = {name: ",".join(request.headers.getlist(name)) for name in request.headers if name != RULES}
    found = _URI.findall(seen.get("x-forwarded-client-cert", ""))
    attributes.source.principal = next((quoted or plain for quoted, plain in reversed(found)), "")
    attributes.source.address.socket_address.address = seen.get("x-forwarded-for", "").rpartition(",")[2].strip()
    http = attributes.request.http
    http.method, http.host, http.id = request.method, seen.get("host", ""), seen.get("x-request-id", "")
    raw, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    http.path = (raw.removeprefix(PREFIX) or "/") + (f"?{query}" if query else "")
    http.headers.update(seen)
    return message.SerializeToString()


def response_to(answer: CheckResponse) -> Response:
    """The decision as an answer of HTTP."""
    if not answer.status.code:
        return Response(status_code=200)
    denied = answer.denied_response
    headers = {option.header.key: option.header.value for option in denied.headers}
    return Response(denied.body, denied.status.code or 403, headers)


def _inner(request: Request) -> str:
    """The connection that it came by, in the words of gRPC."""
    return "" if request.client is None else f"ipv4:{request.client.host}:{request.client.port}"
