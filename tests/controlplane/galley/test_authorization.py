"""What galley says of AuthorizationPolicies next to the rest of a world; the words for the rest are in mistakes.txt."""

import pytest

from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot.model import Severity
from tests.controlplane.pilot.security_worlds import ASKED, OPA, policy
from tests.controlplane.pilot.worlds import BOOKINFO, world_of


def findings(text: str) -> list[str]:
    """`<severity> <path>: <sentence>` for every problem of the policies in a world."""
    world = world_of(BOOKINFO + text)
    problems = check(world.resources.values(), world)
    return [f"{p.severity.value} {p.path}: {p.sentence}" for p in problems if "AuthorizationPolicy" in p.resource]


BELIEVED = """
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: a, namespace: default}
spec: {jwtRules: [{issuer: a, jwksUri: 'https://a/keys'}]}
"""
RIGHT = (
    "{}",
    "{rules: [{}]}",
    "{selector: {matchLabels: {app: reviews}}, action: DENY, rules: [{from: [{source: {notNamespaces: [default]}}]}]}",
    "{rules: [{from: [{source: {principals: ['*'], ipBlocks: [10.0.0.1, 'fd00::/8']}}]}]}",
    "{rules: [{to: [{operation: {hosts: ['*.a.com'], paths: [/a/*, '/b/{*}/{**}'], ports: ['80'], methods: [GET]}}]}]}",
    "{rules: [{when: [{key: 'request.headers[x-a]', values: [b]}, {key: source.namespace, notValues: ['a-*-b']}]}]}",
    "{rules: [{when: [{key: 'request.auth.claims[a][b]', values: ['*']}, {key: remote.ip, values: [10.0.0.0/8]}]}]}",
    "{rules: [{from: [{source: {requestPrincipals: ['https://a/*'], remoteIpBlocks: [10.0.0.0/8]}}]}]}",
    "{action: AUDIT, rules: [{when: [{key: connection.sni, values: [a]}, {key: destination.ip, values: ['::1']}]}]}",
)


@pytest.mark.parametrize("spec", RIGHT)
def test_of_what_is_right_nothing_is_said(spec: str) -> None:
    """And what pilot makes of it, the proxy supports: that is judged here, too."""
    assert findings(policy("a", spec) + BELIEVED) == []


def test_rules_about_tokens_that_nobody_believes_are_told() -> None:
    text = policy("a", "{rules: [{}, {when: [{key: 'request.auth.claims[a]', values: [b]}]}]}")
    (sentence,) = findings(text)
    assert sentence.startswith("warning spec.rules[1].when[0]: no RequestAuthentication says whose tokens are believed")
    assert findings(text + BELIEVED) == []


def test_who_selects_nobody_is_told() -> None:
    assert findings(policy("a", "{selector: {matchLabels: {app: reviewz}}}")) == [
        "warning spec.selector.matchLabels: it selects no pod of namespace default, and has no effect"
    ]
    assert findings(policy("a", "{selector: {matchLabels: {app: reviews}}}", "pymesh-system")) == []
    assert findings(policy("a", "{selector: {matchLabels: {app: x}}}", "pymesh-system")) == [
        "warning spec.selector.matchLabels: it selects no pod of any namespace, and has no effect"
    ]


def custom(provider: str) -> str:
    spec = f"{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{ports: ['80']}}}}]}}]}}"
    return policy("a", spec) + "---" + OPA + ASKED


def test_who_is_asked_has_to_be_known_to_the_mesh() -> None:
    sentence = "there is no provider 'opaa' in the MeshConfig's extensionProviders; did you mean opa?"
    assert findings(custom("opaa")) == [f"error spec.provider.name: {sentence}"]
    world = world_of(BOOKINFO + custom("opaa"))
    (problem,) = [item for item in check(world.resources.values(), world) if item.path == "spec.provider.name"]
    assert problem.dangling, "once the MeshConfig names it, the policy is right"
    sentence = "there is no service gone.default.svc.cluster.local:1 yet: until then nothing is let in"
    assert findings(custom("gone")) == [f"warning spec.provider.name: {sentence}"]


def test_who_is_asked_has_to_be_one_whom_the_proxy_can_ask() -> None:
    (sentence,) = findings(custom("web"))
    assert sentence.startswith("error spec.provider.name: 'web' is asked by HTTP, which pymesh-proxy does not do")
    curious = ASKED.replace("failOpen: true", "includeRequestBodyInCheck: {maxRequestBytes: 9}")
    (sentence,) = findings(custom("opa").replace(ASKED, curious))
    assert sentence.startswith("error spec.provider.name: 'opa' wants to see bodies")
    assert findings(custom("opa")) == []
    world = world_of(BOOKINFO + custom("web"))
    (problem,) = [item for item in check(world.resources.values(), world) if item.severity is Severity.ERROR]
    assert problem.dangling, "the provider may be made another one; until then nobody is let in unasked"


def test_the_mesh_is_told_of_providers_that_are_not_there() -> None:
    world = world_of(BOOKINFO + ASKED)
    found = [(item.path, item.sentence) for item in check(world.resources.values(), world)]
    kinds = ["envoyExtAuthzGrpc", "envoyExtAuthzHttp", "envoyExtAuthzGrpc"]
    assert [path for path, _ in found] == [
        f"data.mesh.extensionProviders[{n}].{k}.service" for n, k in enumerate(kinds)
    ]
    assert found[0][1].startswith("there is no service opa.default.svc.cluster.local yet")
