"""What becomes of what is reported, down to the metrics that Prometheus sees."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pymesh.istio_metrics import HTTP_LABELS, TCP_LABELS
from pymesh_controlplane.telemetry import collector as collector_module
from pymesh_controlplane.telemetry.collector import Collector
from tests.controlplane.telemetry.support import (
    FROM_PAGE,
    PAGE_ID,
    PAGE_PROXY,
    REVIEWS,
    REVIEWS_ID,
    TO_V1,
    V1_PROXY,
    entries,
    http_entry,
    tcp_entry,
)

NOW = 10.0


def samples(collector: Collector, name: str) -> list[tuple[dict[str, str], float]]:
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode() + collector.istio_text()
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def test_a_request_is_counted_kept_and_seen_in_istios_metrics() -> None:
    collector = Collector(0.0, 0.0)
    collector.take(entries(http_entry(TO_V1, cluster=f"outbound|9080|v1|{REVIEWS}")), PAGE_PROXY, NOW)
    collector.take(entries(http_entry(FROM_PAGE, status=500)), V1_PROXY, NOW)
    assert collector.traffic.stats(NOW, 60, "reviews", "bookinfo")["versions"]["v1"]["requests"] == 1
    assert len(collector.ring.of_request("r1")) == 2
    both = {
        "source_workload": "productpage-v1",
        "source_canonical_service": "productpage",
        "source_canonical_revision": "v1",
        "source_workload_namespace": "bookinfo",
        "source_principal": str(PAGE_ID),
        "source_app": "productpage",
        "source_version": "v1",
        "source_cluster": "Kubernetes",
        "destination_workload": "reviews-v1",
        "destination_workload_namespace": "bookinfo",
        "destination_principal": str(REVIEWS_ID),
        "destination_app": "reviews",
        "destination_version": "v1",
        "destination_service": REVIEWS,
        "destination_canonical_service": "reviews",
        "destination_canonical_revision": "v1",
        "destination_service_name": "reviews",
        "destination_service_namespace": "bookinfo",
        "destination_cluster": "Kubernetes",
        "request_protocol": "http",
        "grpc_response_status": "",
        "response_flags": "-",
    }
    source = {"reporter": "source", "response_code": "200", "connection_security_policy": "unknown", **both}
    destination = {
        "reporter": "destination",
        "response_code": "500",
        "connection_security_policy": "mutual_tls",
        **both,
    }
    assert samples(collector, "istio_requests_total") == [(source, 1), (destination, 1)]
    assert samples(collector, "istio_request_duration_milliseconds_bucket")[4] == ({**source, "le": "25"}, 1)
    assert samples(collector, "istio_request_duration_milliseconds_sum")[0] == (source, 12)
    assert samples(collector, "istio_request_bytes_sum")[0] == (source, 3)
    assert samples(collector, "istio_response_bytes_sum")[0] == (source, 100)
    assert samples(collector, "pymesh_telemetry_entries_total") == [({}, 2)]


def test_connections_have_metrics_of_their_own() -> None:
    collector = Collector(0.0, 0.0)
    collector.take(entries(tcp_entry(TO_V1), tcp_entry(TO_V1)), PAGE_PROXY, NOW)
    [(labels, opened)] = samples(collector, "istio_tcp_connections_opened_total")
    assert opened == 2
    assert labels.keys() == set(TCP_LABELS) == set(HTTP_LABELS) - {"response_code", "grpc_response_status"}
    assert [samples(collector, f"istio_tcp_{name}_total")[0][1] for name in ("received_bytes", "sent_bytes")] == [
        20,
        40,
    ]
    [edge] = collector.traffic.graph(NOW, 60)["edges"]
    assert (edge["protocol"], edge["requests"], edge["p50_ms"], edge["bytes_sent"]) == ("tcp", 2, None, 40)


def test_label_sets_are_bounded_and_what_is_beyond_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "MAX_SERIES", 3)
    collector = Collector(0.0, 0.0)
    for number in range(5):
        collector.take(entries(http_entry(TO_V1, status=200 + number)), PAGE_PROXY, NOW)
    collector.take(entries(http_entry(TO_V1)), PAGE_PROXY, NOW)
    collector.take(entries(tcp_entry(TO_V1)), PAGE_PROXY, NOW)
    counts = {labels["response_code"]: count for labels, count in samples(collector, "istio_requests_total")}
    assert counts == {"200": 2, "201": 1, "202": 1, "overflow": 2}
    assert samples(collector, "pymesh_istio_series_overflow_total") == [({}, 2)]
    assert samples(collector, "istio_tcp_connections_opened_total")[0][1] == 1


def test_one_proxy_cannot_use_up_everyones_label_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "MAX_SERIES_OF_ONE", 3)
    collector = Collector(0.0, 0.0)
    for number in range(10):
        collector.take(entries(http_entry({**TO_V1, "service.host": f"{number}.example.com"})), PAGE_PROXY, 1.0)
    collector.take(entries(http_entry(FROM_PAGE)), V1_PROXY, 1.0)
    counts = {labels["destination_service"]: value for labels, value in samples(collector, "istio_requests_total")}
    assert counts == {"0.example.com": 1, "1.example.com": 1, "2.example.com": 1, "overflow": 7, REVIEWS: 1}


def test_what_proxies_lose_is_summed_whatever_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector(0.0, 0.0)

    def tell(reporter: object, lost: str) -> int:
        collector.take(entries(http_entry({**TO_V1, "dropped_total": lost})), reporter, NOW)  # type: ignore[arg-type]
        return collector.lost

    assert tell(PAGE_PROXY, "10") == 10
    assert tell(PAGE_PROXY, "10") == 10
    assert tell(PAGE_PROXY, "15") == 15
    assert tell(V1_PROXY, "1") == 16
    assert tell(PAGE_PROXY, "2") == 18  # it has started anew
    collector.take(entries(tcp_entry({**TO_V1, "dropped_total": "1"})), PAGE_PROXY, NOW)  # another stream
    assert collector.lost == 19
    assert tell(PAGE_PROXY, "2") == 19
    collector.take(entries(http_entry(TO_V1)), PAGE_PROXY, NOW)
    assert collector.lost == 19
    for rubbish in ("-1", "many", "9" * 30):
        assert tell(PAGE_PROXY, rubbish) == 19
    assert collector.refused["dropped_total"] == 3
    monkeypatch.setattr(collector_module, "MAX_LOSERS", 3)
    assert tell(PAGE_PROXY._replace(pod="third"), "100") == 119
    assert samples(collector, "pymesh_telemetry_lost_total") == [({}, 119)]
    assert samples(collector, "pymesh_telemetry_refused_total") == [({"reason": "dropped_total"}, 3)]
