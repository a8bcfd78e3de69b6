"""What the four apps of the sample share: an HTTP server, a client, and the headers that a trace lives on.

Standard library only. In a mesh an app has one duty: what a request brought of the headers in `FORWARDED` goes out with
every request that is made on its behalf. Everything else (retries, mTLS, routing) is the sidecar's.
"""

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

FORWARDED = (
    "x-request-id", "traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid",
    "x-b3-sampled", "x-b3-flags", "x-ot-span-context", "end-user",
)  # fmt: skip

# Seconds; a sidecar in front answers sooner, without one nobody should wait for longer.
UPSTREAM_TIMEOUT = 10.0
# Seconds that an idle connection is kept: longer than the sidecars in front keep theirs.
IDLE_TIMEOUT = 2 * 3600.0
# Bytes of an answer that are read; the apps of this sample send a few hundred.
MAX_ANSWER = 1 << 20


class Request(NamedTuple):
    """A GET: its path without the query, and its headers by lower-case name."""

    path: str
    headers: Mapping[str, str]


class Response(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    content_type: str = "application/json"


Handler = Callable[[Request], Response]


def as_json(value: object, status: int = 200) -> Response:
    """`value` as a JSON answer."""
    return Response(status, json.dumps(value).encode())


def get(host: str, path: str, request: Request) -> Response:
    """GET `path` from `host` ("reviews" or "reviews:9080") on behalf of `request`; 503 if there is no answer."""
    name, _, port = host.partition(":")
    connection = http.client.HTTPConnection(name, int(port or 9080), timeout=UPSTREAM_TIMEOUT)
    try:
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return Response(answer.status, answer.read(MAX_ANSWER), answer.headers.get("content-type", ""))
    except (OSError, http.client.HTTPException) as error:
        return as_json({"error": f"{host} did not answer: {error}"}, 503)
    finally:
        connection.close()


def who_calls(request: Request) -> Response:
    """`/whoami`: who the sidecar says is calling. Where there is no sidecar, the header proves nothing."""
    certificate = request.headers.get("x-forwarded-client-cert", "")
    caller = re.search(r"(?:^|;)URI=([^;,]+)", certificate)
    return as_json(
        {
            "app": os.environ.get("SERVICE_NAME", ""),
            "version": os.environ.get("SERVICE_VERSION", "v1"),
            "caller": caller[1] if caller else "",
            "x-forwarded-client-cert": certificate,
        }
    )


class _Server(ThreadingHTTPServer):
    """Knows its connections, so that it can end without cutting an answer short."""

    request_queue_size = 128
    daemon_threads = False
    routes: Mapping[str, Handler]

    def __init__(self, address: tuple[str, int], routes: Mapping[str, Handler]) -> None:
        self.routes = {"/health": lambda _: as_json({"status": "ok"}), "/whoami": who_calls, **routes}
        self.connections: set[socket.socket] = set()
        self.ending = False
        super().__init__(address, _Connection)

    def end(self) -> None:
        """Accept nothing more, let every connection finish the request it is at, and close it."""
        self.ending = True
        self.shutdown()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RD)
            except OSError:
                continue  # gone already


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT
    wbufsize = -1  # head and body leave in one segment
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)
        if self.server.ending:  # accepted while the others were being closed
            self.connection.shutdown(socket.SHUT_RD)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        """Answer a GET by the longest route that its path starts with."""
        path = self.path.partition("?")[0]
        request = Request(path, {name.lower(): value for name, value in self.headers.items()})
        matching = [prefix for prefix in self.server.routes if path == prefix or path.startswith(f"{prefix}/")]
        if "content-length" in request.headers or "transfer-encoding" in request.headers:
            self.close_connection = True  # nothing here reads a body
        if matching:
            status, body, content_type = self.server.routes[max(matching, key=len)](request)
        else:
            status, body, content_type = as_json({"error": f"there is no {path}"}, 404)
        if self.server.ending:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server calls it so
        """One line per request, except for the health checks."""
        headers = getattr(self, "headers", {})  # there are none if the request line could not be read
        if getattr(self, "path", "") != "/health":
            print(f"{format % args} id={headers.get('x-request-id', '-')}", flush=True)


def serve(routes: Mapping[str, Handler]) -> None:
    """Serve `routes` (path prefix → handler), `/health` and `/whoami` on the port argv[1], until SIGTERM or Ctrl-C."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9080
    server = _Server((os.environ.get("LISTEN_ADDRESS", "0.0.0.0"), port), routes)

    def end(*_: object) -> None:
        # shutdown() waits for serve_forever(), which this signal has just interrupted.
        threading.Thread(target=server.end).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print(f"listening on port {server.server_port}", flush=True)
    with server:
        server.serve_forever(poll_interval=0.1)
