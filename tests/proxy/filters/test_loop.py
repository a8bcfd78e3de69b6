"""The loop over filters: in order there, in reverse back, and what a fault costs."""

from collections.abc import Awaitable

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.errors import Flag, ProxyError
from pymesh_proxy.filters import loop
from pymesh_proxy.filters.base import HttpFilter, Later, LocalReply, RequestContext, Verdict
from pymesh_proxy.telemetry.metrics import HttpStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context

REPLY = LocalReply(403, Flag.NONE, "no")


def context() -> Context:
    return Context(Head(), RequestRecord(Facts("inbound", "", ""), 0.0, 0.0))


def passing(name: str, seen: list[str]) -> HttpFilter:
    def on_request(_: RequestContext) -> None:
        seen.append(name)

    def on_response(_: RequestContext, __: Head) -> None:
        seen.append(f"-{name}")

    def on_complete(_: RequestRecord) -> None:
        seen.append(f"={name}")

    return HttpFilter(name, on_request, on_response, on_complete)


def fail(*_: object) -> None:
    raise ZeroDivisionError


def test_requests_go_in_order_responses_in_reverse_and_the_end_is_told_to_all() -> None:
    seen: list[str] = []
    filters = (passing("a", seen), HttpFilter("nothing"), passing("b", seen))
    assert loop.on_request(filters, context(), HttpStats()) == (None, 3)
    loop.on_response(filters, context(), Head(), HttpStats())
    loop.on_complete(filters, context().record, HttpStats())
    assert seen == ["a", "b", "-b", "-a", "=a", "=b"]


def test_the_first_reply_wins_and_a_filter_goes_on_where_it_stood() -> None:
    seen: list[str] = []
    filters = (passing("a", seen), HttpFilter("no", lambda _: REPLY), passing("b", seen))
    assert loop.on_request(filters, context(), HttpStats()) == (REPLY, 1)
    assert loop.on_request(filters, context(), HttpStats(), 2) == (None, 3)
    assert seen == ["a", "b"]


async def test_one_that_asks_is_awaited() -> None:
    async def answer() -> Verdict:
        return REPLY

    asking = HttpFilter("asks", lambda _: Later(answer))
    verdict, index = loop.on_request((asking,), context(), HttpStats())
    assert index == 0
    assert isinstance(verdict, Awaitable)
    assert await loop.answer_of(asking, verdict, context().record, HttpStats()) is REPLY


async def test_a_fault_costs_the_one_request_and_names_the_filter() -> None:
    async def broken() -> Verdict:
        raise ZeroDivisionError

    stats, item = HttpStats(), HttpFilter("x", fail, fail, fail)
    with pytest.raises(ProxyError) as asked:
        loop.on_request((item,), context(), stats)
    with pytest.raises(ProxyError) as answered:
        loop.on_response((item,), context(), Head(), stats)
    with pytest.raises(ProxyError) as later:
        await loop.answer_of(item, broken(), context().record, stats)
    loop.on_complete((item,), context().record, stats)
    assert {error.value.details for error in (asked, answered, later)} == {"filter_failed{x}"}
    assert {error.value.status for error in (asked, answered, later)} == {500}
    assert stats.filter_errors == 4


def test_a_filter_may_fail_the_request_in_its_own_words() -> None:
    def refuse(_: RequestContext) -> None:
        raise ProxyError(418, Flag.NONE, "teapot")

    stats = HttpStats()
    with pytest.raises(ProxyError, match="teapot"):
        loop.on_request((HttpFilter("x", refuse),), context(), stats)
    assert stats.filter_errors == 0
