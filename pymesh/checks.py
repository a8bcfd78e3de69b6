"""Checks in plain Python: what a function that lets requests in, or does not, is made of.

    from pymesh.checks import Request, Verdict, allow, check, deny

    @check
    def opening_hours(request: Request) -> Verdict:
        if request.claims.get("role") == "night":
            return allow(seconds=60, by=["request.auth.claims[role]"])
        return deny(403, "we are closed")

docs/policy.md tells how it comes into force. A test asks it with no mesh at all:

    assert not ask(opening_hours, Request(path="/")).allowed
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, overload

from pymesh import policy_attributes
from pymesh.identity import Identity

# Characters of a reason: it is one line of an answer and of the log.
MAX_REASON: Final = 1024
# Seconds that an answer may be remembered.
LONGEST: Final = 86_400.0
# Statuses of a refusal. No redirections: an answer has no Location.
STATUSES: Final = range(400, 600)

_MARK: Final = "__pymesh_check__"


class CheckError(Exception):
    """A function that cannot be a check, or that did not answer like one; the text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, as the sidecar in front of the app has it.

    Attributes:
        principal: the caller's SPIFFE identity, proved by its certificate; "" without mutual TLS.
        address: the caller's IP address; behind a gateway, the gateway's.
        path: without the query.
        headers: by name in lower case; several fields of a name are joined by commas.
        claims: of the JWT that was verified; empty without one.
        id: its x-request-id; "" without one.
    """

    principal: str = ""
    address: str = ""
    method: str = "GET"
    host: str = ""
    path: str = "/"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, object] = field(default_factory=dict)
    id: str = ""

    @property
    def identity(self) -> Identity | None:
        """The principal, parsed: trust domain, namespace, service account; None if the caller has proved none."""
        try:
            return Identity.parse(self.principal)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says; made by `allow` and `deny`.

    Attributes:
        status, reason: of a refusal: the HTTP status, and a sentence for the caller.
        seconds, uses, by: how long, and for how many requests in all, sidecars may answer so by themselves, told apart
            by these attributes; None where the Check in force says it.
    """

    allowed: bool
    status: int = 200
    reason: str = ""
    seconds: float | None = None
    uses: int | None = None
    by: tuple[str, ...] | None = None


Function: TypeAlias = Callable[[Request], Verdict]


def allow(*, seconds: float | None = None, uses: int | None = None, by: Sequence[str] | None = None) -> Verdict:
    """Let the request in; `seconds`, `uses` and `by`: see Verdict.

    Raises:
        CheckError: the answer cannot be remembered like that.
    """
    return Verdict(True, 200, "", *_memory(seconds, uses, by))


def deny(
    status: int = 403,
    reason: str = "",
    *,
    seconds: float | None = None,
    uses: int | None = None,
    by: Sequence[str] | None = None,
) -> Verdict:
    """Refuse the request; `seconds`, `uses` and `by`: see Verdict.

    Raises:
        CheckError: `status` is not one of STATUSES, or the answer cannot be remembered like that.
    """
    if status not in STATUSES:
        raise CheckError(f"{status} is not the status of a refusal: one from 400 to 599 is")
    return Verdict(False, status, " ".join(reason.split())[:MAX_REASON], *_memory(seconds, uses, by))


def _memory(
    seconds: float | None, uses: int | None, by: Sequence[str] | None
) -> tuple[float | None, int | None, tuple[str, ...] | None]:
    if seconds is not None and not 0 <= seconds <= LONGEST:
        raise CheckError(f"an answer cannot be remembered for {seconds} seconds, but for 0 to {LONGEST:.0f}")
    if uses is not None and uses < 1:
        raise CheckError(f"an answer cannot be used {uses} times: the request that was asked about is the first")
    if isinstance(by, str):
        raise CheckError(f"by is a list of attributes: [{by!r}]")
    for name in by or ():
        try:
            policy_attributes.parse(name)
        except ValueError as error:
            raise CheckError(str(error)) from error
    return seconds, uses, None if by is None else tuple(by)


@overload
def check(function: Function) -> Function: ...


@overload
def check(function: str) -> Callable[[Function], Function]: ...


def check(function: Function | str) -> Function | Callable[[Function], Function]:
    """Mark a function as a check, called as itself or, with `@check("name")`, otherwise.

    Raises:
        CheckError: it cannot be one: it has to take one argument, and must not be `async`.
    """
    if isinstance(function, str):
        return lambda given: _marked(given, function)
    return _marked(function, getattr(function, "__name__", ""))


def _marked(function: Function, name: str) -> Function:
    if inspect.iscoroutinefunction(function):
        raise CheckError(f"{name} is async: a check answers from what it knows, it does not wait")
    try:
        inspect.signature(function).bind(Request())
    except TypeError as error:
        raise CheckError(f"{name} cannot be called with a request: {error}") from error
    setattr(function, _MARK, name)
    return function


def checks_in(namespace: Mapping[str, object]) -> dict[str, Function]:
    """The functions among the values of `namespace` that are marked, by name.

    Raises:
        CheckError: two have the same name.
    """
    found: dict[str, Function] = {}
    for value in namespace.values():
        if not callable(value):
            continue
        name = getattr(value, _MARK, None)
        if isinstance(name, str) and found.setdefault(name, value) is not value:
            raise CheckError(f"there are two checks called {name}")
    return found


def ask(function: Function, request: Request) -> Verdict:
    """What the check says about a request, held to what a check may say. For tests, and what runs checks in force.

    Raises:
        CheckError: it does not say allow() or deny(), or what they would not say.
        Exception: whatever it raises.
    """
    said: object = function(request)
    if not isinstance(said, Verdict):
        raise CheckError(f"it returned {type(said).__name__}, neither allow() nor deny()")
    # One that was put together by hand is held to the same: a sidecar that cannot read an answer takes us for away.
    if said.allowed:
        return allow(seconds=said.seconds, uses=said.uses, by=said.by)
    return deny(said.status, said.reason, seconds=said.seconds, uses=said.uses, by=said.by)
