"""Where a gRPC channel leads, how the server there is known, and by what we are known to it."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymesh.grpc.status import Metadata
from pymesh_proxy.control.secrets import read_bounded


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How to know the server: a certificate for `server_name` below a root in `roots_file`, read at each connect.

    `more` answers roots that count as well, PEM: what was pushed is newer than the file, and the file is what the pod
    was given, so a server of either is the right one.
    """

    roots_file: Path
    server_name: str
    more: Callable[[], bytes] = bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where a channel leads: `host` and `port`, or `unix_path`; a cluster's name as `host` where its endpoints decide.

    `tls` None is plaintext.
    """

    host: str = ""
    port: int = 0
    unix_path: str = ""
    tls: ServerTls | None = None

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def client_context(tls: ServerTls) -> ssl.SSLContext:
    """Trust in what is in the roots file now; raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    known = read_bounded(tls.roots_file) + b"\n" + tls.more()
    try:
        context.load_verify_locations(cadata=known.decode("ascii", "ignore"))
    except (ValueError, ssl.SSLError) as error:
        raise OSError(f"{tls.roots_file} holds no certificates: {error}") from error
    return context


def bearer_token(path: Path) -> Callable[[], Metadata]:
    """A provider of `authorization: Bearer …` that reads the token file for each call: projected tokens rotate."""

    def metadata() -> Metadata:
        token = read_bounded(path).decode("ascii", "replace").strip()
        if not token:
            raise OSError(f"{path} is empty")
        return [("authorization", f"Bearer {token}")]

    return metadata
