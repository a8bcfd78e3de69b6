"""Which headers may tell an app what a token says."""

from typing import Final

# Of the message and its connection, and those by which others are believed: no issuer is to write these.
RESERVED: Final = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
    }
)
