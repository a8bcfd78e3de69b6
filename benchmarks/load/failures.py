"""How a connection fails, in one word for counting and one line for reading."""

import ssl
from typing import Final

_KINDS: Final = (
    (ConnectionRefusedError, "refused"),
    (ConnectionResetError, "reset"),
    (BrokenPipeError, "reset"),
    (TimeoutError, "timeout"),
    (ssl.SSLError, "tls"),
)


def kind_of(error: BaseException) -> str:
    """`refused`, `reset`, `timeout`, `tls`, or `connection` for whatever else the kernel may say."""
    return next((kind for family, kind in _KINDS if isinstance(error, family)), "connection")


def describe(error: BaseException) -> str:
    """Its words, never empty."""
    return str(error) or type(error).__name__
