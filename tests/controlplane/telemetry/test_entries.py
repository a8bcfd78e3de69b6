"""Reading access log entries: of pymesh-proxies, of Envoys, and of nobody honest."""

from collections import Counter
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2

from pymesh.peer_metadata import UNKNOWN, Peer, header_of
from pymesh_controlplane.telemetry.entries import FLAGS, MAX_TAGS, EntryError, Flight, Reader
from pymesh_controlplane.telemetry.reporter import Reporter
from tests.controlplane.telemetry.support import (
    FROM_PAGE,
    PAGE,
    PAGE_ID,
    PAGE_PROXY,
    REVIEWS,
    REVIEWS_ID,
    TO_V1,
    V1,
    V1_PROXY,
    entries,
    http_entry,
    tcp_entry,
)

CLUSTER = f"outbound|9080|v1|{REVIEWS}"


def read(entry: Any, reporter: Reporter = PAGE_PROXY) -> Flight:
    return Reader().flight(entry, reporter)


def test_what_a_sidecar_sent() -> None:
    flight = read(http_entry(TO_V1, cluster=CLUSTER))
    assert (flight.side, flight.direction, flight.protocol) == ("source", "outbound", "http")
    assert (flight.source, flight.source_principal) == (PAGE, str(PAGE_ID))
    assert (flight.destination, flight.destination_principal) == (V1, str(REVIEWS_ID))
    assert flight.service == (REVIEWS, "reviews", "bookinfo")
    assert (flight.subset, flight.security, flight.mtls) == ("v1", "unknown", True)
    assert (flight.status, flight.flag, flight.milliseconds) == (200, "-", 12)
    assert (flight.received, flight.sent, flight.request_id) == (3, 100, "r1")
    assert not flight.failed


def test_what_arrived_at_a_sidecar() -> None:
    flight = read(http_entry(FROM_PAGE, cluster="inbound|9080||"), V1_PROXY)
    assert (flight.side, flight.source, flight.source_principal) == ("destination", PAGE, str(PAGE_ID))
    assert (flight.destination, flight.destination_principal) == (V1, str(REVIEWS_ID))
    assert (flight.subset, flight.security, flight.mtls) == ("", "mutual_tls", True)


def test_a_reporter_is_believed_of_its_own_end_only_what_it_has_proved() -> None:
    lies = {f"source.{field}": "admin" for field in Peer._fields}
    assert read(http_entry({**TO_V1, **lies})).source == PAGE
    lies = {f"destination.{field}": "admin" for field in Peer._fields}
    assert read(http_entry({**FROM_PAGE, **lies}), V1_PROXY).destination == V1


def test_a_caller_without_a_sidecar_is_unknown() -> None:
    entry = http_entry({"direction": "inbound", "security": "none"})
    entry.common_properties.ClearField("tls_properties")
    flight = read(entry, V1_PROXY)
    assert (flight.source, flight.source_principal, flight.mtls, flight.security) == (UNKNOWN, "", False, "none")


def test_a_gateway_is_the_source_of_what_it_passes_on() -> None:
    flight = read(http_entry({**TO_V1, "direction": "gateway"}), PAGE_PROXY._replace(kind="router"))
    assert (flight.side, flight.source, flight.destination) == ("source", PAGE, V1)


def test_an_envoy_outbound() -> None:
    entry = http_entry({}, cluster=CLUSTER)
    entry.common_properties.response_flags.upstream_connection_failure = True
    flight = read(entry)
    assert (flight.side, flight.source, flight.destination) == ("source", PAGE, UNKNOWN)
    assert (flight.service, flight.subset) == ((REVIEWS, "reviews", "bookinfo"), "v1")
    assert (flight.flag, flight.security, flight.mtls, flight.failed) == ("UF", "unknown", False, True)


def test_an_envoy_inbound() -> None:
    entry = http_entry({}, cluster="inbound|9080||")
    entry.common_properties.tls_properties.peer_certificate_properties.subject_alt_name.add(uri=str(PAGE_ID))
    flight = read(entry, V1_PROXY)
    assert (flight.side, flight.direction, flight.security, flight.mtls) == (
        "destination",
        "inbound",
        "mutual_tls",
        True,
    )
    assert flight.source == UNKNOWN._replace(namespace="bookinfo")
    assert flight.destination == V1


def test_an_envoy_passes_on_what_its_caller_says_of_itself() -> None:
    entry = http_entry({"peer_metadata": header_of(PAGE, "productpage-v1-0")}, cluster="inbound|9080||")
    uri = entry.common_properties.tls_properties.peer_certificate_properties.subject_alt_name.add()
    uri.uri = str(PAGE_ID)
    assert read(entry, V1_PROXY).source == PAGE
    uri.uri = "spiffe://cluster.local/ns/elsewhere/sa/productpage"
    assert read(entry, V1_PROXY).source == UNKNOWN._replace(namespace="elsewhere")
    uri.uri = str(PAGE_ID)
    entry.common_properties.custom_tags["peer_metadata"] = "rubbish"
    assert read(entry, V1_PROXY).source == UNKNOWN._replace(namespace="bookinfo")


@pytest.mark.parametrize(
    ("cluster", "kind", "direction"),
    [
        ("InboundPassthroughCluster", "sidecar", "inbound"),
        ("PassthroughCluster", "sidecar", "outbound"),
        ("", "sidecar", "outbound"),
        (CLUSTER, "router", "gateway"),
    ],
)
def test_the_direction_of_an_envoy(cluster: str, kind: str, direction: str) -> None:
    assert read(http_entry({}, cluster=cluster), PAGE_PROXY._replace(kind=kind)).direction == direction


def test_an_external_service_has_a_name_and_no_namespace() -> None:
    assert read(http_entry({}, cluster="outbound|443||api.example.com")).service == (
        "api.example.com",
        "api.example.com",
        "unknown",
    )


def test_every_flag_of_envoy_has_its_short_form() -> None:
    fields = accesslog_pb2.ResponseFlags.DESCRIPTOR.fields_by_name
    assert set(FLAGS) == set(fields.keys())
    for name, short in FLAGS.items():
        entry = http_entry({})
        flags = entry.common_properties.response_flags
        if name == "unauthorized_details":
            flags.unauthorized_details.reason = 1
        else:
            setattr(flags, name, True)
        assert read(entry).flag == short


@pytest.mark.parametrize(
    ("status", "flag", "failed"),
    [
        (200, "", False),
        (404, "NR", False),
        (429, "RL", False),
        (500, "", True),
        (503, "UAEX", True),
        (200, "UC", True),  # it broke after the head had been sent
        (0, "DC", False),  # the client has gone
        (0, "UT", True),
        (418, "URX,DC", True),
        (404, "NR,DC", False),
    ],
)
def test_what_counts_as_an_error(status: int, flag: str, failed: bool) -> None:
    assert read(http_entry({**TO_V1, "flag": flag}, status=status)).failed is failed


def test_no_more_flags_than_a_request_has() -> None:
    assert read(http_entry({**TO_V1, "flag": "URX,UF"})).flag == "URX,UF"
    for flags in ("URX,UF,UC", "URX,", "URX,X"):
        with pytest.raises(EntryError):
            read(http_entry({**TO_V1, "flag": flags}))


@pytest.mark.parametrize(("grpc_status", "failed"), [("0", False), ("5", False), ("14", True), ("oops", False)])
def test_grpc_says_in_its_trailers_how_it_went(grpc_status: str, failed: bool) -> None:
    entry = http_entry(TO_V1)
    entry.request.request_headers["content-type"] = "application/grpc+proto"
    entry.response.response_trailers["grpc-status"] = grpc_status
    flight = read(entry)
    assert (flight.protocol, flight.failed) == ("grpc", failed)
    assert flight.grpc_status == ("" if grpc_status == "oops" else grpc_status)


def test_a_connection_of_opaque_bytes() -> None:
    flight = read(tcp_entry(TO_V1))
    assert (flight.protocol, flight.received, flight.sent, flight.milliseconds) == ("tcp", 10, 20, 60_000)
    assert (flight.request_id, flight.status, flight.failed) == ("", 0, False)
    assert read(tcp_entry({**TO_V1, "flag": "UF"})).failed


def rubbish(kind: str) -> accesslog_pb2.HTTPAccessLogEntry:
    entry = http_entry(TO_V1)
    common = entry.common_properties
    match kind:
        case "status":
            entry.response.response_code.value = 1000
        case "method":
            entry.request.request_method = 12345  # type: ignore[assignment]  # an open enum
        case "duration":
            common.duration.nanos = -1
        case "start":
            common.start_time.seconds = 2**60
        case "flag":
            common.custom_tags["flag"] = "URX,\x1b[2J"
        case "direction":
            common.custom_tags["direction"] = "sideways"
        case "security":
            common.custom_tags["security"] = "lots"
        case "name too long":
            common.custom_tags["destination.workload"] = "x" * 300
        case "too long":
            entry.request.path = "/" * 100_000
        case "too many":
            common.custom_tags.update({f"note.{number}": "" for number in range(MAX_TAGS)})
    return entry


@pytest.mark.parametrize(
    "kind",
    [
        "status", "method", "duration", "start", "flag", "direction", "security",
        "name too long", "too long", "too many",
    ],
)  # fmt: skip
def test_rubbish_is_counted_and_the_rest_is_taken(kind: str) -> None:
    refused: Counter[str] = Counter()
    good = http_entry(TO_V1, request_id="good")
    flights = Reader().read(entries(rubbish(kind), good), PAGE_PROXY, refused)
    assert [flight.request_id for flight in flights] == ["good"]
    assert refused == {"too long" if kind == "too many" else kind: 1}
    with pytest.raises(EntryError):
        read(rubbish(kind))


def test_open_connections_wait_for_their_end() -> None:
    refused: Counter[str] = Counter()
    entry = tcp_entry(TO_V1)
    entry.common_properties.intermediate_log_entry = True
    assert Reader().read(entries(entry), PAGE_PROXY, refused) == []
    assert refused == {"intermediate": 1}


def test_flights_of_one_workload_share_its_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader()
    one, two = (reader.flight(http_entry(TO_V1), PAGE_PROXY) for _ in range(2))
    assert one.destination is two.destination
    assert one.service is two.service
    monkeypatch.setattr("pymesh_controlplane.telemetry.entries.MAX_KNOWN", 3)
    for number in range(10):
        reader.flight(
            http_entry({**TO_V1, "destination.workload": f"w{number}", "service.name": f"s{number}"}), PAGE_PROXY
        )
    assert len(reader._peers) <= 3
    assert len(reader._services) <= 3
