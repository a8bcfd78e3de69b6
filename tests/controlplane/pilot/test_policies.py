"""Whose rule holds: namespaces, hosts, ports and subsets."""

import pytest

from pymesh_controlplane.pilot.policies import Mtls, peer_modes, policy_for, rule_for, subset_of
from tests.controlplane.pilot.worlds import BOOKINFO, world_of


def rule(name: str, namespace: str, host: str, policy: str = "{}", subsets: str = "[]") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{host: '{host}', trafficPolicy: {policy}, subsets: {subsets}}}
"""


def peer(name: str, namespace: str, mode: str, selector: str = "{}") -> str:
    return f"""
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{mtls: {{mode: {mode}}}, selector: {selector}}}
"""


RATINGS = "ratings.default.svc.cluster.local"


@pytest.mark.parametrize(
    ("rules", "caller", "expected"),
    [
        ([("a", "pymesh-system", "*.local")], "x", "a"),
        ([("a", "pymesh-system", RATINGS), ("b", "default", "ratings")], "x", "b"),
        ([("a", "pymesh-system", RATINGS), ("b", "default", "ratings"), ("c", "x", RATINGS)], "x", "c"),
        ([("a", "default", "*.local"), ("b", "default", "*.svc.cluster.local"), ("c", "default", "*")], "x", "b"),
        ([("b", "default", RATINGS), ("a", "default", "ratings.default")], "default", "a"),
        ([("a", "other", RATINGS)], "x", None),
    ],
)
def test_the_callers_rule_then_the_services_then_the_meshs(
    rules: list[tuple[str, str, str]], caller: str, expected: str | None
) -> None:
    world = world_of(BOOKINFO + "".join(rule(*item) for item in rules))
    found = rule_for(world.services[RATINGS], caller, world)
    assert (found.key.name if found else None) == expected


def test_ports_replace_and_subsets_override_block_by_block() -> None:
    general = (
        "{loadBalancer: {simple: RANDOM}, tls: {mode: DISABLE}, connectionPool: {tcp: {maxConnections: 1}}, "
        "portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}"
    )
    subsets = "[{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}]"
    world = world_of(BOOKINFO + rule("a", "default", "ratings", general, subsets))
    found = rule_for(world.services[RATINGS], "default", world)
    elsewhere, here = policy_for(found, 1, None), policy_for(found, 9080, None)
    assert elsewhere.load_balancer is not None
    assert elsewhere.load_balancer.simple == "RANDOM"
    assert elsewhere.tls is not None
    assert here.load_balancer is not None
    assert (here.load_balancer.simple, here.tls, here.connection_pool) == ("ROUND_ROBIN", None, None)
    special = policy_for(found, 9080, subset_of(found, "v1"))
    assert special.tls is not None
    assert special.tls.mode == "ISTIO_MUTUAL"
    assert special.load_balancer == here.load_balancer


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([], "PERMISSIVE"),
        ([("mesh", "pymesh-system", "STRICT")], "STRICT"),
        ([("mesh", "pymesh-system", "STRICT"), ("ns", "default", "DISABLE")], "DISABLE"),
        ([("mesh", "pymesh-system", "STRICT"), ("ns", "default", "UNSET")], "STRICT"),
        ([("ns", "default", "STRICT"), ("own", "default", "PERMISSIVE", "{matchLabels: {app: a}}")], "PERMISSIVE"),
        ([("ns", "default", "STRICT"), ("own", "default", "DISABLE", "{matchLabels: {app: b}}")], "STRICT"),
        ([("own", "pymesh-system", "STRICT", "{matchLabels: {app: a}}")], "PERMISSIVE"),
        ([("ns", "other", "STRICT")], "PERMISSIVE"),
        ([("b", "default", "STRICT"), ("a", "default", "DISABLE")], "DISABLE"),
    ],
)
def test_the_closest_peer_authentication_holds(policies: list[tuple[str, ...]], expected: str) -> None:
    world = world_of("".join(peer(*item) for item in policies))
    modes = peer_modes("default", {"app": "a"}, world.peer_authentications, world.root_namespace)
    assert modes.default is Mtls(expected)


PORTS = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}, namespace: default}}
spec: {{{more}mtls: {{mode: {mode}}}, portLevelMtls: {{8080: {{mode: DISABLE}}, 9090: {{mode: UNSET}}}}}}
"""


def test_a_port_has_its_own_mode_and_else_that_of_its_workload() -> None:
    """Ports are those of workloads: a policy without a selector has none, as in Istio."""
    strict = peer("mesh", "pymesh-system", "STRICT")
    own = PORTS.format(name="own", more="selector: {matchLabels: {app: a}}, ", mode="PERMISSIVE")
    for labels, modes in (
        ({"app": "a"}, {8080: "DISABLE", 9090: "PERMISSIVE", 1: "PERMISSIVE"}),
        ({"app": "b"}, {8080: "STRICT", 9090: "STRICT", 1: "STRICT"}),
    ):
        world = world_of(strict + own)
        found = peer_modes("default", labels, world.peer_authentications, world.root_namespace)
        assert {port: found.at(port) for port in modes} == {port: Mtls(mode) for port, mode in modes.items()}
