"""Metrics as text, read back by prometheus_client's own parser."""

from collections.abc import Iterator
from math import inf, isnan, nan

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.parser import text_string_to_metric_families

from pymesh_proxy.telemetry.exposition import render


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
