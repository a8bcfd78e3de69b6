"""Access rules: what is decided, counted and noted. Which requests match, tests/conformance compares with Envoy."""

import pytest

from pymesh_proxy.codec.http1 import parse_request
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.access_rules import Action, OfRequest, Policy, Rules
from pymesh_proxy.filters.base import LocalReply
from pymesh_proxy.filters.rbac import NOTE, RbacFilter, RbacSettings
from pymesh_proxy.telemetry.rbac_metrics import RbacMetrics, RbacStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context


class Counters:
    """Of filters.services.Services, what this filter uses."""

    def __init__(self) -> None:
        self.metrics = RbacMetrics("http", "envoy_rbac_http_prefix")

    def rbac_stats(self, prefix: str) -> RbacStats:
        return self.metrics.of(prefix)


def context() -> Context:
    parsed = parse_request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert parsed is not None
    return Context(parsed[0], RequestRecord(Facts("inbound", "10.0.0.1:1", "10.0.0.2:2"), 0.0, 0.0))


def rules(action: Action, *matching: bool) -> Rules:
    return Rules(action, tuple(Policy(f"p {number}", OfRequest(lambda _, it=it: it)) for number, it in enumerate(matching)))  # type: ignore[misc]  # bound now


@pytest.mark.parametrize(
    ("action", "matching", "let_in", "policy"),
    [
        (Action.ALLOW, (False, True), True, ""),
        (Action.ALLOW, (False, False), False, "none"),
        (Action.ALLOW, (), False, "none"),
        (Action.DENY, (False, True, True), False, "p_1"),
        (Action.DENY, (False,), True, ""),
        (Action.DENY, (), True, ""),
        (Action.LOG, (True,), True, ""),
        (Action.LOG, (), True, ""),
    ],
)
def test_what_follows_from_a_match(action: Action, matching: tuple[bool, ...], let_in: bool, policy: str) -> None:
    counters = Counters()
    found = RbacFilter(RbacSettings(rules(action, *matching), None, prefix="mine"))
    found.connect(counters)  # type: ignore[arg-type]  # the rest of Services is not asked for
    verdict = found.on_request(context())
    stats = counters.metrics.prefixes["mine"]
    assert (stats.allowed, stats.denied) == (int(let_in), int(not let_in))
    if let_in:
        assert verdict is None
    else:
        details = f"rbac_access_denied_matched_policy[{policy}]"
        told = ((b"proxy-status", b"pymesh; error=http_request_denied"),)
        assert verdict == LocalReply(403, Flag.NONE, details, b"RBAC: access denied", told)


def test_shadow_rules_are_counted_and_noted_and_keep_nothing_out() -> None:
    counters, asked = Counters(), context()
    found = RbacFilter(RbacSettings(None, rules(Action.DENY, True), shadow_prefix="dry"))
    found.connect(counters)  # type: ignore[arg-type]  # the rest of Services is not asked for
    assert found.on_request(asked) is None
    assert asked.record.notes[NOTE] == "would have been denied, matched policy p 0"
    other = RbacFilter(RbacSettings(None, rules(Action.ALLOW, True), shadow_prefix="dry"))
    other.connect(counters)  # type: ignore[arg-type]  # the rest of Services is not asked for
    assert other.on_request(context()) is None
    stats = counters.metrics.prefixes["dry"]
    assert (stats.shadow_allowed, stats.shadow_denied, stats.allowed, stats.denied) == (1, 1, 0, 0)


def test_prometheus_sees_every_prefix() -> None:
    metrics = RbacMetrics("http", "envoy_rbac_http_prefix")
    metrics.of("").denied = 3
    found = {family.name: [(s.labels, s.value) for s in family.samples] for family in metrics.collect()}
    assert found["envoy_http_rbac_denied"] == [({"envoy_rbac_http_prefix": ""}, 3)]
    assert found["envoy_http_rbac_shadow_allowed"] == [({"envoy_rbac_http_prefix": ""}, 0)]
