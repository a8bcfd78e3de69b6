"""An answer of our own to a caller that speaks gRPC: 200 with grpc-status and grpc-message, and no body.

Sources: gRPC over HTTP2, "Trailers-Only"; Envoy does the same with its local replies.
"""

from dataclasses import replace
from typing import Final

from pymesh.grpc.status import encode_message, status_of_http
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.filters.base import LocalReply

_GRPC: Final = b"application/grpc"


def for_caller(reply: LocalReply, request: Head) -> LocalReply:
    """`reply` in the form that whoever sent `request` understands."""
    kind = request.get(b"content-type")
    if kind is None or not (kind == _GRPC or kind.startswith(_GRPC + b"+")):
        return reply
    headers = [(name, value) for name, value in reply.headers if name.lower() != b"content-type"]
    headers.append((b"content-type", _GRPC))
    if not any(name.lower() == b"grpc-status" for name, _ in headers):  # an authorization service may have said it
        code = status_of_http(reply.status).code if reply.grpc_status is None else reply.grpc_status
        headers.append((b"grpc-status", b"%d" % code))
    if reply.body:
        headers.append((b"grpc-message", encode_message(reply.body.decode("utf-8", "replace").rstrip("\n"))))
    return replace(reply, status=200, body=b"", headers=tuple(headers))
