"""A gRPC channel: one HTTP/2 connection to one address, made when it is needed and made anew when it is lost."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How to know the server: a certificate for `server_name` below a root in `roots_file`, read at each connect."""

    roots_file: Path
    server_name: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a channel leads: host and port, or `unix_path`. `tls` None is plaintext."""

    host: str = ""
    port: int = 0
    unix_path: str = ""
    tls: ServerTls | None = None


class Stream:
    """One call with messages both ways."""

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the peer does not take what was sent before."""
        raise NotImplementedError

    async def receive(self) -> bytes | None:
        """The next message, None at the end with status OK; raises RpcError for any other end."""
        raise NotImplementedError


class Channel:
    """A channel to `target`. `metadata` is asked for each call, so that a rotated token is read afresh."""

    def __init__(self, target: Target, *, metadata: Callable[[], Metadata] = tuple) -> None:
        raise NotImplementedError

    async def unary(self, method: str, request: bytes, *, timeout: float) -> bytes:
        """One request, one response. `method` is "/package.Service/Method", `timeout` seconds; raises RpcError."""
        raise NotImplementedError

    def stream(self, method: str) -> AbstractAsyncContextManager[Stream]:
        """Open a stream; leaving the context cancels it if it has not ended."""
        raise NotImplementedError

    async def close(self) -> None:
        """End every call and the connection."""
        raise NotImplementedError


def bearer_token(path: Path) -> Callable[[], Metadata]:
    """A provider of `authorization: Bearer …` that reads the token file for each call."""
    raise NotImplementedError
