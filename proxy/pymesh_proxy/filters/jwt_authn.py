"""Authentication of the end user by tokens: which requests need one, of whom, and what follows. Pure.

A requirement is a function of a `Trial`, put together by `provided`, `any_of`, `all_of` and the like. What it finds out
is a status; what it learns on the way goes into the request at once, as in Envoy: a token that must not go on is taken
away, and the next requirement does not see it.

The headers in which claims are told are taken off every request first: only a token may fill them.

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
    """A request while its tokens are looked at; `now` is Unix time."""

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
    """What requests that match need. Without a requirement, nothing."""

    matches: Callable[[Head], bool]
    requirement: Requirement | None


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """The filter's configuration.

    Attributes:
        rules: the first that matches holds.
        headers: those that tokens speak in.
        bypass_cors_preflight: requests before requests of browsers, which carry no token, pass.
        strip_failure_response: who is refused is not told why.
        stat_prefix: names the counters.
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
            self._take_off(head)
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

    def _take_off(self, head: Head) -> None:
        """Nobody but a token speaks in its headers, nor in those that many apps (CGI, WSGI) take for them: `x_user`."""
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
    """Where tokens of these providers stand, each place once, in their order."""
    found: dict[Location, list[Verifier]] = {}
    for verifier in verifiers:
        for location in verifier.provider.locations:
            found.setdefault(location, []).append(verifier)
    return tuple(Place(location, tuple(them)) for location, them in found.items())


def provided(verifier: Verifier, audiences: frozenset[str] | None = None) -> Requirement:
    """Tokens of one provider, all of them good. `audiences` go before the provider's."""
    looked_at = places((verifier,))
    return lambda trial: _authenticate(trial, looked_at, audiences)


def allow_missing(verifiers: Sequence[Verifier]) -> Requirement:
    """No token, or only good ones of any of the providers."""
    looked_at = places(verifiers)

    def requirement(trial: Trial) -> Status:
        status = _authenticate(trial, looked_at, None)
        return _OK if status is _MISSING else status

    return requirement


def allow_missing_or_failed(verifiers: Sequence[Verifier]) -> Requirement:
    """Anything; what good tokens say is believed, and the others are for the app to look at."""
    looked_at = places(verifiers)

    def requirement(trial: Trial) -> Status:
        for location, among in reversed(looked_at):
            for token in reversed(location.tokens(trial.head)):
                _one(trial, location, among, token, None)
        return _OK

    return requirement


def any_of(requirements: Sequence[Requirement], *, missing: bool = False, failed: bool = False) -> Requirement:
    """One of `requirements`; with `missing` also no token at all, with `failed` also bad ones."""

    def requirement(trial: Trial) -> Status:
        # The most telling reason: rather that a token is bad than that it is somebody else's than that there is none.
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


def _authenticate(trial: Trial, looked_at: Sequence[Place], audiences: frozenset[str] | None) -> Status:
    """Whether all tokens there are good. One that is bad spoils it: the app might take just that one."""
    found = [(location, among, token) for location, among in looked_at for token in location.tokens(trial.head)]
    if not found:
        return _MISSING
    for location, among, token in reversed(found):  # which is told of, if several are bad: Envoy's order
        status = _one(trial, location, among, token, audiences)
        if status is not _OK:
            return status
    return _OK


def _one(
    trial: Trial, location: Location, among: Sequence[Verifier], token: bytes, audiences: frozenset[str] | None
) -> Status:
    """One token, of one of the providers `among`; what is to be told of it is."""
    verifier = among[0] if len(among) == 1 else _whose(among, token)
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


def _whose(among: Sequence[Verifier], token: bytes) -> Verifier | Status:
    """The provider with the token's issuer, else the first one that takes any."""
    try:
        issuer = parse(token).issuer
    except JwtError as error:
        return error.status
    taking = [verifier for verifier in among if verifier.provider.takes(issuer)]
    if not taking:
        return Status.UNKNOWN_ISSUER
    return next((verifier for verifier in taking if verifier.provider.issuer), taking[0])
