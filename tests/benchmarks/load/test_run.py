"""The instruments as processes, against servers that stall, fail and lie."""

import ssl
from pathlib import Path

import pytest

from benchmarks.load import run
from benchmarks.load.plans import Churn, Idle, Requests
from benchmarks.load.target import Target, Trust
from pymesh.errors import MeshError
from tests.benchmarks.load.servers import HELLO, Answering, serving, stalling
from tests.support.certificates import Authority
from tests.support.proxy_process import free_port

MS = 1_000_000


def target(port: int, *, tls: bool = False) -> Target:
    return Target("127.0.0.1", port, tls, f"127.0.0.1:{port}", "/")


def requests(port: int, *, rate: float = 100.0, seconds: float = 2.0) -> Requests:
    return Requests(target(port), rate, 4, seconds, warm_up=0.0, timeout=5.0, window=0.5, body_bytes=5)


def test_a_server_that_stalls_for_a_second_shows_it_in_all_that_it_delayed() -> None:
    with serving(stalling(50, 1.0)) as port:
        found = run.latencies(requests(port))
    answered = found.histogram
    assert (found.errors, answered.count) == ({}, 200)
    # For one of two seconds nothing was answered: half of the requests waited, on average half a second. A generator
    # that waits for answers would have four slow requests, one for each connection, among some hundred fast ones.
    assert answered.quantile(0.99) >= 950 * MS
    assert answered.quantile(0.80) >= 500 * MS
    assert found.queued >= 80
    # Those that were due in the half second before the stall saw nothing of it, or they were held up by the machine.
    assert found.windows[0].quantile(0.5) < found.windows[1].quantile(0.5)


def broken(number: int) -> bytes | None:
    """One in ten each: a reset, an error, a lie about the length, and no HTTP at all."""
    kinds = {0: None, 1: HELLO.replace(b"200 OK", b"503 No"), 2: HELLO.replace(b"5", b"4", 1), 3: b"EHLO\r\n\r\n"}
    return kinds.get(number % 10, HELLO)


def test_every_kind_of_error_is_counted_and_none_is_an_answer() -> None:
    with serving(broken) as port:
        found = run.latencies(requests(port, seconds=1.0))
    assert found.errors == {"reset": 10, "status 503": 10, "protocol": 20}
    assert found.histogram.count == 60
    assert found.reconnects >= 28
    assert "EHLO" in found.examples["protocol"] or "more bytes" in found.examples["protocol"]


def test_connections_that_end_with_each_answer_are_made_anew() -> None:
    close = HELLO.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    with serving(lambda _: close, keep=False) as port:
        found = run.latencies(requests(port, seconds=1.0))
    assert (found.errors, found.histogram.count) == ({}, 100)
    assert found.reconnects >= 96


def silent(number: int) -> bytes:
    return HELLO[:-1] if number == 5 else HELLO


def test_what_is_never_answered_is_given_up() -> None:
    with serving(silent) as port:
        plan = Requests(target(port), 50.0, 4, 0.5, warm_up=0.0, timeout=0.5)
        found = run.latencies(plan)
    assert (found.errors, found.histogram.count) == ({"timeout": 1}, 24)


def test_nobody_listens() -> None:
    with pytest.raises(MeshError, match=r"cannot connect to http://127\.0\.0\.1:"):
        run.latencies(requests(free_port()))


@pytest.fixture
def server_tls(tmp_path: Path) -> ssl.SSLContext:
    authority = Authority()
    issued = authority.issue(ips=("127.0.0.1",))
    (tmp_path / "root.pem").write_bytes(authority.root)
    (tmp_path / "chain.pem").write_bytes(issued.chain)
    (tmp_path / "key.pem").write_bytes(issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    return context


def test_a_connection_for_every_request_with_and_without_resumption(server_tls: ssl.SSLContext, tmp_path: Path) -> None:
    trust = Trust(roots=str(tmp_path / "root.pem"))
    with serving(lambda _: HELLO, server_tls, keep=False) as port:
        plan = Churn(target(port, tls=True), 4, 0.3, trust=trust, body_bytes=5)
        full = run.churned(plan)
        resumed = run.churned(Churn(plan.target, 4, 0.3, trust=trust, body_bytes=5, resume=True))
    assert (full.errors, resumed.errors) == ({}, {})
    assert full.histogram.count > full.resumed == 0
    assert resumed.histogram.count - 4 <= resumed.resumed < resumed.histogram.count


@pytest.mark.parametrize(
    ("answer", "kind"), [(lambda _: HELLO, ""), (broken, "reset"), (lambda _: HELLO + b"!", "protocol")]
)
def test_connections_that_fail_are_counted(answer: Answering, kind: str) -> None:
    with serving(answer, keep=False) as port:
        found = run.churned(Churn(target(port), 2, 0.3, body_bytes=5))
    assert kind in {*found.errors, ""}
    assert bool(found.errors) == bool(kind)


def test_kept_connections_are_there_until_the_end_of_the_block() -> None:
    with serving(lambda _: HELLO) as port, run.held(Idle(target(port), 60, body_bytes=5)) as ended:
        found = ended()
    assert (found.there, found.errors) == (60, {})


def test_kept_connections_that_end_are_missed() -> None:
    with serving(lambda _: HELLO, keep=False) as port, run.held(Idle(target(port), 20)) as ended:
        assert ended().there == 0


def test_connections_that_cannot_be_kept_are_an_error() -> None:
    with (
        serving(lambda _: HELLO.replace(b"200", b"503")) as port,
        pytest.raises(MeshError, match=r"20 of 20 connections could be had: 20 x status 503"),
        run.held(Idle(target(port), 20)),
    ):
        pass
