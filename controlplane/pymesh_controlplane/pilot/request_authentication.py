"""RequestAuthentications → the filter that verifies tokens. Pure.

A workload believes every issuer that a resource of the root namespace or its own names for it. A request may come
without a token, but not with a bad one. The claims are left for access rules in the dynamic metadata.

Source: istio.io/docs/concepts/security (request authentication); as Istio 1.27 translates it
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from pymesh.errors import ConfigError
from pymesh.jwks import NOBODYS_KEYS, key_set
from pymesh.resources.istio.request_authentication import JWTRule, KeySource, RequestAuthentication
from pymesh.resources.resource import Key, Resource
from pymesh.xds.filter_names import HTTP_JWT_AUTHN, JWT_PAYLOAD
from pymesh_controlplane.pilot.messages import packed

# Claims whose words are a list (RFC 8693 4.2), whether a rule says so or not.
SPACE_DELIMITED: Final = ("scope", "permission")

_HttpFilter = http_connection_manager_pb2.HttpFilter
_Requirement = config_pb2.JwtRequirement
KeySets = Mapping[KeySource, str]


class Believed(NamedTuple):
    """The issuers that a workload believes.

    Attributes:
        names: of the resources that name them.
        rules: theirs, in the order of their issuers.
        keys: for each rule, its key set.
    """

    names: tuple[Key, ...] = ()
    rules: tuple[JWTRule, ...] = ()
    keys: tuple[str, ...] = ()


NOBODY: Final = Believed()


def believed(resources: Sequence[Resource[RequestAuthentication]], key_sets: KeySets) -> Believed:
    """The issuers that a workload believes for which `resources` hold; `key_sets` are those that could be fetched."""
    if not resources:
        return NOBODY
    rules = sorted((rule for item in resources for rule in item.value.spec.jwt_rules), key=lambda rule: rule.issuer)
    return Believed(tuple(item.key for item in resources), tuple(rules), tuple(_keys(rule, key_sets) for rule in rules))


def filters(found: Believed) -> tuple[_HttpFilter, ...]:
    """The filter; none where nobody is believed."""
    if not found.rules:
        return ()
    config = config_pb2.JwtAuthentication(bypass_cors_preflight=True)
    for index, (rule, keys) in enumerate(zip(found.rules, found.keys, strict=True)):
        config.providers[_name(index)].CopyFrom(_provider(rule, keys))
    everything = route_components_pb2.RouteMatch(prefix="/")
    config.rules.add(match=everything, requires=_requirement([_name(index) for index in range(len(found.rules))]))
    return (_HttpFilter(name=HTTP_JWT_AUTHN, typed_config=packed(config)),)


def _name(index: int) -> str:
    return f"origins-{index}"


def _requirement(providers: Sequence[str]) -> _Requirement:
    """No token, or a good one, of any of the issuers: several may share a place where tokens stand."""
    single = [_any_of([_Requirement(provider_name=name), _missing()]) for name in providers]
    if len(single) == 1:
        return single[0]
    every = _Requirement()
    every.requires_all.requirements.extend(single)
    return _any_of([*(_Requirement(provider_name=name) for name in providers), every])


def _any_of(requirements: Sequence[_Requirement]) -> _Requirement:
    found = _Requirement()
    found.requires_any.requirements.extend(requirements)
    return found


def _missing() -> _Requirement:
    found = _Requirement()
    found.allow_missing.SetInParent()
    return found


def _provider(rule: JWTRule, keys: str) -> config_pb2.JwtProvider:
    found = config_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward_original_token,
        forward_payload_header=rule.output_payload_to_header or "",
        payload_in_metadata=JWT_PAYLOAD,
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
    )
    found.local_jwks.inline_string = keys
    found.normalize_payload_in_metadata.space_delimited_claims.extend(
        dict.fromkeys((*SPACE_DELIMITED, *rule.space_delimited_claims))
    )
    for header in rule.from_headers:
        found.from_headers.add(name=header.name, value_prefix=header.prefix)
    for told in rule.output_claim_to_headers:
        found.claim_to_headers.add(header_name=told.header, claim_name=told.claim)
    return found


def _keys(rule: JWTRule, key_sets: KeySets) -> str:
    """The usable keys of an issuer: an Envoy refuses a whole set for one key that it does not know."""
    if rule.source is not None:
        return key_sets.get(rule.source, NOBODYS_KEYS)
    try:
        found = key_set(rule.jwks or "")
    except ConfigError:  # galley lets none in; what was in force before galley asked this is not believed
        return NOBODYS_KEYS
    return found.encoded() if found.keys else NOBODYS_KEYS
