"""A web site somewhere outside: a line of Shakespeare for every GET, and who it was that asked.

Standard library only. `seen_from` is the address that the request came from: with an egress gateway it is always that
one's, whichever pod of the mesh asked.
"""

import itertools
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LINES = itertools.cycle(
    [
        "Every why hath a wherefore.",
        "There is something in the wind.",
        "Small cheer and great welcome makes a merry feast.",
        "Headstrong liberty is lashed with woe.",
    ]
)


class Visit(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a GET."""
        told = {"quote": next(LINES), "host": self.headers.get("host", ""), "seen_from": self.client_address[0]}
        body = f"{json.dumps(told)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name that the base class gives it
        """One line a request, on standard output."""
        print(self.client_address[0], format % args, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Visit).serve_forever()
