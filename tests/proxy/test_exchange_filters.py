"""Filters that answer, ask, look on or fail, in requests that real connections carry."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag, ProxyError, failure
from pymesh_proxy.filters.base import HttpFilter, LocalReply, RequestContext, Verdict
from pymesh_proxy.telemetry.record import RequestRecord
from tests.support.inprocess import running, simple
from tests.support.messages import GET, OK, answer, post, status
from tests.support.peers import RawUpstream, client
from tests.support.waiting import eventually


class Witness:
    """A filter that remembers which hooks were called."""

    def __init__(self, on_request: Callable[[RequestContext], Verdict | Awaitable[Verdict]] | None = None) -> None:
        self.calls: list[str] = []
        self._on_request = on_request
        self.records: list[RequestRecord] = []

    def request(self, context: RequestContext) -> Verdict | Awaitable[Verdict]:
        """See filters.base."""
        self.calls.append("request")
        return None if self._on_request is None else self._on_request(context)

    def response(self, _: RequestContext, head: Head) -> None:
        """See filters.base."""
        self.calls.append("response")
        head.set(b"x-witness", b"seen")

    def complete(self, record: RequestRecord) -> None:
        """See filters.base."""
        self.calls.append("complete")
        self.records.append(record)

    @property
    def filter(self) -> HttpFilter:
        """It, as a filter."""
        return HttpFilter("witness", self.request, self.response, self.complete)


TEAPOT = LocalReply(418, Flag.UNAUTHORIZED_EXTERNAL_SERVICE, "teapot", b"short and stout", ((b"x-tea", b"yes"),))


async def later(value: Verdict) -> Verdict:
    await asyncio.sleep(0)
    return value


async def refuse() -> Verdict:
    await asyncio.sleep(0)
    raise failure(Flag.NO_ROUTE, "refused_by_filter")


def fail(_: object) -> Verdict:
    raise ZeroDivisionError("a fault in the filter")


async def fail_later() -> Verdict:
    await asyncio.sleep(0)
    raise ZeroDivisionError("a fault in the filter")


def raise_refusal(_: object) -> Verdict:
    raise ProxyError(429, Flag.RATE_LIMITED, "too_many")


@pytest.mark.parametrize(
    ("hook", "expected"),
    [(lambda _: TEAPOT, 418), (lambda _: later(TEAPOT), 418), (raise_refusal, 429), (lambda _: refuse(), 404)],
    ids=["reply", "reply later", "raise", "raise later"],
)
async def test_a_filter_answers(hook: Callable[[RequestContext], Verdict], expected: int) -> None:
    witness, after = Witness(hook), Witness()
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[witness.filter, after.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        for _ in range(2):
            peer.send(GET)
            head, body = await peer.message()
            assert status(head) == expected
            if expected == 418:
                assert body == b"short and stout"
                assert b"x-tea: yes\r\n" in head
        assert witness.calls == ["request", "complete"] * 2
        assert after.calls == ["complete"] * 2
        assert upstream.connections == 0
        if expected == 418:  # where it would have gone is known, as with Envoy
            assert {record.cluster for record in witness.records} == {"service"}


@pytest.mark.parametrize("hook", [None, lambda _: later(None)], ids=["at once", "later"])
async def test_a_filter_lets_pass_and_sees_the_response(
    hook: Callable[[RequestContext], Awaitable[Verdict]] | None,
) -> None:
    outer, inner = Witness(hook), Witness(hook)
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[outer.filter, inner.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(post(b"body"))
        served = await upstream.accept()
        assert (await served.message())[1] == b"body"
        served.send(OK)
        head, body = await peer.message()
        assert body == b"ok"
        assert head.count(b"x-witness: seen\r\n") == 1
        assert outer.calls == inner.calls == ["request", "response", "complete"]
        assert outer.records == [await proxy.record()]


async def test_on_complete_comes_once_whatever_became_of_the_request() -> None:
    witness = Witness()
    async with RawUpstream() as upstream, running(simple(upstream.address), filters=[witness.filter]) as proxy:
        async with client(proxy.address) as peer:
            peer.send(b"nonsense\r\n\r\n")
            await peer.head()
        await proxy.settled()
        assert witness.calls == ["complete"]
        async with client(proxy.address) as peer:
            peer.send(GET)
            served = await upstream.accept()
            await served.head()
            peer.reset()
            assert await served.ended()
        await proxy.settled()
        assert witness.calls == ["complete", "request", "complete"]
        assert [record.status for record in witness.records] == [400, 0]


async def test_a_client_that_goes_while_a_filter_asks_cancels_the_question() -> None:
    cancelled = asyncio.Event()

    async def ask() -> Verdict:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return None

    witness = Witness(lambda _: ask())
    async with RawUpstream() as upstream, running(simple(upstream.address), filters=[witness.filter]) as proxy:
        async with client(proxy.address) as peer:
            peer.send(GET)
            await eventually(lambda: witness.calls)
            peer.close()
            async with asyncio.timeout(5):
                await cancelled.wait()
        await proxy.settled()
        assert witness.calls == ["request", "complete"]
        assert witness.records[0].flag is Flag.DOWNSTREAM_CONNECTION_TERMINATION
        assert upstream.connections == 0


@pytest.mark.parametrize("hook", [fail, lambda _: fail_later()], ids=["at once", "later"])
async def test_a_filter_that_fails_costs_one_request_and_is_told(
    hook: Callable[[RequestContext], Verdict], caplog: pytest.LogCaptureFixture
) -> None:
    witness = Witness(hook)
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[witness.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        for _ in range(2):
            peer.send(GET)
            head, _ = await peer.message()
            assert status(head) == 500
            assert b"filter_failed{witness}" in head
        assert witness.calls == ["request", "complete"] * 2
        assert proxy.counter("envoy_http_downstream_filter_errors_total") == 2
        assert "filter witness failed on GET /" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert upstream.connections == 0


async def test_a_filter_that_fails_on_the_response_costs_one_request() -> None:
    broken = HttpFilter("broken", on_response=lambda *_: fail(None))
    witness = Witness()
    async with (
        RawUpstream() as upstream,
        running(simple(upstream.address), filters=[broken, witness.filter]) as proxy,
        client(proxy.address) as peer,
    ):
        peer.send(GET)
        served = await upstream.accept()
        await answer(served, OK)
        head, _ = await peer.message()
        assert status(head) == 500
        assert b"filter_failed{broken}" in head
        assert await served.ended()
        assert witness.calls == ["request", "response", "complete"]


async def test_a_filter_or_observer_that_fails_at_the_end_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken = HttpFilter("broken", on_complete=fail)
    witness = Witness()
    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with RawUpstream() as upstream, running(simple(upstream.address), filters=[broken, witness.filter]) as proxy:
        proxy.runtime.observers.append(fail)
        async with client(proxy.address) as peer:
            peer.send(GET + GET)
            served = await upstream.accept()
            for _ in range(2):
                await answer(served, OK)
                assert (await peer.message())[1] == b"ok"
            await proxy.records(2)
            assert witness.calls.count("complete") == 2
            assert "filter broken failed" in caplog.text
            assert len(told) == 2
