"""What an access log entry of a pymesh-proxy carries beside Envoy's fields: names of `common_properties.custom_tags`.

An entry (envoy.data.accesslog.v3: HTTPAccessLogEntry, or TCPAccessLogEntry for opaque connections) has the whole record
of a request, so that a collector can give the same JSON that `/requests` of the proxy gives. Where Envoy has a field,
that is used, with Envoy's meaning:

    started                     start_time
    protocol                    protocol_version (HTTP10, HTTP11); "TCP" for TCPAccessLogEntry
    method, authority, path     request.request_method, .authority, .path (before any rewrite)
    request_id                  request.request_id; empty for TCPAccessLogEntry
    downstream_remote           downstream_remote_address
    downstream_local            downstream_local_address, unless ACCEPTED_AT is there
    original_destination        downstream_local_address where ACCEPTED_AT is there, else empty
    tls, sni, peer, own         whether tls_properties is set; its tls_sni_hostname, and the first URI in the
                                subject_alt_name of its peer_certificate_properties, local_certificate_properties
    route, cluster, endpoint    route_name, upstream_cluster, upstream_remote_address
    upstream_local              upstream_local_address
    attempts                    upstream_request_attempt_count
    status                      response.response_code; 0 for TCPAccessLogEntry
    details                     response.response_code_details; connection_termination_details for TCPAccessLogEntry
    bytes_received, bytes_sent  request.request_body_bytes and response.response_body_bytes; received_bytes and
                                sent_bytes of connection_properties for TCPAccessLogEntry
    times_ms.sent               time_to_first_upstream_tx_byte
    times_ms.first_byte         time_to_first_downstream_tx_byte
    times_ms.end                duration; absent while the connection is still open (intermediate_log_entry)

Durations are whole microseconds, which is what `/requests` shows. Everything else is a tag of this module. A tag whose
value is empty, zero, false or "unknown" is left out; so is an address that is not known. An address is a
socket_address: `[host]:port` where the host holds a colon, `host:port` otherwise.
"""

from typing import Final

# "inbound", "outbound" or "gateway".
DIRECTION: Final = "direction"
# Only for redirected connections: the proxy's own `ip:port` that took it. downstream_local_address is then where the
# client meant to go, as Envoy has it once the original destination is restored.
ACCEPTED_AT: Final = "accepted_at"
# Only for a method that Envoy's enum does not have (METHOD_UNSPECIFIED then stands in request_method).
METHOD: Final = "method"
# Names of the route's virtual host, and the resource that the route was written in.
VIRTUAL_HOST: Final = "virtual_host"
ROUTE_SOURCE: Final = "route_source"
# A JSON object: the labels of the endpoint, `{"version": "v1"}`.
ENDPOINT_LABELS: Final = "endpoint_labels"
# SPIFFE identity that the endpoint proved.
UPSTREAM_PEER: Final = "upstream_peer"
# "true" if the upstream connection was a pooled one.
REUSED: Final = "reused"
# Envoy's response flags in short, `UF` or `URX,UF`; absent for "-". The same are in response_flags.
FLAG: Final = "flag"
# Milliseconds from the start until the filters, policy among them, let the request pass: "0.412".
FILTERED_MS: Final = "filtered_ms"
# "note." and the key of a note: `note.policy` is "ConcurrencyLimit bookinfo/reviews: slot 37 of 100".
NOTE_PREFIX: Final = "note."
# "mutual_tls" or "none".
SECURITY: Final = "security"

# "source." or "destination." and a field of pymesh.peer_metadata.Peer: `source.workload`, `destination.version`.
SOURCE_PREFIX: Final = "source."
DESTINATION_PREFIX: Final = "destination."
# "service." and a field of telemetry.record.ServiceFacts: `service.host`, `service.name`, `service.namespace`.
SERVICE_PREFIX: Final = "service."

# Lower-case hexadecimal, 32 and 16 digits; absent where tracing is not configured. SAMPLED is "true" if spans are sent.
TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"
PARENT_SPAN_ID: Final = "parent_span_id"
SAMPLED: Final = "sampled"

# On the first entry of a message: how many entries this proxy has lost since it started, because its queue was full or
# the stream broke. Absent while there are none. A count since the start, so that a lost message takes none with it.
DROPPED: Final = "dropped_total"

# Only of an Envoy, which does not read it: the caller's x-envoy-peer-metadata, as it came (`pymesh.peer_metadata`).
PEER_METADATA: Final = "peer_metadata"
