"""Active health checks: one task for each endpoint of a checked cluster, over connections of their own.

These connections count towards no limit of the cluster, and carry nobody's requests; they go the way that requests go,
through the cluster's TLS.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, TypeAlias, cast

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import Cluster
from pymesh_proxy.transport.tls import TlsError
from pymesh_proxy.upstream.connection import UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.health import (
    HealthCheck,
    HealthStats,
    HttpCheck,
    Progress,
    Result,
    TcpCheck,
    found,
    judge,
    pause,
)

log = logging.getLogger("pymesh.health")

# Checks under way at once in this process: a thousand endpoints that all hang must not take all file descriptors.
MAX_CHECKS: Final = 128
# Bytes of an answer to a TCP check that are looked at; what is waited for comes at its beginning or not at all.
MAX_ANSWER: Final = 64 * 1024

# Connects a protocol to an endpoint as the cluster has it, to this port instead of the endpoint's own if it is not 0.
# Raises OSError, TlsError or TimeoutError.
Dial: TypeAlias = Callable[[Cluster, Endpoint, Callable[[], asyncio.Protocol], int], Awaitable[asyncio.Transport]]
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class HealthChecker:
    """Checks the endpoints of one cluster, for as long as they are its own."""

    def __init__(
        self,
        dial: Dial,
        spawn: Spawn,
        random: Callable[[], float],
        slots: asyncio.Semaphore,
        *,
        healthy: Callable[[Endpoint], None],
        used: Callable[[], bool],
    ) -> None:
        """`healthy` is told of every good check, `used` says whether the cluster has had a connection yet."""
        self._dial = dial
        self._spawn = spawn
        self._random = random
        self._slots = slots
        self._healthy = healthy
        self._used = used
        self._tasks: dict[Endpoint, asyncio.Task[None]] = {}
        self._cluster: Cluster | None = None
        self.stats = HealthStats()

    def follow(self, cluster: Cluster, endpoints: Iterable[Endpoint]) -> None:
        """Check these endpoints from now on, and no others. New settings hold from the next check on."""
        self._cluster = cluster
        wanted = {endpoint for endpoint in endpoints if endpoint.checked}
        for endpoint in self._tasks.keys() - wanted:
            self._tasks.pop(endpoint).cancel()
        for endpoint in wanted - self._tasks.keys():
            self._tasks[endpoint] = self._spawn(self._watch(endpoint))

    def end(self) -> None:
        """Check nobody any more."""
        self._cluster = None
        while self._tasks:
            self._tasks.popitem()[1].cancel()

    async def _watch(self, endpoint: Endpoint) -> None:
        """Check `endpoint` until cancelled."""
        progress = Progress()
        line = _Line()
        try:
            check = self._settings()
            await asyncio.sleep(check.initial_jitter * self._random())
            while True:
                async with self._slots:
                    result = await self._check(endpoint, line)
                check = self._settings()
                pending = self._take(result, endpoint, progress, check)
                await asyncio.sleep(
                    pause(check, good=progress.good, pending=pending, traffic=self._used(), random=self._random)
                )
        finally:
            line.close()

    def _settings(self) -> HealthCheck:
        assert self._cluster is not None
        assert self._cluster.health_check is not None
        return self._cluster.health_check

    def _take(self, result: Result, endpoint: Endpoint, progress: Progress, check: HealthCheck) -> bool:
        stats = self.stats
        stats.attempt += 1
        stats.network_failure += result in {Result.NETWORK, Result.TIMEOUT}
        before = endpoint.health_flags
        pending = progress.take(result, endpoint, check)
        if progress.good:
            stats.success += 1
            self._healthy(endpoint)
        else:
            stats.failure += 1
        if endpoint.health_flags != before:
            assert self._cluster is not None
            log.info(
                "%s of cluster %s: %s (%s)", endpoint.address, self._cluster.name, endpoint.health_flags, result.value
            )
        return pending

    async def _check(self, endpoint: Endpoint, line: "_Line") -> Result:
        """One check, within its timeout."""
        cluster, check = self._cluster, self._settings()
        assert cluster is not None
        try:
            async with asyncio.timeout(check.timeout):
                if isinstance(check.what, HttpCheck):
                    return await self._check_http(cluster, endpoint, check, check.what, line)
                return await self._check_tcp(cluster, endpoint, check.what)
        except TimeoutError:
            line.close()
            return Result.TIMEOUT
        except (OSError, TlsError):
            line.close()
            return Result.NETWORK

    async def _check_http(
        self, cluster: Cluster, endpoint: Endpoint, check: HealthCheck, what: HttpCheck, line: "_Line"
    ) -> Result:
        connection = line.connection
        if connection is None or not connection.reusable:
            line.close()
            connection = UpstreamConnection(endpoint, None, lambda _: None)
            await self._dial(cluster, endpoint, partial(_as_it_is, connection), endpoint.check_port)
            line.connection = connection
        answer = _Answer()
        host = endpoint.check_host or what.host or cluster.name
        connection.begin(answer, what.method.encode(), _request(what, host))
        status, degraded = await answer.complete
        if check.reuse and connection.reusable:
            connection.detach()
        else:
            line.close()
        return judge(what, status, degraded=degraded)

    async def _check_tcp(self, cluster: Cluster, endpoint: Endpoint, what: TcpCheck) -> Result:
        probe = _TcpProbe(what)
        transport = await self._dial(cluster, endpoint, lambda: probe, endpoint.check_port)
        try:
            await probe.complete
        finally:
            transport.abort()
        return Result.GOOD


class _Line:
    """The connection that the HTTP checks of one endpoint share."""

    def __init__(self) -> None:
        self.connection: UpstreamConnection | None = None

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


def _as_it_is(connection: UpstreamConnection) -> UpstreamConnection:
    return connection


def _request(what: HttpCheck, host: str) -> bytes:
    # What tells checks apart in the logs of who is checked; the same as Envoy's.
    return f"{what.method} {what.path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: Envoy/HC\r\n\r\n".encode()


class _Answer:
    """Who waits for the response to a check; see connection.ResponseSink. Its body is read and of no interest."""

    def __init__(self) -> None:
        self.complete: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._degraded = False

    def response_head(self, head: Head, framing: int | None, body: bytes) -> bool:
        self._status, self._degraded = head.status, head.has(b"x-envoy-degraded")
        return True

    def response_end(self) -> None:
        if not self.complete.done():
            self.complete.set_result((self._status, self._degraded))

    def upstream_failed(self, error: Exception) -> None:
        if not self.complete.done():
            failed = error if isinstance(error, OSError) else ConnectionError(str(error))
            self.complete.set_exception(failed)

    def informational(self, head: Head) -> None:
        """Of no interest."""

    def response_body(self, data: bytes) -> None:
        """Of no interest."""

    def upstream_pause(self) -> None:
        """The request is already written."""

    def upstream_resume(self) -> None:
        """The request is already written."""


class _TcpProbe(asyncio.Protocol):
    """Sends what is to be sent, and waits for what has to come."""

    def __init__(self, what: TcpCheck) -> None:
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._what = what
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._what.send:
            cast("asyncio.Transport", transport).write(self._what.send)
        if not self._what.receive:
            self._done()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if found(self._what.receive, self._received):
            self._done()
        elif len(self._received) > MAX_ANSWER:
            self._failed(ConnectionError(f"no answer within {MAX_ANSWER} bytes"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._failed(exc if isinstance(exc, OSError) else ConnectionResetError("closed by the endpoint"))

    def _done(self) -> None:
        if not self.complete.done():
            self.complete.set_result(None)

    def _failed(self, error: OSError) -> None:
        if not self.complete.done():
            self.complete.set_exception(error)
            self.complete.exception()  # seen: nobody may be waiting any more
