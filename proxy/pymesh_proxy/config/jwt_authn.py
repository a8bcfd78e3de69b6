"""envoy JwtAuthentication → JwtFilter."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.http.jwt_authn.v3.config_pb2 import JwtAuthentication, JwtRequirement
from google.protobuf.message import Message

from pymesh.errors import ConfigError
from pymesh.jwks import KeySet, key_set
from pymesh.names import RESERVED_HEADERS
from pymesh.xds.check import join
from pymesh_proxy.config import matchers
from pymesh_proxy.config.fields import data, duration, required
from pymesh_proxy.config.routes import request_match
from pymesh_proxy.filters.base import HttpFilter
from pymesh_proxy.filters.jwt_authn import (
    NAME,
    JwtFilter,
    JwtSettings,
    Requirement,
    Rule,
    all_of,
    allow_missing,
    allow_missing_or_failed,
    any_of,
    from_provider,
)
from pymesh_proxy.filters.jwt_locations import CookieLocation, HeaderLocation, Location, ParamLocation
from pymesh_proxy.filters.jwt_provider import CACHE_SIZE, CLOCK_SKEW, Provider, Verifier, audience

Item = TypeVar("Item")

# Requirements within requirements; Istio writes three.
MAX_DEPTH: Final = 16
# Envoy's defaults for a cache that is asked for, and what a person may ask for at most: 200 MB of claims.
_DEFAULT_CACHE: Final = 100
_MAX_CACHE: Final = 50_000
_DEFAULT_CACHED_TOKEN: Final = 4096
# RFC 9110 5.1.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def jwt_authn(message: Message, path: str) -> HttpFilter:
    """The filter.

    Raises:
        ConfigError: with the path of what is wrong.
    """
    assert isinstance(message, JwtAuthentication)
    # By name, so that which provider of an issuer is the first does not depend on how a map is iterated.
    verifiers = {
        name: Verifier(_provider(name, message.providers[name], f"{join(path, 'providers')}[{name}]"))
        for name in sorted(message.providers)
    }
    tree = _Tree(verifiers)
    named = {
        name: tree.requirement(message.requirement_map[name], f"{join(path, 'requirement_map')}[{name}]")
        for name in sorted(message.requirement_map)
    }
    rules = [_rule(rule, tree, named, f"{join(path, 'rules')}[{index}]") for index, rule in enumerate(message.rules)]
    found = JwtFilter(
        JwtSettings(
            rules=tuple(rules),
            headers=frozenset().union(*(verifier.provider.headers for verifier in verifiers.values())),
            bypass_cors_preflight=message.bypass_cors_preflight,
            strip_failure_response=message.strip_failure_response,
            stat_prefix=message.stat_prefix,
        )
    )
    return HttpFilter(NAME, found.on_request, connect=found.connect)


def _rule(rule: config_pb2.RequirementRule, tree: "_Tree", named: Mapping[str, Requirement | None], path: str) -> Rule:
    matches = request_match(rule.match, join(path, "match"))
    which = rule.WhichOneof("requirement_type")
    if which == "requirement_name":
        if rule.requirement_name not in named:
            raise ConfigError(
                f"there is no requirement {rule.requirement_name!r} in requirement_map",
                path=join(path, "requirement_name"),
            )
        return Rule(matches, named[rule.requirement_name])
    return Rule(matches, tree.requirement(rule.requires, join(path, "requires")) if which else None)


class _Tree:
    """Compiles requirements of these providers."""

    def __init__(self, verifiers: Mapping[str, Verifier]) -> None:
        self._verifiers = verifiers

    def requirement(self, message: JwtRequirement, path: str, depth: int = 0) -> Requirement | None:
        """None if nothing is required."""
        if depth >= MAX_DEPTH:
            raise ConfigError(f"requirements within requirements, more than {MAX_DEPTH} deep", path=path)
        match message.WhichOneof("requires_type"):
            case "provider_name":
                return from_provider(self._verifier(message.provider_name, join(path, "provider_name")))
            case "provider_and_audiences":
                here = join(path, "provider_and_audiences")
                verifier = self._verifier(message.provider_and_audiences.provider_name, join(here, "provider_name"))
                named = frozenset(map(audience, message.provider_and_audiences.audiences))
                return from_provider(verifier, named or None)
            case "requires_any":
                return self._any(message.requires_any.requirements, join(path, "requires_any"), depth)
            case "requires_all":
                here = join(path, "requires_all")
                return all_of(self._several(message.requires_all.requirements, here, depth))
            case "allow_missing":
                return allow_missing(tuple(self._verifiers.values()))
            case "allow_missing_or_failed":
                return allow_missing_or_failed(tuple(self._verifiers.values()))
        return None

    def _any(self, messages: Sequence[JwtRequirement], path: str, depth: int) -> Requirement:
        """As in Envoy, `allow_missing` in the list relaxes its other requirements, and is none beside them."""
        kinds = {message.WhichOneof("requires_type") for message in messages}
        missing, failed = "allow_missing" in kinds, "allow_missing_or_failed" in kinds
        if kinds <= {"allow_missing", "allow_missing_or_failed"}:
            self._several(messages, path, depth)
            everybody = tuple(self._verifiers.values())
            return allow_missing_or_failed(everybody) if failed else allow_missing(everybody)
        return any_of(self._several(messages, path, depth, passing=True), missing=missing, failed=failed)

    def _several(
        self, messages: Sequence[JwtRequirement], path: str, depth: int, *, passing: bool = False
    ) -> list[Requirement]:
        """Each of `messages`; if `passing`, without those of kind `allow_missing`, with or without `_or_failed`."""
        if len(messages) < 2:
            raise ConfigError("at least two are required", path=join(path, "requirements"))
        found: list[Requirement] = []
        for index, message in enumerate(messages):
            if passing and message.WhichOneof("requires_type") in {"allow_missing", "allow_missing_or_failed"}:
                continue
            inner = self.requirement(message, f"{join(path, 'requirements')}[{index}]", depth + 1)
            found.append(inner if inner is not None else all_of(()))
        return found

    def _verifier(self, name: str, path: str) -> Verifier:
        if name not in self._verifiers:
            raise ConfigError(f"there is no provider {name!r}", path=path)
        return self._verifiers[name]


# --- A provider ----------------------------------------------------------------------------------------------------


def _provider(name: str, message: config_pb2.JwtProvider, path: str) -> Provider:
    skew = message.clock_skew_seconds
    claims = [
        (_output(item.header_name, f"{here}.header_name"), _claim(item.claim_name, f"{here}.claim_name"))
        for here, item in _each(message.claim_to_headers, path, "claim_to_headers")
    ]
    payload_header = message.forward_payload_header
    return Provider(
        name=name,
        issuer=message.issuer,
        keys=_keys(message, path),
        locations=_locations(message, path),
        audiences=frozenset(map(audience, message.audiences)),
        subject=_subject(message, path),
        require_expiration=message.require_expiration,
        max_lifetime=_max_lifetime(message, path),
        clock_skew=float(skew) if skew else CLOCK_SKEW,
        forward=message.forward,
        payload_header=_output(payload_header, join(path, "forward_payload_header")) if payload_header else b"",
        padded=message.pad_forward_payload_header,
        claim_headers=tuple(claims),
        payload_key=message.payload_in_metadata,
        header_key=message.header_in_metadata,
        space_delimited=frozenset(message.normalize_payload_in_metadata.space_delimited_claims),
        cache_size=_cache_size(message, path),
        cache_max_token=message.jwt_cache_config.jwt_max_token_size or _DEFAULT_CACHED_TOKEN,
    )


def _keys(message: config_pb2.JwtProvider, path: str) -> KeySet:
    """The keys, of which at least one has to be of use, as in Envoy."""
    which = message.WhichOneof("jwks_source_specifier")
    if which != "local_jwks":
        raise ConfigError("is required", path=join(path, "local_jwks"))
    here = join(path, "local_jwks")
    try:
        found = key_set(data(message.local_jwks, here))
        if found.refused:
            raise found.refused[0]
        if not found.keys:
            raise found.ignored[0] if found.ignored else ConfigError("there is no key in it", path="keys")
    except ConfigError as error:
        raise error if error.path.startswith(here) else error.at(here) from None
    return found


def _subject(message: config_pb2.JwtProvider, path: str) -> Callable[[bytes], bool] | None:
    return matchers.string(message.subjects, join(path, "subjects")) if message.HasField("subjects") else None


def _max_lifetime(message: config_pb2.JwtProvider, path: str) -> float | None:
    if not message.HasField("max_lifetime"):
        return None
    return duration(message.max_lifetime, join(path, "max_lifetime"))


def _cache_size(message: config_pb2.JwtProvider, path: str) -> int:
    if not message.HasField("jwt_cache_config"):
        return CACHE_SIZE
    size = message.jwt_cache_config.jwt_cache_size or _DEFAULT_CACHE
    if size > _MAX_CACHE:
        raise ConfigError(f"{size} tokens: {_MAX_CACHE} at most", path=join(path, "jwt_cache_config.jwt_cache_size"))
    return size


def _locations(message: config_pb2.JwtProvider, path: str) -> tuple[Location, ...]:
    """Where tokens stand, each place once, in the order in which Envoy looks."""
    headers = {
        (_name(item.name, f"{here}.name"), item.value_prefix.encode())
        for here, item in _each(message.from_headers, path, "from_headers")
    }
    params = {required(item, here) for here, item in _each(message.from_params, path, "from_params")}
    cookies = {required(item, here) for here, item in _each(message.from_cookies, path, "from_cookies")}
    if not headers and not params and not cookies:
        headers, params = {(b"authorization", b"Bearer ")}, {"access_token"}
    return (
        *(HeaderLocation(name, prefix) for name, prefix in sorted(headers, key=b"".join)),
        *(ParamLocation(name.encode()) for name in sorted(params)),
        *(CookieLocation(name.encode()) for name in sorted(cookies)),
    )


def _each(items: Iterable[Item], path: str, field: str) -> Iterable[tuple[str, Item]]:
    return ((f"{join(path, field)}[{index}]", item) for index, item in enumerate(items))


def _name(name: str, path: str) -> bytes:
    if not _HEADER_NAME.fullmatch(required(name, path)):
        raise ConfigError(f"{name!r} is not the name of a header", path=path)
    return name.lower().encode()


def _output(name: str, path: str) -> bytes:
    found = _name(name, path)
    if name.lower() in RESERVED_HEADERS:
        raise ConfigError(f"{name} is not for a token to write", path=path)
    return found


def _claim(name: str, path: str) -> tuple[str, ...]:
    return tuple(required(name, path).split("."))
