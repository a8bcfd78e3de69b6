"""How a call ends: gRPC's status codes, and what HTTP says translated into them."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

# Printable ASCII but `%` travels as it is in grpc-message; quote() itself never touches letters, digits and `_.-~`.
_PLAIN = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
# An error text is for people; a peer that sends more of it is cut short.
MAX_STATUS_MESSAGE_BYTES = 4096


class Code(enum.IntEnum):
    """gRPC status codes (statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Status:
    """The end of a call.

    Attributes:
        code, message: as in grpc-status and grpc-message.
        metadata: trailing metadata, without gRPC's own headers.
    """

    code: Code
    message: str = ""
    metadata: Metadata = ()

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" if self.message else self.code.name


class RpcError(Exception):
    """A call that did not end with OK."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(str(status))


class TooManyCallsError(RpcError):
    """A call that was not made, since as many are open on the connection as its peer allows.

    It says nothing of the peer, which may answer those in no time: whoever takes errors for a peer that is away must
    not take this one. The call neither waits nor goes elsewhere; how long it is worth waiting only the caller knows.
    """


# http-grpc-status-mapping.md: for an answer that carries no grpc-status.
_CODE_OF_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}

# PROTOCOL-HTTP2.md, "Errors": HTTP/2 error codes; what is not listed is INTERNAL.
_CODE_OF_RESET = {
    0x3: Code.INTERNAL,  # FLOW_CONTROL_ERROR
    0x7: Code.UNAVAILABLE,  # REFUSED_STREAM
    0x8: Code.CANCELLED,
    0xB: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


def status_of_http(status: int) -> Status:
    """The status of a call whose answer is not gRPC's."""
    return Status(
        _CODE_OF_HTTP.get(status, Code.UNKNOWN), f"the peer answered with HTTP status {status}, not with gRPC"
    )


def status_of_reset(error_code: int) -> Status:
    """The status of a call that the peer reset with an HTTP/2 error code."""
    return Status(
        _CODE_OF_RESET.get(error_code, Code.INTERNAL), f"the peer reset the stream (HTTP/2 error {error_code})"
    )


def encode_message(text: str) -> bytes:
    """`text` as the value of grpc-message: percent-encoded UTF-8, cut to MAX_STATUS_MESSAGE_BYTES before encoding.

    No field value may begin or end with a blank (RFC 9113 section 8.2.1): there, it is encoded, too.
    """
    raw = text.encode("utf-8", "replace")[:MAX_STATUS_MESSAGE_BYTES]
    encoded = quote_from_bytes(raw, safe=_PLAIN)
    if encoded.startswith(" "):
        encoded = f"%20{encoded[1:]}"
    if encoded.endswith(" "):
        encoded = f"{encoded[:-1]}%20"
    return encoded.encode("ascii")


def decode_message(value: bytes) -> str:
    """The text behind grpc-message. What is wrongly encoded is kept as it is: an error text must not raise errors."""
    return unquote_to_bytes(value[: 3 * MAX_STATUS_MESSAGE_BYTES]).decode("utf-8", "replace")
