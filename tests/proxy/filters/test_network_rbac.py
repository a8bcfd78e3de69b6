"""Access rules for opaque connections: what is decided, counted and noted; tests/conformance compares with Envoy."""

import pytest

from pymesh_proxy.filters.access_rules import Action, Not, OfConnection, Policy, Rules
from pymesh_proxy.filters.network_rbac import NAME, NetworkRbac
from pymesh_proxy.filters.rbac import NOTE, RbacSettings
from pymesh_proxy.telemetry.rbac_metrics import RbacMetrics, RbacStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts

ENCRYPTED = OfConnection(("tls", b""), lambda facts: facts.tls)


class Counters:
    """Of filters.services.Services, what these rules use."""

    def __init__(self) -> None:
        self.metrics = RbacMetrics("tcp", "envoy_rbac_tcp_prefix")

    def network_rbac_stats(self, prefix: str) -> RbacStats:
        return self.metrics.of(prefix)


def connection(*, tls: bool) -> RequestRecord:
    return RequestRecord(Facts("inbound", "10.0.0.1:1", "10.0.0.2:2", tls=tls), 0.0, 0.0)


@pytest.mark.parametrize(
    ("action", "plaintext", "encrypted"),
    [
        (Action.ALLOW, "rbac_access_denied_matched_policy[none]", ""),
        (Action.DENY, "", "rbac_access_denied_matched_policy[over_tls]"),
        (Action.LOG, "", ""),
    ],
)
def test_what_follows_from_a_match(action: Action, plaintext: str, encrypted: str) -> None:
    counters = Counters()
    found = NetworkRbac(RbacSettings(Rules(action, [Policy("over tls", ENCRYPTED)]), None, prefix="mine."))
    found.connect(counters)  # type: ignore[arg-type]  # the rest of Services is not asked for
    assert [found.denies(connection(tls=tls)) for tls in (False, True)] == [plaintext, encrypted]
    stats = counters.metrics.prefixes["mine."]
    denied = bool(plaintext) + bool(encrypted)
    assert (stats.allowed, stats.denied) == (2 - denied, denied)


def test_shadow_rules_are_counted_behind_both_prefixes_and_told_and_keep_nothing_out() -> None:
    counters, plaintext, encrypted = Counters(), connection(tls=False), connection(tls=True)
    tried = Rules(Action.DENY, [Policy("plaintext", Not(ENCRYPTED))])
    found = NetworkRbac(RbacSettings(None, tried, prefix="mine.", shadow_prefix="dry_"))
    found.connect(counters)  # type: ignore[arg-type]  # the rest of Services is not asked for
    assert [found.denies(each) for each in (plaintext, encrypted)] == ["", ""]
    stats = counters.metrics.prefixes["mine.dry_"]
    assert (stats.shadow_allowed, stats.shadow_denied) == (1, 1)
    assert plaintext.notes[NOTE] == "would have been denied, matched policy plaintext"
    assert plaintext.metadata[NAME] == {
        "dry_shadow_engine_result": "denied",
        "dry_shadow_effective_policy_id": "plaintext",
    }
    assert encrypted.metadata[NAME] == {"dry_shadow_engine_result": "allowed"}
    assert NOTE not in encrypted.notes
