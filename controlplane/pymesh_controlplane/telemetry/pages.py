"""What can be asked of the collector over HTTP. JSON; a question that makes no sense is answered 400, in one sentence.

/requests?last=N&to=NAME&from=NAME&status=5xx&namespace=NS&id=ID&after=NUMBER&once=1
              a list of records (`records.record_of`), oldest first. `once` leaves out what the destination tells of
              a request whose source reports as well; `after` is the `number` of the last record that was seen
/graph?window=SECONDS&namespace=NS
              `graph.Traffic.graph`, with the entries that proxies have `lost` and how many `streams` report
/stats?service=NAME&namespace=NS&window=SECONDS
              `graph.Traffic.stats`
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pymesh_controlplane.telemetry.collector import Collector
from pymesh_controlplane.telemetry.entries import Flight
from pymesh_controlplane.telemetry.graph import Json
from pymesh_controlplane.telemetry.records import record_of

# Records of one answer, of 2 KiB or so.
MAX_RECORDS: Final = 1_000
DEFAULT_RECORDS: Final = 100
DEFAULT_WINDOW: Final = 60.0

Page = Callable[[QueryParams], Json]


class QuestionError(ValueError):
    """A question that makes no sense; the text says why."""


def routes(collector: Collector, clock: Callable[[], float]) -> list[Route]:
    """The pages of `collector`; `clock` gives seconds of the monotonic clock."""

    def graph(query: QueryParams) -> Json:
        _known(query, "window", "namespace")
        document = collector.traffic.graph(clock(), _seconds(query), query.get("namespace", ""))
        return {**document, "lost": collector.lost, "streams": collector.streams}

    def stats(query: QueryParams) -> Json:
        _known(query, "window", "namespace", "service")
        service, namespace = query.get("service", ""), query.get("namespace", "default")
        if not service:
            raise QuestionError("service= names none")
        return collector.traffic.stats(clock(), _seconds(query), service, namespace)

    def requests(query: QueryParams) -> Json:
        return [record_of(flight) for flight in found(collector, query)]

    return [Route("/graph", _answer(graph)), Route("/stats", _answer(stats)), Route("/requests", _answer(requests))]


def found(collector: Collector, query: QueryParams) -> list[Flight]:
    """The flights that `query` asks for.

    Raises:
        QuestionError: it asks for something else.
    """
    _known(query, "id", "last", "to", "from", "status", "namespace", "after", "once")
    last = _number(query, "last", DEFAULT_RECORDS)
    if not 1 <= last <= MAX_RECORDS:
        raise QuestionError(f"last={last}: 1 to {MAX_RECORDS}")
    wanted = Wanted(query)
    if "id" in query:
        return [flight for flight in collector.ring.of_request(query["id"]) if wanted(flight)][-MAX_RECORDS:]
    return collector.ring.last(last, wanted, _number(query, "after", 0))


class Wanted:
    """Whether a flight is one of those that a query asks for."""

    def __init__(self, query: QueryParams) -> None:
        self._to = query.get("to", "")
        self._from = query.get("from", "")
        self._namespace = query.get("namespace", "")
        self._status = query.get("status", "").lower()
        self._once = query.get("once", "") not in {"", "0"}
        if self._status and not _is_status(self._status):
            raise QuestionError(f"status={self._status[:16]}: as in 503, 5xx or 0 (no answer)")

    def __call__(self, flight: Flight) -> bool:
        """Whether `flight` is one."""
        source, destination, service = flight.source, flight.destination, flight.service
        if self._once and flight.side == "destination" and flight.mtls:
            return False  # who has proved an identity has a proxy, and that reports
        return (
            self._to in {"", destination.workload, destination.app, service.name, service.host}
            and self._from in {"", source.workload, source.app}
            and self._namespace in {"", source.namespace, destination.namespace}
            and (not self._status or _matches(self._status, flight.status))
        )


def _is_status(text: str) -> bool:
    return text == "0" or (len(text) == 3 and (text.isdecimal() or (text[0].isdecimal() and text[1:] == "xx")))


def _matches(wanted: str, status: int) -> bool:
    return wanted == str(status) or (wanted.endswith("xx") and wanted[0] == str(status // 100))


def _known(query: QueryParams, *names: str) -> None:
    for name in query:
        if name not in names:
            raise QuestionError(f"{name[:32]}=: not known here; known are {', '.join(names)}")


def _seconds(query: QueryParams) -> float:
    text = query.get("window", str(DEFAULT_WINDOW))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise QuestionError(f"window={text[:16]}: seconds, as in 60")
    return seconds


def _number(query: QueryParams, name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isdecimal() or len(text) > 18:
        raise QuestionError(f"{name}={text[:16]}: not a number")
    return int(text)


def _answer(page: Page) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(page(request.query_params))
        except QuestionError as error:
            return PlainTextResponse(f"{error}\n", 400)

    return answer
