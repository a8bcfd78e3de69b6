"""Records as entries of Envoy's access log service (ALS). Pure.

What goes where is told in pymesh/telemetry_tags.py. An entry has some forty values, of which a dozen are the request's
own: the rest is the same for all requests of a connection, or of a way through the proxy (route, endpoint, peers,
outcome). Encodings of protobuf messages that stand one behind the other are the encoding of the merged message, so what
repeats is encoded once and kept as bytes. Per entry of 1.2 KiB that costs 6 µs; all of it anew costs 17 µs.

Source: https://protobuf.dev/programming-guides/encoding/#last-one-wins; envoy/data/accesslog/v3/accesslog.proto.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.base_pb2 import Node as NodeMessage
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import (
    AccessLogCommon,
    AccessLogType,
    HTTPAccessLogEntry,
    ResponseFlags,
    TCPAccessLogEntry,
)
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from google.protobuf.duration_pb2 import Duration

from pymesh import telemetry_tags as tags
from pymesh.peer_metadata import UNKNOWN_VALUE
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.log_operators import decode_value
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.telemetry.wire import nested
from pymesh_proxy.transport.facts import Facts

METHOD: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

# Pieces kept of each kind, about 0.5 KiB each. All are thrown away when there are more: somebody who varies the
# authority with every request makes entries dearer, not the memory larger.
MAX_PIECES: Final = 1024

# Numbers of fields: StreamAccessLogsMessage.http_logs and .tcp_logs, and log_entry of both.
_HTTP_LOGS: Final = 2
_TCP_LOGS: Final = 3
_LOG_ENTRY: Final = 1

_METHODS: Final[Mapping[str, RequestMethod]] = {
    "GET": RequestMethod.GET,
    "HEAD": RequestMethod.HEAD,
    "POST": RequestMethod.POST,
    "PUT": RequestMethod.PUT,
    "DELETE": RequestMethod.DELETE,
    "CONNECT": RequestMethod.CONNECT,
    "OPTIONS": RequestMethod.OPTIONS,
    "TRACE": RequestMethod.TRACE,
    "PATCH": RequestMethod.PATCH,
}
_VERSIONS: Final = {
    "HTTP/1.0": HTTPAccessLogEntry.HTTP10,
    "HTTP/1.1": HTTPAccessLogEntry.HTTP11,
}
_FLAGS: Final = {
    Flag.FAILED_LOCAL_HEALTH_CHECK: "failed_local_healthcheck",
    Flag.NO_HEALTHY_UPSTREAM: "no_healthy_upstream",
    Flag.UPSTREAM_REQUEST_TIMEOUT: "upstream_request_timeout",
    Flag.LOCAL_RESET: "local_reset",
    Flag.UPSTREAM_REMOTE_RESET: "upstream_remote_reset",
    Flag.UPSTREAM_CONNECTION_FAILURE: "upstream_connection_failure",
    Flag.UPSTREAM_CONNECTION_TERMINATION: "upstream_connection_termination",
    Flag.UPSTREAM_OVERFLOW: "upstream_overflow",
    Flag.NO_ROUTE: "no_route_found",
    Flag.DELAY_INJECTED: "delay_injected",
    Flag.FAULT_INJECTED: "fault_injected",
    Flag.RATE_LIMITED: "rate_limited",
    Flag.RATE_LIMIT_SERVICE_ERROR: "rate_limit_service_error",
    Flag.DOWNSTREAM_CONNECTION_TERMINATION: "downstream_connection_termination",
    Flag.UPSTREAM_RETRY_LIMIT_EXCEEDED: "upstream_retry_limit_exceeded",
    Flag.STREAM_IDLE_TIMEOUT: "stream_idle_timeout",
    Flag.DOWNSTREAM_PROTOCOL_ERROR: "downstream_protocol_error",
    Flag.UPSTREAM_PROTOCOL_ERROR: "upstream_protocol_error",
    Flag.UPSTREAM_MAX_STREAM_DURATION: "upstream_max_stream_duration_reached",
    Flag.NO_CLUSTER: "no_cluster_found",
    Flag.DURATION_TIMEOUT: "duration_timeout",
}


class HttpEncoder:
    """Encodes finished requests.

    `request_headers` and `response_headers` (lower case) are logged beside what Envoy always logs.
    """

    def __init__(self, request_headers: Sequence[str] = (), response_headers: Sequence[str] = ()) -> None:
        self._request_headers = [(name, name.encode()) for name in request_headers]
        self._response_headers = [(name, name.encode()) for name in response_headers]
        # By identity, which is much cheaper than equality; what is identified is held, so that nothing else can be it.
        self._connections: dict[int, tuple[Facts, bytes]] = {}
        self._ways: dict[tuple[object, ...], tuple[Mapping[str, str], bytes]] = {}

    def __call__(self, record: RequestRecord, request: Head | None, response: Head | None) -> bytes:
        """The entry for `record`, encoded; the heads are those that it had, as far as they came."""
        return self._connection(record.facts) + self._way(record) + self._own(record, request, response)

    def message(self, record: RequestRecord, request: Head | None, response: Head | None) -> HTTPAccessLogEntry:
        """The same entry, made without any piece that was kept."""
        entry = HTTPAccessLogEntry()
        _connection(entry.common_properties, record.facts)
        _way(entry, record)
        self._fill_own(entry, record, request, response)
        return entry

    def _connection(self, facts: Facts) -> bytes:
        kept = self._connections.get(id(facts))
        if kept is None:
            if len(self._connections) >= MAX_PIECES:
                self._connections.clear()
            entry = HTTPAccessLogEntry()
            _connection(entry.common_properties, facts)
            kept = self._connections[id(facts)] = (facts, entry.SerializeToString())
        return kept[1]

    def _way(self, record: RequestRecord) -> bytes:
        labels = record.endpoint_labels
        key = (
            record.method, record.authority, record.protocol, record.route, record.virtual_host, record.route_source,
            record.cluster, record.endpoint, record.upstream_local, record.upstream_peer, record.attempts,
            record.reused, record.status, record.details, record.flags,
            record.source, record.destination, record.service, record.security, id(labels) if labels else 0,
        )  # fmt: skip
        kept = self._ways.get(key)
        if kept is None:
            if len(self._ways) >= MAX_PIECES:
                self._ways.clear()
            entry = HTTPAccessLogEntry()
            _way(entry, record)
            kept = self._ways[key] = (labels, entry.SerializeToString())
        return kept[1]

    def _own(self, record: RequestRecord, request: Head | None, response: Head | None) -> bytes:
        entry = HTTPAccessLogEntry()
        self._fill_own(entry, record, request, response)
        return entry.SerializeToString()

    def _fill_own(
        self, entry: HTTPAccessLogEntry, record: RequestRecord, request: Head | None, response: Head | None
    ) -> None:
        """What belongs to this request alone."""
        _times(entry.common_properties, record)
        _remarks(entry.common_properties, record)
        asked, answered = entry.request, entry.response
        asked.path = record.path
        asked.request_id = record.request_id
        asked.request_body_bytes = record.bytes_received
        answered.response_body_bytes = record.bytes_sent
        if request is not None:
            if (value := request.get(b"user-agent")) is not None:
                asked.user_agent = decode_value(value)
            if (value := request.get(b"x-forwarded-for")) is not None:
                asked.forwarded_for = decode_value(value)
            if (value := request.get(b"referer")) is not None:
                asked.referer = decode_value(value)
            for name, key in self._request_headers:
                if (value := request.get(key)) is not None:
                    asked.request_headers[name] = decode_value(value)
        if response is not None:
            for name, key in self._response_headers:
                if (value := response.get(key)) is not None:
                    answered.response_headers[name] = decode_value(value)


def tcp_entry(record: RequestRecord, *, ended: bool = True) -> TCPAccessLogEntry:
    """The entry for an opaque connection, at its end or while it goes on."""
    entry = TCPAccessLogEntry()
    common = entry.common_properties
    _connection(common, record.facts)
    _way_common(common, record)
    _times(common, record)
    _remarks(common, record)
    if record.details:
        common.connection_termination_details = record.details
    common.intermediate_log_entry = not ended
    common.access_log_type = AccessLogType.TcpConnectionEnd if ended else AccessLogType.TcpPeriodic
    entry.connection_properties.received_bytes = record.bytes_received
    entry.connection_properties.sent_bytes = record.bytes_sent
    return entry


# --- Parts of an entry ------------------------------------------------------------------------------------------------


def _connection(common: AccessLogCommon, facts: Facts) -> None:
    """What all requests of a downstream connection have in common."""
    _address(common.downstream_remote_address, facts.remote)
    _address(common.downstream_direct_remote_address, facts.remote)
    _address(common.downstream_local_address, facts.original or facts.local)
    if facts.original:
        common.custom_tags[tags.ACCEPTED_AT] = facts.local
    if facts.direction != "unspecified":
        common.custom_tags[tags.DIRECTION] = facts.direction
    if not facts.tls:
        return
    tls = common.tls_properties
    tls.SetInParent()
    tls.tls_sni_hostname = facts.sni
    if facts.own:
        tls.local_certificate_properties.subject_alt_name.add(uri=facts.own)
    if facts.peer:
        tls.peer_certificate_properties.subject_alt_name.add(uri=facts.peer)
        tls.peer_certificate_properties.subject = facts.peer_subject


def _way(entry: HTTPAccessLogEntry, record: RequestRecord) -> None:
    """What requests have in common that go the same way and end alike."""
    common = entry.common_properties
    _way_common(common, record)
    common.access_log_type = AccessLogType.DownstreamEnd
    entry.protocol_version = _VERSIONS.get(record.protocol, HTTPAccessLogEntry.PROTOCOL_UNSPECIFIED)
    method = _METHODS.get(record.method)
    if method is not None:
        entry.request.request_method = method
    elif record.method:
        common.custom_tags[tags.METHOD] = record.method
    entry.request.authority = record.authority
    entry.response.response_code.value = record.status
    entry.response.response_code_details = record.details


def _way_common(common: AccessLogCommon, record: RequestRecord) -> None:
    common.route_name, common.upstream_cluster = record.route, record.cluster
    _address(common.upstream_remote_address, record.endpoint)
    _address(common.upstream_local_address, record.upstream_local)
    common.upstream_request_attempt_count = record.attempts
    for flag in (record.gave_up, record.flag):
        if flag is not Flag.NONE:
            _flag(common.response_flags, flag)
    found = {
        tags.VIRTUAL_HOST: record.virtual_host,
        tags.ROUTE_SOURCE: record.route_source,
        tags.UPSTREAM_PEER: record.upstream_peer,
        tags.ENDPOINT_LABELS: json.dumps(dict(record.endpoint_labels)) if record.endpoint_labels else "",
        tags.REUSED: "true" if record.reused else "",
        tags.FLAG: "" if record.flags == Flag.NONE.value else record.flags,
        tags.SECURITY: record.security,
        **_fields(tags.SOURCE_PREFIX, record.source._asdict()),
        **_fields(tags.DESTINATION_PREFIX, record.destination._asdict()),
        **_fields(tags.SERVICE_PREFIX, record.service._asdict()),
    }
    for name, value in found.items():
        if value and value != UNKNOWN_VALUE:
            common.custom_tags[name] = value


def _fields(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    return {prefix + name: value for name, value in values.items()}


def _flag(flags: ResponseFlags, flag: Flag) -> None:
    if flag is Flag.UNAUTHORIZED_EXTERNAL_SERVICE:
        flags.unauthorized_details.reason = ResponseFlags.Unauthorized.EXTERNAL_SERVICE
    else:
        setattr(flags, _FLAGS[flag], True)


def _times(common: AccessLogCommon, record: RequestRecord) -> None:
    """When it began, and how long after that the phases were reached."""
    common.start_time.seconds = seconds = int(record.wall)
    common.start_time.nanos = round((record.wall - seconds) * 1e9)
    start = record.t_start
    if record.t_connected:
        _duration(common.time_to_first_upstream_tx_byte, record.t_connected - start)
    if record.t_first_byte:
        _duration(common.time_to_first_downstream_tx_byte, record.t_first_byte - start)
        if record.details == "via_upstream":
            _duration(common.time_to_first_upstream_rx_byte, record.t_first_byte - start)
    if record.t_end:
        _duration(common.time_to_last_downstream_tx_byte, record.t_end - start)
        _duration(common.duration, record.t_end - start)


def _remarks(common: AccessLogCommon, record: RequestRecord) -> None:
    """Tags that belong to one request."""
    if record.t_filtered:
        common.custom_tags[tags.FILTERED_MS] = str(round((record.t_filtered - record.t_start) * 1e6) / 1000)
    if record.span is not None:
        common.custom_tags[tags.TRACE_ID] = record.span.trace_id
        common.custom_tags[tags.SPAN_ID] = record.span.span_id
        if record.span.parent_span_id:
            common.custom_tags[tags.PARENT_SPAN_ID] = record.span.parent_span_id
        if record.span.sampled:
            common.custom_tags[tags.SAMPLED] = "true"
    for key, note in record.notes.items():
        common.custom_tags[tags.NOTE_PREFIX + key] = note
    if record.flag is Flag.UPSTREAM_CONNECTION_FAILURE:
        common.upstream_transport_failure_reason = record.notes.get("reason", "")


def _duration(message: Duration, seconds: float) -> None:
    """Whole microseconds, as `/requests` shows them."""
    microseconds = round(seconds * 1e6)
    if microseconds >= 1_000_000:
        message.seconds = microseconds // 1_000_000
        microseconds %= 1_000_000
    message.nanos = microseconds * 1000


def _address(message: Address, text: str) -> None:
    """`10.0.0.1:80` or `[fd00::1]:80`; nothing where it is not known."""
    if text:
        host, _, port = text.rpartition(":")
        message.socket_address.address = host.strip("[]")
        message.socket_address.port_value = int(port)


# --- Messages on the stream -------------------------------------------------------------------------------------------


def identifier(node: NodeMessage, log_name: str) -> bytes:
    """Who reports: the first message of a stream begins with it."""
    return StreamAccessLogsMessage(
        identifier=StreamAccessLogsMessage.Identifier(node=node, log_name=log_name)
    ).SerializeToString()


def http_message(entries: Sequence[bytes], dropped: int) -> bytes:
    """A StreamAccessLogsMessage with encoded HTTPAccessLogEntry, the first of which tells of what was dropped."""
    return nested(_HTTP_LOGS, _log_entries(entries, dropped))


def tcp_message(entries: Sequence[bytes], dropped: int) -> bytes:
    """A StreamAccessLogsMessage with encoded TCPAccessLogEntry, the first of which tells of what was dropped."""
    return nested(_TCP_LOGS, _log_entries(entries, dropped))


def _log_entries(entries: Sequence[bytes], dropped: int) -> bytes:
    if dropped and entries:
        told = HTTPAccessLogEntry()  # common_properties is the same field of both kinds
        told.common_properties.custom_tags[tags.DROPPED] = str(dropped)
        entries = [entries[0] + told.SerializeToString(), *entries[1:]]
    return b"".join([nested(_LOG_ENTRY, entry) for entry in entries])
