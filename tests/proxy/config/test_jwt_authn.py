"""What is made of JwtAuthentication, and what is refused of it, where. What it does, tests/conformance compares."""

import json

import pytest
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication

from pymesh.errors import ConfigError
from pymesh_proxy.config.jwt_authn import MAX_DEPTH, jwt_authn
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.jwt_authn import NAME
from tests.support.tokens import ec_key, jwks, rsa_key
from tests.support.xds import message

KEY = ec_key()
KEYS = json.dumps(jwks(KEY.public()))


def configured(provider: str = "", rules: str = "[]", more: str = "", keys: str = KEYS) -> str:
    return f"providers: {{one: {{local_jwks: {{inline_string: {keys}}}, {provider}}}}}\nrules: {rules}\n{more}"


def made(config: str) -> HttpFilter:
    return jwt_authn(message(JwtAuthentication, config), "here")


def refused(config: str) -> str:
    with pytest.raises(ConfigError) as error:
        made(config)
    return str(error.value)


def test_it_becomes_a_filter() -> None:
    provider = """issuer: us, audiences: [a], forward: true, from_headers: [{name: X-Jwt}], from_params: [t],
      from_cookies: [c], forward_payload_header: x-p, pad_forward_payload_header: true, payload_in_metadata: p,
      header_in_metadata: h, clock_skew_seconds: 5, jwt_cache_config: {jwt_cache_size: 10, jwt_max_token_size: 100},
      claim_to_headers: [{header_name: X-Sub, claim_name: a.b}], clear_route_cache: true, max_lifetime: 60s,
      require_expiration: true, subjects: {prefix: a}, normalize_payload_in_metadata: {space_delimited_claims: [x]}"""
    rules = """[{match: {path: /a, headers: [{name: x, present_match: true}]}, requirement_name: named},
      {match: {prefix: /}, requires: {requires_any: {requirements: [{provider_name: one}, {allow_missing: {}}]}}},
      {match: {prefix: /}, requires: {requires_all: {requirements: [{allow_missing: {}}, {}]}}},
      {match: {prefix: /}, requires: {provider_and_audiences: {provider_name: one, audiences: [b]}}},
      {match: {prefix: /}}]"""
    more = "requirement_map: {named: {allow_missing_or_failed: {}}}\nbypass_cors_preflight: true\nstat_prefix: x"
    found = made(configured(provider, rules, more))
    assert found.name == NAME
    assert found.on_request is not None
    assert found.connect is not None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("providers: {one: {}}", "here.providers[one].local_jwks: is required"),
        (
            "providers: {one: {remote_jwks: {cache_duration: 1s}}}",
            'providers["one"].remote_jwks: this field is not supported; see docs/support.md',
        ),
        (
            "filter_state_rules: {name: a}",
            "filter_state_rules: this field is not supported",
        ),
        (configured(keys="x"), "here.providers[one].local_jwks: a key set is an object of JSON"),
        (configured(keys="'{\"keys\":[]}'"), "here.providers[one].local_jwks.keys: there is no key in it"),
        (
            configured(keys=json.dumps(jwks(KEY.public(use="enc")))),
            "here.providers[one].local_jwks.keys[0]: it is not for signatures (use)",
        ),
        (
            configured(keys=json.dumps(jwks(KEY.public(), KEY.public(d="AQ")))),
            "here.providers[one].local_jwks.keys[1]: a private key",
        ),
        (
            configured(keys=json.dumps(jwks({"kty": "oct", "k": "AQ"}))),
            "here.providers[one].local_jwks.keys[0]: a symmetric key",
        ),
        (
            configured("from_headers: [{name: 'a b'}]"),
            "here.providers[one].from_headers[0].name: 'a b' is not the name of a header",
        ),
        (configured("from_params: ['']"), "here.providers[one].from_params[0]: is required"),
        (configured("from_cookies: ['']"), "here.providers[one].from_cookies[0]: is required"),
        (
            configured("forward_payload_header: Host"),
            "here.providers[one].forward_payload_header: Host is not for a token to write",
        ),
        (
            configured("claim_to_headers: [{header_name: x-a}]"),
            "here.providers[one].claim_to_headers[0].claim_name: is required",
        ),
        (
            configured("jwt_cache_config: {jwt_cache_size: 1000000}"),
            "here.providers[one].jwt_cache_config.jwt_cache_size: 1000000 tokens: 50000 at most",
        ),
        (
            configured(rules="[{match: {prefix: /}, requires: {provider_name: two}}]"),
            "here.rules[0].requires.provider_name: there is no provider 'two'",
        ),
        (
            configured(rules="[{match: {prefix: /}, requires: {requires_any: {requirements: [{allow_missing: {}}]}}}]"),
            "here.rules[0].requires.requires_any.requirements: at least two are required",
        ),
        (
            configured(rules="[{match: {prefix: /}, requirement_name: two}]"),
            "here.rules[0].requirement_name: there is no requirement 'two' in requirement_map",
        ),
        (configured(rules="[{match: {}}]"), "here.rules[0].match: one of these is required: prefix"),
        (
            configured(rules="[{match: {prefix: /, runtime_fraction: {default_value: {numerator: 1}}}}]"),
            "here.rules[0].match.runtime_fraction: is not for drawing lots about this",
        ),
    ],
)
def test_it_is_refused_with_the_path_of_what_is_wrong(config: str, reason: str) -> None:
    assert refused(config).startswith(reason)


def test_requirements_are_not_nested_without_end() -> None:
    inner = "{allow_missing: {}}"
    for _ in range(MAX_DEPTH + 1):
        inner = f"{{requires_all: {{requirements: [{inner}, {{}}]}}}}"
    config = configured(rules=f"[{{match: {{prefix: /}}, requires: {inner}}}]")
    assert "requirements within requirements" in refused(config)


def test_a_set_may_have_keys_that_are_not_for_this() -> None:
    config = configured(keys=json.dumps(jwks(rsa_key().public(use="enc"), {"kty": "new"}, KEY.public())))
    assert made(config).on_request is not None
