"""Trace context, header by header: what counts, what restarts a trace, and what is sent on."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.telemetry.trace_context import Incoming, SpanContext, Style, extract, inject
from tests.proxy.telemetry.traces import OWN, SPAN, TRACE, head

SHORT = "a3ce929d0e0e4736"
NO_TRACE = Incoming()


def w3c(value: str, *more: tuple[str, str]) -> Incoming:
    return extract(head(("traceparent", value), *more))


# --- W3C ---


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"  00-{TRACE}-{SPAN}-01\t", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"01-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
        (f"01-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_a_valid_traceparent_is_continued(value: str, sampled: bool) -> None:
    assert w3c(value) == Incoming(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01.",
        f"01-{TRACE}-{SPAN}-01.",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01-x,00-{TRACE}-{SPAN}-01",
    ],
)
def test_any_other_traceparent_is_none(value: str) -> None:
    assert w3c(value, ("tracestate", "a=1")) == NO_TRACE


def test_two_traceparents_are_none() -> None:
    value = f"00-{TRACE}-{SPAN}-01"
    assert extract(head(("traceparent", value), ("Traceparent", value))) == NO_TRACE


def test_the_state_goes_with_the_parent() -> None:
    assert w3c(f"00-{TRACE}-{SPAN}-01", ("tracestate", "a=1"), ("tracestate", "b=2")).state == "a=1, b=2"
    assert extract(head(("tracestate", "a=1"))) == NO_TRACE


# --- B3 ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"{TRACE}-{SPAN}-1-{OWN}", Incoming(TRACE, SPAN, True)),
        (f"{TRACE}-{SPAN}-0", Incoming(TRACE, SPAN, False)),
        (f"{TRACE}-{SPAN}", Incoming(TRACE, SPAN, None)),
        (f"{SHORT}-{SPAN}-d", Incoming(SHORT, SPAN, True, debug=True)),
        (f"{TRACE.upper()}-{SPAN.upper()}-1", Incoming(TRACE, SPAN, True)),
        ("0", Incoming(sampled=False)),
        ("1", Incoming(sampled=True)),
        ("d", Incoming(sampled=True, debug=True)),
        ("", NO_TRACE),
        ("2", NO_TRACE),
        (f"{'0' * 32}-{SPAN}-1", NO_TRACE),
        (f"{TRACE}-{'0' * 16}-1", NO_TRACE),
        (f"{TRACE[:20]}-{SPAN}-1", NO_TRACE),
        (f"{TRACE}-{SPAN}-1-{OWN}-more", NO_TRACE),
        (f"{TRACE}-{SPAN}-yes", NO_TRACE),
    ],
)
def test_b3_in_one_header(value: str, expected: Incoming) -> None:
    assert extract(head(("b3", value))) == expected._replace(b3=Style.SINGLE)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "1", "ParentSpanId": OWN}, Incoming(TRACE, SPAN, True)),
        ({"TraceId": SHORT, "SpanId": SPAN, "Sampled": "0"}, Incoming(SHORT, SPAN, False)),
        ({"TraceId": TRACE, "SpanId": SPAN}, Incoming(TRACE, SPAN, None)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Flags": "1"}, Incoming(TRACE, SPAN, True, debug=True)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "true"}, Incoming(TRACE, SPAN, True)),
        ({"Sampled": "0"}, Incoming(sampled=False)),
        ({"TraceId": TRACE}, NO_TRACE),
        ({"TraceId": "0" * 32, "SpanId": SPAN, "Sampled": "1"}, Incoming(sampled=True)),
        ({"TraceId": f"{TRACE} {SPAN}", "SpanId": SPAN}, NO_TRACE),
    ],
)
def test_b3_in_several_headers(fields: dict[str, str], expected: Incoming) -> None:
    found = extract(head(*((f"X-B3-{name}", value) for name, value in fields.items())))
    assert found == expected._replace(b3=Style.MULTI)


def test_w3c_counts_before_b3_and_one_header_before_several() -> None:
    b3, multi = ("b3", f"{SHORT}-{OWN}-0"), (("x-b3-traceid", TRACE), ("x-b3-spanid", OWN), ("x-b3-sampled", "0"))
    found = extract(head(*multi, b3, ("traceparent", f"00-{TRACE}-{SPAN}-01")))
    assert found == Incoming(TRACE, SPAN, True, Style.SINGLE | Style.MULTI)
    assert extract(head(*multi, b3)).trace_id == SHORT
    assert extract(head(*multi, ("b3", "rubbish"))) == Incoming(TRACE, OWN, False, Style.SINGLE | Style.MULTI)


# --- What is sent on ---


def sent(span: SpanContext, *fields: tuple[str, str]) -> dict[str, str]:
    """The headers about the trace that go upstream."""
    request = head(*fields)
    inject(request, span, extract(request))
    names = [name.decode().lower() for name, _ in request.items()]
    found = {name.decode().lower(): value.decode() for name, value in request.items() if name.lower() != b"host"}
    assert len(names) == len(set(names))
    assert request.fields().count(b"\r\n") == len(names)
    return found


def test_a_request_without_a_trace_gets_a_traceparent_only() -> None:
    assert sent(SpanContext(TRACE, OWN)) == {"traceparent": f"00-{TRACE}-{OWN}-00"}
    assert sent(SpanContext(TRACE, OWN, sampled=True), ("tracestate", "a=1")) == {"traceparent": f"00-{TRACE}-{OWN}-01"}


def test_state_is_passed_on_with_its_parent() -> None:
    given_state = ("tracestate", "a=1,b=2")
    found = sent(SpanContext(TRACE, OWN, SPAN, True, "a=1,b=2"), given_state, ("traceparent", f"00-{TRACE}-{SPAN}-01"))
    assert found == {"tracestate": "a=1,b=2", "traceparent": f"00-{TRACE}-{OWN}-01"}


def test_b3_is_answered_in_its_own_words() -> None:
    span = SpanContext(SHORT.zfill(32), OWN, SPAN, True)
    w3c_header = {"traceparent": f"00-{SHORT.zfill(32)}-{OWN}-01"}
    assert sent(span, ("b3", f"{SHORT}-{SPAN}-1")) == w3c_header | {"b3": f"{SHORT}-{OWN}-1-{SPAN}"}
    assert sent(span, ("b3", f"{SHORT}-{SPAN}-d")) == w3c_header | {"b3": f"{SHORT}-{OWN}-d-{SPAN}"}
    multi = (("x-b3-traceid", SHORT), ("x-b3-spanid", SPAN), ("x-b3-parentspanid", "1" * 16))
    expected = {"x-b3-traceid": SHORT, "x-b3-spanid": OWN, "x-b3-parentspanid": SPAN}
    assert sent(span, *multi, ("x-b3-sampled", "1")) == w3c_header | expected | {"x-b3-sampled": "1"}
    assert sent(span, *multi, ("x-b3-flags", "1")) == w3c_header | expected | {"x-b3-flags": "1"}


def test_b3_that_only_says_no_begins_a_trace_that_is_not_sampled() -> None:
    expected = {"traceparent": f"00-{TRACE}-{OWN}-00", "b3": f"{TRACE}-{OWN}-0"}
    assert sent(SpanContext(TRACE, OWN), ("b3", "0")) == expected


# --- Any bytes at all ---

NAMES = ["traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"]
VALUES = st.one_of(
    st.text(string.hexdigits + "-d, ", max_size=60).map(str.strip),
    st.sampled_from([f"00-{TRACE}-{SPAN}-01", f"{TRACE}-{SPAN}-1", TRACE, SPAN, SHORT, "1", "0"]),
)


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6))
def test_whatever_comes_what_goes_on_is_valid_and_says_one_thing(fields: list[tuple[str, str]]) -> None:
    request = head(*fields)
    incoming = extract(request)
    assert bool(incoming.trace_id) == bool(incoming.span_id)
    span = SpanContext(
        incoming.trace_id.zfill(32) if incoming.trace_id else TRACE,
        OWN,
        incoming.span_id,
        incoming.sampled is True,
        incoming.state,
    )
    inject(request, span, incoming)
    again = extract(request)
    assert (again.trace_id, again.span_id, again.sampled) == (span.trace_id, OWN, span.sampled)
    request.remove(b"traceparent")
    if incoming.b3:
        b3 = extract(request)
        assert (b3.trace_id.zfill(32), b3.span_id, b3.sampled) == (span.trace_id, OWN, span.sampled)
