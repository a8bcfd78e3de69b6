"""Whatever is written: galley says something about it, never crashes, and what it accepts the proxy accepts."""

import copy
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pymesh.resources.parse import parse
from pymesh.xds import types
from pymesh_controlplane.injector.containers import InjectionConfig
from pymesh_controlplane.local.judge import judge
from pymesh_controlplane.local.texts import Text
from pymesh_controlplane.sources.ledger import Ledger
from pymesh_proxy.config.snapshot import Configuration
from pymesh_proxy.upstream.registry import EndpointRegistry
from tests.controlplane.pilot.gateway_worlds import EVERY_SERVER
from tests.controlplane.pilot.worlds import EGRESS, EVERYTHING, resources_for, sidecar
from tests.support.configuration import apply

LIMITS = """
---
apiVersion: policy.pymesh.io/v1alpha1
kind: RateLimit
metadata: {name: calm, namespace: default}
spec: {targetRefs: [{kind: Service, name: reviews}], requests: 10, per: Second, by: [source.principal]}
---
apiVersion: policy.pymesh.io/v1alpha1
kind: ConcurrencyLimit
metadata: {name: few, namespace: default}
spec: {targetRefs: [{kind: Service, name: ratings}], max: 10, failureMode: Open}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pymesh, namespace: pymesh-system}
data: {mesh: "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"}
"""
DOCUMENTS = [item for item in yaml.safe_load_all(f"{EVERYTHING}---{EGRESS}---{EVERY_SERVER}{LIMITS}") if item]
# Kinds that people write; what a runtime observes is as it is.
WRITTEN = [index for index, item in enumerate(DOCUMENTS) if item["kind"] not in {"Pod", "EndpointSlice"}]

TEXTS = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=200),
    st.text(alphabet="a:-{}[]&*!|>'\"#%@`,? \n\t", max_size=60),
)
# Values that mean something somewhere, and values that mean nothing anywhere.
VALUES = st.one_of(
    st.sampled_from(
        ["", "*", "reviews", "v1", "v9", "/", "a b", "10s", "0s", "1us", "(", "%", "*.example.com", "10.0.0.0/8", "5xx",
         "DISABLE", "STRICT", "TLS", "HTTP", "mesh", "\x00", "ü", "a" * 300]
    ),
    st.integers(-1, 70_000),
    st.sampled_from([0, 1, 2**31, 2**63, 1e300, -0.5, True, None]),
    st.recursive(
        st.none() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
        max_leaves=4,
    ),
)  # fmt: skip


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inner for path in ((*here, key), *places(item, (*here, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A world of every kind in which one to three fields are something else, gone, or there twice."""
    documents = copy.deepcopy(DOCUMENTS)
    for _ in range(draw(st.integers(1, 3))):
        document = documents[draw(st.sampled_from(WRITTEN))]
        *way, last = draw(st.sampled_from(places(document)))
        around: Any = document
        for key in way:
            if not isinstance(around, dict | list) or (isinstance(around, list) and key >= len(around)):
                break
            around = around.get(key) if isinstance(around, dict) else around[key]
        if isinstance(around, list):
            if draw(st.booleans()):
                around.append(copy.deepcopy(around[-1]) if around else draw(VALUES))
            elif isinstance(last, int) and last < len(around):
                around[last] = draw(VALUES)
        elif isinstance(around, dict):
            match draw(st.sampled_from(["set", "drop", "rename"])):
                case "set":
                    around[last] = draw(VALUES)
                case "drop":
                    around.pop(last, None)
                case "rename":
                    around[f"{last}x"] = around.pop(last, None)
    return yaml.safe_dump_all(documents, allow_unicode=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutated())
def test_what_comes_into_force_the_proxy_compiles_whole(text: str) -> None:
    ledger = Ledger()
    ledger.update({"/c/all.yaml": parse(yaml.safe_dump_all(DOCUMENTS), "/c/all.yaml")})
    for known in (ledger, Ledger()):  # over the last good version, and without one
        world = known.update({"/c/all.yaml": parse(text, "/c/all.yaml")})
        for problem in world.problems:
            assert str(problem).isprintable()
        resources = resources_for(sidecar(), world)
        configuration = Configuration(EndpointRegistry(), lambda: 0.5)
        for kind in (types.CLUSTER, types.ENDPOINT, types.LISTENER, types.ROUTE):
            apply(configuration, kind, resources[kind])


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_whatever_text_there_is_a_verdict(text: str) -> None:
    for problem in judge([Text("any.yaml", "/", text)], "default", {}, InjectionConfig()).problems:
        assert str(problem).isprintable()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutated())
def test_whatever_the_fields_say_there_is_a_verdict_on_all_of_it(text: str) -> None:
    verdict = judge([Text("any.yaml", "/", text)], "default", {}, InjectionConfig())
    assert all(problem.sentence for problem in verdict.problems)
