"""How the hooks of a user's own class become a filter of the chain: when each is called, and what its failure is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutinefunction
from typing import Final

from pymesh.names import FRAMING_HEADERS
from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag, failure
from pymesh_proxy.filters.base import HttpFilter, Later, LocalReply, RequestContext, Verdict
from pymesh_proxy.filters.containment import Containment, TooSlowError
from pymesh_proxy.filters.python import Reply, Request, Response, header_name, header_value
from pymesh_proxy.filters.services import Services
from pymesh_proxy.telemetry.filter_metrics import PythonFilterStats
from pymesh_proxy.telemetry.record import RequestRecord

HOOKS: Final = ("on_request", "on_response", "on_complete")
_STATUSES: Final = range(200, 600)


class Made:
    """An instance of a user's class, which need not be one that can be referred to weakly itself."""

    __slots__ = ("__weakref__", "instance")

    def __init__(self, instance: object) -> None:
        self.instance = instance


@dataclass(frozen=True, slots=True)
class PythonSettings:
    """The filter's configuration.

    Attributes:
        name: for people: the filter's name in the configuration.
        made: the instance of the user's class.
        timeout: seconds that a hook may take.
        failure_mode_allow: a failure does not end the request.
    """

    name: str
    made: Made
    timeout: float
    failure_mode_allow: bool


class PythonFilter:
    """The filter of one connection manager. It serves once it is in force: after the first `connect`."""

    def __init__(self, settings: PythonSettings) -> None:
        self.settings = settings
        self._hooks = {name: getattr(settings.made.instance, name, None) for name in HOOKS}
        self._stats = PythonFilterStats()
        self._containment: Containment | None = None
        self._requests: dict[RequestRecord, Request] = {}

    def as_filter(self) -> HttpFilter:
        """The hooks for the chain: those that the class has."""
        has = self._hooks
        return HttpFilter(
            self.settings.name,
            # Also for a class that looks at responses only: what it sees then is the request as it was.
            self._on_request,
            None if has["on_response"] is None else self._on_response,
            self._on_complete,
            self._connect,
        )

    def _connect(self, services: Services) -> None:
        self._stats = services.filter_stats(self.settings.name)
        self._containment = services.containment()

    def _on_request(self, context: RequestContext) -> Verdict | Awaitable[Verdict]:
        request = self._requests[context.record] = Request(context, self.settings.name)
        hook = self._hooks["on_request"]
        if hook is None:
            return None
        if iscoroutinefunction(hook):
            return Later(partial(self._ask, hook, request))
        verdict = self._contained("on_request", hook, request)
        request.headers.sent()
        return verdict

    async def _ask(self, hook: Callable[[Request], Awaitable[object]], request: Request) -> Verdict:
        assert self._containment is not None
        self._stats.calls += 1
        try:
            verdict = _verdict(await self._containment.wait(self.settings.timeout, hook(request)))
        except Exception as error:  # noqa: BLE001  of any kind: it is somebody's own code
            request.drop()
            self._failed("on_request", error, request)
            return None
        request.make()
        request.headers.sent()
        return verdict

    def _on_response(self, context: RequestContext, head: Head) -> None:
        request, hook = self._requests.get(context.record), self._hooks["on_response"]
        if request is not None and hook is not None:
            self._contained("on_response", hook, request, Response(head))

    def _on_complete(self, record: RequestRecord) -> None:
        request = self._requests.pop(record, None)
        hook = self._hooks["on_complete"]
        if request is not None and hook is not None:
            self._contained("on_complete", hook, request)

    def _contained(self, where: str, hook: Callable[..., object], request: Request, *more: Response) -> Verdict:
        if self._containment is None:
            raise RuntimeError("a filter was asked before it was in force")
        self._stats.calls += 1
        messages: tuple[Request | Response, ...] = (request, *more)
        try:
            said = self._containment.call(self.settings.timeout, hook, *messages)
            if said is not None and where != "on_request":
                raise TypeError(f"{where} returns None, not {type(said).__name__}: only on_request can answer")
            verdict = _verdict(said)
        except Exception as error:  # noqa: BLE001  of any kind: it is somebody's own code
            for message in messages:
                message.drop()
            self._failed(where, error, request)
            return None
        for message in messages:
            message.make()
        return verdict

    def _failed(self, where: str, error: Exception, request: Request) -> None:
        """Count and tell it. Raises ProxyError, unless failures are allowed."""
        name, slow = self.settings.name, isinstance(error, TooSlowError)
        timeout = f"{self.settings.timeout * 1000:g} ms"
        why = f"{where} took longer than {timeout}" if slow else f"{where} raised {type(error).__name__}"
        if slow:
            self._stats.too_slow += 1
        else:
            self._stats.failures += 1
        if self._containment is not None:
            self._containment.complain(name, where, error)
        if self.settings.failure_mode_allow:
            request.go_on_after(why)
            return
        # The client is told of the filter and the kind of failure, not what its author's exception says.
        kind = "filter_too_slow" if slow else "filter_failed"
        raise failure(Flag.LOCAL_RESET, f"{kind}{{{name}}}", why) from error


def _verdict(said: object) -> Verdict:
    """What a hook returned, as the chain knows it.

    Raises:
        TypeError, ValueError: it is not an answer that can be given.
    """
    if said is None:
        return None
    if not isinstance(said, Reply):
        raise TypeError(f"a hook returns a Reply or None, not {type(said).__name__}")
    if said.status not in _STATUSES:
        raise ValueError(f"{said.status} is not the status of an answer")
    headers = tuple(
        (header_name(name, FRAMING_HEADERS), header_value(value)) for name, value in (said.headers or {}).items()
    )
    body = said.body.encode() if isinstance(said.body, str) else bytes(said.body)
    return LocalReply(said.status, Flag.NONE, "filter_reply", body, headers)
