"""Which requests are traced, as Envoy decides it, and the span that each gets. Pure: what is random is an argument.

Whether a request that belongs to no trace yet is sampled follows from its request id, so that all proxies on its way
decide alike; the decision is packed into the request id, where Envoys find it, too. A caller that has decided is
believed: its traces are complete. (Envoy 1.40 drops the spans of a sampled caller that its own sampling would not have
taken.)

Source: Envoy, source/common/http/conn_manager_utility.cc (mutateTracingRequestHeader),
source/extensions/request_id/uuid/config.cc.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.telemetry.trace_context import SpanContext, extract, inject

# Where in a UUID Envoy keeps its decision (its version digit), and what it writes there.
_PLACE: Final = 14
_UUID_LENGTH: Final = 36
_SAMPLED: Final = "9"
_FORCED: Final = "a"
_FORCED_BY_CLIENT: Final = "b"
_TRACED: Final = frozenset({_SAMPLED, _FORCED, _FORCED_BY_CLIENT})
_HEX: Final = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many requests are traced (HttpConnectionManager.Tracing).

    Attributes:
        client: of 100 requests that ask for it with `x-client-trace-id`.
        random: of 10,000 that belong to no trace.
        overall: of 100 that would be traced by the others.
    """

    client: int = 100
    random: int = 10_000
    overall: int = 100


EVERY_REQUEST: Final = Sampling()


def begin(
    head: Head, sampling: Sampling, request_id: str, random: Callable[[], float], random_bits: Callable[[int], int]
) -> tuple[str, SpanContext]:
    """Give a request its span, in its headers as well; its request id, which tells of the decision from now on.

    `random` is uniform in [0, 1), `random_bits(n)` in [0, 2**n).
    """
    incoming = extract(head)
    reason = _reason(head, sampling, request_id, random)
    if incoming.sampled and not reason:
        reason = _SAMPLED
    if reason and not _allowed(sampling, request_id):
        reason = ""
    marked = _marked(request_id, reason)
    if marked != request_id:
        head.set(b"x-request-id", marked.encode("latin-1"))
    span = SpanContext(
        incoming.trace_id.zfill(32) if incoming.trace_id else _some(random_bits, 128),
        _some(random_bits, 64),
        incoming.span_id,
        bool(reason) and incoming.sampled is not False,
        incoming.state,
    )
    inject(head, span, incoming)
    return marked, span


def _some(random_bits: Callable[[int], int], size: int) -> str:
    """An id of `size` bits, which must not be 0."""
    return f"{random_bits(size) or 1:0{size // 4}x}"


def _reason(head: Head, sampling: Sampling, request_id: str, random: Callable[[], float]) -> str:
    """Why it is traced, in Envoy's letters; empty if it is not. A proxy before us may have decided already."""
    number = _number(request_id)
    if number is None:
        return ""
    if len(request_id) == _UUID_LENGTH and request_id[_PLACE] in _TRACED:
        return request_id[_PLACE]
    if head.has(b"x-client-trace-id") and random() * 100 < sampling.client:
        return _FORCED_BY_CLIENT
    if head.has(b"x-envoy-force-trace"):
        return _FORCED
    return _SAMPLED if number % 10_000 < sampling.random else ""


def _allowed(sampling: Sampling, request_id: str) -> bool:
    return sampling.overall >= 100 or (_number(request_id) or 0) % 100 < sampling.overall


def _number(request_id: str) -> int | None:
    """The number that the decision is made by; None for an id that is not Envoy's kind: it is not sampled."""
    digits = request_id[:8]
    return int(digits, 16) if len(digits) == 8 and _HEX.issuperset(digits) else None


def _marked(request_id: str, reason: str) -> str:
    """`request_id` with the decision in it, where it is a UUID."""
    if len(request_id) != _UUID_LENGTH:
        return request_id
    if not reason and request_id[_PLACE] not in _TRACED:
        return request_id
    return request_id[:_PLACE] + (reason or "4") + request_id[_PLACE + 1 :]
