"""The hooks that every concern beside forwarding hangs on: authorization, policy, limits, faults, telemetry.

A filter is a value with up to three functions. The exchange calls them in a flat loop: `on_request` in configuration
order, `on_response` in reverse, `on_complete` exactly once for each request, whatever became of it. A fourth,
`connect`, is called each time before a configuration with the filter comes into force, with the services it may ask.

`on_request` answers None to let the request pass, a `LocalReply` to answer it right here, or an awaitable of either
where it has to ask somebody; only then does a request cost a task.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag
from pymesh_proxy.routing import Route
from pymesh_proxy.telemetry.record import RequestRecord

if TYPE_CHECKING:  # it is made of what filters are made of, and so of this module
    from pymesh_proxy.filters.services import Services


@dataclass(frozen=True, slots=True)
class LocalReply:
    """An answer that the proxy gives by itself, and why.

    `details` is Envoy's RESPONSE_CODE_DETAILS form: snake_case words, as in `rbac_access_denied_matched_policy[none]`.
    `grpc_status` is what a caller that speaks gRPC is told; by default what `status` means there.
    """

    status: int
    flag: Flag
    details: str
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    grpc_status: int | None = None


class RequestContext(Protocol):
    """What a filter sees of the exchange it sits in."""

    @property
    def request(self) -> Head:
        """The request's head; header changes made here go upstream."""

    @property
    def record(self) -> RequestRecord:
        """The one record of this request: read what is known so far, add what the filter learned."""

    @property
    def route(self) -> Route | None:
        """The request's route; asked for before a filter changes the head, it stays what it is."""

    @property
    def client(self) -> str:
        """The address of whom the request comes from, as far as it can be believed (trust.py)."""


Verdict: TypeAlias = LocalReply | None
OnRequest: TypeAlias = Callable[[RequestContext], Verdict | Awaitable[Verdict]]
OnResponse: TypeAlias = Callable[[RequestContext, Head], None]
OnComplete: TypeAlias = Callable[[RequestRecord], None]


@dataclass(frozen=True, slots=True)
class HttpFilter:
    """One filter of a chain, compiled from its configuration."""

    name: str
    on_request: OnRequest | None = None
    on_response: OnResponse | None = None
    on_complete: OnComplete | None = None
    connect: "Callable[[Services], None] | None" = None


class Later:
    """An awaitable whose coroutine is made when it is awaited: a request that ends before leaves none behind."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, Verdict]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, Any, Verdict]:
        return self._begin().__await__()
