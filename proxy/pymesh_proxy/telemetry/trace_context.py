"""Trace context in headers: W3C (traceparent, tracestate) and B3, in one header or in several. Pure.

W3C counts where it is valid, then `b3`, then `x-b3-*`. What is sent on is always W3C, and B3 too where it came that
way, so that an app which knows only B3 keeps its trace. A traceparent that is not valid restarts the trace and takes
its tracestate with it.

Source: https://www.w3.org/TR/trace-context/ (sections 3.2, 3.3, 4), https://github.com/openzipkin/b3-propagation.
"""

import enum
import re
from typing import Final, NamedTuple

from pymesh_proxy.codec.headers import Head

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
B3: Final = b"b3"
B3_TRACE_ID: Final = b"x-b3-traceid"
B3_SPAN_ID: Final = b"x-b3-spanid"
B3_PARENT_SPAN_ID: Final = b"x-b3-parentspanid"
B3_SAMPLED: Final = b"x-b3-sampled"
B3_FLAGS: Final = b"x-b3-flags"

# 3.2.2: of a later version only what we know counts, and nothing may follow that is not set apart by a dash. Two
# headers, which arrive here joined by a comma, are not one.
_TRACEPARENT: Final = re.compile(
    rb"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?P<more>-[^,]*)?"
)
_SAMPLED_FLAG: Final = 0x01
# B3 has 64 or 128 bits for a trace, and any case on its way in.
_B3_TRACE: Final = re.compile(rb"(?=0*[1-9a-fA-F])(?:[0-9a-fA-F]{16}){1,2}")
_B3_SPAN: Final = re.compile(rb"(?=0*[1-9a-fA-F])[0-9a-fA-F]{16}")
_STATES: Final = {b"0": False, b"1": True, b"d": True, b"true": True, b"false": False}


class Style(enum.Flag):
    """The B3 headers that a request came with."""

    NONE = 0
    SINGLE = enum.auto()
    MULTI = enum.auto()


class Incoming(NamedTuple):
    """What a request says of its trace.

    Attributes:
        trace_id, span_id: of the caller's span, 32 (or, in B3, 16) and 16 lower-case hexadecimal digits; empty where
            the request belongs to no trace yet.
        sampled: whether the caller's span is recorded; None where that is left to us.
        b3: which B3 headers there are.
        debug: B3's: recorded, whatever the sampling.
        state: tracestate, if the ids are from a traceparent.
    """

    trace_id: str = ""
    span_id: str = ""
    sampled: bool | None = None
    b3: Style = Style.NONE
    debug: bool = False
    state: str = ""


class SpanContext(NamedTuple):
    """The span of one request at this proxy.

    Attributes:
        trace_id, span_id: 32 and 16 lower-case hexadecimal digits.
        parent_span_id: the caller's; empty at the root of a trace.
        sampled: whether the span is reported.
        state: tracestate, as it is passed on.
    """

    trace_id: str
    span_id: str
    parent_span_id: str = ""
    sampled: bool = False
    state: str = ""


def extract(head: Head) -> Incoming:
    """What the headers say; what is not valid says nothing."""
    b3 = Style.NONE
    if head.has(B3):
        b3 |= Style.SINGLE
    if head.has(B3_TRACE_ID) or head.has(B3_SAMPLED) or head.has(B3_FLAGS):
        b3 |= Style.MULTI
    traceparent = head.get(TRACEPARENT)
    match = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
    if match is not None and (match["version"] != b"00" or match["more"] is None):
        sampled = bool(int(match["flags"], 16) & _SAMPLED_FLAG)
        state = (head.get(TRACESTATE) or b"").decode("latin-1")
        return Incoming(match["trace"].decode(), match["span"].decode(), sampled, b3, state=state)
    if Style.SINGLE in b3 and (found := _single(head.get(B3) or b"")) is not None:
        return found._replace(b3=b3)
    return _multi(head)._replace(b3=b3) if Style.MULTI in b3 else Incoming(b3=b3)


def _single(value: bytes) -> Incoming | None:
    """`{trace}-{span}`, `{trace}-{span}-{state}`, `{trace}-{span}-{state}-{parent}` or `{state}`."""
    parts = value.split(b"-")
    state = parts[0] if len(parts) == 1 else parts[2] if len(parts) > 2 else None
    if len(parts) > 4 or (state is not None and state not in _STATES):
        return None
    sampled = None if state is None else _STATES[state]
    if len(parts) == 1:
        return Incoming(sampled=sampled, debug=state == b"d")
    ids = _b3_ids(parts[0], parts[1])
    return None if ids is None else Incoming(*ids, sampled, debug=state == b"d")


def _multi(head: Head) -> Incoming:
    debug = head.get(B3_FLAGS) == b"1"
    sampled = True if debug else _STATES.get((head.get(B3_SAMPLED) or b"").lower())
    ids = _b3_ids(head.get(B3_TRACE_ID) or b"", head.get(B3_SPAN_ID) or b"")
    return Incoming(*(ids or ("", "")), sampled, debug=debug)


def _b3_ids(trace: bytes, span: bytes) -> tuple[str, str] | None:
    if _B3_TRACE.fullmatch(trace) and _B3_SPAN.fullmatch(span):
        return trace.decode().lower(), span.decode().lower()
    return None


def inject(head: Head, span: SpanContext, incoming: Incoming) -> None:
    """Let `head`, which came with `incoming`, say that what it causes belongs below `span`."""
    sampled = b"1" if span.sampled else b"0"
    trace, own = span.trace_id.encode(), span.span_id.encode()
    head.set(TRACEPARENT, b"00-%b-%b-0%b" % (trace, own, sampled))
    if not span.state and head.has(TRACESTATE):
        head.remove(TRACESTATE)
    if incoming.b3 is Style.NONE:
        return
    if incoming.trace_id:
        trace = incoming.trace_id.encode()  # as long as it came: some tracers know 64 bits only
    parent = span.parent_span_id.encode()
    if Style.SINGLE in incoming.b3:
        state = b"d" if incoming.debug else sampled
        head.set(B3, b"%b-%b-%b-%b" % (trace, own, state, parent) if parent else b"%b-%b-%b" % (trace, own, state))
    if Style.MULTI in incoming.b3:
        head.set(B3_TRACE_ID, trace)
        head.set(B3_SPAN_ID, own)
        head.remove(B3_PARENT_SPAN_ID)
        if parent:
            head.set(B3_PARENT_SPAN_ID, parent)
        head.remove(B3_SAMPLED)
        if not incoming.debug:  # that it is sampled goes without saying
            head.set(B3_SAMPLED, sampled)
