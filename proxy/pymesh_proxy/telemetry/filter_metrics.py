"""The counters of all filters; and those of filters in plain Python: what became of the calls of their hooks."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric

from pymesh_proxy.telemetry.jwt_metrics import JwtMetrics
from pymesh_proxy.telemetry.policy_metrics import PolicyMetrics
from pymesh_proxy.telemetry.rbac_metrics import RbacMetrics

_HELP: Final = {
    "calls": "Calls of hooks of a filter in plain Python",
    "failures": "Of these, those that raised an exception",
    "too_slow": "Of these, those that took longer than they may",
}


class PythonFilterStats:
    """Calls of one filter's hooks, and how many of them failed."""

    __slots__ = ("calls", "failures", "too_slow")

    def __init__(self) -> None:
        self.calls = self.failures = self.too_slow = 0


class PythonFilterMetrics:
    """The counters of every filter, by name; they outlive it."""

    def __init__(self) -> None:
        self.filters: dict[str, PythonFilterStats] = {}

    def of(self, name: str) -> PythonFilterStats:
        """The counters of the filter `name`."""
        return self.filters.setdefault(name, PythonFilterStats())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See exposition.Collector."""
        for counter, text in _HELP.items():
            family = CounterMetricFamily(f"pymesh_filter_{counter}", text, labels=["filter"])
            for name, stats in self.filters.items():
                family.add_metric([name], getattr(stats, counter))
            yield family


class FilterMetrics:
    """The counters of every kind of filter."""

    def __init__(self) -> None:
        self.policy = PolicyMetrics()
        self.rbac = RbacMetrics("http", "envoy_rbac_http_prefix")
        self.network_rbac = RbacMetrics("tcp", "envoy_rbac_prefix")
        self.jwt = JwtMetrics()
        self.python = PythonFilterMetrics()

    def collect(self) -> Iterator[Metric]:
        """See exposition.Collector."""
        yield from self.policy.collect()
        yield from self.rbac.collect()
        yield from self.network_rbac.collect()
        yield from self.jwt.collect()
        yield from self.python.collect()
