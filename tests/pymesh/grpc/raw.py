"""Peers of our two ends that speak bare HTTP/2, by h2: whatever a test wants, gRPC or not."""

import h2.config
import h2.connection
import h2.events

from pymesh.grpc.client import ClientConnection
from pymesh.grpc.events import (
    ClientEvent,
    ServerEvent,
)
from pymesh.grpc.server import ServerConnection

HEAD = ((":status", "200"), ("content-type", "application/grpc+proto"))
GRPC = ("content-type", "application/grpc")


class Raw:
    """A bare HTTP/2 server for our client."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.client = ClientConnection("pilot")
        self.h2.initiate_connection()
        self.stream = self.client.open("/a/b")
        self.h2.receive_data(self.client.bytes_to_send())

    def answer(self, *headers: tuple[str, str], end: bool = True) -> list[ClientEvent]:
        self.h2.send_headers(self.stream, list(headers), end_stream=end)
        return self.flush()

    def flush(self) -> list[ClientEvent]:
        return self.client.receive(self.h2.data_to_send())


class RawClient:
    """A bare HTTP/2 client for our server."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection()
        self.server = ServerConnection()
        self.h2.initiate_connection()
        self.h2.receive_data(self.server.bytes_to_send())

    def request(self, *headers: tuple[str, str], method: str = "POST") -> list[ServerEvent]:
        head = [(":method", method), (":scheme", "http"), (":path", "/a/b"), (":authority", "x"), *headers]
        self.h2.send_headers(1, head)
        return self.server.receive(self.h2.data_to_send())

    def answer(self) -> dict[bytes, bytes]:
        for event in self.h2.receive_data(self.server.bytes_to_send()):
            if isinstance(event, h2.events.ResponseReceived):
                return {bytes(name): bytes(value) for name, value in event.headers}
        raise AssertionError("no answer")


def goaway(last: int, code: int = 0, reason: bytes = b"") -> bytes:
    payload = last.to_bytes(4, "big") + code.to_bytes(4, "big") + reason
    return len(payload).to_bytes(3, "big") + b"\x07\0\0\0\0\0" + payload
