"""The record of a request, made anew from its entry: what the proxy's own `/requests` says, field for field."""

from typing import Any

import pytest
from starlette.responses import JSONResponse

from pymesh.peer_metadata import Peer, ServiceFacts
from pymesh_controlplane.telemetry.entries import Reader
from pymesh_controlplane.telemetry.records import record_of
from pymesh_controlplane.telemetry.reporter import Reporter
from pymesh_proxy.admin_pages import record_as_json
from pymesh_proxy.errors import Flag
from pymesh_proxy.telemetry.als import HttpEncoder, tcp_entry
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.telemetry.trace_context import SpanContext
from pymesh_proxy.transport.facts import Facts
from tests.controlplane.telemetry.support import PAGE, PAGE_ID, PAGE_PROXY, REVIEWS, REVIEWS_ID, V1, V1_PROXY
from tests.controlplane.telemetry.support import http_entry as entry_of

OUTBOUND = Facts("outbound", "10.244.0.7:40000", "127.0.0.1:15001", "10.96.0.11:9080", ("10.96.0.11", 9080))
INBOUND = Facts(
    "inbound", "10.244.0.7:40001", "10.244.0.8:15001", "10.244.0.8:9080", ("10.244.0.8", 9080),
    tls=True, peer=str(PAGE_ID), own=str(REVIEWS_ID), sni=f"outbound_.9080_._.{REVIEWS}",
)  # fmt: skip
DIRECT_V6 = Facts("gateway", "[fd00::7]:40002", "[fd00::8]:8443", tls=True, sni="shop.example.com")


def record(facts: Facts, **fields: Any) -> RequestRecord:
    result = RequestRecord(facts, 1_700_000_000.123456, 500.0)
    result.request_id, result.method, result.authority = "8c2f6a9e-1", "GET", "reviews:9080"
    result.path, result.status, result.attempts = "/reviews/0?x=%20y", 200, 1
    result.t_filtered, result.t_connected = 500.000412, 500.0009
    result.t_first_byte, result.t_end = 500.0123456, 501.5
    for name, value in fields.items():
        setattr(result, name, value)
    return result


RECORDS = {
    "outbound": (
        record(
            OUTBOUND, virtual_host="reviews", route="jason", route_source="VirtualService bookinfo/reviews",
            cluster=f"outbound|9080|v1|{REVIEWS}", endpoint="10.244.0.8:9080", upstream_local="10.244.0.7:40001",
            span=SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331", sampled=True),
            upstream_peer=str(REVIEWS_ID), endpoint_labels={"version": "v1", "app": "reviews"}, reused=True, attempts=2,
            source=PAGE, destination=V1, service=ServiceFacts(REVIEWS, "reviews", "bookinfo"),
            bytes_received=7, bytes_sent=70_000, details="via_upstream",
        ),
        PAGE_PROXY,
    ),
    "inbound": (
        record(
            INBOUND, cluster="inbound|9080||", endpoint="10.244.0.8:9080", upstream_local="127.0.0.6:41000",
            source=PAGE, destination=V1, service=ServiceFacts(REVIEWS, "reviews", "bookinfo"),
            notes={"policy": "ConcurrencyLimit bookinfo/reviews: slot 37 of 100", "other": "words: of, \"all\" kinds"},
        ),
        V1_PROXY,
    ),
    "refused": (
        record(
            OUTBOUND, source=PAGE, status=503, flag=Flag.NO_HEALTHY_UPSTREAM, details="no_healthy_upstream",
            t_connected=0.0, t_first_byte=0.0, attempts=0, method="PURGE", protocol="HTTP/1.0",
        ),
        PAGE_PROXY,
    ),
    "gateway": (record(DIRECT_V6, source=PAGE), PAGE_PROXY._replace(kind="router")),
    "given up": (
        record(OUTBOUND, source=PAGE, status=0, flag=Flag.DOWNSTREAM_CONNECTION_TERMINATION, t_filtered=0.0),
        PAGE_PROXY,
    ),
}  # fmt: skip


def what_the_proxy_says(kept: RequestRecord) -> dict[str, Any]:
    return {**record_as_json(kept), "started": pytest.approx(kept.wall, abs=1e-6)}


def without_the_reporter(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in {"number", "pod", "namespace", "workload"}}


@pytest.mark.parametrize("name", RECORDS)
def test_the_record_of_a_request_is_the_one_that_its_proxy_has(name: str) -> None:
    kept, reporter = RECORDS[name]
    flight = Reader().flight(HttpEncoder().message(kept, None, None), reporter)
    expected = what_the_proxy_says(kept)
    found = record_of(flight)
    assert (found["pod"], found["namespace"], found["workload"]) == (
        reporter.pod, reporter.peer.namespace, reporter.peer.workload,
    )  # fmt: skip
    assert without_the_reporter(found) == expected


def test_the_record_of_a_connection_is_the_one_that_its_proxy_has() -> None:
    kept = record(
        INBOUND, request_id="", method="", authority="", path="", status=0, protocol="TCP", source=PAGE,
        destination=V1, service=ServiceFacts("db.data.svc.cluster.local", "db", "data"), bytes_received=1,
        bytes_sent=2, details="upstream_reset", flag=Flag.UPSTREAM_CONNECTION_TERMINATION, t_filtered=0.0,
    )  # fmt: skip
    expected = what_the_proxy_says(kept)
    found = record_of(Reader().flight(tcp_entry(kept), V1_PROXY))
    assert without_the_reporter(found) == expected


def test_an_envoy_has_words_for_less() -> None:
    entry = entry_of({}, cluster=f"outbound|9080||{REVIEWS}")
    entry.common_properties.downstream_local_address.pipe.path = "/run/app.sock"
    found = record_of(Reader().flight(entry, Reporter("sidecar", "envoy-0", Peer())))
    assert found["downstream_local"] == found["original_destination"] == "/run/app.sock"
    assert (found["route_source"], found["upstream_peer"], found["endpoint_labels"]) == ("", "", {})
    assert found["times_ms"] == {"filtered": None, "sent": None, "first_byte": None, "end": 12.0}


@pytest.mark.parametrize(
    "labels",
    ["[1]", "{", '{"a": {"b": 1}}', "[" * 50_000, '{"a": "\\ud800"}', '{"a": "\\udc00 and more"}', '{"\\ud800": ""}'],
    ids=["list", "half", "nested", "deep", "surrogate", "low surrogate", "surrogate key"],
)
def test_rubbish_in_tags_makes_no_record_impossible(labels: str) -> None:
    entry = entry_of({"endpoint_labels": labels, "filtered_ms": "inf", "direction": "outbound"})
    found = record_of(Reader().flight(entry, PAGE_PROXY))
    assert found["endpoint_labels"] == {}
    assert found["times_ms"]["filtered"] is None
    assert JSONResponse(found).body
