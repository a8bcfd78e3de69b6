"""The counters of policy rules, as Prometheus sees them."""

from pymesh_proxy.telemetry.exposition import render
from pymesh_proxy.telemetry.metrics import Stats
from pymesh_proxy.telemetry.policy_metrics import MAX_RULES, OVERFLOW, PolicyMetrics


def test_every_counter_is_shown_by_rule() -> None:
    stats = Stats()
    rule = stats.filters.policy.of("RateLimit a/b")
    rule.asked, rule.allowed, rule.denied, rule.seconds = 4, 3, 1, 0.5
    rule.without("open")
    rule.without("open")
    rule.without("closed")
    text = render([stats]).decode()
    for line in (
        'pymesh_policy_asked_total{rule="RateLimit a/b"} 4.0',
        'pymesh_policy_allowed_total{rule="RateLimit a/b"} 3.0',
        'pymesh_policy_denied_total{rule="RateLimit a/b"} 1.0',
        'pymesh_policy_unavailable_total{mode="open",rule="RateLimit a/b"} 2.0',
        'pymesh_policy_unavailable_total{mode="closed",rule="RateLimit a/b"} 1.0',
        'pymesh_policy_seconds_count{rule="RateLimit a/b"} 4.0',
        'pymesh_policy_seconds_sum{rule="RateLimit a/b"} 0.5',
    ):
        assert line in text.splitlines()


def test_the_number_of_rules_is_bounded() -> None:
    metrics = PolicyMetrics()
    for number in range(MAX_RULES):
        metrics.of(str(number))
    assert metrics.of("more") is metrics.of("and more")
    assert metrics.of("0") is not metrics.of(OVERFLOW)
    assert len(metrics.rules) == MAX_RULES + 1
