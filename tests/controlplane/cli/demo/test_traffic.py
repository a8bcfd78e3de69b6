"""What the demo makes of the answers that its visitors got."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.cli.demo.traffic import Answer, Client, Traffic, burst, by_time, counted, shares, version_in
from tests.support.threaded import serving
from tests.support.waiting import eventually_sync


class Reviews(BaseHTTPRequestHandler):
    """Answers as the sample's reviews do; what lies below /refused is refused."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, body = (200, b'{"version": "v2"}') if self.path == "/reviews" else (429, b"too many")
        self.send_response(status)
        self.send_header("proxy-status", "pymesh; error=http_request_denied")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Reviews)) as server:
        yield f"http://127.0.0.1:{server.port}"


def test_an_answer_is_told_with_its_version(url: str) -> None:
    client = Client(f"{url}/reviews")
    answer = client.ask()
    assert (answer.status, answer.version, answer.good) == (200, "v2", True)
    client.close()


def test_a_refusal_is_told_with_its_reason(url: str) -> None:
    client = Client(f"{url}/refused")
    answer = client.ask()
    assert (answer.status, answer.told, answer.body) == (429, "pymesh; error=http_request_denied", "too many")
    client.close()


def test_no_answer_is_an_answer_too() -> None:
    answer = Client("http://127.0.0.1:1/").ask()
    assert (answer.status, answer.good) == (0, False)
    assert "refused" in answer.told


def test_traffic_goes_on_until_the_end(url: str) -> None:
    with Traffic(f"{url}/reviews", rate=400) as visitors:
        eventually_sync(lambda: len(visitors.answers) >= 40, what="40 answers")
    count = len(visitors.answers)
    assert all(answer.good for answer in visitors.answers)
    assert [answer.at for answer in visitors.answers] == sorted(answer.at for answer in visitors.answers)
    assert len(visitors.answers) == count


def test_a_burst_is_all_of_it(url: str) -> None:
    assert counted(burst(f"{url}/reviews", clients=5, requests=3)) == "15 with 200"


def test_statuses_are_counted() -> None:
    answers = [Answer(0, 0, status) for status in (200, 429, 200, 0)]
    assert counted(answers) == "2 with 200, 1 with 429, 1 without an answer"
    assert counted([]) == "none"


def test_answers_are_sliced_by_when_they_were_sent() -> None:
    answers = [Answer(at, 0, 200) for at in (5.0, 5.4, 7.1)]
    assert [len(part) for part in by_time(answers, 1.0)] == [2, 0, 1]
    assert by_time([], 1.0) == []


@given(st.lists(st.sampled_from(["v1", "v2", "v3"]), min_size=1), st.integers(1, 80))
def test_shares_add_up(versions: list[str], width: int) -> None:
    found = shares([Answer(0, 0, 200, version) for version in versions], lambda answer: answer.version, width)
    assert sum(part for _, part in found) == width
    assert {name for name, _ in found} == set(versions)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"v1"', b"{}"])
def test_an_answer_without_a_version_has_none(body: bytes) -> None:
    assert version_in(body) == ""
