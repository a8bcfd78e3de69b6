"""The life of one request, every phase once, in order. The file to read first.

    start                 pin the snapshot, read the head, give it the headers and the form that every request gets
      └ _filter           request filters (filters/loop.py): one that answers ends here, one that asks suspends
        └ _route          virtual host, route, weighted cluster; redirects and direct responses end here
          └ _to_cluster   attempts.py: endpoint, limits, connection; head and body are sent
    response_head         retry, or pass the head on: response filters in reverse, headers
    response_body         relay, each side paused when the other does not take more
    response_end          release the connection
    _complete             record, counters, log: always, exactly once

Any ProxyError, from any phase, becomes an answer or a reset in one place: `fail`. A retryable failure before the
response head leads to another attempt. Nothing here waits: what takes time calls back.
"""

import asyncio
from collections.abc import Awaitable
from time import monotonic, time

from pymesh_proxy import deadlines, forwarding
from pymesh_proxy.attempts import MAX_REPLAY_BYTES, Attempts
from pymesh_proxy.codec.body import Unchunked
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import Cluster
from pymesh_proxy.deadlines import Expired
from pymesh_proxy.downstream import Downstream
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.filters import loop
from pymesh_proxy.filters.base import LocalReply, Verdict
from pymesh_proxy.routing import DirectResponse, Forward, Redirect, Route
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.timers import NEVER
from pymesh_proxy.transport.reset import reset
from pymesh_proxy.upstream.balancer import choose_weighted
from pymesh_proxy.upstream.retry import outcome_of_response


class Exchange:
    """One request and its answer.

    Attributes:
        request: the request's head; what filters and routes change of it goes upstream.
        record: what is known of the request.
        has_body: whether a body follows the head.
        held: the body so far, as long as it can be sent (again).
        stalled: the client does not take what is written.
        response_started: the client has had something of the answer.
        answer_by, arrive_by, attempt_by, active_at, patience: see deadlines.Deadlines.
    """

    __slots__ = (
        "_attempts", "_done", "_downstream", "_framing_close", "_half_ended", "_keep", "_request_ended",
        "_route_found", "_snapshot", "_task", "_unchunked", "_upgraded", "_wrap", "active_at", "answer_by",
        "arrive_by", "attempt_by", "has_body", "held", "patience", "record", "request", "response_started", "stalled",
    )  # fmt: skip

    def __init__(self, downstream: Downstream, request: Head, has_body: bool, begun: float = 0.0) -> None:
        """`begun`: when the first bytes of the head came, if not with the rest of it."""
        manager = downstream.manager
        self._downstream = downstream
        self._snapshot = downstream.runtime.snapshot
        self.request = request
        self.has_body = has_body
        self.active_at = now = monotonic()
        self.record = RequestRecord(downstream.facts, time(), now)
        self.record.read(request)
        self._route_found: Route | None = None
        self._attempts: Attempts | None = None
        self.held = bytearray() if has_body else None
        self._request_ended = not has_body
        self.response_started = self._upgraded = self._wrap = self._framing_close = self._done = False
        self.stalled = self._keep = self._half_ended = False
        self._unchunked: Unchunked | None = None
        self.answer_by = self.attempt_by = self.arrive_by = NEVER
        self.patience = NEVER if manager.stream_idle_timeout is None else manager.stream_idle_timeout
        if has_body and manager.request_timeout is not None:
            self.arrive_by = (begun or now) + manager.request_timeout
        self._task: asyncio.Task[None] | None = None
        downstream.stats.rq_total += 1
        downstream.stats.rq_active += 1

    @classmethod
    def for_bad_request(cls, downstream: Downstream) -> "Exchange":
        """An exchange for bytes that are no request, so that they too are answered, counted and logged in one way."""
        exchange = cls(downstream, Head(b"", [], {}), has_body=True)
        exchange.held = None
        return exchange

    # --- Request: head, filters, route ---

    def start(self) -> None:
        """The head is there; the body, if any, follows by `request_body` and `request_end`."""
        downstream, request, record = self._downstream, self.request, self.record
        try:
            downstream.runtime.peers.meet(record, request)
            forwarding.enter(request, downstream.manager, record)
            answer = forwarding.canonicalize(request, downstream.manager, downstream.facts)
            if answer is not None:
                self._reply(answer)
                return
            if self.has_body:
                self.watch()
            if downstream.manager.filters:
                self._filter(0)
            else:
                self._route(self.active_at)
        except ProxyError as error:
            self.fail(error)

    def _filter(self, first: int) -> None:
        """Ask the request filters from number `first`; go on if all let the request pass."""
        downstream = self._downstream
        verdict, index = loop.on_request(downstream.manager.filters, self, downstream.stats, first)
        if verdict is None:
            self._route(monotonic())
        elif isinstance(verdict, LocalReply):
            self._filter_replies(verdict)
        else:
            self.watch()
            self._task = downstream.runtime.spawn(self._filter_later(verdict, index))

    async def _filter_later(self, verdict: Awaitable[Verdict], index: int) -> None:
        """Filter number `index` had to ask: go on where it stood."""
        downstream = self._downstream
        try:
            answer = await loop.answer_of(downstream.manager.filters[index], verdict, self.record, downstream.stats)
            self._task = None
            if self._done:
                return
            if answer is not None:
                self._filter_replies(answer)
            else:
                self._filter(index + 1)
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

    @property
    def route(self) -> Route | None:
        """The route of this request, found when it is first asked for. A filter may ask, too."""
        if self._route_found is None:
            manager = self._downstream.manager
            table = manager.routes or self._snapshot.routes.get(manager.rds)
            self._route_found = None if table is None else table.find(self.request)
        return self._route_found

    def _route(self, now: float) -> None:
        """What is to become of the request. It goes on to a cluster, or is answered from here."""
        self.record.t_filtered = now
        route = self.route
        if route is None:
            raise failure(Flag.NO_ROUTE, "route_not_found")
        self.record.follows(route)
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
        runtime = self._downstream.runtime
        name = choose_weighted(action.clusters, runtime.random)
        cluster = self._leads_to(name)
        if cluster is None:
            raise failure(Flag.NO_CLUSTER, "cluster_not_found", f"no cluster {name}")
        attempts = Attempts(self, runtime, action, cluster, runtime.upstreams.state(cluster))
        self._attempts = attempts
        forwarding.apply_route(self.request, route, action, self._downstream.manager)
        if action.idle_timeout is not None:
            self.patience = action.idle_timeout
        if self._request_ended:
            self._await_answer(now)
        attempts.begin()

    def _leads_to(self, name: str) -> Cluster | None:
        """The cluster of that name, noted as the one that the request is for."""
        self.record.cluster = name
        cluster = self._snapshot.clusters.get(name)
        if cluster is not None:
            self.record.service = cluster.service
        return cluster

    # --- Request body ---

    def request_body(self, data: bytes) -> None:
        """More of the request's body, framing included."""
        self.record.bytes_received += len(data)
        self.active_at = monotonic()
        upstream = None if self._attempts is None else self._attempts.upstream
        held = self.held
        if held is not None:
            if upstream is not None and len(held) + len(data) > MAX_REPLAY_BYTES:
                self.held = None
            else:
                held += data
                if len(held) > MAX_REPLAY_BYTES:  # all of it is needed: there is no upstream yet
                    self._downstream.pause_reading()
        if upstream is not None:
            upstream.send(data)

    def take_held(self) -> bytes:
        """What there is of the body, now that there is somebody to send it to."""
        held = bytes(self.held or b"")
        if len(held) > MAX_REPLAY_BYTES:
            self.held = None
            self._downstream.resume_reading()
        return held

    def request_end(self) -> None:
        """The request is complete: from here the route's timeout runs."""
        self._request_ended = True
        self.arrive_by = NEVER
        self._await_answer(monotonic())

    def downstream_eof(self) -> None:
        """The client of an upgraded connection has said its last; the upstream may not have."""
        upstream = None if self._attempts is None else self._attempts.upstream
        if upstream is not None and not self._half_ended:
            self._half_ended = True
            upstream.send_eof()
        else:
            self._end_upgraded()

    # --- Response ---

    def informational(self, head: Head) -> None:
        """See connection.ResponseSink: 100 (Continue), 103 (Early Hints) go through as they are (RFC 9110 15.2)."""
        if not self.response_started and self.request.minor == 1:
            head.remove_hop_by_hop()
            self._downstream.transport.write(forwarding.status_line(head) + head.fields() + b"\r\n")

    def response_head(self, head: Head, framing: int | None, body: bytes) -> bool:
        """See connection.ResponseSink."""
        downstream, record, attempts, route = self._downstream, self.record, self._attempts, self._route_found
        assert attempts is not None
        assert route is not None
        if head.status >= 400 and attempts.action.retry is not None:
            status = head.get(b"proxy-status")
            if attempts.retry(outcome_of_response(head.status, status, from_mesh=bool(record.upstream_peer))):
                return False
        if head.status == 101 and not self.request.upgrade:
            self.fail(failure(Flag.UPSTREAM_PROTOCOL_ERROR, "http1.unexpected_101"))
            return False
        if downstream.manager.filters:
            try:
                loop.on_response(downstream.manager.filters, self, head, downstream.stats)
            except ProxyError as error:
                self.fail(error)
                return False
        self.response_started = True
        self.held = None
        self.attempt_by = self.arrive_by = NEVER
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
        if downstream.facts.direction == "inbound":
            forwarding.disown(head)
        forwarding.mutate(head, route.response_headers)
        self._keep = self._keeps_alive()
        data = forwarding.response_bytes(
            head,
            downstream.manager,
            request_id=record.request_id,
            service_time=record.t_first_byte - record.t_connected,
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
            self.answer_by = NEVER  # what is opaque has no end to wait for
            downstream.switch_protocols()
        return True

    def _keeps_alive(self) -> bool:
        """Whether the client's connection serves another request after this one: decided when the answer begins."""
        downstream = self._downstream
        if not self.request.persistent or self._framing_close or downstream.runtime.draining:
            return False
        return not downstream.is_last()

    def response_body(self, data: bytes) -> None:
        """See connection.ResponseSink."""
        self.active_at = monotonic()
        if self._unchunked is not None:
            data = self._unchunked.feed(data)
        self.record.bytes_sent += len(data)
        if self._wrap:
            data = b"%x\r\n%b\r\n" % (len(data), data)
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
        if self._attempts is not None:
            self._attempts.leave(close=not self._request_ended)
        self._complete(keep=self._request_ended and self._keep and not self._downstream.runtime.draining)

    def _end_upgraded(self) -> None:
        """Both halves are over, or the second cannot be told of the first."""
        if self._attempts is not None:
            self._attempts.end()
        self._complete(keep=False)

    # --- Back-pressure: when one side does not take more, the other is not read ---

    def downstream_pause(self) -> None:
        """The client does not take what is written."""
        self.stalled = True
        if self._attempts is not None:
            self._attempts.pause_reading()

    def downstream_resume(self) -> None:
        """The client takes more again."""
        self.stalled = False
        if self._attempts is not None:
            self._attempts.resume_reading()

    def upstream_pause(self) -> None:
        """See connection.ResponseSink."""
        self._downstream.pause_reading()

    def upstream_resume(self) -> None:
        """See connection.ResponseSink."""
        self._downstream.resume_reading()

    def upstream_failed(self, error: Exception) -> None:
        """See connection.ResponseSink."""
        if self._attempts is not None:
            self._attempts.broken(error)

    # --- Deadlines (deadlines.py) ---

    def _await_answer(self, now: float) -> None:
        """The request is complete, and it is known where it goes: from the later of these the route's timeout runs."""
        if self._attempts is not None and not self._upgraded:
            timeout = self._attempts.action.timeout
            self.answer_by = NEVER if timeout is None else now + timeout
        self.watch()

    def watch(self) -> None:
        """Be told when the first deadline may have passed. None of them moves nearer without this."""
        self._downstream.set_deadline(deadlines.first(self))

    def on_deadline(self, now: float) -> None:
        """A deadline may have passed; or none, since there was life meanwhile."""
        match deadlines.expired(self, now):
            case Expired.RESPONSE:
                self._count_timeout()
                self.fail(failure(Flag.UPSTREAM_REQUEST_TIMEOUT, "response_timeout"))
            case Expired.ARRIVAL:
                self.fail(ProxyError(408, Flag.DURATION_TIMEOUT, "request_overall_timeout"))
            case Expired.ATTEMPT:
                self._count_timeout()
                self.attempt_by = NEVER
                if self._attempts is not None:
                    self._attempts.timed_out()
            case Expired.IDLE:
                status = 504 if self._request_ended else 408  # whose turn it was
                self.fail(ProxyError(status, Flag.STREAM_IDLE_TIMEOUT, "stream_idle_timeout"))
        if not self._done:
            self.watch()

    def _count_timeout(self) -> None:
        if self._attempts is not None:
            self._attempts.state.stats.rq_timeout += 1

    # --- The end ---

    def fail(self, error: ProxyError) -> None:
        """The one place where a failure becomes an answer, or a reset where the answer has already begun."""
        if self._done:
            return
        self._abandon()
        if not self.response_started:
            self._reply(forwarding.answer_to(error), error.reason)
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
        self.response_started = True
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
        self._abandon()
        self._complete(keep=False)

    def _abandon(self) -> None:
        """Let go of the upstream: its answer is not wanted any more."""
        if self._attempts is not None:
            self._attempts.leave(close=True)

    def _complete(self, *, keep: bool) -> None:
        """Always, exactly once: the record is finished, counted and shown; the connection goes on or ends."""
        self._done = True
        if self._task is not None:
            self._task.cancel()
        downstream, record, attempts = self._downstream, self.record, self._attempts
        record.t_end = monotonic()
        stats, manager = downstream.stats, downstream.manager
        stats.rq_active -= 1
        stats.completed(record.status, (record.t_end - record.t_start) * 1000)
        if attempts is not None:
            attempts.over()
            upstream = attempts.state.stats
            upstream.classes[record.status // 100] += 1
            upstream.bytes_sent += record.bytes_received
            upstream.bytes_received += record.bytes_sent
            self._attempts = None  # the two know each other: nothing is left to the garbage collector
        loop.on_complete(manager.filters, record, stats)
        downstream.runtime.completed(record, manager.access_logs)
        record.headers = record.response_headers = None  # the record is kept for a while, the heads need not be
        downstream.exchange_done(record.t_end, keep=keep)
