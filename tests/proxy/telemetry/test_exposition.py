"""Metrics as text, read back by prometheus_client's own parser."""

from collections.abc import Iterator
from math import inf, isnan, nan

import pytest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.parser import text_string_to_metric_families

from pymesh_proxy.telemetry import exposition
from pymesh_proxy.telemetry.exposition import Collector, label, render, rendering, written
from pymesh_proxy.telemetry.metrics import ClusterStats, Stats
from pymesh_proxy.telemetry.upstream_metrics import ClusterHealth, UpstreamMetrics
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.health import HealthStats
from pymesh_proxy.upstream.outlier import OutlierStats


class Everything:
    """One family of each kind."""

    def collect(self) -> Iterator[Metric]:
        counter = CounterMetricFamily("a_total", "back\\slash, \nline", labels=["z", "b"])
        counter.add_metric(["1", 'quo"te\\ \n'], 3)
        yield counter
        yield GaugeMetricFamily("g", "gauge", value=inf)
        unknown = GaugeMetricFamily("n", "nan")
        unknown.add_metric((), nan)
        yield unknown
        histogram = HistogramMetricFamily("h", "histogram", labels=["l"])
        histogram.add_metric(["x"], [("0.5", 1), ("+Inf", 3)], 7.25)
        yield histogram
        summary = SummaryMetricFamily("s", "summary", labels=["l"])
        summary.add_metric(["x"], count_value=2, sum_value=1.5)
        yield summary


def test_the_text_says_what_was_meant() -> None:
    families = {family.name: family for family in text_string_to_metric_families(render([Everything()]).decode())}
    assert {name: family.type for name, family in families.items()} == {
        "a": "counter", "g": "gauge", "n": "gauge", "h": "histogram", "s": "summary",
    }  # fmt: skip
    assert families["a"].documentation == "back\\slash, \nline"
    (sample,) = families["a"].samples
    assert (sample.name, sample.labels, sample.value) == ("a_total", {"z": "1", "b": 'quo"te\\ \n'}, 3.0)
    assert families["g"].samples[0].value == inf
    assert isnan(families["n"].samples[0].value)
    assert [(one.name, one.labels.get("le"), one.value) for one in families["h"].samples] == [
        ("h_bucket", "0.5", 1.0), ("h_bucket", "+Inf", 3.0), ("h_count", None, 3.0), ("h_sum", None, 7.25),
    ]  # fmt: skip
    assert [(one.name, one.value) for one in families["s"].samples] == [("s_count", 2.0), ("s_sum", 1.5)]


def many_clusters() -> tuple[Collector, ...]:
    """More than one piece takes, and not a whole number of pieces; everything counted of each."""
    stats, rows = Stats(), []
    for number in range(2 * exposition.PIECE + 7):
        counted = stats.clusters[f"cluster-{number}"] = ClusterStats()
        counted.rq_total = number
        endpoints = (Endpoint("10.0.0.1", number + 1), Endpoint("10.0.0.2", number + 1))
        rows.append(ClusterHealth(f"cluster-{number}", endpoints, OutlierStats(), 1, HealthStats()))
    return stats, UpstreamMetrics(lambda: rows)


def test_a_family_of_many_samples_reads_as_if_it_were_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    collectors = many_clusters()
    in_pieces = render(collectors).decode()
    families = {family.name: family for family in text_string_to_metric_families(in_pieces)}
    assert len(families) == in_pieces.count("# TYPE") == in_pieces.count("# HELP"), "each is introduced once"
    requests = families["envoy_cluster_upstream_rq"]
    assert (requests.type, requests.documentation) == ("counter", "Envoy's rq_total")
    assert [sample.value for sample in requests.samples] == list(range(2 * exposition.PIECE + 7))
    assert {sample.value for sample in families["envoy_cluster_membership_total"].samples} == {2.0}
    assert families["envoy_cluster_upstream_cx_active"].type == "gauge"
    monkeypatch.setattr(exposition, "PIECE", 1_000_000)
    assert render(collectors).decode() == in_pieces


def test_no_step_writes_more_than_a_piece() -> None:
    collectors = many_clusters()
    found = [family for collector in collectors for family in collector.collect() if isinstance(family, str)]
    assert max(text.count("\n") for text in found) == 2 + exposition.PIECE
    assert sum(1 for _ in rendering(collectors)) > len(found)


@pytest.mark.parametrize("value", ["plain", "", 'quo"te\\ \n', "\\n"])
def test_what_is_written_by_hand_is_what_the_library_writes(value: str) -> None:
    class ByHand:
        def collect(self) -> Iterator[str]:
            yield from written("counter", "a", "text", [(label("z", value), 3)], float)
            yield from written("gauge", "b", "text", [(label("z", value), 2.5)], float)
            yield from written("counter", "c", "nothing yet", [], float)

    class ByLibrary:
        def collect(self) -> Iterator[Metric]:
            for family, number in ((CounterMetricFamily, 3), (GaugeMetricFamily, 2.5)):
                found = family("a" if number == 3 else "b", "text", labels=["z"])
                found.add_metric([value], number)
                yield found
            yield CounterMetricFamily("c", "nothing yet", labels=["z"])

    assert render([ByHand()]) == render([ByLibrary()])
