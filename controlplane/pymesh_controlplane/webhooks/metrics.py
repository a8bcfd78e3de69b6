"""What the webhooks count: Istio's names where its dashboards ask for them, and how long each answer took."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, Literal, get_args

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pymesh_controlplane.webhooks.bounds import What

# Seconds; an API server waits for 10.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Outcome = Literal["allowed", "patched", "refused", "failed"]

# What Istio's control plane dashboard asks for below "Webhooks", and what that counts here.
_DASHBOARD: Final[Mapping[str, tuple[str, tuple[Outcome, ...]]]] = {
    "sidecar_injection_success_total": ("inject", ("allowed", "patched")),
    "sidecar_injection_failure_total": ("inject", ("refused", "failed")),
    "galley_validation_passed": ("validate", ("allowed",)),
    "galley_validation_failed": ("validate", ("refused", "failed")),
}


class WebhookMetrics(Collector):
    """The numbers, and their form at scrape time. Used from one event loop only.

    A request that is no admission review, or that could not be answered, has `failed`: the API server then does what
    the webhook's failurePolicy says.
    """

    def __init__(self, webhooks: tuple[str, ...]) -> None:
        self._webhooks = webhooks
        self._outcomes: Counter[tuple[str, Outcome]] = Counter()
        self._turned_away: Counter[tuple[str, What]] = Counter()
        self._seconds = dict.fromkeys(webhooks, 0.0)
        self._buckets = {webhook: [0] * (len(BUCKETS) + 1) for webhook in webhooks}

    def answered(self, webhook: str, outcome: Outcome, seconds: float) -> None:
        """One request has got its answer, `seconds` after it came."""
        self._outcomes[webhook, outcome] += 1
        self._seconds[webhook] += seconds
        self._buckets[webhook][bisect_left(BUCKETS, seconds)] += 1

    def turned_away(self, webhook: str, what: What) -> None:
        """One request was refused because of too much at once. It is `answered` as well."""
        self._turned_away[webhook, what] += 1

    def counted(self, webhook: str, outcome: Outcome) -> int:
        """How many requests had this outcome."""
        return self._outcomes[webhook, outcome]

    def collect(self) -> Iterator[Metric]:
        """Everything, for prometheus_client."""
        requests = CounterMetricFamily(
            "controlplane_webhook_requests", "Requests of the API server.", labels=("webhook", "outcome")
        )
        for key, number in sorted(self._outcomes.items()):
            requests.add_metric(key, number)
        yield requests
        turned_away = CounterMetricFamily(
            "controlplane_webhook_turned_away",
            "Requests refused at once: too many bytes are held, or the queue is too long.",
            labels=("webhook", "limit"),
        )
        for webhook in self._webhooks:
            for what in get_args(What):
                turned_away.add_metric((webhook, what), self._turned_away[webhook, what])
        yield turned_away
        duration = HistogramMetricFamily(
            "controlplane_webhook_duration_seconds", "From a request to its answer.", labels=("webhook",)
        )
        for webhook in self._webhooks:
            duration.add_metric((webhook,), self._cumulated(webhook), self._seconds[webhook])
        yield duration
        for name, (webhook, outcomes) in _DASHBOARD.items():
            # Declared without a type: the exposition format would rename a counter to ..._total.
            metric = Metric(name, "As in Istio.", "unknown")
            metric.add_sample(name, {}, sum(self._outcomes[webhook, outcome] for outcome in outcomes))
            yield metric

    def _cumulated(self, webhook: str) -> list[tuple[str, float]]:
        total, found = 0, []
        for bound, number in zip((*map(str, BUCKETS), "+Inf"), self._buckets[webhook], strict=True):
            total += number
            found.append((bound, float(total)))
        return found
