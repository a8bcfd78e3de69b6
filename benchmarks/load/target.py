"""What is asked, and of whom: a URL, and the bytes of the request."""

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pymesh.errors import MeshError

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: `host` and `port` are dialled, over TLS or not, `authority` and `path` asked for."""

    host: str
    port: int
    tls: bool
    authority: str
    path: str

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


def parse_target(url: str) -> Target:
    """`http://host:port/path?query`, or `https`.

    Raises:
        MeshError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise MeshError(f"{url!r} is no target: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise MeshError(f"{url!r} is no target: write http://host:port/path or https://host:port/path")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise MeshError(f"{url!r} is no target: percent-encode what is not ASCII")
    if parts.username or parts.password:
        raise MeshError(f"{url!r} is no target: send credentials by --header 'Authorization: …'")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(
        host=parts.hostname,
        port=port or _DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme == "https",
        authority=parts.netloc,
        path=path,
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What every request has; `chunk_bytes` above 0 sends the body chunked, in chunks of so many bytes.

    Attributes:
        headers: `Host` is made from the target unless it is here; Content-Length and Transfer-Encoding never are.
    """

    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body_bytes: int = 0
    chunk_bytes: int = 0

    def encode(self, target: Target, *, close: bool = False) -> bytes:
        """The request as it goes out; with `close` it is the last on its connection.

        Raises:
            MeshError: the method or a header cannot be sent as it is.
        """
        if not _TOKEN.fullmatch(self.method):
            raise MeshError(f"{self.method!r} is no method")
        names = {name.lower() for name, _ in self.headers}
        for name, value in self.headers:
            if not _TOKEN.fullmatch(name) or not _FIELD.fullmatch(value):
                raise MeshError(f"{name!r}: {value!r} is no header")
        if framing := names & {"content-length", "transfer-encoding"}:
            raise MeshError(f"{', '.join(sorted(framing))} follows from the body: give its size instead")
        lines = [f"{self.method} {target.path} HTTP/1.1"]
        lines += [] if "host" in names else [f"Host: {target.authority}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines += ["Connection: close"] if close else []
        if self.chunk_bytes:
            lines.append("Transfer-Encoding: chunked")
        elif self.body_bytes or self.method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {self.body_bytes}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self._body()

    def _body(self) -> bytes:
        body = b"x" * self.body_bytes
        if not self.chunk_bytes:
            return body
        parts = [body[at : at + self.chunk_bytes] for at in range(0, len(body), self.chunk_bytes)]
        return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom TLS believes, and who we are to it; all paths are PEM files.

    Attributes:
        roots: empty for the system's.
        verify: False takes any certificate, for servers that sign their own.
        chain: a client certificate, with the key beside it in `key`; both or neither.
        alpn: offered protocols, best first.
        name: that the server's certificate must have; empty for the target's host.
    """

    roots: str = ""
    verify: bool = True
    chain: str = ""
    key: str = ""
    alpn: tuple[str, ...] = ()
    name: str = ""

    def context(self) -> ssl.SSLContext:
        """A new context.

        Raises:
            MeshError: a file cannot be read or used.
        """
        try:
            context = ssl.create_default_context(cafile=self.roots or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.chain:
                context.load_cert_chain(self.chain, self.key or None)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(Path(name)) for name in (self.roots, self.chain, self.key) if name)
            raise MeshError(f"TLS cannot use {files}: {error}") from error
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        return context


def parse_headers(lines: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`Name: value`, as on the command line.

    Raises:
        MeshError: a line has no colon.
    """
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise MeshError(f"{line!r} is no header: write 'Name: value'")
        headers.append((name.strip(), value.strip()))
    return tuple(headers)
