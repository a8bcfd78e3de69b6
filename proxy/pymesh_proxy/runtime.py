"""What every connection of this proxy shares: the snapshot in force, pools, timers, counters, the recorder."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

from pymesh.steps import Steps
from pymesh_proxy.config.model import (
    AccessLog,
    AccessLogFile,
    HttpManager,
    InlineCertificate,
    SdsName,
    Snapshot,
)
from pymesh_proxy.control.secrets import Certificate, SecretStore
from pymesh_proxy.reporting import Reporters
from pymesh_proxy.serving import Serving, Writer
from pymesh_proxy.telemetry.access_log import AccessLogs
from pymesh_proxy.telemetry.istio_metrics import IstioReporter
from pymesh_proxy.telemetry.loop_meter import LoopMeter
from pymesh_proxy.telemetry.metrics import HttpStats, Stats
from pymesh_proxy.telemetry.peers import Peers
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.telemetry.traffic import Traffic
from pymesh_proxy.timers import TimerWheel
from pymesh_proxy.transport.tls import TlsContexts
from pymesh_proxy.upstream.pool import Upstreams

# Records kept for `/requests`: about 1 KiB each, so half a megabyte.
RECENT_REQUESTS: Final = 512


class Following(Protocol):
    """A downstream connection, as far as it is told of what changes for all of them."""

    def follow(self) -> None:
        """Listeners have changed, or the proxy drains: see what that means for it, as soon as nothing is in flight."""


class Runtime:
    """The shared state of one proxy process. One event loop, no locks: everything here is touched from that loop only.

    Attributes:
        snapshot: configuration in force; a request reads it once and keeps what it read.
        draining: answers carry `connection: close`; since `drain_began` (monotonic).
        random: [0, 1), for weights and jitter.
        recent: the last requests, newest last.
        observers: called with each finished record: whatever reports further.
        connections: downstream connections that are open.
        generation: of the listeners in force: another one whenever one of them is another one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Callable[[], float], secrets: SecretStore) -> None:
        self.loop = loop
        self.random = random
        self.secrets = secrets
        self.tls = tls = TlsContexts(secrets)
        self.snapshot = Snapshot(version=0, listeners={}, routes={}, clusters={})
        self.stats = Stats()
        self.peers = Peers()
        self.istio = IstioReporter(self.peers)
        self.timers = TimerWheel(loop)
        self.traffic = Traffic(self.stats)
        self.loop_meter = LoopMeter(loop, self.traffic.moving)
        self.upstreams = Upstreams(loop, tls, self.stats, random, self.timers)
        self.recent: deque[RequestRecord] = deque(maxlen=RECENT_REQUESTS)
        self.access_logs = AccessLogs()
        self.reporters = Reporters(self, self.spawn)
        # By identity of the compiled AccessLog, which is held so that the identity stays its own.
        self._logs: dict[int, tuple[AccessLog, Writer]] = {}
        self.observers: list[Callable[[RequestRecord], None]] = []
        self.draining = False
        self.drain_began = 0.0
        self.connections: set[Following] = set()
        self.generation = 0
        self._behind = False  # connections of other generations may be open
        self._serving: WeakValueDictionary[tuple[int, HttpManager], Serving] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    def own_identity(self, certificate: SdsName | InlineCertificate) -> str:
        """The SPIFFE identity in our own certificate; empty where it is not known."""
        secret = self.secrets.get(certificate.name) if isinstance(certificate, SdsName) else None
        return secret.uri if isinstance(secret, Certificate) else ""

    def serving(self, manager: HttpManager, generation: int) -> Serving:
        """What the connections of `manager` share that came in by the listeners of this generation."""
        found = self._serving.get((generation, manager))
        if found is None:
            stats = self.stats.http.setdefault(manager.stat_prefix, HttpStats())
            found = Serving(stats, manager.filters, outdated=generation != self.generation)
            self._serving[generation, manager] = found
            if self.draining:
                found.end(self.drain_began)
        return found

    def writers(self, logs: tuple[AccessLog, ...]) -> tuple[Writer, ...]:
        """Who writes `logs`; until another snapshot comes into force."""
        writers = []
        for log in logs:
            found = self._logs.get(id(log))
            if found is None:
                found = self._logs[id(log)] = (log, self._writer(log))
            writers.append(found[1])
        return tuple(writers)

    def completed(self, record: RequestRecord, writers: tuple[Writer, ...]) -> None:
        """Log a finished record, keep it, and show it to the observers."""
        for writer in writers:
            writer.write(record)
        self.recent.append(record)
        for observe in self.observers:
            try:
                observe(record)
            except Exception as error:  # noqa: BLE001 - whoever watches must not break what is watched
                self.loop.call_exception_handler({"message": f"{observe!r} failed", "exception": error})

    def _writer(self, log: AccessLog) -> Writer:
        if isinstance(log, AccessLogFile):
            return self.access_logs.get(log.path, log.format)
        return self.reporters.get(log)

    def adopt(self, snapshot: Snapshot) -> None:
        """Put `snapshot` in force: one assignment. Access logs that it no longer names are closed.

        Connections that other listeners let in find that out with the next request, or by `following`.
        """
        changed = snapshot.listeners != self.snapshot.listeners
        self.snapshot = snapshot
        self.upstreams.follow(snapshot.clusters)
        self._logs.clear()
        if changed:
            self.generation += 1
            self._behind = True
        for serving in list(self._serving.values()):
            serving.outdated = serving.outdated or changed
            serving.writers = None
        logs = list(access_logs(snapshot))
        self.access_logs.retain((log.path, log.format) for log in logs if isinstance(log, AccessLogFile))
        self.reporters.retain(log for log in logs if not isinstance(log, AccessLogFile))

    def following(self) -> Steps[None]:
        """Let connections without a request follow the listeners in force, one a step.

        So what is not let in any more ends soon, and nobody keeps what was in force before.
        """
        if self._behind:
            self._behind = False
            for connection in tuple(self.connections):
                connection.follow()
                yield

    def drain(self) -> None:
        """Begin to shut down: answers say `close`, connections that nobody uses for a moment end."""
        if self.draining:
            return
        self.draining = True
        self.drain_began = monotonic()
        for serving in list(self._serving.values()):
            serving.end(self.drain_began)
        for connection in tuple(self.connections):
            connection.follow()

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
        await self.reporters.close()
        self.upstreams.close()
        self.timers.close()
        self.loop_meter.close()
        self.access_logs.close()


def access_logs(snapshot: Snapshot) -> Iterator[AccessLog]:
    """Every access log that a snapshot names."""
    for listener in snapshot.listeners.values():
        for chain in (*listener.chains, listener.default_chain):
            if chain is not None:
                yield from chain.handler.access_logs
