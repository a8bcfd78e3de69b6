"""Authentication of the end user by tokens (JWT): which requests need one, of which issuer, and what follows. Pure.

A requirement is a function `Trial` → `Status`, composed by `from_provider`, `any_of`, `all_of` and the like. What it
learns on the way changes the request at once, as in Envoy: claims are written to headers, and a token that must not be
forwarded is removed, so that the next requirement does not see it.

The headers that claims are written to are removed from every request first: only a token may fill them.

Source: envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pymesh.xds.filter_names import HTTP_JWT_AUTHN
from pymesh_proxy.codec.headers import Head, quotable
from pymesh_proxy.errors import Flag
from pymesh_proxy.filters.base import LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.jwt_locations import Location
from pymesh_proxy.filters.jwt_provider import Metadata, Verifier
from pymesh_proxy.filters.jwt_token import JwtError, Status, parse
from pymesh_proxy.filters.services import Services
from pymesh_proxy.telemetry.jwt_metrics import JwtStats

NAME: Final = HTTP_JWT_AUTHN
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
# Bytes of the path that the challenge repeats, as in Envoy.
_MAX_PATH: Final = 256
_OK: Final = Status.OK  # (an attribute of an enumeration costs 40 ns)
_MISSING: Final = Status.MISSING


@dataclass(slots=True)
class Trial:
    """A request whose tokens are being verified.

    Attributes:
        now: Unix time, seconds.
        learned: the filter's dynamic metadata so far.
    """

    head: Head
    now: float
    stats: JwtStats
    learned: Metadata


Requirement = Callable[[Trial], Status]


class Place(NamedTuple):
    """A place for tokens, and the verifiers of the providers whose tokens stand there."""

    location: Location
    verifiers: tuple[Verifier, ...]


class Rule(NamedTuple):
    """What matching requests require; None: nothing."""

    matches: Callable[[Head], bool]
    requirement: Requirement | None


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """The filter's configuration.

    Attributes:
        rules: the first that matches holds.
        headers: the request headers that claims are written to, in lower case.
        bypass_cors_preflight: whether CORS preflights pass, to which browsers add no token.
        strip_failure_response: whether a refused caller is not told why.
        stat_prefix: of the counters.
    """

    rules: tuple[Rule, ...]
    headers: frozenset[bytes] = frozenset()
    bypass_cors_preflight: bool = False
    strip_failure_response: bool = False
    stat_prefix: str = ""


class JwtFilter:
    """The filter of one connection manager."""

    def __init__(self, settings: JwtSettings) -> None:
        self.settings = settings
        self._stats = JwtStats()
        self._alike = frozenset(name.replace(b"_", b"-") for name in settings.headers)
        self._underscored = self._alike != settings.headers

    def connect(self, services: Services) -> None:
        """See filters.base: the filter is in force."""
        self._stats = services.jwt_stats(self.settings.stat_prefix)

    def on_request(self, context: RequestContext) -> Verdict:
        """See filters.base."""
        settings, stats, head = self.settings, self._stats, context.request
        if settings.headers:
            self._strip(head)
        if settings.bypass_cors_preflight and head.method == b"OPTIONS" and _is_preflight(head):
            stats.cors_preflight_bypassed += 1
            return None
        requirement = self._requirement(head)
        if requirement is None:
            stats.allowed += 1
            return None
        path = head.path
        trial = Trial(head, context.record.wall, stats, {})
        status = requirement(trial)
        if trial.learned:
            context.record.metadata[NAME] = trial.learned
        if status is _OK:
            stats.allowed += 1
            return None
        stats.denied += 1
        return self._refusal(status, head, path)

    def _strip(self, head: Head) -> None:
        """Remove the headers of claims, and those that apps (CGI, WSGI) mistake for them: `x_user` for `x-user`."""
        if head.has_any(self.settings.headers):
            head.remove_all(self.settings.headers)
        if head.shape.underscored or self._underscored:
            alike = frozenset(name for name in head.shape.names if name.replace(b"_", b"-") in self._alike)
            if alike:
                head.remove_all(alike)

    def _requirement(self, head: Head) -> Requirement | None:
        for rule in self.settings.rules:
            if rule.matches(head):
                return rule.requirement
        return None

    def _refusal(self, status: Status, head: Head, path: bytes) -> LocalReply:
        code = _FORBIDDEN if status is Status.AUDIENCE else _UNAUTHORIZED
        details = f"jwt_authn_access_denied{{{status.value.replace(' ', '_')}}}"
        if self.settings.strip_failure_response:
            return LocalReply(code, Flag.NONE, details)
        scheme = head.get(b"x-forwarded-proto") or b"http"
        place = quotable((scheme + b"://" + head.authority + path[:_MAX_PATH]).decode("latin-1"))
        error = "" if status is _MISSING else ', error="invalid_token"'
        challenge = f'Bearer realm="{place}"{error}'.encode()
        return LocalReply(code, Flag.NONE, details, status.value.encode(), ((b"www-authenticate", challenge),))


def _is_preflight(head: Head) -> bool:
    return bool(head.get(b"origin") and head.get(b"access-control-request-method"))


# --- Requirements --------------------------------------------------------------------------------------------------


def places(verifiers: Sequence[Verifier]) -> tuple[Place, ...]:
    """Where the tokens of these providers stand, each place once, in the order of the providers."""
    found: dict[Location, list[Verifier]] = {}
    for verifier in verifiers:
        for location in verifier.provider.locations:
            found.setdefault(location, []).append(verifier)
    return tuple(Place(location, tuple(them)) for location, them in found.items())


def from_provider(verifier: Verifier, audiences: frozenset[str] | None = None) -> Requirement:
    """At least one token of the provider, and no bad one. `audiences` replace the provider's own."""
    at = places((verifier,))
    return lambda trial: _authenticate(trial, at, audiences)


def allow_missing(verifiers: Sequence[Verifier]) -> Requirement:
    """No token of these providers, or only good ones."""
    at = places(verifiers)

    def requirement(trial: Trial) -> Status:
        status = _authenticate(trial, at, None)
        return _OK if status is _MISSING else status

    return requirement


def allow_missing_or_failed(verifiers: Sequence[Verifier]) -> Requirement:
    """Anything: good tokens are believed, and bad ones are left to the app."""
    at = places(verifiers)

    def requirement(trial: Trial) -> Status:
        for location, candidates in reversed(at):
            for token in reversed(location.tokens(trial.head)):
                _one(trial, location, candidates, token, None)
        return _OK

    return requirement


def any_of(requirements: Sequence[Requirement], *, missing: bool = False, failed: bool = False) -> Requirement:
    """One of `requirements`; with `missing` also no token at all, with `failed` also bad tokens."""

    def requirement(trial: Trial) -> Status:
        # The most telling reason: a bad token before one of an unknown issuer, and that before none.
        reason = _MISSING
        for one in requirements:
            status = one(trial)
            if status is _OK:
                return _OK
            if status not in {_MISSING, Status.UNKNOWN_ISSUER} or reason is _MISSING:
                reason = status
        return _OK if failed or (missing and reason is _MISSING) else reason

    return requirement


def all_of(requirements: Sequence[Requirement]) -> Requirement:
    """Every one of `requirements`."""

    def requirement(trial: Trial) -> Status:
        for one in requirements:
            status = one(trial)
            if status is not _OK:
                return status
        return _OK

    return requirement


def _authenticate(trial: Trial, at: Sequence[Place], audiences: frozenset[str] | None) -> Status:
    """Whether there are tokens and all are good: of several, the app might use the very one that is bad."""
    found = [(location, candidates, token) for location, candidates in at for token in location.tokens(trial.head)]
    if not found:
        return _MISSING
    for location, candidates, token in reversed(found):  # if several are bad, Envoy reports the last
        status = _one(trial, location, candidates, token, audiences)
        if status is not _OK:
            return status
    return _OK


def _one(
    trial: Trial, location: Location, candidates: Sequence[Verifier], token: bytes, audiences: frozenset[str] | None
) -> Status:
    """Verify one token, of one of the providers `candidates`; a good one changes the request."""
    verifier = candidates[0] if len(candidates) == 1 else _whose(candidates, token)
    if isinstance(verifier, Status):
        return verifier
    found = verifier.authenticate(token, trial.now, audiences, trial.stats)
    if isinstance(found, Status):
        return found
    for name, value in found.headers:
        trial.head.add(name, value)
    if not verifier.provider.forward:
        location.remove(trial.head)
    trial.learned.update(found.metadata)
    return _OK


def _whose(candidates: Sequence[Verifier], token: bytes) -> Verifier | Status:
    """The provider that has the token's issuer, else the first that takes any issuer."""
    try:
        issuer = parse(token).issuer
    except JwtError as error:
        return error.status
    taking = [verifier for verifier in candidates if verifier.provider.takes(issuer)]
    if not taking:
        return Status.UNKNOWN_ISSUER
    return next((verifier for verifier in taking if verifier.provider.issuer), taking[0])
