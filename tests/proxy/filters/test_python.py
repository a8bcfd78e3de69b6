"""Filters in plain Python: what their hooks see, may do, and what becomes of the request when they fail."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from pymesh_proxy.codec.headers import Head
from pymesh_proxy.codec.http1 import parse_request, parse_response
from pymesh_proxy.errors import Flag, ProxyError
from pymesh_proxy.filters.base import HttpFilter, LocalReply
from pymesh_proxy.filters.containment import TooSlowError
from pymesh_proxy.filters.python import Reply, Request, Response
from pymesh_proxy.filters.python_hooks import Made, PythonFilter, PythonSettings
from pymesh_proxy.telemetry.filter_metrics import PythonFilterMetrics, PythonFilterStats
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context

TIMEOUT = 0.05  # seconds


class Services:
    """Of filters.services.Services, what these filters use; and a containment that contains nothing."""

    def __init__(self) -> None:
        self.metrics = PythonFilterMetrics()
        self.complaints: list[tuple[str, str, BaseException]] = []

    def filter_stats(self, name: str) -> PythonFilterStats:
        return self.metrics.of(name)

    def containment(self) -> "Services":
        return self

    def call(self, seconds: float, hook: Callable[..., Any], *arguments: object) -> Any:
        assert seconds == TIMEOUT
        return hook(*arguments)

    async def wait(self, seconds: float, awaited: Awaitable[Any]) -> Any:
        assert seconds == TIMEOUT
        return await awaited

    def complain(self, name: str, what: str, error: BaseException) -> None:
        self.complaints.append((name, what, error))


def context() -> Context:
    parsed = parse_request(b"GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\nX-One: 1\r\nx-one: 2\r\nX-Gone: g\r\n\r\n")
    assert parsed is not None
    facts = Facts("inbound", "10.0.0.1:1", "10.0.0.2:2", peer="spiffe://cluster.local/ns/a/sa/b")
    record = RequestRecord(facts, 0.0, 0.0, parsed[0])
    record.request_id = "id-1"
    return Context(parsed[0], record)


def response() -> Head:
    parsed = parse_response(b"HTTP/1.1 204 No Content\r\nX-From: app\r\n\r\n")
    assert parsed is not None
    return parsed[0]


def chained(instance: object, services: Services, *, allow: bool = False) -> HttpFilter:
    found = PythonFilter(PythonSettings("m:C", Made(instance), TIMEOUT, allow)).as_filter()
    assert found.connect is not None
    found.connect(services)  # type: ignore[arg-type]  # the rest of Services is not asked for
    return found


def ask(found: HttpFilter, asked: Context) -> object:
    assert found.on_request is not None
    return found.on_request(asked)


class Everything:
    """Uses all there is."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def on_request(self, request: Request) -> Reply | None:
        self.seen.append((request.method, request.path, request.authority, request.id, request.route))
        self.seen.append((request.direction, request.client, request.principal))
        headers = request.headers
        self.seen.append((headers["X-One"], headers.get("nope"), "x-gone" in headers, list(headers)))
        headers["X-Set"] = " v "
        headers.add("x-set", "w")
        del headers["X-GONE"]
        request.state["kept"] = True
        request.note("been here")
        return None

    def on_response(self, request: Request, response: Response) -> None:
        self.seen.append((request.state["kept"], response.status, response.headers["x-from"]))
        response.headers["x-to"] = "client"

    def on_complete(self, request: Request) -> None:
        self.seen.append(request.status)


def test_the_hooks_of_one_request() -> None:
    instance, services, asked, head = Everything(), Services(), context(), response()
    found = chained(instance, services)
    assert ask(found, asked) is None
    assert found.on_response is not None
    assert found.on_complete is not None
    found.on_response(asked, head)
    asked.record.status = 204
    found.on_complete(asked.record)
    found.on_complete(asked.record)  # it is over: nobody is told twice
    assert instance.seen == [
        ("GET", "/a?b=c", "shop.test", "id-1", ""),
        ("inbound", "10.0.0.1:1", "spiffe://cluster.local/ns/a/sa/b"),
        ("1, 2", None, True, ["host", "x-one", "x-gone"]),
        (True, 204, "app"),
        204,
    ]
    assert asked.request.get(b"x-set") == b"v, w"
    assert not asked.request.has(b"x-gone")
    assert head.get(b"x-to") == b"client"
    assert asked.record.notes == {"m:C": "been here"}
    assert services.metrics.filters["m:C"].calls == 3


class Hook:
    """Whose on_request is any function."""

    def __init__(self, hook: Callable[[Request], object]) -> None:
        self.on_request = hook


def test_a_reply_ends_the_request() -> None:
    reply = Reply(418, "höflich", {"X-Why": "tea"})
    found = chained(Hook(lambda _: reply), Services())
    assert ask(found, context()) == LocalReply(
        418, Flag.NONE, "filter_reply", "höflich".encode(), ((b"x-why", b"tea"),)
    )


async def test_a_hook_that_waits() -> None:
    class Waits:
        async def on_request(self, request: Request) -> Reply | None:
            request.headers["x-waited"] = "1"
            return Reply(200) if request.path == "/x" else None

    class Fails:
        async def on_request(self, _: Request) -> Reply | None:
            raise ValueError("no")

    asked = context()
    verdict = ask(chained(Waits(), Services()), asked)
    assert isinstance(verdict, Awaitable)
    assert await verdict is None
    assert asked.request.get(b"x-waited") == b"1"
    failing = ask(chained(Fails(), Services()), context())
    assert isinstance(failing, Awaitable)
    with pytest.raises(ProxyError, match=r"filter_failed\{m:C\}"):
        await failing


def _too_slow(_: Request) -> None:
    raise TooSlowError


def _changes(name: str, value: str) -> Callable[[Request], None]:
    def change(request: Request) -> None:
        request.headers[name] = value

    return change


def _removes(name: str) -> Callable[[Request], None]:
    def remove(request: Request) -> None:
        del request.headers[name]

    return remove


@pytest.mark.parametrize(
    ("hook", "details", "reason"),
    [
        (lambda _: 1 // 0, "filter_failed{m:C}", "on_request raised ZeroDivisionError"),
        (_too_slow, "filter_too_slow{m:C}", "on_request took longer than 50 ms"),
        (lambda _: "text", "filter_failed{m:C}", "on_request raised TypeError"),
        (lambda _: Reply(100), "filter_failed{m:C}", "on_request raised ValueError"),
        (lambda _: Reply(200, headers={"a": "b\r\nc: d"}), "filter_failed{m:C}", "on_request raised ValueError"),
        (lambda _: Reply(200, headers={"content-length": "1"}), "filter_failed{m:C}", "on_request raised ValueError"),
        (_changes("x", "a\r\nb: c"), "filter_failed{m:C}", "on_request raised ValueError"),
        (_changes("x y", "a"), "filter_failed{m:C}", "on_request raised ValueError"),
        (_changes("Content-Length", "1"), "filter_failed{m:C}", "on_request raised ValueError"),
        (_changes("transfer-encoding", "chunked"), "filter_failed{m:C}", "on_request raised ValueError"),
        (_changes("Host", "b"), "filter_failed{m:C}", "on_request raised ValueError"),
        (_changes("x", "\u20ac"), "filter_failed{m:C}", "on_request raised ValueError"),
        (_removes("connection"), "filter_failed{m:C}", "on_request raised ValueError"),
    ],
)
def test_a_failure_ends_its_request_and_is_counted(
    hook: Callable[[Request], object], details: str, reason: str
) -> None:
    services = Services()
    found = chained(Hook(hook), services)
    with pytest.raises(ProxyError) as failed:
        ask(found, context())
    assert (failed.value.status, failed.value.flag) == (500, Flag.LOCAL_RESET)
    assert (failed.value.details, failed.value.reason) == (details, reason)
    stats = services.metrics.filters["m:C"]
    assert (stats.failures, stats.too_slow) == ((0, 1) if "slow" in details else (1, 0))
    assert services.complaints[0][:2] == ("m:C", "on_request")


def test_a_failure_that_is_allowed_ends_nothing() -> None:
    services, asked = Services(), context()
    assert ask(chained(Hook(lambda _: 1 // 0), services, allow=True), asked) is None
    assert services.metrics.filters["m:C"].failures == 1
    assert len(services.complaints) == 1
    assert asked.record.notes == {"m:C": "let through, though on_request raised ZeroDivisionError"}


def test_only_on_request_can_answer() -> None:
    class Confused:
        def on_response(self, _: Request, __: Response) -> Reply:
            return Reply(200)

    asked, services = context(), Services()
    found = chained(Confused(), services)
    assert ask(found, asked) is None
    assert found.on_response is not None
    with pytest.raises(ProxyError, match="filter_failed"):
        found.on_response(asked, response())


def test_what_a_hook_changed_before_it_failed_is_not_made() -> None:
    """Nor is it made later, with what the next hook of the request changes."""

    class Changes:
        def on_request(self, request: Request) -> None:
            request.headers["x-one"] = "3"
            del request.headers["x-gone"]
            request.note("gone")
            assert request.headers["x-one"] == "3"
            assert "x-gone" not in request.headers
            raise ValueError

        def on_complete(self, _: Request) -> None:
            pass

    asked = context()
    found = chained(Changes(), Services(), allow=True)
    assert ask(found, asked) is None
    assert found.on_complete is not None
    found.on_complete(asked.record)
    assert asked.request.get(b"x-one") == b"1, 2"
    assert asked.request.get(b"x-gone") == b"g"
    assert asked.record.notes == {"m:C": "let through, though on_request raised ValueError"}


def test_a_hook_sees_its_own_changes() -> None:
    def looks(request: Request) -> None:
        headers = request.headers
        headers.add("x-one", "3")
        headers["new"] = "a"
        del headers["X-Gone"]
        assert (headers["x-one"], headers["new"], headers.get("x-gone")) == ("1, 2, 3", "a", None)
        assert list(headers) == ["host", "x-one", "new"]
        del headers["new"]
        assert "new" not in headers
        headers.add("x-gone", "again")

    asked = context()
    assert ask(chained(Hook(looks), Services()), asked) is None
    assert asked.request.get(b"x-one") == b"1, 2, 3"
    assert asked.request.get(b"x-gone") == b"again"
    assert not asked.request.has(b"new")


def test_lookalikes_go_with_what_is_set_or_taken_away() -> None:
    parsed = parse_request(b"GET / HTTP/1.1\r\nhost: a\r\nX_Tenant: blue\r\nx-user_name: eve\r\n\r\n")
    assert parsed is not None
    asked = context()
    asked.request = parsed[0]

    def sets(request: Request) -> None:
        request.headers["x-tenant"] = "red"
        del request.headers["x-user-name"]

    assert ask(chained(Hook(sets), Services()), asked) is None
    assert asked.request.names() == [b"host", b"x-tenant"]


def test_what_was_sent_cannot_be_changed() -> None:
    class Late:
        def on_response(self, request: Request, _: Response) -> None:
            request.headers["x"] = "y"

    class Earlier(Late):
        def on_request(self, _: Request) -> None:
            """Let it pass."""

    asked, services = context(), Services()
    found = chained(Earlier(), services)
    assert ask(found, asked) is None
    assert found.on_response is not None
    with pytest.raises(ProxyError, match="filter_failed"):
        found.on_response(asked, response())


def test_the_path_is_the_one_that_rules_are_matched_with() -> None:
    asked, seen = context(), []
    asked.request.path = b"/admin"
    asked.request.authority = b"shop"
    ask(
        chained(
            Hook(lambda request: seen.append((request.path, request.authority, request.original_path))), Services()
        ),
        asked,
    )
    assert seen == [("/admin", "shop", "/a?b=c")]


def test_prometheus_sees_every_filter() -> None:
    metrics = PythonFilterMetrics()
    metrics.of("m:C").too_slow = 2
    found: Mapping[str, object] = {
        family.name: [(sample.labels, sample.value) for sample in family.samples] for family in metrics.collect()
    }
    assert found["pymesh_filter_too_slow"] == [({"filter": "m:C"}, 2)]
