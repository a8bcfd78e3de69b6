"""What the pods of the telemetry test run: a shop over HTTP, a front that asks it, a database over opaque bytes.

/chain?path=/x asks http://shop/x with the request's own x-request-id and `version` header; /broken answers 500.
"""

import http.client
import http.server
import json
import socketserver
import sys
import threading
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        status, answer = 200, {"version": sys.argv[1]}
        if parts.path == "/chain":
            status, answer = self.ask(urllib.parse.parse_qs(parts.query).get("path", ["/"])[0])
        elif parts.path == "/broken":
            status = 500
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def ask(self, path: str) -> tuple[int, dict[str, str]]:
        headers = {name: self.headers[name] for name in ("x-request-id", "version") if name in self.headers}
        connection = http.client.HTTPConnection("shop", timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except ValueError:
            return 502, {"version": "none"}
        finally:
            connection.close()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Database(socketserver.StreamRequestHandler):
    """Is told a thousand bytes, and answers them twice."""

    def handle(self) -> None:
        self.wfile.write(self.rfile.read(1000) * 2)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


socketserver.ThreadingTCPServer.allow_reuse_address = True
threading.Thread(target=socketserver.ThreadingTCPServer(("", 9000), Database).serve_forever, daemon=True).start()
Server(("", 8080), Handler).serve_forever()
