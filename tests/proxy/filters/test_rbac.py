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
    return Rules(
        action, tuple(Policy(f"p {number}", OfRequest(lambda _, it=it: it)) for number, it in enumerate(matching))
    )  # type: ignore[misc]  # bound now


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


def denied(facts: Facts) -> LocalReply:
    found = RbacFilter(RbacSettings(Rules(Action.DENY, [Policy('ns[a]-policy["b"]-rule[0]', rule=True)]), None))
    verdict = found.on_request(Context(context().request, RequestRecord(facts, 0.0, 0.0)))
    assert isinstance(verdict, LocalReply)
    return verdict


def test_a_workload_of_the_mesh_is_told_by_which_policy_it_is_kept_out() -> None:
    verdict = denied(Facts("inbound", "10.0.0.1:1", "10.0.0.2:2", tls=True, peer="spiffe://cluster.local/ns/a/sa/b"))
    said = (
        b'pymesh; error=http_request_denied; details="rbac_access_denied_matched_policy[ns[a]-policy[\\"b\\"]-rule[0]]"'
    )
    assert verdict.headers == ((b"proxy-status", said),)


@pytest.mark.parametrize(
    "facts",
    [
        Facts("inbound", "10.0.0.1:1", "10.0.0.2:2"),  # plaintext
        Facts("inbound", "10.0.0.1:1", "10.0.0.2:2", tls=True),  # no certificate
        Facts("outbound", "192.0.2.1:1", "10.0.0.2:2", tls=True, peer="spiffe://other/a"),  # a gateway's own client CA
    ],
)
def test_anybody_else_is_told_that_he_is(facts: Facts) -> None:
    verdict = denied(facts)
    assert verdict.headers == ((b"proxy-status", b"pymesh; error=http_request_denied"),)
    assert verdict.details == 'rbac_access_denied_matched_policy[ns[a]-policy["b"]-rule[0]]', "for the log"


def test_what_shadow_rules_and_audits_found_is_told_to_filters_behind() -> None:
    asked = context()
    RbacFilter(RbacSettings(rules(Action.LOG, True), rules(Action.ALLOW, False), shadow_prefix="dry_")).on_request(
        asked
    )
    RbacFilter(RbacSettings(None, rules(Action.DENY, True))).on_request(asked)
    assert asked.record.metadata == {
        "envoy.filters.http.rbac": {
            "dry_shadow_engine_result": "denied",
            "shadow_engine_result": "denied",
            "shadow_effective_policy_id": "p 0",
        },
        "envoy.common": {"access_log_hint": True},
    }
    assert asked.record.notes[NOTE] == (
        "would have been denied, matched policy none; audited, matched policy p 0; "
        "would have been denied, matched policy p 0"
    )


def test_prometheus_sees_every_prefix() -> None:
    metrics = RbacMetrics("http", "envoy_rbac_http_prefix")
    metrics.of("").denied = 3
    found = {family.name: [(s.labels, s.value) for s in family.samples] for family in metrics.collect()}
    assert found["envoy_http_rbac_denied"] == [({"envoy_rbac_http_prefix": ""}, 3)]
    assert found["envoy_http_rbac_shadow_allowed"] == [({"envoy_rbac_http_prefix": ""}, 0)]
