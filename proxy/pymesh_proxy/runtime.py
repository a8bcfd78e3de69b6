"""What every connection of this proxy shares: the snapshot in force, pools, timers, counters, the recorder."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from pymesh_proxy.config.model import InlineCertificate, SdsName, Snapshot
from pymesh_proxy.control.secrets import Certificate, SecretStore
from pymesh_proxy.telemetry.metrics import Stats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.timers import TimerWheel
from pymesh_proxy.transport.tls import TlsContexts
from pymesh_proxy.upstream.pool import Upstreams

# Records kept for `/requests`: about 1 KiB each, so half a megabyte.
RECENT_REQUESTS: Final = 512


class Drainable(Protocol):
    """A downstream connection, as far as shutting down is concerned."""

    def drain(self) -> None:
        """End as soon as nothing is in flight."""


class Runtime:
    """The shared state of one proxy process. One event loop, no locks: everything here is touched from that loop only.

    Attributes:
        snapshot: configuration in force; a request reads it once and keeps what it read.
        draining: no new connections; answers carry `connection: close`.
        random: [0, 1), for weights and jitter.
        recent: the last requests, newest last.
        observers: called with each finished record: access logs, and whatever reports further.
        connections: downstream connections that are open.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Callable[[], float], secrets: SecretStore) -> None:
        self.loop = loop
        self.random = random
        self.secrets = secrets
        self.tls = tls = TlsContexts(secrets)
        self.snapshot = Snapshot(version=0, listeners={}, routes={}, clusters={})
        self.stats = Stats()
        self.timers = TimerWheel(loop)
        self.upstreams = Upstreams(loop, tls, self.stats, random, self.timers)
        self.recent: deque[RequestRecord] = deque(maxlen=RECENT_REQUESTS)
        self.observers: list[Callable[[RequestRecord], None]] = []
        self.draining = False
        self.connections: set[Drainable] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def own_identity(self, certificate: SdsName | InlineCertificate) -> str:
        """The SPIFFE identity in our own certificate; empty where it is not known."""
        secret = self.secrets.get(certificate.name) if isinstance(certificate, SdsName) else None
        return secret.uri if isinstance(secret, Certificate) else ""

    def completed(self, record: RequestRecord) -> None:
        """Keep the record of a finished request, and show it to the observers."""
        self.recent.append(record)
        for observe in self.observers:
            try:
                observe(record)
            except Exception as error:  # noqa: BLE001 - whoever watches must not break what is watched
                self.loop.call_exception_handler({"message": f"{observe!r} failed", "exception": error})

    def drain(self) -> None:
        """Begin to shut down: answers say `close`, idle connections end now."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.drain()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task that this runtime owns: it is cancelled at `close`, and its failure is never silent."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler({"message": "a task of the data path failed", "exception": error})

    async def close(self) -> None:
        """Cancel what runs, close idle upstream connections, stop the timers."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.upstreams.close()
        self.timers.close()
