"""A real grpcio server that speaks as a policy service does, with decisions that the test makes.

with policy_peer(slots={"ConcurrencyLimit a/b": 2}) as peer:
    peer.answering = False   # stopped: the connection stands, nothing is answered
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from time import monotonic, sleep
from typing import Final

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from pymesh.policy_api import (
    ANSWER_METADATA,
    CHECK_PATH,
    PATH,
    WHOLE_SHARE,
    Demand,
    Grant,
    LeaseRequest,
    LeaseResponse,
    decode_request,
    encode_response,
)

# Seconds in which grpcio tells that a stream is broken; shorter than a sidecar waits for the end of one it half-closed.
TELLS_WHY: Final = 0.2

Decide = Callable[[CheckRequest], CheckResponse]


def allow(_: CheckRequest) -> CheckResponse:
    """Yes to everything."""
    return CheckResponse()


def deny(rule: str) -> Decide:
    """429 of `rule` to everything."""

    def decide(request: CheckRequest) -> CheckResponse:
        answer = CheckResponse()
        answer.status.code = 7
        answer.denied_response.status.code = 429  # type: ignore[assignment]  # an open enum
        after = answer.denied_response.headers.add().header
        after.key, after.value = "retry-after", "7"
        answer.dynamic_metadata.update({ANSWER_METADATA: {"rule": rule}})
        return answer

    return decide


@dataclass
class PolicyPeer:
    """What the server does, and what it heard.

    Attributes:
        slots: what is granted of each rule; `limit` is what it says of all sidecars together.
        problems: rules for which nothing is granted, and why.
        answering: whether anything is answered; while not, requests are read and wait.
        replica: what it calls itself.
        unasked: said to the next report, before that is read; it is not answered until `answering` is set again.
        delay: seconds that each answer takes.
        rubbish: answers are bytes that are no message.
        heard: every LeaseRequest, in order.
        streams: how many were begun; `left` how many of them the sidecar half-closed.
        checks: every CheckRequest, in order.
        decide: the answer to one.
    """

    slots: dict[str, int]
    limit: int = 100
    problems: dict[str, str] = field(default_factory=dict)
    decide: Decide = allow
    heard: list[LeaseRequest] = field(default_factory=list)
    streams: int = 0
    left: int = 0
    checks: list[CheckRequest] = field(default_factory=list)
    port: int = 0
    replica: str = ""
    unasked: Grant | None = None
    delay: float = 0.0
    rubbish: bool = False
    _answering: threading.Event = field(default_factory=threading.Event)

    @property
    def answering(self) -> bool:
        """See above."""
        return self._answering.is_set()

    @answering.setter
    def answering(self, value: bool) -> None:
        (self._answering.set if value else self._answering.clear)()

    def last(self, rule: str) -> Demand | None:
        """What was last reported of `rule`."""
        found = [demand for request in self.heard for demand in request.demands if demand.rule == rule]
        return found[-1] if found else None

    def hold(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """LeaseService/Hold."""
        self.streams += 1
        nonces = count(1)
        for heard, data in enumerate(requests, start=1):
            request = decode_request(data)
            self.heard.append(request)
            if (unasked := self.unasked) is not None:
                self.unasked, self.answering = None, False
                yield encode_response(LeaseResponse("1", (unasked,), next(nonces), heard - 1, self.replica))
            self._wait(context)
            grants = tuple(self._grant(demand) for demand in request.demands)
            response = LeaseResponse("1", grants, next(nonces), heard, self.replica)
            yield b"\xff" if self.rubbish else encode_response(response)
        # A stream that was broken off ends here, too, and grpcio may tell the end of requests before it tells why.
        over = threading.Event()
        told = context.add_callback(over.set)
        self.left += told and not over.wait(TELLS_WHY)

    def check(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Authorization/Check."""
        request = CheckRequest.FromString(data)
        self.checks.append(request)
        self._wait(context)
        return b"\xff" if self.rubbish else self.decide(request).SerializeToString()

    def _grant(self, demand: Demand) -> Grant:
        problem = self.problems.get(demand.rule, "")
        slots = 0 if problem else self.slots.get(demand.rule, 0)
        return Grant(demand.rule, slots, self.limit, 2.0, problem, used=demand.used, share=WHOLE_SHARE)

    def _wait(self, context: grpc.ServicerContext) -> None:
        until = monotonic() + self.delay
        while monotonic() < until and context.is_active():
            sleep(0.02)
        while not self._answering.wait(0.02) and context.is_active():
            pass


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, peer: PolicyPeer) -> None:
        self._peer = peer

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        return {
            PATH: grpc.stream_stream_rpc_method_handler(self._peer.hold),
            CHECK_PATH: grpc.unary_unary_rpc_method_handler(self._peer.check),
        }.get(details.method)


@contextmanager
def policy_peer(
    slots: dict[str, int] | None = None, *, port: int = 0, peer: PolicyPeer | None = None
) -> Iterator[PolicyPeer]:
    """The server, on `port`; `peer` to go on with what an earlier one did."""
    peer = peer or PolicyPeer(slots or {})
    peer.answering = True
    with ThreadPoolExecutor(max_workers=16) as pool:
        server = grpc.server(pool, handlers=[_Handler(peer)], options=[("grpc.so_reuseport", 0)])
        peer.port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield peer
        finally:
            peer.answering = True
            server.stop(grace=None).wait()
