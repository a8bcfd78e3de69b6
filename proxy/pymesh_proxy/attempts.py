"""The way of one request to an endpoint that answers it: one attempt after the other, each within the cluster's limits.

begin                 endpoint, limits, connection: one of the pool's at once, or a call to `upstream_ready` later
  └ upstream_ready    send the head and what there is of the body; the response goes to the exchange
answered              the exchange asks whether this is the answer, or calls for another attempt
failed                another attempt if that can do no harm and the route allows it; else the request fails
done, abandon         the attempt is over: the connection goes back to the pool, or is closed
"""

import asyncio
from time import monotonic
from typing import Protocol

from pymesh_proxy import forwarding
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import MessageError
from pymesh_proxy.config.model import CircuitLimits, Cluster
from pymesh_proxy.deadlines import Deadlines
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.request_body import RequestBody
from pymesh_proxy.routing import Forward, RetryPolicy
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.upstream.cluster import ClusterState
from pymesh_proxy.upstream.connection import ResponseSink, UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.retry import (
    IDEMPOTENT_METHODS,
    Decision,
    Failure,
    Outcome,
    backoff,
    decide,
    outcome_of_response,
)


class Outgoing(ResponseSink, Protocol):
    """What attempts need of the exchange that they are made for; see there."""

    request: Head
    record: RequestRecord
    body: RequestBody | None
    stalled: bool
    response_started: bool

    def deadlines(self) -> Deadlines:
        """As things stand now."""

    def watch(self) -> None:
        """A deadline has come nearer."""

    def fail(self, error: ProxyError) -> None:
        """No attempt is left to make."""


class Attempts:
    """All attempts of one request, which goes to `cluster` by `action`.

    Attributes:
        state: counts in flight of the cluster.
        upstream: the connection of the attempt that is being made; None while there is none.
        hash_key: leads the request to its endpoint, where the route has a hash policy.
        cookies: what makes the client give the same key again: values of Set-Cookie for the answer.
    """

    __slots__ = (
        "_endpoint", "_exchange", "_retrying", "_runtime", "_task", "_tried", "action", "cluster", "cookies",
        "hash_key", "state", "upstream",
    )  # fmt: skip

    def __init__(
        self, exchange: Outgoing, runtime: Runtime, action: Forward, cluster: Cluster, state: ClusterState
    ) -> None:
        self.action = action
        self.cluster = cluster
        self.state = state
        self.upstream: UpstreamConnection | None = None
        self.hash_key: int | None = None
        self.cookies: tuple[bytes, ...] = ()
        self._exchange = exchange
        self._runtime = runtime
        self._endpoint: Endpoint | None = None
        self._tried: tuple[Endpoint, ...] = ()
        self._retrying = False  # counted as one of the cluster's requests that are being tried again
        self._task: asyncio.Task[None] | None = None

    # --- One attempt ---

    def begin(self) -> None:
        """Pick an endpoint and get a connection to it. Raises ProxyError: there is none, or a limit is reached."""
        cluster, state, record = self.cluster, self.state, self._exchange.record
        stats = state.stats
        if state.balancer is None:
            endpoint = state.original(record.facts.original_destination)
        else:
            endpoint = state.balancer.pick(self._tried, self.hash_key)
        if endpoint is None:
            raise failure(Flag.NO_HEALTHY_UPSTREAM, "no_healthy_upstream", f"cluster {cluster.name} has no endpoint")
        if stats.rq_active >= cluster.limits.max_requests:
            stats.rq_pending_overflow += 1
            raise failure(Flag.UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}")
        record.goes_to(endpoint)
        stats.rq_total += 1
        stats.rq_active += 1
        endpoint.active += 1
        self._endpoint = endpoint
        connection = self._runtime.upstreams.acquire(cluster, state, endpoint, self)
        if connection is not None:
            self.upstream_ready(connection)

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """See pool.Waiter: send what there is of the request."""
        exchange, runtime = self._exchange, self._runtime
        if self._endpoint is not connection.endpoint:  # over meanwhile, or on its way to another one
            runtime.upstreams.release(self.cluster, self.state, connection, monotonic())
            return
        record, request, action = exchange.record, exchange.request, self.action
        record.t_connected = monotonic()
        record.reused = connection.requests > 0
        record.upstream_local = connection.local
        record.upstream_peer = connection.peer
        self.upstream = connection
        if self.state.outlier is not None:
            self.state.outlier.connected(connection.endpoint)
        if exchange.stalled:
            connection.transport.pause_reading()
        if action.attempt_count:
            request.set(b"x-envoy-attempt-count", b"%d" % record.attempts)
        introduction = runtime.peers.introduction(record) if connection.to_mesh else b""
        body = b"" if exchange.body is None else self._body(exchange.body)
        data = forwarding.request_bytes(request, action, connection.endpoint, introduction, body)
        connection.begin(exchange, request.method, data)
        if action.retry is not None and action.retry.per_try_timeout is not None:
            exchange.watch()

    def connect_failed(self, error: ProxyError) -> None:
        """See pool.Waiter."""
        if self._endpoint is not None:
            self.failed(Outcome(Failure.CONNECT), error)

    def broken(self, error: Exception) -> None:
        """The connection ended, or what came over it is no response, which another attempt would not mend."""
        if isinstance(error, MessageError):
            self.fell_silent()
            self._exchange.fail(error)
            return
        when = "after" if self._exchange.response_started else "before"
        details = f"upstream_reset_{when}_response_started{{connection_termination}}"
        ended = failure(Flag.UPSTREAM_CONNECTION_TERMINATION, details, str(error))
        self.failed(Outcome(Failure.RESET, written=True), ended)

    def done(self, now: float) -> None:
        """The attempt is over, and went as it should: the connection may serve again."""
        connection, endpoint = self.upstream, self._endpoint
        if connection is None or endpoint is None:
            return
        self.upstream = self._endpoint = None
        endpoint.active -= 1
        self.state.stats.rq_active -= 1
        if self._exchange.stalled:
            connection.transport.resume_reading()
        self._runtime.upstreams.release(self.cluster, self.state, connection, now)

    def abandon(self) -> None:
        """End the attempt that is being made, if there is one; its connection is of no more use."""
        connection, endpoint = self.upstream, self._endpoint
        if endpoint is None:
            return
        self.upstream = self._endpoint = None
        endpoint.active -= 1
        self.state.stats.rq_active -= 1
        if connection is None:
            self._runtime.upstreams.forget(self.state, self)
        else:
            connection.close()

    def end(self) -> None:
        """As `abandon`, of an upgraded connection: what was sent to the upstream still arrives."""
        if self.upstream is not None:
            self._runtime.upstreams.end(self.upstream)
            self.upstream = None
        self.abandon()

    def pause_reading(self) -> None:
        """The client takes no more."""
        if self.upstream is not None and not self.upstream.transport.is_closing():
            self.upstream.transport.pause_reading()

    def resume_reading(self) -> None:
        """The client takes more again."""
        if self.upstream is not None and not self.upstream.transport.is_closing():
            self.upstream.transport.resume_reading()

    def _body(self, body: RequestBody) -> bytes:
        """What there is of the body. Where it was too much to read on without an upstream, more is read from now on."""
        held, enough = body.take()
        if enough:
            self._exchange.upstream_resume()
        return held

    @property
    def retried(self) -> bool:
        """Whether there was an attempt before the one being made, or the last."""
        return bool(self._tried)

    @property
    def per_try_timeout(self) -> float | None:
        """Seconds that the attempt being made has from `t_connected` on; None without a limit, or a connection."""
        retry = self.action.retry
        return None if retry is None or self.upstream is None else retry.per_try_timeout

    # --- What became of it: the endpoint is judged by it, and there may be another attempt ---

    def answered(self, head: Head) -> bool:
        """The endpoint has answered; True if another attempt is made instead, since this is no answer to pass on."""
        if self.state.outlier is not None and self._endpoint is not None:
            self.state.outlier.answered(self._endpoint, head.status, monotonic())
        policy = self.action.retry
        if policy is None or (head.status < policy.least_status and not head.has_any(policy.telling)):
            return False
        from_mesh = bool(self._exchange.record.upstream_peer)
        return self.retry(outcome_of_response(head, policy, from_mesh=from_mesh))

    def fell_silent(self, *, timeout: bool = False) -> None:
        """The endpoint will not answer, or too late."""
        if self.state.outlier is not None and self._endpoint is not None and not self._exchange.response_started:
            self.state.outlier.failed(self._endpoint, monotonic(), timeout=timeout)

    def too_late(self) -> None:
        """The time for the answer is over."""
        self.state.stats.rq_timeout += 1
        if self.upstream is not None:
            self.fell_silent(timeout=True)

    def timed_out(self) -> None:
        """The attempt's own time is over."""
        self.state.stats.rq_timeout += 1
        late = failure(Flag.UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_timeout")
        self.failed(Outcome(Failure.TIMEOUT, written=True), late)

    def failed(self, outcome: Outcome, error: ProxyError) -> None:
        """Try again if that can do no harm and the route allows it; fail otherwise."""
        exchange = self._exchange
        self.fell_silent(timeout=outcome.failure is Failure.TIMEOUT)
        if exchange.response_started or not self.retry(outcome):
            exchange.fail(error)

    def retry(self, outcome: Outcome) -> bool:
        """Begin another attempt if the rule says so (upstream/retry.py)."""
        exchange, state, policy = self._exchange, self.state, self.action.retry
        idempotent = exchange.request.method in IDEMPOTENT_METHODS
        replayable = exchange.body is None or exchange.body.held is not None
        # A pooled connection that the peer closed while it was idle: not a failure of the peer, only bad luck in time.
        stale = outcome.failure is Failure.RESET and exchange.record.reused and idempotent and replayable
        stale = stale and self._endpoint not in self._tried
        if not stale:
            decision = decide(
                policy,
                outcome,
                exchange.record.attempts,
                idempotent=idempotent,
                replayable=replayable and _covers(policy, exchange.request),
                time_left=exchange.deadlines().response - monotonic(),
            )
            if decision is Decision.NONE_LEFT:
                exchange.record.gave_up = Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED
            if decision is not Decision.RETRY or not (self._retrying or self._takes_a_place()):
                return False
        endpoint = self._endpoint
        if endpoint is not None:
            self._tried = (*self._tried, endpoint)
        self.abandon()
        if stale and endpoint is not None:  # what is left in the pool has idled for longer still
            for idle in tuple(endpoint.idle):
                idle.close()
        state.stats.rq_retry += 1
        pause = 0.0 if stale or policy is None else backoff(policy, exchange.record.attempts, self._runtime.random)
        self._task = self._runtime.spawn(self._begin_later(pause))
        return True

    def _takes_a_place(self) -> bool:
        """Be one of the requests that the cluster tries again: one place for all retries, until it is complete."""
        if self.state.retries >= _retries(self.cluster.limits, self.state.requests):
            self.state.stats.rq_retry_overflow += 1
            self._exchange.record.gave_up = Flag.UPSTREAM_OVERFLOW
            return False
        self.state.retries += 1
        self._retrying = True
        return True

    async def _begin_later(self, pause: float) -> None:
        await asyncio.sleep(pause)
        self._task = None
        try:
            self.begin()
        except ProxyError as error:
            self._exchange.fail(error)

    def over(self) -> None:
        """The request is complete: no other attempt is made, and its cluster counts it."""
        record, stats = self._exchange.record, self.state.stats
        stats.classes[record.status // 100] += 1
        if record.bytes_received:
            stats.bytes_sent += record.bytes_received
        stats.bytes_received += record.bytes_sent
        if self._retrying:
            self.state.retries -= 1
        if self._task is not None:
            self._task.cancel()


def _retries(limits: CircuitLimits, requests: int) -> int:
    """How many of a cluster's requests may be tried again at the same time, with so many of them in flight."""
    if limits.retry_budget is None:
        return limits.max_retries
    return max(limits.min_retries, int(requests * limits.retry_budget))


def _covers(policy: RetryPolicy | None, request: Head) -> bool:
    """Whether `policy` is for this request: it may be for those with certain headers only."""
    wanted = () if policy is None else policy.request_headers
    return not wanted or any(matches(request) for matches in wanted)
