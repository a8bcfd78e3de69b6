"""Plans as command lines, and back."""

import pytest

from benchmarks.load import command_line
from benchmarks.load.plans import POISSON, Churn, Idle, Requests, Stream
from benchmarks.load.target import Request, Trust, parse_target
from pymesh.errors import MeshError

TARGET = parse_target("https://127.0.0.1:8443/a?b=c")
REQUEST = Request("POST", (("Host", "x: y"), ("A", "-b")), 4096, 1024)
TRUST = Trust("r.pem", verify=False, chain="c.pem", key="k.pem", alpn=("istio", "h1"), name="reviews")
REQUESTS = [
    Requests(TARGET, 1000.0, 16, 5.0),
    Requests(
        TARGET, 0.5, 1, 0.25, REQUEST, TRUST,
        arrivals=POISSON, seed=7, warm_up=0.0, window=0.1, timeout=2.5, body_bytes=0,
    ),
]  # fmt: skip
CHURN = [Churn(TARGET, 16, 5.0), Churn(TARGET, 1, 0.5, REQUEST, TRUST, 2.5, 3, resume=True)]
IDLE = [Idle(TARGET, 1000), Idle(TARGET, 1, REQUEST, TRUST, 2.5, 3)]
STREAM = [Stream("127.0.0.1", 80, 8, 5.0), Stream("::1", 1, 1, 0.5, 2.5)]


@pytest.mark.parametrize("plan", REQUESTS)
def test_requests(plan: Requests) -> None:
    assert command_line.requests(command_line.parse(command_line.requests_words(plan))) == plan


@pytest.mark.parametrize("plan", CHURN)
def test_churn(plan: Churn) -> None:
    assert command_line.churn(command_line.parse(command_line.churn_words(plan))) == plan


@pytest.mark.parametrize("plan", IDLE)
def test_idle(plan: Idle) -> None:
    assert command_line.idle(command_line.parse(command_line.idle_words(plan))) == plan


@pytest.mark.parametrize("plan", STREAM)
def test_stream(plan: Stream) -> None:
    assert command_line.stream(command_line.parse(command_line.stream_words(plan))) == plan


def test_requests_are_meant_where_no_kind_is_named() -> None:
    arguments = command_line.parse(["--target", "http://127.0.0.1/", "--rate", "10"])
    assert (arguments.kind, arguments.rate, arguments.connections) == ("requests", 10.0, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "5"], "--target"),
        (["--target", "http://a/", "--rate", "0"], "above 0"),
        (["--target", "http://a/", "--rate", "nan"], "above 0"),
        (["--target", "http://a/", "--connections", "0"], "from 1"),
        (["churn", "--target", "http://a/", "--rate", "5"], "unrecognized"),
        (["echo", "--port", "70000"], "65535"),
    ],
)
def test_what_is_wrong_with_it(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.parse(words)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--target", "nonsense"],
        ["--target", "http://a/", "--header", "nonsense"],
        ["--target", "http://a/", "--key", "k.pem"],
    ],
)
def test_what_cannot_be_sent(words: list[str]) -> None:
    with pytest.raises(MeshError):
        command_line.requests(command_line.parse(words))


@pytest.mark.parametrize("target", ["http://a:1", "tcp://a", "tcp://:1", "tcp://a:x", "a:1"])
def test_streams_go_to_a_host_and_a_port(target: str) -> None:
    with pytest.raises(MeshError, match="tcp://host:port"):
        command_line.stream(command_line.parse(["stream", "--target", target]))
