"""Envoy and pymesh-proxy trace alike, with the same bootstrap: what the upstream sees, and which spans are sent.

Where they differ by intention, that is a case of its own: docs/tracing.md tells of each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.conformance.sides import Side, Situation, both_proxies
from tests.support.echo import EchoServer
from tests.support.otlp_server import OtlpServer, otlp_server
from tests.support.waiting import eventually_sync

pytestmark = pytest.mark.envoy

BOOTSTRAP = Path(__file__).with_name("tracing.yaml").read_text()
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
ID = "5a0eaaaa-1234-4abc-8abc-123456789abc"


class Seen(NamedTuple):
    """What an upstream sees of a trace, without what is random.

    Attributes:
        trace: "continued", "new", or the header as it came where a proxy left it alone.
        sampled: the flags of its traceparent.
        state: tracestate; an empty one, as Envoy sends it, is none.
        request_id: x-request-id: its decision, and the rest of it where it was given.
    """

    trace: str
    sampled: str = ""
    state: str = ""
    request_id: str = "4"


CASES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "nothing": (),
    "request id": (("x-request-id", ID),),
    "request id of a sampled request": (("x-request-id", f"{ID[:14]}9{ID[15:]}"),),
    "request id of a forced trace": (("x-request-id", f"{ID[:14]}a{ID[15:]}"),),
    "short request id": (("x-request-id", "deadbeef-hello"),),
    "request id of no kind": (("x-request-id", "hello"),),
    "client's trace id": (("x-client-trace-id", "abc"),),
    "sampled parent": (("traceparent", SAMPLED), ("tracestate", "a=1,b=2")),
    "unsampled parent": (("traceparent", UNSAMPLED),),
    "parent with other flags": (("traceparent", f"00-{TRACE}-{SPAN}-02"),),
    "state in two headers": (("traceparent", UNSAMPLED), ("tracestate", "a=1"), ("tracestate", "b=2")),
    "state without a parent": (("tracestate", "a=1"),),
}
# By what Envoy 1.40 does, and what pymesh-proxy does instead.
DIFFERENT: Final[dict[str, tuple[tuple[tuple[str, str], ...], Seen, Seen]]] = {
    # W3C 3.2.2: a version of the future is read as far as it is known.
    "future version": (
        (("traceparent", f"cc-{TRACE}-{SPAN}-00-what"),),
        Seen(f"cc-{TRACE}-{SPAN}-00-what"),
        Seen("continued", "00"),
    ),
    # W3C 3.2.2.1, 3.2.2.3: what is not valid restarts the trace.
    "version ff": ((("traceparent", f"ff-{TRACE}-{SPAN}-00"),), Seen("continued", "00"), Seen("new", "00")),
    "upper case": ((("traceparent", UNSAMPLED.upper()),), Seen("continued", "00"), Seen("new", "00")),
    "zeros": (
        (("traceparent", f"00-{'0' * 32}-{SPAN}-00"), ("tracestate", "a=1")),
        Seen(f"00-{'0' * 32}-{SPAN}-00", state="a=1"),
        Seen("new", "00"),
    ),
    "two parents": (
        (("traceparent", UNSAMPLED), ("traceparent", UNSAMPLED)),
        Seen("continued", "00"),
        Seen("new", "00"),
    ),
    # B3 is continued.
    "b3": ((("b3", f"{TRACE}-{SPAN}-0"),), Seen("new", "00"), Seen("continued", "00")),
    # A caller that samples keeps its spans, and the request id says so to whoever comes after.
    "sampled parent": ((("traceparent", SAMPLED),), Seen("continued", "00"), Seen("continued", "01", request_id="9")),
}


class Proxies(NamedTuple):
    """Envoy and pymesh-proxy, whose spans go to one collector."""

    envoy: Side
    pymesh: Side
    collector: OtlpServer


@contextmanager
def both(folder: Path, share: int) -> Iterator[Proxies]:
    """Both, sampling `share` requests of 100."""
    with EchoServer("a") as upstream, otlp_server() as collector:
        text = BOOTSTRAP.replace("${SHARE}", str(share)).replace("${SPANS}", str(collector.port))
        with both_proxies(folder, upstream, upstream, text) as (envoy, pymesh):
            yield Proxies(envoy, pymesh, collector)


@pytest.fixture(scope="module")
def sampling_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Both, sampling every request."""
    with both(tmp_path_factory.mktemp("all"), 100) as proxies:
        yield proxies


@pytest.fixture(scope="module")
def sampling_none(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    """Both, sampling no request that does not ask for it."""
    with both(tmp_path_factory.mktemp("none"), 0) as proxies:
        yield proxies


def seen(side: Side, name: str, fields: tuple[tuple[str, str], ...]) -> Seen:
    """What the upstream sees of a request with these headers."""
    answer = side.ask(Situation(name, 200, "/a?b=c", headers=fields))
    [traceparent] = answer.upstream_header("traceparent")
    [request_id] = answer.upstream_header("x-request-id")
    state = ",".join(value for value in answer.upstream_header("tracestate") if value)
    decision = request_id if "x-request-id" in dict(fields) else request_id[14]
    if traceparent in dict(fields).values():
        return Seen(traceparent, state=state, request_id=decision)
    version, trace, span, flags = traceparent.split("-")
    assert (version, len(trace), len(span)) == ("00", 32, 16)
    assert span != SPAN
    return Seen("continued" if trace == TRACE else "new", flags, state, decision)


@pytest.mark.parametrize("name", CASES)
def test_all_requests_sampled(sampling_all: Proxies, name: str) -> None:
    assert seen(sampling_all.pymesh, name, CASES[name]) == seen(sampling_all.envoy, name, CASES[name])


@pytest.mark.parametrize("name", [name for name in CASES if name not in DIFFERENT])
def test_no_request_sampled_by_itself(sampling_none: Proxies, name: str) -> None:
    assert seen(sampling_none.pymesh, name, CASES[name]) == seen(sampling_none.envoy, name, CASES[name])


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_by_intention(sampling_none: Proxies, name: str) -> None:
    fields, envoy, pymesh = DIFFERENT[name]
    assert seen(sampling_none.envoy, name, fields) == envoy
    assert seen(sampling_none.pymesh, name, fields) == pymesh


def test_the_spans_are_alike(sampling_all: Proxies) -> None:
    found: dict[str, Span] = {}
    for side in (sampling_all.envoy, sampling_all.pymesh):
        request_id = f"{'1' if side is sampling_all.envoy else '2'}{ID[1:]}"
        fields = (("traceparent", SAMPLED), ("x-request-id", request_id), ("user-agent", "test"))
        side.ask(Situation("span", 200, "/a?b=c", headers=fields))
        marked = f"{request_id[:14]}9{request_id[15:]}"
        found[side.name] = eventually_sync(
            lambda marked=marked: next(  # type: ignore[misc]  # the default binds the loop's value
                (span for span in sampling_all.collector.spans if told(span)["guid:x-request-id"] == marked), None
            ),
            what=f"the span of {side.name}",
            timeout=20.0,
        )
    envoy, pymesh = found["envoy"], found["pymesh"]
    for field in ("trace_id", "parent_span_id", "name", "kind", "trace_state"):
        assert getattr(pymesh, field) == getattr(envoy, field), field
    theirs, ours = told(envoy), told(pymesh)
    assert theirs.keys() - ours.keys() == {"node_id", "zone"}  # ours are attributes of the resource
    assert ours.keys() - theirs.keys() == {"upstream_address"}
    same = theirs.keys() & ours.keys() - {"guid:x-request-id", "response_size"}
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


def told(span: Span) -> dict[str, str]:
    """The attributes of a span."""
    return {item.key: item.value.string_value for item in span.attributes}
