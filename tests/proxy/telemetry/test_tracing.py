"""Which requests are traced: by their id, by who asks, by their caller's decision."""

from random import Random
from uuid import UUID

import pytest

from pymesh_proxy.telemetry.trace_context import SpanContext
from pymesh_proxy.telemetry.tracing import EVERY_REQUEST, Sampling, begin
from tests.proxy.telemetry.traces import OWN, SPAN, TRACE, head

NOTHING = Sampling(client=0, random=0)
ASKED = Sampling(random=0)
# Its first digits are 5000 of 10,000, and 0 of 100.
ID = f"{5000:08x}-1234-4abc-8abc-123456789abc"


def marked(reason: str) -> str:
    return ID[:14] + reason + ID[15:]


def started(sampling: Sampling, *fields: tuple[str, str], request_id: str = ID) -> tuple[str, SpanContext]:
    """The request id and the span, as begun; the header says the same."""
    request = head(("x-request-id", request_id), *fields)
    found, span = begin(request, sampling, request_id, lambda: 0.5, lambda bits: int(TRACE if bits == 128 else OWN, 16))
    assert request.get(b"x-request-id") == found.encode()
    assert request.get(b"traceparent") == f"00-{span.trace_id}-{span.span_id}-0{int(span.sampled)}".encode()
    return found, span


@pytest.mark.parametrize(
    ("sampling", "fields", "request_id", "expected"),
    [
        (EVERY_REQUEST, (), ID, (marked("9"), True)),
        (Sampling(random=5000), (), ID, (ID, False)),
        (Sampling(random=5001), (), ID, (marked("9"), True)),
        (NOTHING, (), ID, (ID, False)),
        (NOTHING, (), marked("9"), (marked("9"), True)),
        (NOTHING, (), marked("a"), (marked("a"), True)),
        (Sampling(overall=0), (), marked("a"), (ID, False)),
        (ASKED, (("x-client-trace-id", "x"),), ID, (marked("b"), True)),
        (Sampling(client=50, random=0), (("x-client-trace-id", "x"),), ID, (ID, False)),
        (NOTHING, (("x-envoy-force-trace", "1"),), ID, (marked("a"), True)),
        (EVERY_REQUEST, (), "hello", ("hello", False)),
        (EVERY_REQUEST, (), "deadbeef-hello", ("deadbeef-hello", True)),
        (EVERY_REQUEST, (), "+1234567-hello", ("+1234567-hello", False)),
        (EVERY_REQUEST, (), "", ("", False)),
    ],
)
def test_requests_without_a_trace(
    sampling: Sampling, fields: tuple[tuple[str, str], ...], request_id: str, expected: tuple[str, bool]
) -> None:
    if request_id:
        found, span = started(sampling, *fields, request_id=request_id)
    else:
        found, span = begin(head(*fields), sampling, "", lambda: 0.5, lambda _: 1)
    assert (found, span.sampled) == expected
    assert span.parent_span_id == ""


def test_a_caller_that_has_decided_is_believed() -> None:
    sampled, unsampled = ("traceparent", f"00-{TRACE}-{SPAN}-01"), ("traceparent", f"00-{TRACE}-{SPAN}-00")
    assert started(NOTHING, sampled) == (marked("9"), SpanContext(TRACE, OWN, SPAN, sampled=True))
    assert started(EVERY_REQUEST, unsampled) == (marked("9"), SpanContext(TRACE, OWN, SPAN))
    assert started(Sampling(overall=0), sampled)[1].sampled is False
    assert started(EVERY_REQUEST, ("b3", "0"))[1] == SpanContext(TRACE, OWN)
    assert started(EVERY_REQUEST, ("b3", f"{TRACE}-{SPAN}"))[1].sampled is True
    assert started(NOTHING, ("b3", f"{TRACE}-{SPAN}"))[1].sampled is False


def test_ids_are_never_zero() -> None:
    _, span = begin(head(), EVERY_REQUEST, "", lambda: 0.0, lambda _: 0)
    assert (span.trace_id, span.span_id) == ("1".zfill(32), "1".zfill(16))


def test_the_share_is_as_asked_for() -> None:
    seeded = Random(1)
    ids = [str(UUID(int=seeded.getrandbits(128), version=4)) for _ in range(4000)]
    sampled = [begin(head(), Sampling(random=2500), one, lambda: 0.5, lambda _: 1)[1].sampled for one in ids]
    assert 900 < sum(sampled) < 1100
