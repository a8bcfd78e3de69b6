"""Entries as proxies send them, for the tests of the collector."""

from collections.abc import Mapping
from typing import Any

from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from pymesh.identity import Identity
from pymesh.peer_metadata import Peer
from pymesh_controlplane.telemetry.reporter import Reporter

REVIEWS = "reviews.bookinfo.svc.cluster.local"
PAGE_ID = Identity("cluster.local", "bookinfo", "productpage")
REVIEWS_ID = Identity("cluster.local", "bookinfo", "reviews")
PAGE = Peer("productpage-v1", "bookinfo", "productpage", "v1", "productpage", "v1", "Kubernetes")
V1 = Peer("reviews-v1", "bookinfo", "reviews", "v1", "reviews", "v1", "Kubernetes")
PAGE_PROXY = Reporter("sidecar", "productpage-v1-0", PAGE, str(PAGE_ID))
V1_PROXY = Reporter("sidecar", "reviews-v1-0", V1, str(REVIEWS_ID))

TO_V1 = {
    "direction": "outbound",
    "upstream_peer": str(REVIEWS_ID),
    "service.host": REVIEWS,
    "service.name": "reviews",
    "service.namespace": "bookinfo",
    **{f"destination.{field}": value for field, value in V1._asdict().items()},
}
FROM_PAGE = {
    "direction": "inbound",
    "security": "mutual_tls",
    "service.host": REVIEWS,
    "service.name": "reviews",
    "service.namespace": "bookinfo",
    **{f"source.{field}": value for field, value in PAGE._asdict().items()},
}


def http_entry(
    tags: Mapping[str, str], *, request_id: str = "r1", status: int = 200, milliseconds: int = 12, cluster: str = ""
) -> accesslog_pb2.HTTPAccessLogEntry:
    entry = accesslog_pb2.HTTPAccessLogEntry()
    common = entry.common_properties
    common.custom_tags.update(tags)
    common.start_time.seconds = 1_700_000_000
    common.duration.nanos = milliseconds * 1_000_000
    common.upstream_cluster = cluster
    entry.request.request_id = request_id
    entry.request.request_method = 1
    entry.request.path = "/reviews/0"
    entry.request.request_body_bytes = 3
    entry.response.response_body_bytes = 100
    entry.response.response_code.value = status
    if tags.get("direction") == "inbound":
        common.tls_properties.peer_certificate_properties.subject_alt_name.add(uri=str(PAGE_ID))
    return entry


def tcp_entry(tags: Mapping[str, str], *, received: int = 10, sent: int = 20) -> accesslog_pb2.TCPAccessLogEntry:
    entry = accesslog_pb2.TCPAccessLogEntry()
    entry.common_properties.custom_tags.update(tags)
    entry.common_properties.duration.seconds = 60
    entry.connection_properties.received_bytes = received
    entry.connection_properties.sent_bytes = sent
    return entry


def entries(*given: Any) -> list[Any]:
    """`given`, as the entries of one message."""
    return list(given)


def message(*entries: Any, node: Mapping[str, Any] | None = None) -> als_pb2.StreamAccessLogsMessage:
    """The message with `entries`, all of one kind, and who sends it where it is the first."""
    assert len({type(entry) for entry in entries}) <= 1
    result = als_pb2.StreamAccessLogsMessage()
    for entry in entries:
        tcp = isinstance(entry, accesslog_pb2.TCPAccessLogEntry)
        (result.tcp_logs if tcp else result.http_logs).log_entry.append(entry)
    if node is not None:
        result.identifier.log_name = "pymesh"
        result.identifier.node.id = node["id"]
        result.identifier.node.metadata.update(node.get("metadata", {}))
    return result


PAGE_NODE = {
    "id": "sidecar~10.244.0.7~productpage-v1-0.bookinfo~bookinfo.svc.cluster.local",
    "metadata": {
        "NAME": "productpage-v1-0",
        "NAMESPACE": "bookinfo",
        "SERVICE_ACCOUNT": "productpage",
        "WORKLOAD_NAME": "productpage-v1",
        "CLUSTER_ID": "Kubernetes",
        "LABELS": {"app": "productpage", "version": "v1"},
    },
}
