"""The whole record of a request, as the proxy that reported it has it, made anew from its access log entry. Pure.

Field for field the JSON that the proxy's own admin page `/requests` gives, which tells what the fields mean, and who
reported it: `pod`, `namespace`, `workload`. Where the entry is an Envoy's, fields that it has no words for are empty.
"""

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from google.protobuf import duration_pb2

from pymesh import telemetry_tags as tag
from pymesh_controlplane.telemetry.entries import Entry, Flight
from pymesh_controlplane.telemetry.graph import Json

_PROTOCOLS: Final = {
    accesslog_pb2.HTTPAccessLogEntry.HTTP10: "HTTP/1.0",
    accesslog_pb2.HTTPAccessLogEntry.HTTP11: "HTTP/1.1",
    accesslog_pb2.HTTPAccessLogEntry.HTTP2: "HTTP/2",
    accesslog_pb2.HTTPAccessLogEntry.HTTP3: "HTTP/3",
}


def record_of(flight: Flight) -> dict[str, Json]:
    """The record of `flight`."""
    entry = _entry(flight)
    common = entry.common_properties
    tags = dict(common.custom_tags)
    local = _address(common.downstream_local_address)
    # An Envoy does not tell where it took the connection, only where that was going.
    redirected = tag.ACCEPTED_AT in tags or (tag.DIRECTION not in tags and flight.direction != "gateway")
    tls = common.tls_properties
    return {
        "number": flight.number,
        "pod": flight.reporter.pod,
        "namespace": flight.reporter.peer.namespace,
        "workload": flight.reporter.peer.workload,
        "request_id": flight.request_id,
        "started": common.start_time.seconds + common.start_time.nanos / 1e9,
        "direction": flight.direction,
        **_request(entry, tags),
        "downstream_remote": _address(common.downstream_remote_address),
        "downstream_local": tags.get(tag.ACCEPTED_AT, local),
        "original_destination": local if redirected else "",
        "tls": common.HasField("tls_properties"),
        "sni": tls.tls_sni_hostname,
        "peer": _uri(tls.peer_certificate_properties),
        "own": _uri(tls.local_certificate_properties),
        "source": dict(flight.source._asdict()),
        "destination": dict(flight.destination._asdict()),
        "service": dict(flight.service._asdict()),
        "security": flight.security,
        "virtual_host": tags.get(tag.VIRTUAL_HOST, ""),
        "route": common.route_name,
        "route_source": tags.get(tag.ROUTE_SOURCE, ""),
        "cluster": common.upstream_cluster,
        "endpoint": _address(common.upstream_remote_address),
        "endpoint_labels": {**_labels(tags.get(tag.ENDPOINT_LABELS, ""))},
        "upstream_local": _address(common.upstream_local_address),
        "upstream_peer": tags.get(tag.UPSTREAM_PEER, ""),
        "attempts": common.upstream_request_attempt_count,
        "reused": tags.get(tag.REUSED) == "true",
        "status": flight.status,
        "flag": flight.flag,
        "details": _details(entry),
        "bytes_received": flight.received,
        "bytes_sent": flight.sent,
        "times_ms": _times(common, tags),
        "trace_id": tags.get(tag.TRACE_ID, ""),
        "span_id": tags.get(tag.SPAN_ID, ""),
        "parent_span_id": tags.get(tag.PARENT_SPAN_ID, ""),
        "sampled": tags.get(tag.SAMPLED) == "true",
        "notes": {key[len(tag.NOTE_PREFIX) :]: tags[key] for key in tags if key.startswith(tag.NOTE_PREFIX)},
    }


def _entry(flight: Flight) -> Entry:
    if flight.protocol == "tcp":
        return accesslog_pb2.TCPAccessLogEntry.FromString(flight.entry)
    return accesslog_pb2.HTTPAccessLogEntry.FromString(flight.entry)


def _request(entry: Entry, tags: Mapping[str, str]) -> dict[str, Json]:
    if isinstance(entry, accesslog_pb2.TCPAccessLogEntry):
        return {"protocol": "TCP", "method": "", "authority": "", "path": ""}
    request = entry.request
    method = base_pb2.RequestMethod.Name(request.request_method) if request.request_method else ""
    return {
        "protocol": _PROTOCOLS.get(entry.protocol_version, ""),
        "method": method or tags.get(tag.METHOD, ""),
        "authority": request.authority,
        "path": request.original_path or request.path,
    }


def _details(entry: Entry) -> str:
    if isinstance(entry, accesslog_pb2.TCPAccessLogEntry):
        return entry.common_properties.connection_termination_details
    return entry.response.response_code_details


def _times(common: accesslog_pb2.AccessLogCommon, tags: Mapping[str, str]) -> dict[str, Json]:
    return {
        "filtered": _number(tags.get(tag.FILTERED_MS, "")),
        "sent": _milliseconds(common, "time_to_first_upstream_tx_byte"),
        "first_byte": _milliseconds(common, "time_to_first_downstream_tx_byte"),
        "end": _milliseconds(common, "duration"),
    }


def _milliseconds(common: accesslog_pb2.AccessLogCommon, field: str) -> float | None:
    if not common.HasField(field):
        return None
    duration: duration_pb2.Duration = getattr(common, field)
    return round(duration.seconds * 1000 + duration.nanos / 1e6, 3)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _address(address: address_pb2.Address) -> str:
    if address.HasField("pipe"):
        return address.pipe.path
    host = address.socket_address.address
    if not host:
        return ""
    return (
        f"[{host}]:{address.socket_address.port_value}"
        if ":" in host
        else f"{host}:{address.socket_address.port_value}"
    )


def _uri(certificate: accesslog_pb2.TLSProperties.CertificateProperties) -> str:
    return next((name.uri for name in certificate.subject_alt_name if name.uri), "")


def _labels(text: str) -> dict[str, str]:
    try:
        # Not `json`: that makes half a surrogate pair a character, which no answer can be encoded with.
        return msgspec.json.decode(text or "{}", type=dict[str, str])
    except msgspec.MsgspecError:
        return {}
