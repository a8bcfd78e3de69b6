"""What RequestAuthentications become: whose tokens are looked at, before which requests."""

import json
from dataclasses import replace

import pytest
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication, JwtProvider
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from google.protobuf.json_format import MessageToDict

from pymesh.jwks import NOBODYS_KEYS
from pymesh.names import USER_AGENT
from pymesh.resources.istio.request_authentication import KeySource
from pymesh.xds.filter_names import HTTP_JWT_AUTHN
from pymesh_controlplane.galley.check import check
from pymesh_controlplane.pilot import guards
from pymesh_controlplane.pilot.guards import SecurityPolicies
from pymesh_controlplane.pilot.model import Severity, World
from pymesh_proxy.config.jwt_authn import jwt_authn
from tests.controlplane.pilot.security_worlds import FETCHED, FULL, KEYS, authentication, before_router, inbound, policy
from tests.controlplane.pilot.worlds import BOOKINFO, sidecar, world_of

OWN = json.dumps(
    {"keys": [{k: v for k, v in json.loads(KEYS)["keys"][0].items() if k != "use"}]},
    separators=(",", ":"), sort_keys=True,
)  # fmt: skip
SOURCE = KeySource("https://b.test", "https://b.test/keys")
INLINE = f"{{issuer: 'https://c.test', jwks: '{KEYS}'}}"


def believing(text: str) -> World:
    """A world without anything that is wrong with what was added."""
    world = world_of(BOOKINFO + text)
    problems = [problem for problem in check(world.resources.values(), world) if "RequestAuth" in problem.resource]
    assert [problem for problem in problems if problem.severity is Severity.ERROR] == []
    return world


def filters(world: World, **node: object) -> tuple[HttpFilter, ...]:
    found = SecurityPolicies(world).guards(replace(sidecar(pod="reviews-v1", ip="10.244.0.11"), **node))  # type: ignore[arg-type]
    return guards.before(found).requests


def config_of(world: World, **node: object) -> JwtAuthentication:
    [item] = filters(world, **node)
    assert item.name == HTTP_JWT_AUTHN
    found = JwtAuthentication()
    assert item.typed_config.Unpack(found)
    jwt_authn(found, "")  # pymesh-proxy takes it
    return found


def test_a_rule_becomes_a_provider_as_in_istio() -> None:
    found = config_of(believing(authentication("one", f"{{jwtRules: [{FULL}]}}")))
    expected = JwtProvider(
        issuer="us", audiences=["a", "b"], forward=True, from_params=["t"], from_cookies=["c"],
        forward_payload_header="x-payload", payload_in_metadata="payload",
    )  # fmt: skip
    expected.from_headers.add(name="x-jwt", value_prefix="JWT ")
    expected.from_headers.add(name="y")
    expected.claim_to_headers.add(header_name="x-sub", claim_name="sub")
    expected.local_jwks.inline_string = OWN
    expected.normalize_payload_in_metadata.space_delimited_claims.extend(["scope", "permission", "roles"])
    assert dict(found.providers) == {"origins-0": expected}
    assert found.bypass_cors_preflight
    one = {"requiresAny": {"requirements": [{"providerName": "origins-0"}, {"allowMissing": {}}]}}
    assert [MessageToDict(item) for item in found.rules] == [{"match": {"prefix": "/"}, "requires": one}]


def test_several_issuers_may_share_a_place() -> None:
    found = config_of(believing(authentication("one", f"{{jwtRules: [{INLINE}, {FETCHED}]}}")))
    assert {name: item.issuer for name, item in found.providers.items()} == {
        "origins-0": "https://b.test", "origins-1": "https://c.test",
    }  # fmt: skip
    names = [{"providerName": "origins-0"}, {"providerName": "origins-1"}]
    each = [{"requiresAny": {"requirements": [name, {"allowMissing": {}}]}} for name in names]
    assert MessageToDict(found.rules[0].requires) == {
        "requiresAny": {"requirements": [*names, {"requiresAll": {"requirements": each}}]}
    }


def test_keys_that_were_fetched_are_put_in_and_nobodys_until_then() -> None:
    world = believing(authentication("one", f"{{jwtRules: [{FETCHED}]}}"))
    assert config_of(world).providers["origins-0"].local_jwks.inline_string == NOBODYS_KEYS
    keyed = replace(world, key_sets={SOURCE: OWN})
    assert config_of(keyed).providers["origins-0"].local_jwks.inline_string == OWN


@pytest.mark.parametrize(
    ("text", "issuers"),
    [
        (authentication("one", f"{{jwtRules: [{FETCHED}]}}", "elsewhere"), []),
        (authentication("one", f"{{jwtRules: [{FETCHED}]}}", "pymesh-system"), ["https://b.test"]),
        (
            authentication("one", f"{{jwtRules: [{FETCHED}]}}", "pymesh-system")
            + authentication("two", f"{{selector: {{matchLabels: {{app: reviews}}}}, jwtRules: [{INLINE}]}}"),
            ["https://b.test", "https://c.test"],
        ),
        (authentication("one", f"{{selector: {{matchLabels: {{app: ratings}}}}, jwtRules: [{FETCHED}]}}"), []),
        (authentication("one", "{jwtRules: []}"), []),
    ],
)
def test_a_workload_believes_whom_its_namespace_and_the_root_name(text: str, issuers: list[str]) -> None:
    world = world_of(BOOKINFO + text)
    labels = {"app": "reviews", "version": "v1"}
    found = config_of(world, labels=labels).providers.values() if filters(world, labels=labels) else ()
    assert sorted(provider.issuer for provider in found) == issuers


def test_it_is_asked_first_who_calls_then_whether_that_one_may() -> None:
    text = authentication("one", f"{{jwtRules: [{INLINE}]}}") + policy("two", "{rules: [{}]}")
    names = [item.name for item in before_router(inbound(text))]
    assert names == [HTTP_JWT_AUTHN, "envoy.filters.http.rbac"]


def test_new_keys_make_new_filters() -> None:
    world = believing(authentication("one", f"{{jwtRules: [{FETCHED}]}}"))
    node = sidecar(pod="reviews-v1", ip="10.244.0.11")
    before, after = (SecurityPolicies(each).guards(node) for each in (world, replace(world, key_sets={SOURCE: OWN})))
    assert before.name == after.name
    assert before != after
    assert node.user_agent == USER_AGENT
