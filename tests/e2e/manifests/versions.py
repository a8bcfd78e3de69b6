"""An app that says its version, and that can be told to do worse: `/become?status=500&delay=0.3`."""

import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

behaviour = {"status": 200.0, "delay": 0.0}


class Version(BaseHTTPRequestHandler):
    """Answers with the version of the pod, and with what it was told to be."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes

    def do_GET(self) -> None:
        path = urlsplit(self.path)
        status = 200
        if path.path == "/become":
            behaviour.update({name: float(values[-1]) for name, values in parse_qs(path.query).items()})
        elif path.path != "/healthy":
            time.sleep(behaviour["delay"])
            status = int(behaviour["status"])
        body = sys.argv[1].encode()
        self.send_response(status)
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


Server(("0.0.0.0", 8080), Version).serve_forever()
