"""What became of tokens: plain counters per prefix, and how Prometheus sees them. Names are Envoy's."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily


class JwtStats:
    """Requests by what was decided, and tokens by whether their signature had to be looked at."""

    __slots__ = ("allowed", "cors_preflight_bypassed", "denied", "jwt_cache_hit", "jwt_cache_miss")

    def __init__(self) -> None:
        self.allowed = self.denied = self.cors_preflight_bypassed = self.jwt_cache_hit = self.jwt_cache_miss = 0


class JwtMetrics:
    """The counters of every prefix; they outlive the filters that count."""

    def __init__(self) -> None:
        self.prefixes: dict[str, JwtStats] = {}

    def of(self, prefix: str) -> JwtStats:
        """The counters of `prefix`, which may be empty."""
        return self.prefixes.setdefault(prefix, JwtStats())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See exposition.Collector."""
        for name in JwtStats.__slots__:
            family = CounterMetricFamily(
                f"envoy_http_jwt_authn_{name}", f"Envoy's {name}", labels=["envoy_jwt_authn_prefix"]
            )
            for prefix, stats in self.prefixes.items():
                family.add_metric([prefix], getattr(stats, name))
            yield family
