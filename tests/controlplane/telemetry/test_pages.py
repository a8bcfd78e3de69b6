"""What the collector answers over HTTP, on its real port's application."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from pymesh_controlplane import debug
from pymesh_controlplane.local import http
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.telemetry import pages
from pymesh_controlplane.telemetry.collector import Collector
from tests.controlplane.telemetry.support import (
    FROM_PAGE,
    PAGE_PROXY,
    REVIEWS,
    TO_V1,
    V1_PROXY,
    entries,
    http_entry,
    tcp_entry,
)

Get = Callable[..., Awaitable[tuple[int, Any]]]
NOW = 100.0


@pytest.fixture
async def get() -> AsyncIterator[Get]:
    """Asks a collector that has heard of some requests."""
    collector = Collector(40.0, 1_700_000_000.0)
    for number in range(5):
        status = 503 if number == 4 else 200
        out = http_entry(TO_V1, request_id=f"r{number}", status=status, cluster=f"outbound|9080|v1|{REVIEWS}")
        collector.take(entries(out), PAGE_PROXY, NOW - 1)
        collector.take(entries(http_entry(FROM_PAGE, request_id=f"r{number}", status=status)), V1_PROXY, NOW - 1)
    other = {**TO_V1, "destination.workload": "db", "destination.app": "db", "service.name": "db"}
    other["service.host"] = "db.bookinfo.svc.cluster.local"
    collector.take(entries(tcp_entry(other)), V1_PROXY, NOW - 1)
    routes = pages.routes(collector, lambda: NOW)
    app = debug.application(
        None,
        Metrics(),
        lambda _: datetime.fromtimestamp(0, UTC),
        more=routes,
        collectors=[collector],
        texts=[collector.istio_text],
    )
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = debug.HttpServer(app, listener)

    async def ask(path: str, **query: object) -> tuple[int, Any]:
        names = {name.rstrip("_"): value for name, value in query.items()}
        target = f"{path}?{urlencode(names)}"
        status, body = await http.get(socket.socket(), address, target, limit=10**7)
        return status, json.loads(body) if status == 200 and path != "/metrics" else body.decode()

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.run_until_cancelled())
        try:
            yield ask
        finally:
            running.cancel()
    listener.close()


async def records(get: Get, **query: object) -> list[dict[str, Any]]:
    status, body = await get("/requests", **query)
    assert status == 200, body
    assert isinstance(body, list)
    return body


async def test_requests_by_id_by_party_and_by_outcome(get: Get) -> None:
    assert len(await records(get)) == 11
    assert [found["pod"] for found in await records(get, id="r3")] == ["productpage-v1-0", "reviews-v1-0"]
    assert await records(get, id="nobody's") == []
    assert [found["request_id"] for found in await records(get, to="reviews", last=3, once=1)] == ["r2", "r3", "r4"]
    assert len(await records(get, to="reviews-v1")) == len(await records(get, to=REVIEWS)) == 10
    assert [found["protocol"] for found in await records(get, from_="reviews")] == ["TCP"]
    assert [found["status"] for found in await records(get, status="5xx", once=1)] == [503]
    assert len(await records(get, status="200", once="0")) == 8
    assert len(await records(get, namespace="bookinfo")) == 11
    assert await records(get, namespace="default") == []


async def test_what_came_after_what_was_seen(get: Get) -> None:
    *_, before, last = await records(get)
    assert await records(get, after=before["number"]) == [last]
    assert await records(get, after=last["number"]) == []


async def test_the_graph_and_the_stats_of_a_service(get: Get) -> None:
    status, graph = await get("/graph", window=30)
    assert status == 200
    assert (graph["window"], graph["lost"], graph["streams"]) == (30, 0, 0)
    assert [(edge["destination"]["workload"], edge["requests"]) for edge in graph["edges"]] == [
        ("reviews-v1", 5),
        ("db", 1),
    ]
    status, stats = await get("/stats", service="reviews", namespace="bookinfo")
    assert status == 200
    assert stats["versions"].keys() == stats["subsets"].keys() == {"v1"}
    assert stats["versions"]["v1"]["errors"] == 0.2


async def test_the_metrics_are_there(get: Get) -> None:
    status, text = await get("/metrics")
    assert status == 200
    assert "istio_requests_total{" in text
    assert "pymesh_telemetry_entries_total 11.0" in text


@pytest.mark.parametrize(
    ("path", "query", "why"),
    [
        ("/requests", {"last": "0"}, "last=0: 1 to 1000"),
        ("/requests", {"last": "many"}, "last=many: not a number"),
        ("/requests", {"limit": "5"}, "limit=: not known here; known are id, last, to, from, status"),
        ("/requests", {"status": "bad"}, "status=bad: as in 503, 5xx or 0"),
        ("/requests", {"after": "-1"}, "after=-1: not a number"),
        ("/graph", {"window": "soon"}, "window=soon: seconds, as in 60"),
        ("/graph", {"window": "nan"}, "window=nan: seconds"),
        ("/graph", {"window": "0"}, "window=0: seconds"),
        ("/stats", {"window": "5"}, "service= names none"),
    ],
)
async def test_questions_that_make_no_sense(get: Get, path: str, query: dict[str, str], why: str) -> None:
    status, text = await get(path, **query)
    assert status == 400
    assert why in text
