"""The life of one request, every phase once, in order. The file to read first.

    start                 pin the snapshot, read the head, give it the headers and the form that every request gets
      └ _filter           request filters; the first reply wins; one that has to ask somebody suspends the request
        └ _route          virtual host, route, weighted cluster; redirects and direct responses end here
          └ _attempt      endpoint, limits, connection
            └ upstream_ready      send head and body
    response_head         retry, or pass the head on: response filters in reverse, headers
    response_body         relay, each side paused when the other does not take more
    response_end          release the connection
    _complete             record, counters, log: always, exactly once

Any ProxyError, from any phase, becomes an answer or a reset in one place: `fail`. A retryable failure before the
response head goes back to `_attempt`. Nothing here waits: what takes time calls back.
"""

import asyncio
import logging
from collections.abc import Awaitable
from time import monotonic, time
from typing import Final, Protocol

from pymesh_proxy import forwarding
from pymesh_proxy.codec.body import Unchunked
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import MessageError
from pymesh_proxy.config.model import Cluster, HttpManager
from pymesh_proxy.errors import CAUSES, Flag, ProxyError, failure
from pymesh_proxy.filters.base import HttpFilter, LocalReply, Verdict
from pymesh_proxy.routing import DirectResponse, Forward, Redirect, Route
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.telemetry.metrics import HttpStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from pymesh_proxy.transport.reset import reset
from pymesh_proxy.upstream.balancer import choose_weighted
from pymesh_proxy.upstream.connection import UpstreamConnection
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.pool import ClusterState
from pymesh_proxy.upstream.retry import IDEMPOTENT_METHODS, Failure, Outcome, backoff, outcome_of_response, should_retry

log = logging.getLogger("pymesh.exchange")

# A request body up to this size is kept until the response begins, so that it can be sent again (linkerd: 64 KiB).
MAX_REPLAY_BYTES: Final = 64 * 1024


class Downstream(Protocol):
    """What an exchange needs of the connection it sits on."""

    runtime: Runtime
    manager: HttpManager
    facts: Facts
    stats: HttpStats
    transport: asyncio.Transport

    def exchange_done(self, *, keep: bool) -> None:
        """The answer is written; `keep` says whether another request may follow."""

    def is_last(self) -> bool:
        """Whether no other request may follow this one."""

    def switch_protocols(self) -> None:
        """From here on the client's bytes are opaque."""

    def pause_reading(self) -> None:
        """Read no more from the client for now."""

    def resume_reading(self) -> None:
        """Read from the client again."""

    def set_deadline(self, when: float) -> None:
        """Call `on_deadline` at `when`."""


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_cluster", "_deadline", "_done", "_downstream", "_endpoint", "_forward", "_framing_close", "_half_ended",
        "_held", "_held_size", "_holding", "_keep", "_request_deadline", "_request_ended", "_response_started",
        "_retrying", "_route_found", "_sent_at", "_snapshot", "_stalled", "_state", "_task", "_tried",
        "_try_deadline", "_unchunked", "_upgraded", "_upstream", "_wrap", "active_at", "has_body", "record", "request",
    )  # fmt: skip

    def __init__(self, downstream: Downstream, request: Head, has_body: bool, begun: float = 0.0) -> None:
        """`begun`: when the first bytes of the head came, if not with the rest of it."""
        self._downstream = downstream
        self._snapshot = downstream.runtime.snapshot
        self.request = request
        self.has_body = has_body
        self.active_at = monotonic()
        record = self.record = RequestRecord(downstream.facts, time(), self.active_at)
        record.read(request)
        self._route_found: Route | None = None
        self._forward: Forward | None = None
        self._cluster: Cluster | None = None
        self._state: ClusterState | None = None
        self._endpoint: Endpoint | None = None
        self._upstream: UpstreamConnection | None = None
        self._tried: list[Endpoint] = []
        self._held: list[bytes] = []
        self._held_size = 0
        self._holding = has_body
        self._request_ended = not has_body
        self._response_started = self._upgraded = self._wrap = self._framing_close = self._done = False
        self._stalled = self._half_ended = False  # the client takes no more; one half of an upgraded connection is over
        self._keep = self._retrying = False
        self._unchunked: Unchunked | None = None
        self._deadline = self._try_deadline = self._request_deadline = self._sent_at = 0.0
        limit = downstream.manager.request_timeout
        if has_body and limit is not None:
            self._request_deadline = (begun or self.active_at) + limit
        self._task: asyncio.Task[None] | None = None
        downstream.stats.rq_total += 1
        downstream.stats.rq_active += 1

    @classmethod
    def for_bad_request(cls, downstream: Downstream) -> "Exchange":
        """An exchange for bytes that are no request, so that they too are answered, counted and logged in one way."""
        exchange = cls(downstream, Head(b"", [], {}), has_body=True)
        exchange._holding = False
        return exchange

    # --- Request: head, filters, route ---

    def start(self) -> None:
        """The head is there; the body, if any, follows by `request_body` and `request_end`."""
        try:
            self._downstream.runtime.peers.meet(self.record, self.request)
            forwarding.enter(self.request, self._downstream.manager, self.record)
            answer = forwarding.canonicalize(self.request, self._downstream.manager, self._downstream.facts)
            if answer is not None:
                self._reply(answer)
                return
            if self.has_body:
                self._arm(self.active_at)
            if not self._downstream.manager.filters or self._filter(0):
                self._route()
        except ProxyError as error:
            self.fail(error)

    def _filter(self, first: int) -> bool:
        """Run the request filters from number `first`; False if one answered, or has to wait."""
        hooks = self._downstream.manager.filters
        for index in range(first, len(hooks)):
            hook = hooks[index].on_request
            if hook is None:
                continue
            try:
                verdict = hook(self)
            except Exception as error:
                raise self._filter_failed(hooks[index], error) from error
            if verdict is None:
                continue
            if isinstance(verdict, LocalReply):
                self._filter_replies(verdict)
            else:
                self._arm(monotonic())
                self._task = self._downstream.runtime.spawn(self._filter_later(verdict, index))
            return False
        return True

    async def _filter_later(self, verdict: Awaitable[Verdict], index: int) -> None:
        """Filter number `index` had to ask: go on where it stood."""
        try:
            try:
                answer = await verdict
            except Exception as error:
                raise self._filter_failed(self._downstream.manager.filters[index], error) from error
            self._task = None
            if self._done:
                return
            if answer is not None:
                self._filter_replies(answer)
            elif self._filter(index + 1):
                self._route()
        except ProxyError as error:
            self._task = None
            self.fail(error)

    def _filter_replies(self, reply: LocalReply) -> None:
        """Answer for a filter. Where the request would have gone is told all the same, as Envoy tells it."""
        if (route := self.route) is not None:
            self.record.follows(route)
            if isinstance(route.action, Forward) and len(route.action.clusters) == 1:
                self._leads_to(route.action.clusters[0][0])
        self._reply(reply)

    def _filter_failed(self, item: HttpFilter, error: Exception) -> ProxyError:
        """What becomes of the request: the filter's own ProxyError, or 500 for a fault in the filter."""
        if isinstance(error, ProxyError):
            return error
        self._downstream.stats.filter_errors += 1
        log.error("filter %s failed on %s %s", item.name, self.record.method, self.record.path, exc_info=error)
        return failure(Flag.LOCAL_RESET, f"filter_failed{{{item.name}}}")

    @property
    def route(self) -> Route | None:
        """The route of this request, found when it is first asked for. A filter may ask, too."""
        if self._route_found is None:
            manager = self._downstream.manager
            table = manager.routes or self._snapshot.routes.get(manager.rds)
            self._route_found = None if table is None else table.find(self.request)
        return self._route_found

    def _route(self) -> None:
        record = self.record
        now = record.t_filtered = monotonic()
        route = self.route
        if route is None:
            raise failure(Flag.NO_ROUTE, "route_not_found")
        record.follows(route)
        action = route.action
        if isinstance(action, Forward):
            self._to_cluster(route, action, now)
            return
        forwarding.mutate(self.request, route.request_headers)
        if isinstance(action, Redirect):
            scheme = self.request.get(b"x-forwarded-proto") or b"http"
            location = action.location(scheme, self.request.authority, self.request.path)
            self._reply(LocalReply(action.status, Flag.NONE, "direct_response", headers=((b"location", location),)))
        else:
            assert isinstance(action, DirectResponse)
            self._reply(LocalReply(action.status, Flag.NONE, "direct_response", action.body))

    def _to_cluster(self, route: Route, action: Forward, now: float) -> None:
        downstream = self._downstream
        name = choose_weighted(action.clusters, downstream.runtime.random)
        cluster = self._leads_to(name)
        if cluster is None:
            raise failure(Flag.NO_CLUSTER, "cluster_not_found", f"no cluster {name}")
        self._cluster = cluster
        self._forward = action
        self._state = downstream.runtime.upstreams.state(cluster)
        forwarding.apply_route(self.request, route, action, downstream.manager)
        if self._request_ended:
            self._arm(now)
        self._attempt()

    def _leads_to(self, name: str) -> Cluster | None:
        """The cluster of that name, noted as the one that the request is for."""
        self.record.cluster = name
        cluster = self._snapshot.clusters.get(name)
        if cluster is not None:
            self.record.service = cluster.service
        return cluster

    # --- Attempts ---

    def _attempt(self) -> None:
        """Pick an endpoint and get a connection to it."""
        upstreams, cluster, state = self._downstream.runtime.upstreams, self._cluster, self._state
        assert cluster is not None
        assert state is not None
        endpoint = state.pick(self._downstream.facts.original_destination, self._tried)
        if endpoint is None:
            raise failure(Flag.NO_HEALTHY_UPSTREAM, "no_healthy_upstream", f"cluster {cluster.name} has no endpoint")
        if state.requests >= cluster.limits.max_requests:
            state.stats.rq_pending_overflow += 1
            raise failure(Flag.UPSTREAM_OVERFLOW, "upstream_reset_before_response_started{overflow}")
        self.record.goes_to(endpoint)
        state.requests += 1
        state.stats.rq_total += 1
        state.stats.rq_active += 1
        endpoint.active += 1
        self._endpoint = endpoint
        connection = upstreams.acquire(cluster, state, endpoint, self)
        if connection is not None:
            self.upstream_ready(connection)

    def upstream_ready(self, connection: UpstreamConnection) -> None:
        """See pool.Waiter: send what there is of the request."""
        cluster, state, forward = self._cluster, self._state, self._forward
        assert cluster is not None
        assert state is not None
        assert forward is not None
        if self._done or self._endpoint is not connection.endpoint:
            self._downstream.runtime.upstreams.release(cluster, state, connection)
            return
        record = self.record
        record.t_connected = self._sent_at = monotonic()
        record.reused = connection.requests > 0
        record.upstream_local, record.upstream_peer = connection.local, connection.peer
        self._upstream = connection
        if self._stalled:
            connection.transport.pause_reading()
        introduction = self._downstream.runtime.peers.introduction(record) if connection.to_mesh else b""
        data = forwarding.request_bytes(self.request, forward, connection.endpoint, introduction)
        if self._held:
            data += b"".join(self._held)
            if self._held_size > MAX_REPLAY_BYTES:
                self._holding = False
                self._held.clear()
                self._downstream.resume_reading()
        connection.begin(self, self.request.method, data)
        retry = forward.retry
        if retry is not None and retry.per_try_timeout is not None:
            self._try_deadline = self._sent_at + retry.per_try_timeout
            self._arm(self._sent_at)

    def connect_failed(self, error: ProxyError) -> None:
        """See pool.Waiter."""
        if not self._done:
            self._attempt_failed(Outcome(Failure.CONNECT), error)

    def upstream_failed(self, error: Exception) -> None:
        """See connection.ResponseSink: the connection ended, or what came over it is no response."""
        if isinstance(error, MessageError):
            self.fail(error)
            return
        self._attempt_failed(
            Outcome(Failure.RESET, written=True),
            failure(
                Flag.UPSTREAM_CONNECTION_TERMINATION,
                "upstream_reset_before_response_started{connection_termination}",
                str(error),
            ),
        )

    def _attempt_failed(self, outcome: Outcome, error: ProxyError) -> None:
        """Try again if that can do no harm and the route allows it; fail otherwise."""
        if self._response_started or not self._retry(outcome):
            self.fail(error)

    def _retry(self, outcome: Outcome) -> bool:
        """Begin another attempt if the rule says so (upstream/retry.py)."""
        forward, cluster, state, record = self._forward, self._cluster, self._state, self.record
        assert forward is not None
        assert cluster is not None
        assert state is not None
        idempotent = self.request.method in IDEMPOTENT_METHODS
        replayable = not self.has_body or self._holding
        # A pooled connection that the peer closed while it was idle: not a failure of the peer, only bad luck in time.
        stale = outcome.failure is Failure.RESET and record.reused and idempotent and replayable
        stale = stale and not any(endpoint is self._endpoint for endpoint in self._tried)
        if not stale and not should_retry(
            forward.retry,
            outcome,
            record.attempts,
            idempotent=idempotent,
            replayable=replayable,
            time_left=self._deadline - monotonic() if self._deadline else None,
        ):
            return False
        if not stale and not self._retrying:  # one place for all of its retries, until it is complete
            if state.retries >= cluster.limits.max_retries:
                state.stats.rq_retry_overflow += 1
                return False
            state.retries += 1
            self._retrying = True
        if self._endpoint is not None:
            self._tried.append(self._endpoint)
        self._try_deadline = 0.0
        self._leave_upstream(close=True)
        state.stats.rq_retry += 1
        runtime = self._downstream.runtime
        pause = 0.0 if stale or forward.retry is None else backoff(forward.retry, record.attempts, runtime.random)
        self._task = runtime.spawn(self._attempt_later(pause))
        return True

    async def _attempt_later(self, pause: float) -> None:
        await asyncio.sleep(pause)
        self._task = None
        if self._done:
            return
        try:
            self._attempt()
        except ProxyError as error:
            self.fail(error)

    # --- Request body ---

    def request_body(self, data: bytes) -> None:
        """More of the request's body, framing included."""
        self.record.bytes_received += len(data)
        self.active_at = monotonic()
        upstream = self._upstream
        if self._holding:
            self._held.append(data)
            self._held_size += len(data)
            if self._held_size > MAX_REPLAY_BYTES:
                if upstream is None:
                    self._downstream.pause_reading()
                else:
                    self._holding = False
                    self._held.clear()
        if upstream is not None:
            upstream.send(data)

    def request_end(self) -> None:
        """The request is complete: from here the route's timeout runs."""
        self._request_ended = True
        self._request_deadline = 0.0
        self._arm(monotonic())

    def downstream_eof(self) -> None:
        """The client of an upgraded connection has said its last; the upstream may not have."""
        if self._upstream is not None and not self._half_ended:
            self._half_ended = True
            self._upstream.send_eof()
        else:
            self._end_upgraded()

    # --- Response ---

    def informational(self, head: Head) -> None:
        """See connection.ResponseSink: 100 (Continue), 103 (Early Hints) go through as they are (RFC 9110 15.2)."""
        if not self._response_started and self.request.minor == 1:
            head.remove_hop_by_hop()
            self._downstream.transport.write(forwarding.status_line(head) + head.fields() + b"\r\n")

    def response_head(self, head: Head, framing: int | None, body: bytes) -> bool:
        """See connection.ResponseSink."""
        forward, record = self._forward, self.record
        assert forward is not None
        if head.status >= 400 and forward.retry is not None:
            status = head.get(b"proxy-status")
            if self._retry(outcome_of_response(head.status, status, from_mesh=bool(record.upstream_peer))):
                return False
        if head.status == 101 and not self.request.upgrade:
            self.fail(failure(Flag.UPSTREAM_PROTOCOL_ERROR, "http1.unexpected_101"))
            return False
        downstream = self._downstream
        if downstream.manager.filters and not self._filter_response(head):
            return False
        self._response_started = True
        self._try_deadline = 0.0
        self._holding = False
        self._held.clear()
        self._request_deadline = 0.0
        record.t_first_byte = monotonic()
        record.status = head.status
        record.response_headers = head
        record.details = "via_upstream"
        self._upgraded = head.status == 101
        self._wrap = framing is None and self.request.minor == 1 and not self._upgraded
        if head.chunked and self.request.minor == 0:  # RFC 9112 6.1: the client would take the chunks for content
            head.remove(b"transfer-encoding")
            if framing == -1:
                framing, self._unchunked = None, Unchunked()
                body = self._unchunked.feed(body)
        self._framing_close = framing is None and not self._wrap
        route = self._route_found
        assert route is not None
        if downstream.facts.direction == "inbound":
            forwarding.disown(head)
        forwarding.mutate(head, route.response_headers)
        self._keep = self._keeps_alive()
        data = forwarding.response_bytes(
            head,
            downstream.manager,
            request_id=record.request_id,
            service_time=record.t_first_byte - self._sent_at,
            upgraded=self._upgraded,
            wrap=self._wrap,
            close=not self._keep,
            minor=self.request.minor,
        )
        if body:
            record.bytes_sent = len(body)
            data += b"%x\r\n%b\r\n" % (len(body), body) if self._wrap else body
        downstream.transport.write(data)
        if self._upgraded:
            self._deadline = 0.0
            downstream.switch_protocols()
        return True

    def _filter_response(self, head: Head) -> bool:
        """Show the head to the filters, in reverse; False if one of them failed."""
        for item in reversed(self._downstream.manager.filters):
            if item.on_response is None:
                continue
            try:
                item.on_response(self, head)
            except Exception as error:  # noqa: BLE001 - as in `_filter`
                self.fail(self._filter_failed(item, error))
                return False
        return True

    def _keeps_alive(self) -> bool:
        """Whether the client's connection serves another request after this one: decided when the answer begins."""
        downstream = self._downstream
        if not self.request.persistent or self._framing_close or downstream.runtime.draining:
            return False
        return not downstream.is_last()

    def response_body(self, data: bytes) -> None:
        """See connection.ResponseSink."""
        self.record.bytes_sent += len(data)
        self.active_at = monotonic()
        if self._wrap:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._unchunked is not None:
            data = self._unchunked.feed(data)
        self._downstream.transport.write(data)

    def response_end(self) -> None:
        """See connection.ResponseSink."""
        if self._wrap:
            self._downstream.transport.write(b"0\r\n\r\n")
        if self._upgraded:
            if not self._half_ended and self._downstream.transport.can_write_eof():
                self._half_ended = True
                self._downstream.transport.write_eof()
            else:
                self._end_upgraded()
            return
        # A peer that has answered before the request was complete is in the middle of a message: its connection is
        # of no more use, and neither is the client's.
        self._leave_upstream(close=not self._request_ended)
        self._complete(keep=self._request_ended and self._keep and not self._downstream.runtime.draining)

    def _end_upgraded(self) -> None:
        """Both halves are over, or the second cannot be told of the first."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            self._downstream.runtime.upstreams.end(upstream)
        self._leave_upstream(close=True)
        self._complete(keep=False)

    # --- Back-pressure: when one side does not take more, the other is not read ---

    def downstream_pause(self) -> None:
        """The client does not take what is written."""
        self._stalled = True
        if self._upstream is not None and not self._upstream.transport.is_closing():
            self._upstream.transport.pause_reading()

    def downstream_resume(self) -> None:
        """The client takes more again."""
        self._stalled = False
        if self._upstream is not None and not self._upstream.transport.is_closing():
            self._upstream.transport.resume_reading()

    def upstream_pause(self) -> None:
        """See connection.ResponseSink."""
        self._downstream.pause_reading()

    def upstream_resume(self) -> None:
        """See connection.ResponseSink."""
        self._downstream.resume_reading()

    # --- Deadlines ---

    def _arm(self, now: float) -> None:
        """Set the next deadline: the route's timeout, the attempt's, or the idle timeout of the stream."""
        forward = self._forward
        # What is opaque has no end to wait for.
        awaited = self._request_ended and not self._upgraded and not self._deadline
        if awaited and forward is not None and forward.timeout is not None:
            self._deadline = now + forward.timeout
        idle = self._idle_timeout()
        when = float("inf") if idle is None else self.active_at + idle
        if self._deadline and self._deadline < when:
            when = self._deadline
        if self._try_deadline and self._try_deadline < when:
            when = self._try_deadline
        if self._request_deadline and self._request_deadline < when:
            when = self._request_deadline
        self._downstream.set_deadline(when)

    def _idle_timeout(self) -> float | None:
        forward = self._forward
        if forward is not None and forward.idle_timeout is not None:
            return forward.idle_timeout
        return self._downstream.manager.stream_idle_timeout

    def on_deadline(self, now: float) -> None:
        """Whichever deadline has passed; or none, since there was life meanwhile."""
        if self._deadline and now >= self._deadline:
            self._count_timeout()
            self.fail(failure(Flag.UPSTREAM_REQUEST_TIMEOUT, "response_timeout"))
        elif self._request_deadline and now >= self._request_deadline:
            self.fail(ProxyError(408, Flag.DURATION_TIMEOUT, "request_overall_timeout"))
        elif self._try_deadline and now >= self._try_deadline:
            self._count_timeout()
            self._try_deadline = 0.0
            error = failure(Flag.UPSTREAM_REQUEST_TIMEOUT, "upstream_per_try_timeout")
            self._attempt_failed(Outcome(Failure.TIMEOUT, written=True), error)
        elif (idle := self._idle_timeout()) is not None and now >= self.active_at + idle:
            status = 504 if self._request_ended else 408  # whose turn it was
            self.fail(ProxyError(status, Flag.STREAM_IDLE_TIMEOUT, "stream_idle_timeout"))
        if not self._done:
            self._arm(now)

    def _count_timeout(self) -> None:
        if self._state is not None:
            self._state.stats.rq_timeout += 1

    # --- The end ---

    def fail(self, error: ProxyError) -> None:
        """The one place where a failure becomes an answer, or a reset where the answer has already begun."""
        if self._done:
            return
        self._leave_upstream(close=True)
        if not self._response_started:
            cause = CAUSES[error.flag]
            body = cause.body.encode()
            if error.reason and error.flag is Flag.UPSTREAM_CONNECTION_FAILURE:
                body += b", transport failure reason: " + error.reason.encode("ascii", "replace")
            self._reply(LocalReply(error.status, error.flag, error.details, body), error.reason)
            return
        self.record.flag, self.record.details = error.flag, error.details
        # Closing is how the client learns that the message is incomplete; where closing would mean complete, reset.
        if self._framing_close:
            reset(self._downstream.transport)
        self._complete(keep=False)

    def _reply(self, reply: LocalReply, reason: str = "") -> None:
        """Answer from here."""
        downstream, record = self._downstream, self.record
        record.status, record.flag, record.details = reply.status, reply.flag, reply.details
        if reason:
            record.notes["reason"] = reason
        record.t_first_byte = monotonic()
        keep = self._request_ended and self._keeps_alive() and reply.flag is not Flag.DOWNSTREAM_PROTOCOL_ERROR
        self._response_started = True
        head_only = self.request.method == b"HEAD"
        data = forwarding.local_reply_bytes(
            reply,
            downstream.manager,
            request_id=record.request_id,
            reason=reason,
            head_only=head_only,
            close=not keep,
            response_headers=None if self._route_found is None else self._route_found.response_headers,
        )
        record.bytes_sent = 0 if head_only else len(reply.body)
        downstream.transport.write(data)
        self._complete(keep=keep)

    def downstream_lost(self) -> None:
        """The client is gone."""
        if self._done:
            return
        self.record.flag = Flag.DOWNSTREAM_CONNECTION_TERMINATION
        self.record.details = "downstream_remote_disconnect"
        self._leave_upstream(close=True)
        self._complete(keep=False)

    def _leave_upstream(self, *, close: bool) -> None:
        """End the attempt: give the connection back, or close it, and count the request out."""
        endpoint, state, cluster = self._endpoint, self._state, self._cluster
        if endpoint is None or state is None or cluster is None:
            return
        self._endpoint = None
        endpoint.active -= 1
        state.requests -= 1
        state.stats.rq_active -= 1
        connection, self._upstream = self._upstream, None
        if connection is None:
            self._downstream.runtime.upstreams.forget(state, self)
        elif close:
            connection.close()
        else:
            if self._stalled:
                connection.transport.resume_reading()
            self._downstream.runtime.upstreams.release(cluster, state, connection)

    def _complete(self, *, keep: bool) -> None:
        """Always, exactly once: the record is finished, counted and shown; the connection goes on or ends."""
        self._done = True
        if self._task is not None:
            self._task.cancel()
        downstream, record = self._downstream, self.record
        record.t_end = monotonic()
        stats, state = downstream.stats, self._state
        stats.rq_active -= 1
        stats.completed(record.status, (record.t_end - record.t_start) * 1000)
        if state is not None:
            state.retries -= self._retrying
            state.stats.classes[record.status // 100] += 1
            state.stats.bytes_sent += record.bytes_received
            state.stats.bytes_received += record.bytes_sent
        for item in downstream.manager.filters:
            if item.on_complete is not None:
                try:
                    item.on_complete(record)
                except Exception as error:  # noqa: BLE001 - as in `_filter`; there is no request any more to fail
                    self._filter_failed(item, error)
        downstream.runtime.completed(record, downstream.manager.access_logs)
        record.headers = record.response_headers = None  # the record is kept for a while, the heads need not be
        downstream.exchange_done(keep=keep)
