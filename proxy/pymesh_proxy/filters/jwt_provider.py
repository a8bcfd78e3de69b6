"""A provider of tokens: whether a token is one of its own and valid now, and what apps and filters learn of it. Pure.

The signature of a token is verified once, and the token kept under its digest. Whether it is in time and for us is
checked with every request.

Source: envoy.extensions.filters.http.jwt_authn.v3.JwtProvider
"""

import base64
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pymesh.jwks import KeySet
from pymesh_proxy.filters.jwt_locations import Location
from pymesh_proxy.filters.jwt_token import Jwt, JwtError, Status, parse
from pymesh_proxy.telemetry.jwt_metrics import JwtStats

# Seconds by which clocks may differ where a provider does not say, as in Envoy.
CLOCK_SKEW: Final = 60.0
# Verified tokens that are kept of a provider where it does not say: 3 MB of tokens with 0.5 KiB each.
CACHE_SIZE: Final = 500
# Bytes that no header value may have (RFC 9110 5.5); a claim may have any.
_NO_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_MAX_UINT64: Final = 2**64
_ED25519_SIGNATURE: Final = 64  # bytes; RFC 8032 5.1.6

# Dynamic metadata of the filter, by key.
Metadata = dict[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider as it is configured.

    Attributes:
        issuer: the `iss` of its tokens; empty if it may be any, or none.
        audiences: a token has to name one of them, in the form of `audience`; empty: any, or none.
        subject: whether a token's `sub` is one of the provider's; None: any is.
        require_expiration: whether a token needs an `exp`.
        max_lifetime: seconds from now until `exp` at most; None without limit.
        clock_skew: seconds by which clocks may differ.
        locations: where its tokens stand in a request.
        forward: whether the token is left in the request for the app.
        payload_header: gets the claims as they stand in the token, base64url, `padded` or not; empty for none.
        claim_headers: headers (in lower case), each with the path of the claim that is written to it.
        payload_key, header_key: keys of the dynamic metadata for claims and JOSE header; empty for none.
        space_delimited: claims that become a list of their words in the metadata.
        cache_size, cache_max_token: how many verified tokens are kept, and bytes of the longest that is.
    """

    name: str
    issuer: str
    keys: KeySet
    locations: tuple[Location, ...]
    audiences: frozenset[str] = frozenset()
    subject: Callable[[bytes], bool] | None = None
    require_expiration: bool = False
    max_lifetime: float | None = None
    clock_skew: float = CLOCK_SKEW
    forward: bool = False
    payload_header: bytes = b""
    padded: bool = False
    claim_headers: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    payload_key: str = ""
    header_key: str = ""
    space_delimited: frozenset[str] = frozenset()
    cache_size: int = CACHE_SIZE
    cache_max_token: int = 4096

    @property
    def headers(self) -> frozenset[bytes]:
        """The request headers that this provider's tokens are written to: nobody else may set them."""
        names = {name for name, _ in self.claim_headers}
        return frozenset(names | {self.payload_header} if self.payload_header else names)

    def takes(self, issuer: str) -> bool:
        """Whether a token of `issuer` may be one of this provider."""
        return not self.issuer or self.issuer == issuer


@dataclass(frozen=True, slots=True)
class Verified:
    """A token whose signature is good.

    Attributes:
        headers: added to the request, for the app.
        metadata: for the filters behind this one.
    """

    jwt: Jwt
    headers: tuple[tuple[bytes, bytes], ...]
    metadata: Metadata


class Verifier:
    """A provider, and the tokens of it that were verified."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._known: OrderedDict[bytes, Verified] = OrderedDict()

    def authenticate(
        self, token: bytes, now: float, audiences: frozenset[str] | None, stats: JwtStats
    ) -> Verified | Status:
        """The token, verified, or what is wrong with it.

        Args:
            now: Unix time, seconds.
            audiences: replace the provider's own; None for those.
        """
        digest = hashlib.sha256(token).digest()
        found = self._known.get(digest)
        try:
            jwt = parse(token) if found is None else found.jwt
        except JwtError as error:
            return error.status
        status = self._check_claims(jwt, now, audiences)
        if status is not Status.OK:
            return status
        if found is not None:
            stats.jwt_cache_hit += 1
            self._known.move_to_end(digest)
            return found
        stats.jwt_cache_miss += 1
        status = self._verify(jwt)
        return self._keep(digest, len(token), jwt) if status is Status.OK else status

    def _check_claims(self, jwt: Jwt, now: float, audiences: frozenset[str] | None) -> Status:
        """Whether the claims are acceptable: issuer, times, subject and audience."""
        provider, skew = self.provider, self.provider.clock_skew
        if not provider.takes(jwt.issuer):
            return Status.UNKNOWN_ISSUER
        if max(jwt.not_before or 0.0, jwt.issued or 0.0) > now + skew:
            return Status.NOT_YET_VALID
        if jwt.expires is not None and now > jwt.expires + skew:
            return Status.EXPIRED
        if provider.subject is not None and not provider.subject(jwt.subject.encode()):
            return Status.FAILED
        if not self._expiry_is_fine(jwt, now):
            return Status.FAILED
        wanted = provider.audiences if audiences is None else audiences
        if wanted and wanted.isdisjoint(map(audience, jwt.audiences)):
            return Status.AUDIENCE
        return Status.OK

    def _expiry_is_fine(self, jwt: Jwt, now: float) -> bool:
        longest = self.provider.max_lifetime
        if jwt.expires is None:
            return not self.provider.require_expiration and longest is None
        return longest is None or jwt.expires - now <= longest

    def _verify(self, jwt: Jwt) -> Status:
        """Whether one of the provider's keys has signed it."""
        # A key without a name may be meant by any, and a token that names none may mean any: as in Envoy.
        named = [key for key in self.provider.keys.keys if not jwt.kid or not key.kid or key.kid == jwt.kid]
        if not any("alg" not in key.members or jwt.algorithm in key.algorithms for key in named):
            return Status.NO_MATCHING_KEY
        fitting = [key for key in named if jwt.algorithm in key.algorithms]
        if fitting and jwt.algorithm == "EdDSA" and len(jwt.signature) != _ED25519_SIGNATURE:
            return Status.ED25519_LENGTH
        good = any(key.verify(jwt.algorithm, jwt.signature, jwt.signed) for key in fitting)
        return Status.OK if good else Status.FAILED

    def _keep(self, digest: bytes, length: int, jwt: Jwt) -> Verified:
        """Keep the token, if there is no room instead of the one least recently seen."""
        provider = self.provider
        found = Verified(jwt, _headers(jwt, provider), _metadata(jwt, provider))
        if provider.cache_size and length <= provider.cache_max_token:
            if len(self._known) >= provider.cache_size:
                self._known.popitem(last=False)
            self._known[digest] = found
        return found


def audience(text: str) -> str:
    """An audience in the form that is compared: without http:// or https:// and a slash at its end, as in Envoy."""
    for scheme in ("https://", "http://"):
        if text.startswith(scheme):
            text = text.removeprefix(scheme)
            break
    return text.removesuffix("/")


# --- What a token tells --------------------------------------------------------------------------------------------


def _headers(jwt: Jwt, provider: Provider) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    if provider.payload_header:
        padding = b"=" * (-len(jwt.payload) % 4) if provider.padded else b""
        found.append((provider.payload_header, jwt.payload + padding))
    for name, path in provider.claim_headers:
        value = _claim(jwt.claims, path)
        if value and not _NO_VALUE.search(value):
            found.append((name, value))
    return tuple(found)


def _claim(claims: Mapping[str, object], path: tuple[str, ...]) -> bytes:
    """A claim as a header's value, in Envoy's form; empty if there is none."""
    found: object = claims
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return b""
        found = found[name]
    match found:
        case bool():
            return b"true" if found else b"false"
        case str():
            return found.encode()
        case int() if 0 <= found < _MAX_UINT64:
            return b"%d" % found
        case int() | float():
            whole = 0 <= found < _MAX_UINT64 and float(found).is_integer()
            return b"%d" % found if whole else b"%f" % found
        case list() | dict():
            text = json.dumps(found, separators=(",", ":"), ensure_ascii=False)
            return base64.b64encode(text.encode())
    return b""


def _metadata(jwt: Jwt, provider: Provider) -> Metadata:
    found: Metadata = {}
    if provider.header_key:
        found[provider.header_key] = jwt.header
    if provider.payload_key:
        lists = {
            name: [word for word in value.split(" ") if word]
            for name in provider.space_delimited
            if isinstance(value := jwt.claims.get(name), str)
        }
        found[provider.payload_key] = {**jwt.claims, **lists}
    return found
