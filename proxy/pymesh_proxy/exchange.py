"""The life of one request, every phase once, in order. The file to read first.

    Exchange(…)           pin the snapshot in force; connection.py has read the head
    start                 give the head the headers and the form that every request gets
      └ _filter           request filters (filters/loop.py): one that answers ends here, one that asks suspends
        └ _follow_route   virtual host, route, weighted cluster; redirects and direct responses end here
          └ _to_cluster   attempts.py: endpoint, limits, connection; head and body are sent
    request_body, _end    kept until there is an upstream, and for another attempt; then passed on as it comes
    response_head         another attempt, or pass the head on: response filters in reverse, headers
    response_body         relay, each side paused when the other does not take more
    response_end          release the connection
    _complete             record, counters, log: always, exactly once

Any ProxyError, from any phase, becomes an answer or a reset in one place: `fail`. A retryable failure before the
response head leads to another attempt. Nothing here waits: what takes time calls back.
"""

import asyncio
from collections.abc import Awaitable
from time import monotonic, time

from pymesh.peer_metadata import UNKNOWN_VALUE
from pymesh_proxy import forwarding, trust
from pymesh_proxy.attempts import Attempts
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.config.model import Cluster
from pymesh_proxy.deadlines import Deadlines, Expired
from pymesh_proxy.downstream import Downstream
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.filters import loop
from pymesh_proxy.filters.base import LocalReply, Verdict
from pymesh_proxy.filters.grpc_reply import for_caller
from pymesh_proxy.reframing import Reframing, reframing
from pymesh_proxy.request_body import RequestBody
from pymesh_proxy.routing import Forward, Route
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.timers import NEVER
from pymesh_proxy.transport.reset import reset
from pymesh_proxy.upstream.balancer import choose_weighted
from pymesh_proxy.upstream.overrides import OVERRIDES, overridden


class Exchange:
    """One request and its answer.

    Attributes:
        request: the request's head; what filters and routes change of it goes upstream.
        record: what is known of the request.
        body: of the request; None where none follows the head.
        stalled: the client does not take what is written.
        response_started: the client has had something of the answer.
    """

    __slots__ = (
        "_active_at", "_attempts", "_done", "_downstream", "_keep", "_reframing", "_route_found", "_snapshot", "_task",
        "body", "record", "request", "response_started", "stalled",
    )  # fmt: skip

    def __init__(self, downstream: Downstream, request: Head, has_body: bool, begun: float = 0.0) -> None:
        """`begun`: when the first bytes of the head came, if not with the rest of it."""
        self._downstream = downstream
        self._snapshot = downstream.runtime.snapshot
        self.request = request
        self._active_at = now = monotonic()  # when something last moved
        self.record = RequestRecord(downstream.facts, time(), now, request)
        self.body: RequestBody | None = None
        self._route_found: Route | None = None
        self._attempts: Attempts | None = None
        self._reframing: Reframing | None = None
        self._task: asyncio.Task[None] | None = None  # a filter that has to ask somebody, until it has its answer
        self._keep = False  # the client's connection serves another request after this one
        self.stalled = self.response_started = self._done = False
        downstream.stats.rq_total += 1
        if has_body:
            limit = downstream.manager.request_timeout
            self.body = RequestBody(NEVER if limit is None else (begun or now) + limit)

    @classmethod
    def for_bad_request(cls, downstream: Downstream) -> "Exchange":
        """An exchange for bytes that are no request, so that they too are answered, counted and logged in one way.

        It has a body that never ends: so its connection is not kept.
        """
        return cls(downstream, Head(), has_body=True)

    # --- Request: head, filters, route ---

    def start(self, came: bytes = b"", *, ended: bool = False) -> None:
        """The head is there, and what `came` of its body; the rest, if any, by `request_body` and `request_end`.

        `serving.asked`, `shown` and `told` are the filters with something to say to requests, to responses, at the end.
        """
        downstream, request, record = self._downstream, self.request, self.record
        manager = downstream.manager
        if came and self.body is not None:
            record.bytes_received = len(came)
            self.body.hold(came, sent=False)
            self.body.ended_at = self._active_at if ended else 0.0
        try:
            downstream.runtime.peers.meet(record, request)
            record.request_id = forwarding.prepare_request(request, manager, downstream.facts)
            if manager.tracing is not None:
                forwarding.trace(request, manager.tracing, record)
            answer = forwarding.canonicalize(request, manager, downstream.facts)
            if answer is not None:
                self._reply(answer)
                return
            if self.body is not None and not ended:
                self.watch()
            if downstream.serving.asked:
                self._filter(0)
            else:
                self._follow_route(self._active_at)  # nobody was asked: no time has passed
        except ProxyError as error:
            self.fail(error)

    def _filter(self, first: int) -> None:
        """Ask the request filters from number `first`; go on if all let the request pass."""
        downstream = self._downstream
        verdict, index = loop.on_request(downstream.serving.asked, self, downstream.stats, first)
        if verdict is None:
            self._follow_route(monotonic())
        elif isinstance(verdict, LocalReply):
            self._filter_replies(verdict)
        else:
            self.watch()
            self._task = downstream.runtime.spawn(self._filter_later(verdict, index))

    async def _filter_later(self, verdict: Awaitable[Verdict], index: int) -> None:
        """Filter number `index` had to ask: go on where it stood."""
        downstream = self._downstream
        try:
            answer = await loop.answer_of(downstream.serving.asked[index], verdict, self.record, downstream.stats)
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
            self.record.matched = route
            if isinstance(route.action, Forward) and len(route.action.clusters) == 1:
                self._leads_to(route.action.clusters[0][0])
        self._reply(reply)

    @property
    def route(self) -> Route | None:
        """The route of this request, found when it is first asked for. A filter may ask, too."""
        return self._route_found or self._find_route()

    def _find_route(self) -> Route | None:
        manager = self._downstream.manager
        table = manager.routes or self._snapshot.routes.get(manager.rds)
        found = self._route_found = None if table is None else table.find(self.request)
        return found

    @property
    def client(self) -> str:
        """See filters.base.RequestContext."""
        return trust.client(self.request, self._downstream.manager, self.record.facts)

    def _follow_route(self, now: float) -> None:
        """What is to become of the request. It goes on to a cluster, or is answered from here."""
        self.record.t_filtered = now
        route = self._route_found or self._find_route()
        if route is None:
            raise failure(Flag.NO_ROUTE, "route_not_found")
        self.record.matched = route
        action = route.action
        if isinstance(action, Forward):
            self._to_cluster(route, action)
        else:
            self._reply(forwarding.direct_answer(self.request, route, action))

    def _to_cluster(self, route: Route, action: Forward) -> None:
        """Draw the cluster, give the request what the route gives it, and begin the first attempt."""
        downstream, request = self._downstream, self.request
        runtime, clusters = downstream.runtime, action.clusters
        name = clusters[0][0] if len(clusters) == 1 else choose_weighted(clusters, runtime.random)
        cluster = self._leads_to(name)
        if cluster is None:
            raise failure(Flag.NO_CLUSTER, "cluster_not_found", f"no cluster {name}")
        if (request.shape.envoy or downstream.serving.asked) and request.has_any(OVERRIDES):
            action = overridden(action, request)
        forwarding.apply_route(request, route, action, downstream.manager)
        self._attempts = attempts = Attempts(self, runtime, action, cluster, runtime.upstreams.state(cluster))
        if action.hash_policy is not None:
            attempts.hash_key, attempts.cookies = action.hash_policy(request, downstream.facts)
        left = downstream.deadline - self._active_at
        # The connection looks at deadlines in `left` seconds anyhow: only what may be due before that needs a call.
        if action.soonest < left or downstream.patience < left:
            self.watch()
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
        self._active_at = monotonic()
        upstream = None if self._attempts is None else self._attempts.upstream
        if self.body is not None and not self.body.hold(data, sent=upstream is not None):
            self._downstream.pause_reading()  # until there is an upstream, and all that is held goes there
        if upstream is not None:
            upstream.send(data)

    def request_end(self) -> None:
        """The request is complete: from here the route's timeout runs."""
        if self.body is not None:
            self.body.ended_at = monotonic()
        self.watch()

    def _request_ended(self) -> bool:
        return self.body is None or self.body.ended_at > 0.0

    # --- Response ---

    def informational(self, head: Head) -> None:
        """See upstream.connection.ResponseSink: 100 (Continue) and 103 (Early Hints) go through (RFC 9110 15.2)."""
        if not self.response_started and self.request.minor == 1:
            head.remove_hop_by_hop()
            self._downstream.transport.write(forwarding.status_line(head) + head.fields() + b"\r\n")

    def response_head(self, head: Head, framing: int | None, body: bytes) -> bool:
        """See upstream.connection.ResponseSink."""
        downstream, record = self._downstream, self.record
        attempts, route = self._attempts, self._route_found
        assert attempts is not None
        assert route is not None
        if attempts.answered(head):  # another one is made instead
            return False
        request, status = self.request, head.status
        if (downstream.serving.shown or status == 101) and not self._may_pass(head):
            return False
        self.response_started = True
        if self.body is not None:
            self.body.held = None  # there is no other attempt now
        record.t_first_byte = now = monotonic()
        record.status = status
        record.response_headers = head
        record.details = "via_upstream"
        form = None  # nearly always its body goes on in the form in which it came
        if framing is None or request.minor == 0:
            form = self._reframing = reframing(head, framing, request.minor)
        manager = downstream.manager
        forwarding.prepare_response(head, route, manager, downstream.facts)
        if attempts.action.attempt_count_in_response:
            head.set(b"x-envoy-attempt-count", b"%d" % record.attempts)
        for cookie in attempts.cookies:
            head.add(b"set-cookie", cookie)
        self._keep = request.persistent and not downstream.is_last() and (form is None or not form.until_close)
        wraps, record.bytes_sent = False, len(body)
        if form is not None:
            wraps, (body, record.bytes_sent) = form.wraps, form.feed(body)
        took = now - record.t_connected
        data = forwarding.response_bytes(
            head, manager, record.request_id, took, request.minor, not self._keep, wraps, body
        )
        downstream.transport.write(data)
        if status == 101:
            downstream.switch_protocols()
        return True

    def _may_pass(self, head: Head) -> bool:
        """Whether the client may have this answer; otherwise it has had another one."""
        downstream = self._downstream
        try:
            if head.status == 101 and not self.request.upgrade:
                raise failure(Flag.UPSTREAM_PROTOCOL_ERROR, "http1.unexpected_101")
            loop.on_response(downstream.serving.shown, self, head, downstream.stats)
        except ProxyError as error:
            self.fail(error)
            return False
        return True

    def response_body(self, data: bytes) -> None:
        """See upstream.connection.ResponseSink."""
        self._active_at = monotonic()
        if self._reframing is None:
            self.record.bytes_sent += len(data)
        else:
            data, content = self._reframing.feed(data)
            self.record.bytes_sent += content
        self._downstream.transport.write(data)

    def response_end(self) -> None:
        """See upstream.connection.ResponseSink."""
        if self._reframing is not None:
            if self._reframing.opaque:  # after a 101: only the upstream's half is over
                self._upstream_eof(self._reframing)
                return
            if self._reframing.wraps:
                self._downstream.transport.write(b"0\r\n\r\n")
        # A peer that has answered before the request was complete is in the middle of a message: its connection is
        # of no more use, and neither is the client's.
        now = monotonic()
        if self.body is not None and not self.body.ended_at:
            self._abandon()
            self._complete(now, keep=False)
            return
        if self._attempts is not None:
            self._attempts.done(now)
        self._complete(now, keep=self._keep and not self._downstream.runtime.draining)

    # --- After a 101: two halves, each with an end of its own ---

    def downstream_eof(self) -> None:
        """The client has said its last; the upstream may not have."""
        upstream = None if self._attempts is None else self._attempts.upstream
        if upstream is not None and self._reframing is not None and self._reframing.first_half_ends():
            upstream.send_eof()
        else:
            self._end_upgraded()

    def _upstream_eof(self, form: Reframing) -> None:
        transport = self._downstream.transport
        if transport.can_write_eof() and form.first_half_ends():
            transport.write_eof()
        else:
            self._end_upgraded()

    def _end_upgraded(self) -> None:
        """Both halves are over, or the second cannot be told of the first."""
        if self._attempts is not None:
            self._attempts.end()
        self._complete(monotonic(), keep=False)

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
        """See upstream.connection.ResponseSink."""
        self._downstream.pause_reading()

    def upstream_resume(self) -> None:
        """See upstream.connection.ResponseSink."""
        self._downstream.resume_reading()

    def upstream_failed(self, error: Exception) -> None:
        """See upstream.connection.ResponseSink."""
        if self._attempts is not None:
            self._attempts.broken(error)

    # --- Deadlines ---

    def deadlines(self) -> Deadlines:
        """As things stand now."""
        body, attempts, record = self.body, self._attempts, self.record
        found, idle = Deadlines(), self._downstream.manager.stream_idle_timeout
        if body is not None and not body.ended_at and not self.response_started:
            found.arrival = body.arrive_by
        if attempts is not None:
            action = attempts.action
            opaque = self._reframing is not None and self._reframing.opaque  # and so without an end to wait for
            if action.timeout is not None and not opaque and (body is None or body.ended_at):
                found.response = max(record.t_filtered, 0.0 if body is None else body.ended_at) + action.timeout
            if attempts.per_try_timeout is not None and not self.response_started:
                found.attempt = record.t_connected + attempts.per_try_timeout
            idle = idle if action.idle_timeout is None else action.idle_timeout
        if idle is not None:
            found.idle = self._active_at + idle
        return found

    def watch(self) -> None:
        """Be told when the first deadline may have passed. None of them comes nearer without this."""
        self._downstream.set_deadline(self.deadlines().first())

    def on_deadline(self, now: float) -> None:
        """A deadline may have passed; or none, since there was life meanwhile."""
        match self.deadlines().expired(now):
            case Expired.RESPONSE:
                if self._attempts is not None:
                    self._attempts.too_late()
                self.fail(failure(Flag.UPSTREAM_REQUEST_TIMEOUT, "response_timeout"))
            case Expired.ARRIVAL:
                self.fail(ProxyError(408, Flag.DURATION_TIMEOUT, "request_overall_timeout"))
            case Expired.ATTEMPT:
                if self._attempts is not None:
                    self._attempts.timed_out()
            case Expired.IDLE:
                status = 504 if self._request_ended() else 408  # whose turn it was
                self.fail(ProxyError(status, Flag.STREAM_IDLE_TIMEOUT, "stream_idle_timeout"))
        if not self._done:
            self.watch()

    # --- The end ---

    def fail(self, error: ProxyError) -> None:
        """The one place where a failure becomes an answer, or a reset where the answer has already begun."""
        if self._done:
            return
        self._abandon()
        if not self.response_started:
            attempts = self._attempts
            counted = attempts is not None and attempts.action.attempt_count_in_response
            retried = attempts is not None and attempts.retried
            answer = forwarding.answer_to(error, self.record.attempts if counted else 0, retried=retried)
            self._reply(answer, error.reason)
            return
        self.record.flag, self.record.details = error.flag, error.details
        if error.reason:
            self.record.notes["reason"] = error.reason
        # Closing is how the client learns that the message is incomplete; where closing would mean complete, reset.
        if self._reframing is not None and self._reframing.until_close:
            reset(self._downstream.transport)
        self._complete(monotonic(), keep=False)

    def _reply(self, reply: LocalReply, reason: str = "") -> None:
        """Answer from here."""
        downstream, record = self._downstream, self.record
        reply = for_caller(reply, self.request)
        record.status, record.flag, record.details = reply.status, reply.flag, reply.details
        if reason:
            record.notes["reason"] = reason
        record.t_first_byte = monotonic()
        keep = self.request.persistent and self._request_ended() and not downstream.is_last()
        keep = keep and reply.flag is not Flag.DOWNSTREAM_PROTOCOL_ERROR
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
        self._complete(monotonic(), keep=keep)

    def downstream_lost(self) -> None:
        """The client is gone."""
        if self._done:
            return
        self.record.flag, self.record.details = Flag.DOWNSTREAM_CONNECTION_TERMINATION, "downstream_remote_disconnect"
        self._abandon()
        self._complete(monotonic(), keep=False)

    def _abandon(self) -> None:
        """Let go of the upstream: its answer is not wanted any more."""
        if self._attempts is not None:
            self._attempts.abandon()

    def _complete(self, now: float, *, keep: bool) -> None:
        """Always, exactly once: the record is finished, counted and shown; the connection goes on or ends."""
        self._done = True
        if self._task is not None:
            self._task.cancel()
        downstream, record, attempts = self._downstream, self.record, self._attempts
        runtime, serving = downstream.runtime, downstream.serving
        record.t_end = now
        serving.stats.completed(record.status, (now - record.t_start) * 1000.0)
        if attempts is not None:
            attempts.over()
            self._attempts = None  # the two know each other: nothing is left to the garbage collector
        if record.service.host == UNKNOWN_VALUE:
            runtime.peers.settle(record)
        runtime.istio.request(record)
        if serving.told:
            loop.on_complete(serving.told, record, serving.stats)
        if serving.writers is None:
            serving.writers = runtime.writers(downstream.manager.access_logs)
        runtime.completed(record, serving.writers)
        record.headers = record.response_headers = None  # the record is kept for a while, the heads need not be
        downstream.exchange_done(now, keep=keep)
