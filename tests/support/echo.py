"""An upstream that tells what reached it, and that fails on demand.

Answers are JSON: {"server", "method", "target", "headers": [[name, value] ...], "body", "seen"}; `seen` counts the
requests with the same `x-test` header. The path says what to do:

    /status/<code>             answer with this status
    /slow/<seconds>            answer that much later
    /fail/<times>/<code>       answer with this status the first times that this `x-test` is seen
    /break/<times>             close the connection without an answer the first times
    anything else              200
"""

import json
import socket
import socketserver
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

import h11

_WITHOUT_BODY = (204, 304)


class EchoServer:
    """Listens on a free port of `host` and serves from threads, between `with` and its end."""

    def __init__(self, name: str, host: str = "127.0.0.1") -> None:
        self.name = name
        self.seen: Counter[str] = Counter()
        self.connections = 0
        self.checks: set[tuple[str, ...]] = set()  # method, target and header lines of health checks
        self._stopping = threading.Event()
        echo = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                echo.connections += 1
                _Conversation(echo, self.request).run()

        self._server = socketserver.ThreadingTCPServer((host, 0), Handler, bind_and_activate=False)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._server.allow_reuse_address = True
        self._server.request_queue_size = 128
        self._server.server_bind()
        self._server.server_activate()
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _BrokenError(Exception):
    """The connection is to end without an answer."""


class _Conversation:
    """One connection: requests in order until either side has enough."""

    def __init__(self, echo: EchoServer, sock: socket.socket) -> None:
        self._echo = echo
        self._sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # head and body are two small writes
        self._connection = h11.Connection(h11.SERVER)

    def run(self) -> None:
        try:
            while self._one_request():
                self._connection.start_next_cycle()
        except (OSError, h11.RemoteProtocolError, _BrokenError):
            pass  # the proxy hung up, or is meant to see us hang up

    def _one_request(self) -> bool:
        """Read a request and answer it; whether another may follow."""
        request = self._next()
        if not isinstance(request, h11.Request):
            return False
        body = b""
        while isinstance(event := self._next(), h11.Data):
            body += bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            return False
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers]
        test = dict(headers).get("x-test", "")
        self._echo.seen[test] += 1
        target = request.target.decode("latin-1")
        if dict(headers).get("user-agent") == "Envoy/HC":
            self._echo.checks.add((request.method.decode(), target, *(f"{name}: {value}" for name, value in headers)))
        status = self._status(target.partition("?")[0].split("/")[1:], self._echo.seen[test])
        content = {
            "server": self._echo.name,
            "method": request.method.decode(),
            "target": target,
            "headers": headers,
            "body": body.decode("latin-1"),
            "seen": self._echo.seen[test],
        }
        self._answer(status, json.dumps(content).encode(), head=request.method == b"HEAD")
        return self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE

    def _status(self, steps: list[str], seen: int) -> int:
        match steps:
            case ["status", code]:
                return int(code)
            case ["slow", seconds]:
                time.sleep(float(seconds))
            case ["fail", times, code] if seen <= int(times):
                return int(code)
            case ["break", times] if seen <= int(times):
                raise _BrokenError
        return 200

    def _answer(self, status: int, content: bytes, *, head: bool) -> None:
        headers = [("content-type", "application/json"), ("content-length", str(len(content))), ("x-upstream", "yes")]
        self._send(h11.Response(status_code=status, headers=headers if status not in _WITHOUT_BODY else headers[2:]))
        if not head and status not in _WITHOUT_BODY:
            self._send(h11.Data(data=content))
        self._send(h11.EndOfMessage())

    def _next(self) -> object:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            if self._connection.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._connection.receive_data(self._sock.recv(65_536))
        return event

    def _send(self, event: h11.Event) -> None:
        data = self._connection.send(event)
        if data:
            self._sock.sendall(data)
