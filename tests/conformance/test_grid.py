"""The grid: crafted messages through four proxies, as the kept table has them; nothing that pymesh forwards is misread.

One run serves all tests. `python -m tests.conformance.grid` writes the table anew (docs/smuggling.md shows it).
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conformance.grid import proxies, reading, table
from tests.conformance.grid.requests import requests
from tests.conformance.grid.responses import responses
from tests.conformance.grid.run import EITHER, Row, grid

pytestmark = pytest.mark.envoy

KEPT = table.load()


@dataclass(frozen=True)
class Seen:
    """What became of every message now: rows by proxy, and what the proxies misread of pymesh's output."""

    requests: dict[str, list[Row]]
    responses: dict[str, list[Row]]
    misread: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    return asyncio.run(send_all(tmp_path_factory.mktemp("grid")))


async def send_all(folder: Path) -> Seen:
    """Send everything through all proxies, and what pymesh forwarded once more."""
    async with grid(folder, proxies.NAMES, KEPT["rows"]) as running, asyncio.TaskGroup() as group:

        async def column(name: str) -> tuple[list[Row], list[Row]]:
            return await running.requests(name), await running.responses(name)

        async def reread(name: str) -> dict[str, str]:
            requests, responses = await asyncio.shield(columns["pymesh"])
            await columns[name]
            return {
                **await running.read_requests(requests, name),
                **await running.read_responses(responses, name),
            }

        columns = {name: group.create_task(column(name)) for name in proxies.NAMES}
        misread = {name: group.create_task(reread(name)) for name in proxies.NAMES}
    rows = {name: task.result() for name, task in columns.items()}
    return Seen(
        {name: pair[0] for name, pair in rows.items()},
        {name: pair[1] for name, pair in rows.items()},
        {name: task.result() for name, task in misread.items()},
    )


def test_the_grid_is_as_large_as_promised_and_the_table_has_every_row() -> None:
    keys = [crafted.key for crafted in (*requests(), *responses())]
    assert len(keys) >= 300
    assert list(KEPT["rows"]) == keys
    assert all(set(row) == set(proxies.NAMES) for row in KEPT["rows"].values())
    assert table.PAGE.read_text() == table.page(KEPT), "run python -m tests.conformance.grid"


@pytest.mark.parametrize("name", proxies.NAMES)
def test_every_message_fares_as_the_table_says(seen: Seen, name: str) -> None:
    now = {row.crafted.key: row.verdict for row in (*seen.requests[name], *seen.responses[name])}
    assert len(now) == len(KEPT["rows"])
    if proxies.version(name) != KEPT["versions"][name]:
        return  # another version may judge otherwise; what it makes of pymesh's output is looked at below
    kept = {key: row[name] for key, row in KEPT["rows"].items()}
    different = {key: (verdict, kept[key]) for key, verdict in now.items() if verdict != kept[key]}
    assert {key: pair for key, pair in different.items() if (name, key) not in EITHER} == {}


@pytest.mark.parametrize("reader", proxies.NAMES)
def test_nothing_that_pymesh_forwards_is_seen_as_anything_else(seen: Seen, reader: str) -> None:
    assert seen.misread[reader] == {}


def test_pymesh_sends_one_request_at_a_time_and_only_whole_answers(seen: Seen) -> None:
    """Our upstream says `close` with each answer, so a second request on a connection would be one that hid."""
    for row in seen.requests["pymesh"]:
        assert "unreadable" not in row.verdict["forwarded"], row.crafted.key
        for data in row.outcome.forwarded.values():
            assert len(reading.requests(data)) == 1, row.crafted.key
    for row in seen.responses["pymesh"]:
        assert "unreadable" not in row.verdict["answers"], row.crafted.key


def test_refused_is_refused(seen: Seen) -> None:
    """400 or 501 closes the connection, and nothing of the message reached the upstream."""
    for row in seen.requests["pymesh"]:
        answers = row.verdict["answers"].split()
        if answers and answers[-1] in {"400", "501"}:
            assert row.verdict["connection"] == "closed", row.crafted.key
            assert len(row.outcome.requests()) == len(answers) - 1, row.crafted.key


def test_a_bad_response_costs_its_connection_and_nobody_elses_answer(seen: Seen) -> None:
    for row in seen.responses["pymesh"]:
        assert row.verdict["next"].startswith("200 'ok', "), row.crafted.key
        if "502" in row.verdict["answers"] or "incomplete" in row.verdict["answers"]:
            assert row.verdict["next"].endswith("new connection"), row.crafted.key
