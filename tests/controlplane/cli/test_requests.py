"""Records → the table of `pymesh requests`, and the whole story of one request."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pymesh.errors import MeshError
from pymesh.peer_metadata import Peer
from pymesh_controlplane.cli import main, records, requests, target
from pymesh_controlplane.cli.client import Absent
from pymesh_controlplane.cli.journey import Record, join
from pymesh_controlplane.cli.records import of_request
from pymesh_controlplane.cli.requests import HEADER, rows, story
from pymesh_controlplane.cli.target import Answers
from pymesh_controlplane.telemetry.entries import Reader
from pymesh_controlplane.telemetry.records import record_of
from tests.controlplane.telemetry.support import FROM_PAGE, PAGE_PROXY, TO_V1, V1_PROXY, http_entry, tcp_entry

PODS = {"10.244.0.8": "reviews-v1-0", "10.244.0.9": "visitor-0"}


def record(entry: Any, reporter: Any = PAGE_PROXY, **fields: Any) -> dict[str, Any]:
    return {**record_of(Reader().flight(entry, reporter)), **fields}


def row(found: dict[str, Any]) -> dict[str, str]:
    [cells] = rows([found], PODS)
    return dict(zip(HEADER, cells, strict=True))


def test_a_request_between_workloads() -> None:
    found = row(record(http_entry(TO_V1, status=503), flag="UF", authority="reviews:9080"))
    assert len(found.pop("TIME")) == len("00:00:00.000")
    assert found == {
        "FROM": "productpage-v1",
        "TO": "reviews-v1",
        "REQUEST": "GET reviews:9080/reviews/0",
        "STATUS": "503 UF",
        "MS": "12.0",
        "MTLS": "yes",
        "REQUEST ID": "r1",
    }


def test_parties_that_are_no_workloads_are_told_by_what_is_known_of_them() -> None:
    unknown = dict(Peer()._asdict())
    found = record(http_entry({**FROM_PAGE, "security": "none"}), V1_PROXY, source=unknown)
    assert row({**found, "downstream_remote": "10.244.0.9:5000", "security": "none"})["FROM"] == "visitor-0"
    assert row({**found, "downstream_remote": "192.0.2.1:5000"})["FROM"] == "192.0.2.1:5000"
    found = record(http_entry({"direction": "outbound"}), endpoint="")
    assert row(found)["TO"] == "unknown"
    assert row({**found, "service": {"host": "api.example.com"}})["TO"] == "api.example.com"


def test_connections_have_neither_method_nor_id() -> None:
    found = row(record(tcp_entry(TO_V1)))
    assert (found["REQUEST"], found["REQUEST ID"], found["MS"]) == ("TCP", "-", "60000.0")


def test_what_a_client_wrote_does_not_command_the_terminal() -> None:
    found = row(record(http_entry(TO_V1, request_id="\x1b[2J"), path="/\x1b]0;x"))
    assert "".join(found.values()).isprintable()


def test_the_story_begins_with_the_whole_and_ends_with_what_is_missing() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    call = record(http_entry(TO_V1), trace_id=trace, endpoint="10.244.0.8:9080", original_destination="x")
    lines = [line.plain for line in story("r1", join([Record("productpage-v1-0", call)]), PODS)]
    assert lines[0] == f"request r1  began 2023-11-14T22:13:20.000Z  took 12.0 ms  trace {trace}"
    assert lines[1].startswith("productpage-v1-0 ▶ ")
    assert lines[-1] == (
        "not all of it is known: productpage-v1-0 sent a request to 10.244.0.8:9080 that did not arrive"
    )


class FakeMesh:
    """A mesh whose collector and sidecars answer what they are told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def telemetry(self, page: str, query: Any) -> Any:
        assert (page, query) == ("requests", {"id": "a/b"})
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sidecars(self, path: str) -> Answers:
        assert path == "/requests?id=a%2Fb"
        return Answers([("bookinfo", "productpage-v1-0", [])], ["bookinfo/reviews-v1-0"], "503 wait")


def test_a_request_of_long_ago_is_not_waited_for() -> None:
    found = of_request(FakeMesh([record(http_entry(TO_V1), endpoint="", upstream_peer="")]), "a/b", 3.0)  # type: ignore[arg-type]
    assert (len(found.records), found.source) == (1, "telemetry")


def test_what_has_just_ended_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "POLL", 0)
    monkeypatch.setattr(records.time, "time", lambda: 1_700_000_003.0)
    complete = [record(http_entry(TO_V1), endpoint="", upstream_peer="")]
    mesh = FakeMesh([], [], complete)
    assert len(of_request(mesh, "a/b", 3.0).records) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [Absent("this mesh runs without telemetry"), records.MeshError("it does not answer")])
def test_without_the_collector_the_sidecars_are_asked(error: Exception) -> None:
    found = of_request(FakeMesh(error), "a/b", 0.0)  # type: ignore[arg-type]
    assert (list(found.records), found.source, found.why) == (
        [],
        "sidecars",
        f"{error}; no answer from bookinfo/reviews-v1-0: 503 wait",
    )


class SlowCollector:
    """A mesh whose collector hears of a request only when it has been asked `times`."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked: list[Any] = []
        self.namespace = "default"

    def telemetry(self, page: str, query: Any) -> Any:
        self.asked.append((page, dict(query)))
        return [record(http_entry(TO_V1, status=403))] if len(self.asked) > self.times else []

    def pods(self) -> dict[str, str]:
        return PODS


def listed(monkeypatch: pytest.MonkeyPatch, mesh: SlowCollector, *arguments: str) -> Result:
    """What `pymesh requests` prints about `mesh`."""

    @contextmanager
    def opened(*_: str) -> Iterator[SlowCollector]:
        yield mesh

    monkeypatch.setattr(target, "opened", opened)
    monkeypatch.setattr(requests, "POLL", 0)
    return CliRunner().invoke(main.app, ["requests", *arguments])


def test_without_wait_what_is_not_reported_yet_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done = listed(monkeypatch, SlowCollector(1), "--to", "reviews")
    assert (done.exit_code, "requests are reported within a second or two" in done.output) == (0, True)


def test_a_request_that_is_not_reported_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = SlowCollector(3)
    arguments = ("--wait", "--to", "reviews", "--status", "403", "--last", "5", "-o", "json")
    done = listed(monkeypatch, mesh, *arguments)
    assert [found["status"] for found in json.loads(done.stdout)] == [403]
    assert mesh.asked == [("requests", {"once": "1", "to": "reviews", "status": "403", "last": 5})] * 4


def test_who_waits_in_vain_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    done = listed(monkeypatch, SlowCollector(1), "--wait", "--timeout", "0", "-o", "json")
    assert (done.stdout, str(done.exception)) == (
        "",
        "no such request was reported within 0 s; pymesh requests lists those that were",
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--wait", "-f"), "--wait ends with the first request, --follow with none: give one of the two"),
        (("--timeout", "3"), "--timeout says how long --wait waits: give both"),
    ],
)
def test_options_that_contradict_each_other(
    arguments: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = SlowCollector(0)
    assert (str(listed(monkeypatch, mesh, *arguments).exception), mesh.asked) == (why, [])


def test_a_journey_is_waited_for_as_long_as_somebody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent and has not arrived may be on its way to the collector, if it has ended a moment ago."""
    monkeypatch.setattr(records, "POLL", 0)
    monkeypatch.setattr(records.time, "time", lambda: 1_700_000_000.0 + 5)
    connection = "10.244.0.7:4000"
    sent = [record(http_entry(TO_V1), endpoint="10.244.0.8:9080", upstream_local=connection)]
    there = {"original_destination": "10.244.0.8:9080", "downstream_remote": connection}
    arrived = [*sent, record(http_entry(FROM_PAGE), V1_PROXY, **there)]
    assert len(of_request(FakeMesh(sent, arrived), "a/b", records.PATIENCE).records) == 1  # type: ignore[arg-type]
    assert len(of_request(FakeMesh(sent, arrived), "a/b", records.LONG).records) == 2  # type: ignore[arg-type]


def test_a_status_is_one_that_there_can_be() -> None:
    for good in ("", "0", "503", "5xx", "5XX"):
        requests._require_status(good)
    for bad in ("abc", "50", "xx5", "5xx "):
        with pytest.raises(MeshError, match=rf"^--status {bad}: as in 503, 5xx or 0 \(no answer\)$"):
            requests._require_status(bad)
