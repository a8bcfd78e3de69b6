"""What became of the questions to the policy service: plain counters per rule, and how Prometheus sees them."""

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

# Rules with counters of their own; what is beyond is counted under the name OVERFLOW. A workload has a handful.
MAX_RULES: Final = 256
OVERFLOW: Final = "other"


class PolicyStats:
    """The counters of one rule, or of one external authorization service.

    Attributes:
        asked, seconds: requests that waited for an answer of the service, and how long in all.
        allowed, denied: requests that its word, or a slot that it granted before, let in or kept out.
        unavailable: requests that were decided without it, by what was done: open, closed, last_decision.
        would_deny: requests that a rule on a dry run would have kept out.
        remembered: requests that an answer given before has decided.
    """

    __slots__ = ("allowed", "asked", "denied", "remembered", "seconds", "unavailable", "would_deny")

    def __init__(self) -> None:
        self.asked = self.allowed = self.denied = self.would_deny = self.remembered = 0
        self.seconds = 0.0
        self.unavailable: dict[str, int] = {}

    def without(self, mode: str) -> None:
        """Count a request that was decided without the service."""
        self.unavailable[mode] = self.unavailable.get(mode, 0) + 1


class PolicyMetrics:
    """The counters of every rule, by name; they outlive the rule."""

    def __init__(self) -> None:
        self.rules: dict[str, PolicyStats] = {}

    def of(self, rule: str) -> PolicyStats:
        """The counters of `rule`."""
        if rule not in self.rules and len(self.rules) >= MAX_RULES:
            rule = OVERFLOW
        return self.rules.setdefault(rule, PolicyStats())

    def collect(self) -> Iterator[CounterMetricFamily | SummaryMetricFamily]:
        """See exposition.Collector."""
        yield from _collect(self.rules)


def _collect(rules: Mapping[str, PolicyStats]) -> Iterator[CounterMetricFamily | SummaryMetricFamily]:
    asked = CounterMetricFamily("pymesh_policy_asked", "Requests that waited for the policy service", labels=["rule"])
    allowed = CounterMetricFamily("pymesh_policy_allowed", "Requests let in by the policy service", labels=["rule"])
    denied = CounterMetricFamily("pymesh_policy_denied", "Requests refused by the policy service", labels=["rule"])
    would = CounterMetricFamily(
        "pymesh_policy_dry_run_denied", "Requests that a rule on a dry run would have refused", labels=["rule"]
    )
    remembered = CounterMetricFamily(
        "pymesh_policy_remembered", "Requests decided by an answer that was remembered", labels=["rule"]
    )
    unavailable = CounterMetricFamily(
        "pymesh_policy_unavailable", "Requests decided without the policy service", labels=["rule", "mode"]
    )
    seconds = SummaryMetricFamily("pymesh_policy_seconds", "Time that requests waited for it", labels=["rule"])
    for name, stats in rules.items():
        asked.add_metric([name], stats.asked)
        allowed.add_metric([name], stats.allowed)
        denied.add_metric([name], stats.denied)
        would.add_metric([name], stats.would_deny)
        remembered.add_metric([name], stats.remembered)
        seconds.add_metric([name], count_value=stats.asked, sum_value=stats.seconds)
        for mode, count in stats.unavailable.items():
            unavailable.add_metric([name, mode], count)
    yield from (asked, allowed, denied, would, remembered, unavailable, seconds)
