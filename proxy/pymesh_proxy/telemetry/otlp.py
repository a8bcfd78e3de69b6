"""Records of sampled requests as spans of OpenTelemetry's protocol (OTLP). Pure.

One span a proxy: of kind CLIENT where the request leaves a pod, SERVER where it enters one or the mesh. Names and
attributes are Envoy's, so that what people have built on them finds what it looks for.

The messages are xds-protos' copy of an older release, in which `scope_spans` had another name: on the wire it is the
same. Source: opentelemetry.io/docs/specs/otlp, Envoy's source/common/tracing/http_tracer_impl.cc.
"""

from collections.abc import Sequence
from typing import Final

from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from google.protobuf.struct_pb2 import Struct
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationLibrary, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pymesh.peer_metadata import UNKNOWN_VALUE, peer_of_struct
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.log_operators import decode_value
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.telemetry.trace_context import SpanContext
from pymesh_proxy.telemetry.wire import nested

METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

# Characters of a path in `http.url`; Envoy's default for max_path_tag_length.
MAX_PATH: Final = 256

# Numbers of fields: of ExportTraceServiceRequest, ResourceSpans and ScopeSpans.
_RESOURCE_SPANS: Final = 1
_RESOURCE: Final = 1
_SCOPE_SPANS: Final = 2
_SCOPE: Final = 1
_SPANS: Final = 2

_SCOPE_BYTES: Final = nested(_SCOPE, InstrumentationLibrary(name="pymesh-proxy").SerializeToString())


def span(record: RequestRecord, request: Head | None, response: Head | None) -> bytes | None:  # noqa: ARG001 - as Encode
    """The span of `record`, encoded; None if it is not sampled."""
    context = record.span
    return None if context is None or not context.sampled else message(record, context, request).SerializeToString()


def message(record: RequestRecord, context: SpanContext, request: Head | None) -> Span:
    """The span of `record`, which is `context`."""
    outbound = record.facts.direction == "outbound"
    start = int(record.wall * 1e9)
    made = Span(
        trace_id=bytes.fromhex(context.trace_id),
        span_id=bytes.fromhex(context.span_id),
        parent_span_id=bytes.fromhex(context.parent_span_id),
        trace_state=context.state,
        name=f"egress {record.authority}" if outbound else "ingress",
        kind=Span.SPAN_KIND_CLIENT if outbound else Span.SPAN_KIND_SERVER,
        start_time_unix_nano=start,
        end_time_unix_nano=start + round((record.t_end - record.t_start) * 1e9),
        attributes=[_attribute(key, value) for key, value in _attributes(record, request).items()],
    )
    if record.status >= 500 or record.status == 0:
        made.status.code = Status.STATUS_CODE_ERROR
        made.status.message = record.details
        made.attributes.append(_attribute("error", "true"))
    return made


def _attributes(record: RequestRecord, request: Head | None) -> dict[str, str]:
    found = {
        "component": "proxy",
        "guid:x-request-id": record.request_id,
        "http.method": record.method,
        "http.url": f"{_header(request, b'x-forwarded-proto')}://{record.authority}{record.path[:MAX_PATH]}",
        "http.protocol": record.protocol,
        "http.status_code": str(record.status),
        "user_agent": _header(request, b"user-agent"),
        "downstream_cluster": _header(request, b"x-envoy-downstream-service-cluster"),
        "peer.address": record.facts.remote.rpartition(":")[0].strip("[]"),
        "request_size": str(record.bytes_received),
        "response_size": str(record.bytes_sent),
        "response_flags": record.flags,
    }
    if record.cluster:
        found["upstream_cluster"] = found["upstream_cluster.name"] = record.cluster
    if record.endpoint:
        found["upstream_address"] = record.endpoint
    if record.flags != Flag.NONE.value:
        found["response_code_details"] = record.details
    for key, note in record.notes.items():
        found[f"note.{key}"] = note
    return found


def _header(head: Head | None, name: bytes) -> str:
    value = None if head is None else head.get(name)
    return "-" if value is None else decode_value(value)


def _attribute(key: str, value: str) -> KeyValue:
    attribute = KeyValue(key=key)
    attribute.value.string_value = value
    return attribute


def resource(node: NodeMessage, service_name: str) -> bytes:
    """Who reports: the resource of all spans of a proxy, encoded.

    `service_name` is what the configuration says; without it, that is the canonical service and its namespace.
    """
    attributes = {
        "service.name": service_name or _service_name(node),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "pymesh-proxy",
        "node_id": node.id,
        "k8s.namespace.name": _text(node.metadata, "NAMESPACE"),
        "k8s.pod.name": _text(node.metadata, "NAME"),
    }
    return Resource(
        attributes=[_attribute(key, value) for key, value in attributes.items() if value]
    ).SerializeToString()


def _service_name(node: NodeMessage) -> str:
    peer = peer_of_struct(node.metadata)
    if UNKNOWN_VALUE in {peer.canonical_service, peer.namespace}:
        return node.cluster or "unknown_service:pymesh-proxy"
    return f"{peer.canonical_service}.{peer.namespace}"


def _text(metadata: Struct, key: str) -> str:
    return metadata.fields[key].string_value if key in metadata.fields else ""


def export_request(encoded_resource: bytes, spans: Sequence[bytes]) -> bytes:
    """An ExportTraceServiceRequest with encoded spans."""
    scope = _SCOPE_BYTES + b"".join([nested(_SPANS, one) for one in spans])
    return nested(_RESOURCE_SPANS, nested(_RESOURCE, encoded_resource) + nested(_SCOPE_SPANS, scope))
