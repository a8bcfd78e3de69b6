"""Spans of OTLP: what of a record they tell, and that the messages put together by hand are right."""

import pytest
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry import otlp
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.telemetry.trace_context import SpanContext
from pymesh_proxy.transport.facts import Facts
from tests.proxy.telemetry.traces import OWN, SPAN, TRACE, head

CONTEXT = SpanContext(TRACE, OWN, SPAN, sampled=True, state="a=1")


def record(direction: str = "outbound", **changes: object) -> RequestRecord:
    made = RequestRecord(Facts(direction, "10.0.0.1:4000", "10.0.0.2:80"), 1_700_000_000.5, 10.0)
    made.method, made.authority, made.path, made.request_id = "GET", "reviews:9080", "/reviews/0?x=1", "id-1"
    made.status, made.t_end, made.cluster, made.endpoint = 200, 10.25, "outbound|9080||reviews", "10.0.0.3:9080"
    made.span = CONTEXT
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def attributes(pairs: object) -> dict[str, str]:
    return {item.key: item.value.string_value for item in pairs if isinstance(item, KeyValue)}  # type: ignore[attr-defined]


def span(made: RequestRecord) -> Span:
    request = head(("user-agent", "curl"), ("x-forwarded-proto", "http"))
    encoded = otlp.span(made, request, None)
    assert encoded is not None
    return Span.FromString(encoded)


def test_a_span_tells_of_the_request() -> None:
    found = span(record())
    assert (found.trace_id.hex(), found.span_id.hex(), found.parent_span_id.hex()) == (TRACE, OWN, SPAN)
    assert (found.trace_state, found.kind, found.name) == ("a=1", Span.SPAN_KIND_CLIENT, "egress reviews:9080")
    assert found.start_time_unix_nano == 1_700_000_000_500_000_000
    assert found.end_time_unix_nano - found.start_time_unix_nano == 250_000_000
    assert attributes(found.attributes) == {
        "component": "proxy",
        "guid:x-request-id": "id-1",
        "http.method": "GET",
        "http.url": "http://reviews:9080/reviews/0?x=1",
        "http.protocol": "HTTP/1.1",
        "http.status_code": "200",
        "user_agent": "curl",
        "downstream_cluster": "-",
        "peer.address": "10.0.0.1",
        "request_size": "0",
        "response_size": "0",
        "response_flags": "-",
        "upstream_cluster": "outbound|9080||reviews",
        "upstream_cluster.name": "outbound|9080||reviews",
        "upstream_address": "10.0.0.3:9080",
    }
    assert found.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize("direction", ["inbound", "gateway"])
def test_where_a_request_comes_in_the_span_is_a_server_s(direction: str) -> None:
    found = span(record(direction, span=CONTEXT._replace(parent_span_id="")))
    assert (found.kind, found.name, found.parent_span_id) == (Span.SPAN_KIND_SERVER, "ingress", b"")


@pytest.mark.parametrize("status", [0, 503])
def test_what_went_wrong_is_an_error(status: int) -> None:
    failed = record(status=status, flag=Flag.NO_HEALTHY_UPSTREAM, details="no_healthy_upstream")
    found = span(failed)
    assert (found.status.code, found.status.message) == (Status.STATUS_CODE_ERROR, "no_healthy_upstream")
    assert attributes(found.attributes)["error"] == "true"
    assert attributes(found.attributes)["response_flags"] == "UH"


@pytest.mark.parametrize("context", [None, CONTEXT._replace(sampled=False)])
def test_what_is_not_sampled_has_no_span(context: SpanContext | None) -> None:
    assert otlp.span(record(span=context), None, None) is None


def test_a_long_path_is_cut() -> None:
    url = attributes(span(record(path="/" + "x" * 1000)).attributes)["http.url"]
    assert len(url) == len("http://reviews:9080") + otlp.MAX_PATH


def test_all_spans_of_a_message_share_their_resource() -> None:
    node = NodeMessage(id="sidecar~1", cluster="reviews-v1.default")
    node.metadata.update({"NAME": "reviews-v1-0", "NAMESPACE": "default", "WORKLOAD_NAME": "reviews-v1"})
    node.metadata.update({"LABELS": {"app": "reviews"}})
    spans = [otlp.span(record(), None, None), otlp.span(record("inbound"), None, None)]
    message = otlp.export_request(otlp.resource(node, ""), [one for one in spans if one is not None])
    [found] = ExportTraceServiceRequest.FromString(message).resource_spans
    assert attributes(found.resource.attributes) == {
        "service.name": "reviews.default",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "pymesh-proxy",
        "node_id": "sidecar~1",
        "k8s.namespace.name": "default",
        "k8s.pod.name": "reviews-v1-0",
    }
    [scope] = found.instrumentation_library_spans
    assert scope.instrumentation_library.name == "pymesh-proxy"
    assert [one.name for one in scope.spans] == ["egress reviews:9080", "ingress"]


@pytest.mark.parametrize(
    ("node", "said", "expected"),
    [
        (NodeMessage(cluster="web.shop"), "said", "said"),
        (NodeMessage(cluster="web.shop"), "", "web.shop"),
        (NodeMessage(), "", "unknown_service:pymesh-proxy"),
    ],
)
def test_the_service_is_named_by_what_is_known(node: NodeMessage, said: str, expected: str) -> None:
    message = otlp.export_request(otlp.resource(node, said), [])
    [found] = ExportTraceServiceRequest.FromString(message).resource_spans
    assert attributes(found.resource.attributes)["service.name"] == expected
