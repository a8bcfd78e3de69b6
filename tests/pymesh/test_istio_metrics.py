"""Istio's metrics: what Prometheus reads, and what happens to more series than are kept."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pymesh.istio_metrics import BUCKETS, HTTP_LABELS, TCP_LABELS, IstioMetrics
from pymesh.steps import whole

LABELS = tuple(f"v{number}" for number in range(len(HTTP_LABELS)))


def samples(metrics: IstioMetrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.text()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def test_a_request_is_counted_and_measured() -> None:
    metrics = IstioMetrics()
    series, own = metrics.requests.get(LABELS)
    assert own
    series.add(7.25, 0, 1024)
    series.add(0.5, 10, 5_000_000)
    found = samples(metrics)
    labels = dict(zip(HTTP_LABELS, LABELS, strict=True))
    assert found["istio_requests_total"] == [(labels, 2)]
    assert found["istio_request_duration_milliseconds_sum"] == [(labels, 7.75)]
    assert found["istio_request_bytes_sum"] == [(labels, 10)]
    assert found["istio_response_bytes_sum"] == [(labels, 5_001_024)]
    by_bound = {item["le"]: value for item, value in found["istio_request_duration_milliseconds_bucket"]}
    assert [float(bound) for bound in by_bound] == [*BUCKETS, float("inf")]
    assert (by_bound["0.5"], by_bound["5"], by_bound["10"], by_bound["+Inf"]) == (1, 1, 2, 2)
    sizes = {item["le"]: value for item, value in found["istio_response_bytes_bucket"]}
    assert (sizes["1000"], sizes["2500"], sizes["3600000"], sizes["+Inf"]) == (0, 1, 1, 2)


def test_the_text_is_written_a_series_at_a_time() -> None:
    metrics = IstioMetrics()
    for number in range(20):
        metrics.requests.get((*LABELS[:-1], str(number)))[0].add(1, 2, 3)
    assert whole(metrics.writing()) == metrics.text()
    assert sum(1 for _ in metrics.writing()) > 4 * 20, "three histograms and a counter of each"


def test_a_connection_is_counted() -> None:
    metrics = IstioMetrics()
    labels = LABELS[: len(TCP_LABELS)]
    series, _ = metrics.connections.get(labels)
    series.opened, series.closed, series.sent, series.received = 4, 3, 2, 1
    found = samples(metrics)
    names = ("connections_opened", "connections_closed", "sent_bytes", "received_bytes")
    values = [found[f"istio_tcp_{name}_total"] for name in names]
    assert values == [[(dict(zip(TCP_LABELS, labels, strict=True)), value)] for value in (4, 3, 2, 1)]


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "\\n", "é", "{a,b}"])
def test_any_value_is_written_so_that_prometheus_reads_it(value: str) -> None:
    metrics = IstioMetrics()
    series, _ = metrics.requests.get((value, *LABELS[1:]))
    series.add(1, 0, 0)
    [(labels, _)] = samples(metrics)["istio_requests_total"]
    assert labels["reporter"] == value


def test_series_are_bounded_and_what_does_not_fit_is_still_counted() -> None:
    metrics = IstioMetrics(limit=2)
    for number in range(10):
        series, own = metrics.requests.get(("source", str(number), *LABELS[2:]))
        assert own is (number < 2)
        series.add(1, 0, 0)
    found = samples(metrics)
    by_workload = {labels["source_workload"]: value for labels, value in found["istio_requests_total"]}
    assert by_workload == {"0": 1, "1": 1, "overflow": 8}
    assert found["pymesh_istio_series_overflow_total"] == [({}, 8)]
    assert metrics.requests.get(("source", "1", *LABELS[2:]))[1]
