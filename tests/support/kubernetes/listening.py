"""uvicorn with TLS in a thread, and what uvicorn itself does not tell: the client's certificate of a connection."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that answers under way get at the end; watches are cut anyway.
GRACE = 1
_STARTING = 10.0
# Connections whose certificates are remembered.
PEERS = 4096

App = Callable[[Any, Any, Any], Awaitable[None]]


class Listening:
    """One server on one port of loopback, from `start` to `stop`."""

    def __init__(self, app: App, tls: ssl.SSLContext, host: str, port: int) -> None:
        # The client certificate (DER) of each connection, by the client's address and port.
        self.peers: dict[tuple[str, int], bytes] = {}
        # Transports that were upgraded or serve HTTP: what `cut` ends.
        self._transports: set[asyncio.Transport] = set()
        config = uvicorn.Config(
            app, host=host, port=port, http=self._protocol(), ws="websockets-sansio", lifespan="off", loop="asyncio",
            log_config=None, access_log=False, timeout_graceful_shutdown=GRACE, timeout_keep_alive=60,
        )  # fmt: skip
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="api-server", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()

    def _protocol(self) -> type[H11Protocol]:
        listening = self

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
                super().connection_made(transport)
                listening._welcome(transport)

        return Protocol

    def _welcome(self, transport: asyncio.Transport) -> None:
        self._transports = {each for each in self._transports if not each.is_closing()} | {transport}
        encrypted = transport.get_extra_info("ssl_object")
        certificate = encrypted.getpeercert(binary_form=True) if encrypted else None
        peer = transport.get_extra_info("peername")[:2]
        self.peers.pop(peer, None)
        if certificate:
            self.peers[peer] = certificate
        while len(self.peers) > PEERS:
            del self.peers[next(iter(self.peers))]

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self._server.servers[0].sockets[0].getsockname()[1]
        return port

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where everything runs."""
        return self._loop

    def start(self) -> None:
        """Return when connections are accepted.

        Raises:
            RuntimeError: the port is taken.
        """
        self._thread.start()
        if not self._up.wait(_STARTING) or not self._server.started:
            raise RuntimeError(f"the API server does not listen on {self._server.config.host}")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._up.set()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _serve(self) -> None:
        server = self._server
        server.lifespan = server.config.lifespan_class(server.config)
        try:
            await server.startup()
        except SystemExit:
            return
        self._up.set()
        await server.main_loop()
        self._abort()
        await server.shutdown()

    def cut(self) -> None:
        """End every connection without a word, as a load balancer does that is restarted."""
        self.call(self._abort)

    def _abort(self) -> None:
        for transport in self._transports:
            if not transport.is_closing():
                transport.abort()
        self._transports.clear()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call something in the server's event loop, and give what it gives."""

        async def called() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(_STARTING)

    def stop(self) -> None:
        """End connections, and return when the port is free."""
        self._server.should_exit = True
        self._thread.join(_STARTING)
