"""An app that answers every request with what it was asked: pod, path and headers, as JSON."""

import json
import os
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Echo(BaseHTTPRequestHandler):
    """Says what it heard."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def do_GET(self) -> None:
        heard = {
            "pod": os.environ.get("HOSTNAME", socket.gethostname()),
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }
        body = json.dumps(heard).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Takes bursts of connections."""

    request_queue_size = 256

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; without a descriptor left for that, rest a moment instead of asking again and again."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.05)
            raise


Server(("0.0.0.0", 8080), Echo).serve_forever()
