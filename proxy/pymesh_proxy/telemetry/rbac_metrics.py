"""What access rules decided: plain counters per prefix, and how Prometheus sees them; of requests by Envoy's names."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily


class RbacStats:
    """Requests, or connections, by what was decided, and by what shadow rules would have decided."""

    __slots__ = ("allowed", "denied", "shadow_allowed", "shadow_denied")

    def __init__(self) -> None:
        self.allowed = self.denied = self.shadow_allowed = self.shadow_denied = 0


class RbacMetrics:
    """The counters of every prefix; they outlive the filters that count."""

    def __init__(self, kind: str, label: str) -> None:
        """`kind` stands in the names of the series; the prefix is their `label`."""
        self.prefixes: dict[str, RbacStats] = {}
        self._kind = kind
        self._label = label

    def of(self, prefix: str) -> RbacStats:
        """The counters of `prefix`, which may be empty."""
        return self.prefixes.setdefault(prefix, RbacStats())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See exposition.Collector."""
        for name in RbacStats.__slots__:
            family = CounterMetricFamily(f"envoy_{self._kind}_rbac_{name}", f"Envoy's {name}", labels=[self._label])
            for prefix, stats in self.prefixes.items():
                family.add_metric([prefix], getattr(stats, name))
            yield family
