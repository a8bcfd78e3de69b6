"""Our own answers to callers that speak gRPC, and to those that do not."""

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.base import LocalReply
from pymesh_proxy.filters.grpc_reply import for_caller

RETRY = (b"retry-after", b"1")


def head(content_type: bytes | None) -> Head:
    found = Head()
    if content_type is not None:
        found.set(b"content-type", content_type)
    return found


@pytest.mark.parametrize("kind", [None, b"application/json", b"application/grpc-web", b"application/grpcx"])
def test_others_are_answered_as_ever(kind: bytes | None) -> None:
    reply = LocalReply(403, Flag.NONE, "x", b"no")
    assert for_caller(reply, head(kind)) is reply


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (LocalReply(429, Flag.RATE_LIMITED, "x", grpc_status=8), b"8"),
        (LocalReply(429, Flag.RATE_LIMITED, "x"), b"14"),
        (LocalReply(403, Flag.NONE, "x"), b"7"),
        (LocalReply(503, Flag.NONE, "x"), b"14"),
        (LocalReply(418, Flag.NONE, "x"), b"2"),
    ],
)
@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto"])
def test_the_status_is_grpcs(reply: LocalReply, status: bytes, kind: bytes) -> None:
    found = for_caller(reply, head(kind))
    assert (found.status, found.body, found.flag, found.details) == (200, b"", reply.flag, reply.details)
    assert found.headers == ((b"content-type", b"application/grpc"), (b"grpc-status", status))


def test_a_status_that_somebody_else_has_said_stays() -> None:
    reply = LocalReply(429, Flag.RATE_LIMITED, "x", headers=((b"grpc-status", b"8"),))
    found = for_caller(reply, head(b"application/grpc")).headers
    assert [value for name, value in found if name == b"grpc-status"] == [b"8"]


def test_what_a_person_would_read_is_the_message_and_other_fields_stay() -> None:
    reply = LocalReply(429, Flag.RATE_LIMITED, "x", "100 % é\n".encode(), (RETRY, (b"Content-Type", b"text/plain")), 8)
    assert for_caller(reply, head(b"application/grpc")).headers == (
        RETRY,
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"8"),
        (b"grpc-message", b"100 %25 %C3%A9"),
    )
