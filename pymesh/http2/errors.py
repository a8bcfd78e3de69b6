"""How HTTP/2 says what is wrong: the error codes, and the two extents of an error (RFC 9113 sections 5.4 and 7)."""

import enum


class ErrorCode(enum.IntEnum):
    """RFC 9113 section 7. A peer may send others; they have no special meaning."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionBrokenError(Exception):
    """The peer does not speak HTTP/2, breaks its rules, or is not to be borne. Write what is left to send (a GOAWAY
    with `code` and the reason), then close.

    It is the only exception that bytes from a peer can cause.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class StreamBrokenError(Exception):
    """One stream is over, by RST_STREAM with `code`; the connection goes on. Never leaves the package."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        self.code = code
        super().__init__(reason)
