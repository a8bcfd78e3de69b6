"""Load on an ext_authz server itself: as many questions as it can answer, over HTTP/2 with mutual TLS.

    python -m benchmarks.macro.checks --port PORT --certificates FOLDER --connections N --streams M --seconds S

It has to take far less CPU for a question than whoever answers it, so it is no gRPC client: every question has the same
bytes but for its stream's number, and of an answer it looks at frames, and at the message. Prints one JSON document.
"""

import argparse
import json
import selectors
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from hpack import Encoder

from benchmarks.macro.proxies import ROOT
from benchmarks.macro.running import on_cores
from pymesh.errors import MeshError
from pymesh.grpc.framing import encode_frame
from pymesh.policy_api import CHECK_PATH, RULES_EXTENSION

RULE: Final = "RateLimit default/asked"
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_HEAD: Final = 9
_GRPC_HEAD: Final = 5
# Of a connection: large enough that credit is seldom given, and then for all that was taken.
_WINDOW: Final = 2**24
# Seconds for the answers that are open at the end, and for a process to end by itself.
_LAST: Final = 5.0
_GRACE: Final = 30.0
_CHUNK: Final = 256 * 1024
_SERVER_NAME: Final = "outbound_.9091_._.policy.pymesh-system.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Asked:
    """What to put on a server: `streams` questions at once on each of `connections`. `certificates` is a folder."""

    port: int
    certificates: Path
    connections: int
    streams: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Answered:
    """How many answers let the request in, in how many seconds; anything else is an error, by kind."""

    answers: int
    seconds: float
    errors: Mapping[str, int] = field(default_factory=dict)


def ask(asked: Asked, cores: Collection[int]) -> Answered:
    """Do so from a process of its own on these processors.

    Raises:
        MeshError: nobody listens, or there was no answer.
    """
    command = [sys.executable, "-m", "benchmarks.macro.checks", "--port", str(asked.port)]
    command += ["--certificates", str(asked.certificates), "--connections", str(asked.connections)]
    command += ["--streams", str(asked.streams), "--seconds", str(asked.seconds)]
    wait = asked.seconds + _LAST + _GRACE
    try:
        with on_cores(cores):
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=wait)
        said = json.loads(ended.stdout)
    except subprocess.TimeoutExpired as error:
        raise MeshError(f"the load generator did not end within {wait:g} s") from error
    except ValueError as error:
        raise MeshError(f"the load generator failed: {ended.stderr.strip()[-500:]}") from error
    return Answered(said["answers"], said["seconds"], said["errors"])


def question() -> bytes:
    """A CheckRequest as a sidecar asks it: a browser's request that came from another pod."""
    message = CheckRequest()
    about = message.attributes
    about.source.address.socket_address.address, about.source.address.socket_address.port_value = "10.244.0.10", 40000
    about.source.principal = "spiffe://cluster.local/ns/default/sa/client"
    about.destination.address.socket_address.address = "10.244.0.11"
    about.destination.address.socket_address.port_value = 9080
    about.destination.principal = "spiffe://cluster.local/ns/default/sa/server"
    about.request.time.GetCurrentTime()
    http = about.request.http
    http.id, http.method, http.path = "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "GET", "/reviews/1?full=true"
    http.host, http.scheme, http.protocol = "reviews:9080", "http", "HTTP/1.1"
    for name in ("user-agent", "accept", "accept-encoding", "accept-language", "cookie", "x-request-id"):
        http.headers[name] = f"some value of {name}, thirty to forty"
    about.context_extensions[RULES_EXTENSION] = RULE
    return message.SerializeToString()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Sidecar:
    """The client's end of one connection, sans-IO, with so many questions open at once."""

    def __init__(self, message: bytes, streams: int, authority: str) -> None:
        self.answers = 0
        self.errors: Counter[str] = Counter()
        self.open = 0
        self._data = encode_frame(message)
        self._streams = streams
        encoder = Encoder()
        encoder.header_table_size = 0  # which every server allows, whatever it says in its settings
        fields = [
            (":method", "POST"), (":scheme", "https"), (":path", CHECK_PATH), (":authority", authority),
            ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "5S"),
        ]  # fmt: skip
        # The first time with word that there is nothing to be kept.
        self._first, self._later = encoder.encode(fields), encoder.encode(fields)
        self._next = 1
        self._buffer = b""
        self._taken = 0
        self._good: bytes | None = None
        self._answered: set[int] = set()

    def begin(self) -> bytes:
        """What is sent first: preface, settings, credit for the connection, and the first questions."""
        windows = frame(_SETTINGS, 0, 0, b"\x00\x04" + _WINDOW.to_bytes(4, "big"))
        credit = frame(_WINDOW_UPDATE, 0, 0, _WINDOW.to_bytes(4, "big"))
        return _PREFACE + windows + credit + b"".join(self._question() for _ in range(self._streams))

    def receive(self, data: bytes, *, more: bool) -> bytes:
        """What is to be sent when these bytes have come: with `more`, a question for each that was answered."""
        buffer, place, out = self._buffer + data, 0, []
        while len(buffer) - place >= _HEAD:
            size = int.from_bytes(buffer[place : place + 3], "big")
            if len(buffer) - place < _HEAD + size:
                break
            kind, flags = buffer[place + 3], buffer[place + 4]
            stream = int.from_bytes(buffer[place + 5 : place + 9], "big")
            payload = buffer[place + _HEAD : place + _HEAD + size]
            place += _HEAD + size
            if kind == _DATA:
                self._taken += size
                if payload:
                    self._look_at(stream, payload)
            elif kind == _HEADERS and flags & _END_STREAM:
                self._end(stream, "status")
                out += [self._question()] if more else []
            elif kind == _RST_STREAM and payload[3]:  # NO_ERROR only says that no more is to be sent
                self._end(stream, "reset")
            elif kind == _SETTINGS and not flags & _ACK:
                out.append(frame(_SETTINGS, _ACK, 0))
            elif kind == _PING and not flags & _ACK:
                out.append(frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY:
                self.errors["goaway"] += 1
        self._buffer = buffer[place:]
        if self._taken > _WINDOW // 2:
            out.append(frame(_WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
            self._taken = 0
        return b"".join(out)

    def _question(self) -> bytes:
        block = self._first if self._next == 1 else self._later
        stream, self._next = self._next, self._next + 2
        self.open += 1
        return frame(_HEADERS, _END_HEADERS, stream, block) + frame(_DATA, _END_STREAM, stream, self._data)

    def _look_at(self, stream: int, payload: bytes) -> None:
        """An answer that is like the last good one is good; any other is read."""
        if payload != self._good:
            if CheckResponse.FromString(payload[_GRPC_HEAD:]).HasField("ok_response"):
                self._good = payload
            else:
                self.errors["refused"] += 1
                return
        self._answered.add(stream)

    def _end(self, stream: int, kind: str) -> None:
        self.open -= 1
        if stream in self._answered:
            self._answered.remove(stream)
            self.answers += 1
        else:
            self.errors[kind] += 1


def run(asked: Asked) -> Answered:
    """Do so here.

    Raises:
        OSError: nobody listens there, or no TLS of ours.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a SPIFFE identity is in the certificate, and no name
    context.load_verify_locations(asked.certificates / "root.pem")
    context.load_cert_chain(asked.certificates / "server.pem", asked.certificates / "server.key")
    context.set_alpn_protocols(["h2"])
    message = question()
    with selectors.DefaultSelector() as ready:
        sidecars: dict[ssl.SSLSocket, Sidecar] = {}
        for _ in range(asked.connections):
            plain = socket.create_connection(("127.0.0.1", asked.port), _LAST)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = context.wrap_socket(plain, server_hostname=_SERVER_NAME)
            sidecars[secured] = Sidecar(message, asked.streams, _SERVER_NAME)
            ready.register(secured, selectors.EVENT_READ)
        began = time.monotonic()
        until = began + asked.seconds
        for connection, sidecar in sidecars.items():
            connection.sendall(sidecar.begin())
        _converse(ready, sidecars, until)
        ended = time.monotonic()
        errors: Counter[str] = Counter()
        for connection, sidecar in sidecars.items():
            errors += sidecar.errors
            errors["unanswered"] += sidecar.open
            connection.close()
    return Answered(sum(sidecar.answers for sidecar in sidecars.values()), ended - began, dict(+errors))


def _converse(ready: selectors.BaseSelector, sidecars: Mapping[ssl.SSLSocket, Sidecar], until: float) -> None:
    """Ask until then, and wait for the last answers."""
    while (now := time.monotonic()) < until + _LAST and any(sidecar.open > 0 for sidecar in sidecars.values()):
        for key, _ in ready.select(timeout=0.1):
            connection = key.fileobj
            assert isinstance(connection, ssl.SSLSocket)
            sidecar = sidecars[connection]
            data = connection.recv(_CHUNK)
            while connection.pending():
                data += connection.recv(_CHUNK)
            if not data:
                sidecar.errors["closed"] += 1
                ready.unregister(connection)
                sidecar.open = 0
            elif out := sidecar.receive(data, more=now < until):
                connection.sendall(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--certificates", type=Path, required=True)
    for name in ("port", "connections", "streams", "seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    found = run(Asked(given.port, given.certificates, given.connections, given.streams, given.seconds))
    print(json.dumps({"answers": found.answers, "seconds": found.seconds, "errors": dict(found.errors)}))


if __name__ == "__main__":
    main()
