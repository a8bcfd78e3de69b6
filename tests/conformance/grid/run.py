"""Sends every crafted message through a proxy, and what pymesh forwarded through all of them again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from tests.conformance.grid import proxies, reading
from tests.conformance.grid.lane import ANSWER, SILENT, Lane, Outcome, Reply
from tests.conformance.grid.requests import Crafted, requests
from tests.conformance.grid.responses import responses
from tests.conformance.grid.verdicts import Verdict, misanswered, misread, of_request, of_response, own, told

# Verdicts by row and proxy.
Table: TypeAlias = Mapping[str, Mapping[str, Verdict]]
T = TypeVar("T")
R = TypeVar("R")

# Rows that end in more than one way: HAProxy 2.6 finds a malformed trailer sometimes before the head has gone on and
# sometimes behind it. The table has one of them.
EITHER: Final = {
    ("haproxy", "Trailers: 'X : y\\r\\n'"),
    ("haproxy", "Trailers: ' X: y\\r\\n'"),
    ("haproxy", "Trailers: 'X\\x00: y\\r\\n'"),
    ("haproxy", "Trailers: 'Content-Length : 5\\r\\n'"),
    ("haproxy", "Chunks of a response: trailer 'X : y\\r\\n'"),
}
# Listeners of each proxy, so many rows at once.
LANES: Final = 8
MARKER: Final = b"GET /end HTTP/1.1\r\nHost: end\r\nConnection: close\r\n\r\n"
SECOND: Final = b"GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
# Seconds without a byte after which what is not as expected will not become so. After so many that were not, less: the
# rest will not be, either.
PATIENT: Final = 3.0
MANY: Final = 20


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a crafted message in one proxy."""

    crafted: Crafted
    outcome: Outcome
    verdict: Verdict


class Grid:
    """The proxies, running, each with its lanes. `kept`: the verdicts to expect, which saves waiting."""

    def __init__(self, lanes: Mapping[str, Sequence[Lane]], kept: Table) -> None:
        self._lanes = lanes
        self._kept = kept
        self._misses = 0

    async def requests(self, name: str) -> list[Row]:
        """Every crafted request through the proxy `name`."""

        async def play(lane: Lane, crafted: Crafted) -> Row:
            lane.reply = when_complete(ANSWER)
            outcome = await self._send(lane, crafted.data, self._expected(crafted, name), of_request)
            return Row(crafted, outcome, of_request(outcome))

        return await self._each(name, requests(), play)

    async def responses(self, name: str) -> list[Row]:
        """Every crafted response through the proxy `name`, and another request behind each."""

        async def play(lane: Lane, crafted: Crafted) -> Row:
            def judge(got: Outcome) -> Verdict:
                return of_response(got, crafted)

            lane.reply = when_complete(crafted.data, closes=crafted.closes)
            asked = b"%b /first HTTP/1.1\r\nHost: a\r\n\r\n" % crafted.method
            outcome = await self._send(lane, asked, self._expected(crafted, name), judge, leave=True)
            lane.reply = when_complete(ANSWER)
            second = await lane.send(SECOND, over, PATIENT)
            follower = told_all(second, b"GET")
            how = "reused" if second.reused else "new"
            return Row(crafted, outcome, {**judge(outcome), "next": f"{follower}, {how} connection"})

        return await self._each(name, responses(), play)

    async def read_requests(self, rows: Iterable[Row], reader: str) -> dict[str, str]:
        """What `reader` misreads of the requests that were forwarded in `rows`, with a marker behind each."""

        async def play(lane: Lane, item: tuple[str, bytes]) -> tuple[str, str]:
            key, data = item
            lane.reply = when_complete(ANSWER)
            outcome = await lane.send(data + MARKER, over, PATIENT)
            return key, misread(data, outcome)

        forwarded = [(row.crafted.key, data) for row in rows for data in row.outcome.forwarded.values()]
        complete = [item for item in forwarded if [one.complete for one in reading.requests(item[1])] == [True]]
        return {key: wrong for key, wrong in await self._each(reader, complete, play) if wrong}

    async def read_responses(self, rows: Iterable[Row], reader: str) -> dict[str, str]:
        """What `reader` misreads of the responses that were forwarded in `rows`."""

        async def play(lane: Lane, row: Row) -> tuple[str, str]:
            method, answer, ended = row.crafted.method, row.outcome.answer, row.outcome.ended
            lane.reply = when_complete(answer, closes=ended)
            asked = b"%b / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % method
            meant = reading.responses(answer, (method,), ended=ended)

            def wrong(got: Outcome) -> str:
                return misanswered(meant, reading.responses(got.answer, (method,), ended=got.ended))

            outcome = await lane.send(asked, lambda got: over(got) or not wrong(got), PATIENT)
            return row.crafted.key, wrong(outcome)

        forwarded = [row for row in rows if row.outcome.answer and not own(row.outcome.answer)]
        return {key: wrong for key, wrong in await self._each(reader, forwarded, play) if wrong}

    def _expected(self, crafted: Crafted, name: str) -> Verdict | None:
        return None if (name, crafted.key) in EITHER else self._kept.get(crafted.key, {}).get(name)

    async def _send(
        self,
        lane: Lane,
        data: bytes,
        expected: Verdict | None,
        judge: Callable[[Outcome], Verdict],
        *,
        leave: bool = False,
    ) -> Outcome:
        """Send a crafted message; without a verdict to expect, wait until nothing moves any more."""
        if expected is None:
            return await lane.send(data, never, SILENT, leave=leave)

        def settled(got: Outcome) -> bool:
            return judge(got).items() <= expected.items()

        outcome = await lane.send(data, settled, PATIENT if self._misses < MANY else SILENT, leave=leave)
        self._misses += not settled(outcome)
        return outcome

    async def _each(self, name: str, items: Iterable[T], play: Callable[[Lane, T], Awaitable[R]]) -> list[R]:
        """`play` every item on some lane of the proxy `name`; what came of them, in the order of the items."""
        waiting = list(enumerate(items))[::-1]
        done: dict[int, R] = {}

        async def work(lane: Lane) -> None:
            while waiting:
                number, item = waiting.pop()
                done[number] = await play(lane, item)

        async with asyncio.TaskGroup() as group:
            for lane in self._lanes[name]:
                group.create_task(work(lane))
        return [done[number] for number in sorted(done)]


@asynccontextmanager
async def grid(folder: Path, names: Sequence[str], kept: Table) -> AsyncIterator[Grid]:
    """The proxies `names`, started and connected to upstreams of ours."""
    lanes = {name: [Lane() for _ in range(LANES)] for name in names}
    every = [lane for some in lanes.values() for lane in some]
    for lane in every:
        await lane.start()
    try:
        with proxies.running(folder, {name: [lane.port for lane in some] for name, some in lanes.items()}) as ports:
            for name, some in lanes.items():
                for lane, port in zip(some, ports[name], strict=True):
                    lane.listener = port
            yield Grid(lanes, kept)
    finally:
        for lane in every:
            await lane.close()


def when_complete(answer: bytes, *, closes: bool = False) -> Reply:
    """An upstream that gives this answer to a request that is complete, or that nobody can read."""

    def reply(data: bytes) -> tuple[bytes, bool] | None:
        found = reading.requests(data)
        if not found or not (found[0].complete or found[0].start == "unreadable"):
            return None
        head_only = answer is ANSWER and found[0].start.startswith("HEAD ")
        return answer.removesuffix(b"ok") if head_only else answer, closes

    return reply


def over(outcome: Outcome) -> bool:
    """The proxy has closed, or refused, which some leave the closing to the client for a while."""
    return outcome.ended or outcome.answer[9:10] in {b"4", b"5"}


def never(_: Outcome) -> bool:
    """Nothing in particular is expected."""
    return False


def told_all(outcome: Outcome, method: bytes) -> str:
    """The answers that a client got."""
    return " | ".join(told(message) for message in reading.responses(outcome.answer, (method,), ended=outcome.ended))
