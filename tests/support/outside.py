"""A network beyond a local mesh: a namespace with hosts of its own, linked to the mesh's as a router would be.

    with Outside(network.mesh_namespace("e2e")) as outside, Site(outside, outside.host(10), 80) as site:
        ...

What `pymesh up` makes has no such link. The hosts know the way back to the pods, so that they see which pod calls.
"""

import json
import os
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from pymesh_controlplane.local.network import POD_NETWORK
from tests.support.netns import COMMAND_TIMEOUT, Namespace

LINK = "outside0"
ROUTER = "203.0.113.1"


class Outside:
    """203.0.113.0/24, with hosts at the addresses that `host` gives."""

    def __init__(self, mesh_namespace: str) -> None:
        self._mesh = mesh_namespace
        self.namespace = Namespace(f"pmoutside-{os.getpid()}")

    def __enter__(self) -> Self:
        _run("netns", "add", self.namespace.name)
        try:
            link = f"link add {LINK} netns {self._mesh} type veth peer name eth0 netns {self.namespace.name}"
            _run(*link.split())
            for line in (f"address add {ROUTER}/24 dev {LINK}", f"link set {LINK} up"):
                _run("-n", self._mesh, *line.split())
            for line in ("link set lo up", "link set eth0 up", "address add 203.0.113.2/24 dev eth0"):
                _run("-n", self.namespace.name, *line.split())
            _run("-n", self.namespace.name, *f"route add {POD_NETWORK} via {ROUTER}".split())
        except BaseException:
            self.namespace.delete()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.namespace.delete()

    def host(self, number: int) -> str:
        """The address of a host, from now on."""
        address = f"203.0.113.{number}"
        _run("-n", self.namespace.name, *f"address add {address}/24 dev eth0".split())
        return address


class Site:
    """A web server on one of the outside's addresses, HTTP or TLS. It answers every GET with what it sees of it.

    Attributes:
        callers: addresses of all connections so far.
    """

    def __init__(self, outside: Outside, address: str, port: int, context: ssl.SSLContext | None = None) -> None:
        self.callers: list[str] = []
        site = self

        class Visit(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                site.callers.append(self.client_address[0])
                self.name = ""
                if context is not None:
                    self.request = context.wrap_socket(self.request, server_side=True)
                    self.name = getattr(self.request, "asked_for", "")
                super().setup()

            def finish(self) -> None:
                super().finish()
                self.request.close()  # the server closes only what it has accepted, which TLS has taken over

            def do_GET(self) -> None:
                seen = {"seen_from": self.client_address[0], "host": self.headers["host"], "server_name": self.name}
                body = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        if context is not None:
            context.sni_callback = _remember_name
        self._server = _Server((address, port), Visit, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = outside.namespace.listen((address, port))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that hangs up, or speaks no TLS, is no news."""


def _remember_name(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
    tls.asked_for = name  # type: ignore[union-attr]  # the handler reads it from the socket


def _run(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
