"""What the policy service counts, and its form at scrape time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pymesh_controlplane.policy.checks import Limits
from pymesh_controlplane.policy.desk import Desk, totals


@dataclass(slots=True)
class Counts:
    """Plain integers; names of rules come from the rules in force only, so that there are never many.

    Attributes:
        checks: by rule and result (`allowed`, `denied`; `would_deny` on a dry run;
            `undecided` where a check in Python has failed).
        refused: checks and streams without an answer, by reason.
        unknown_rules: questions about rules that there are not.
        store_failures: claims that the store of several replicas did not answer.
        replicas: how many replicas of the service there are, as far as the world tells.
    """

    checks: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    unknown_rules: int = 0
    store_failures: int = 0
    replicas: int = 0


class PolicyMetrics(Collector):
    """`pymesh_policy_*`, for prometheus_client."""

    def __init__(self, counts: Counts, desk: Desk, limits: Limits) -> None:
        self._counts = counts
        self._desk = desk
        self._limits = limits

    def collect(self) -> Iterator[Metric]:
        """Everything."""
        checks = CounterMetricFamily("pymesh_policy_checks", "Requests asked about.", labels=("rule", "result"))
        for (rule, result), number in sorted(self._counts.checks.items()):
            checks.add_metric((rule, result), number)
        yield checks
        refused = CounterMetricFamily(
            "pymesh_policy_refused", "Checks and streams that were not answered.", labels=("reason",)
        )
        for reason, number in sorted(self._counts.refused.items()):
            refused.add_metric((reason,), number)
        yield refused
        yield CounterMetricFamily(
            "pymesh_policy_unknown_rules", "Questions about rules that there are not.", value=self._counts.unknown_rules
        )
        failures = self._counts.store_failures
        yield CounterMetricFamily("pymesh_policy_store_failures", "Claims that the store did not answer.", failures)
        yield GaugeMetricFamily("pymesh_policy_replicas", "Replicas of the service.", value=self._counts.replicas)
        yield from self._store()
        yield GaugeMetricFamily("pymesh_policy_streams", "Sidecars that hold leases.", value=len(self._desk.sidecars))
        yield from self._slots()
        yield from self._rates()

    def _store(self) -> Iterator[Metric]:
        """1 while the store answers and 0 while it does not; nothing where there is none."""
        found = GaugeMetricFamily("pymesh_policy_store_up", "Whether the store of several replicas answers.")
        if self._desk.shared is not None:
            found.add_metric((), float(not self._desk.problem))
        yield found

    def _slots(self) -> Iterator[Metric]:
        limit = GaugeMetricFamily("pymesh_policy_slots_limit", "Requests allowed at once.", labels=("rule",))
        families = {
            what: GaugeMetricFamily(f"pymesh_policy_slots_{what}", text, labels=("rule",))
            for what, text in (
                ("granted", "Slots that sidecars may use."),
                ("held", "Slots that count against the limit."),
                ("in_use", "Requests in the apps, as sidecars last said."),
            )
        }
        for name, book in self._desk.books.items():
            limit.add_metric((name,), self._desk.maximum(name))
            for what, number in totals(book).items():
                families[what].add_metric((name,), number)
        yield limit
        yield from families.values()

    def _rates(self) -> Iterator[Metric]:
        keys = GaugeMetricFamily("pymesh_policy_keys", "Keys that are counted apart.", labels=("rule",))
        overflows = CounterMetricFamily(
            "pymesh_policy_key_overflows", "Requests counted together, since there are too many keys.", labels=("rule",)
        )
        for name, bucket in self._limits.buckets.items():
            if self._desk.shared is None:  # otherwise they are in the store
                keys.add_metric((name,), len(bucket))
            overflows.add_metric((name,), bucket.overflows)
        yield keys
        yield overflows
