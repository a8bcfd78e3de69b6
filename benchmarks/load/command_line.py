"""Plans as command lines, both ways: what a benchmark runs can be run again by hand."""

import argparse
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from benchmarks.load.plans import CONSTANT, POISSON, TIMEOUT, Churn, Idle, Requests, Stream
from benchmarks.load.target import Request, Trust, parse_headers, parse_target
from pymesh.errors import MeshError

# What there is to run. The first is meant where none is named.
KINDS: Final = ("requests", "churn", "idle", "stream", "echo")

_MAX_RATE: Final = 1_000_000.0
_MAX_SECONDS: Final = 86_400.0
_MAX_CONNECTIONS: Final = 20_000
_MAX_BODY: Final = 1 << 30
_SUMMARIES: Final = {
    "requests": "Requests at a fixed rate, whatever the answers do; each is timed from when it was due.",
    "churn": "A connection for every request, so many at a time.",
    "idle": "Connections that have one request each and are kept until the end of standard input.",
    "stream": "Opaque bytes to something that sends them back.",
    "echo": "Sends back what it is sent, on a port of loopback, until interrupted.",
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of `python -m benchmarks.load [KIND]`; `kind` in the result is one of `KINDS`."""
    kind, *rest = argv if argv and argv[0] in KINDS else (KINDS[0], *argv)
    arguments = parser(kind).parse_args(rest)
    arguments.kind = kind
    return arguments


def parser(kind: str) -> argparse.ArgumentParser:
    """Of one kind."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.load {kind}",
        description=_SUMMARIES[kind],
        epilog=f"Also: {', '.join(f'python -m benchmarks.load {other}' for other in KINDS if other != kind)}",
    )
    if kind == "echo":
        made.add_argument("--port", type=_whole(65_535), required=True, metavar="N", help="to listen on")
        return made
    add = made.add_argument
    add("--json", action="store_true", help="print everything as one JSON document")
    url = "tcp://host:port" if kind == "stream" else "http://host:port/path, or https"
    count = {"requests": 16, "churn": 16, "idle": 1000, "stream": 8}[kind]
    add("--target", required=True, metavar="URL", help=url)
    add("--connections", type=_whole(_MAX_CONNECTIONS), default=count, metavar="N", help=f"(default {count})")
    add("--timeout", type=_number(_MAX_SECONDS), default=TIMEOUT, metavar="S", help=f"(default {TIMEOUT:g})")
    if kind != "idle":
        add("--seconds", type=_number(_MAX_SECONDS), default=5.0, metavar="S", help="of load (default 5)")
    if kind != "stream":
        _add_trust(made)
        _add_request(made)
    if kind == "requests":
        _add_schedule(made)
    if kind == "churn":
        add("--resume", action="store_true", help="take up the TLS session of an earlier connection")
    return made


def requests(arguments: argparse.Namespace) -> Requests:
    """The plan of a command line; as with the other kinds, MeshError says what is wrong with it."""
    return Requests(
        target=parse_target(arguments.target),
        rate=arguments.rate,
        connections=arguments.connections,
        seconds=arguments.seconds,
        request=_request(arguments),
        trust=_trust(arguments),
        arrivals=arguments.arrivals,
        seed=arguments.seed,
        warm_up=arguments.warm_up,
        window=arguments.window,
        timeout=arguments.timeout,
        body_bytes=arguments.body_bytes,
    )


def churn(arguments: argparse.Namespace) -> Churn:
    """As `requests`."""
    return Churn(
        target=parse_target(arguments.target),
        connections=arguments.connections,
        seconds=arguments.seconds,
        request=_request(arguments),
        trust=_trust(arguments),
        timeout=arguments.timeout,
        body_bytes=arguments.body_bytes,
        resume=arguments.resume,
    )


def idle(arguments: argparse.Namespace) -> Idle:
    """As `requests`."""
    return Idle(
        target=parse_target(arguments.target),
        connections=arguments.connections,
        request=_request(arguments),
        trust=_trust(arguments),
        timeout=arguments.timeout,
        body_bytes=arguments.body_bytes,
    )


def stream(arguments: argparse.Namespace) -> Stream:
    """As `requests`."""
    try:
        parts = urlsplit(arguments.target)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "tcp":
        raise MeshError(f"{arguments.target!r} is no target: write tcp://host:port")
    return Stream(host, port, arguments.connections, arguments.seconds, arguments.timeout)


def requests_words(plan: Requests) -> list[str]:
    """The command line of a plan."""
    schedule = [
        "--rate", repr(plan.rate), "--seconds", repr(plan.seconds), "--warm-up", repr(plan.warm_up),
        "--window", repr(plan.window), "--arrivals", plan.arrivals, "--seed", str(plan.seed),
    ]  # fmt: skip
    return ["requests", *_endpoint_words(plan), *schedule]


def churn_words(plan: Churn) -> list[str]:
    """The command line of a plan."""
    resume = ["--resume"] if plan.resume else []
    return ["churn", *_endpoint_words(plan), "--seconds", repr(plan.seconds), *resume]


def idle_words(plan: Idle) -> list[str]:
    """The command line of a plan."""
    return ["idle", *_endpoint_words(plan)]


def stream_words(plan: Stream) -> list[str]:
    """The command line of a plan."""
    host = f"[{plan.host}]" if ":" in plan.host else plan.host
    return [
        "stream", "--target", f"tcp://{host}:{plan.port}", "--connections", str(plan.connections),
        "--seconds", repr(plan.seconds), "--timeout", repr(plan.timeout),
    ]  # fmt: skip


def _endpoint_words(plan: Requests | Churn | Idle) -> list[str]:
    """What the kinds that send requests have in common."""
    trust, request = plan.trust, plan.request
    named = {
        "--target": str(plan.target), "--connections": str(plan.connections), "--timeout": repr(plan.timeout),
        "--body-bytes": str(plan.body_bytes), "--method": request.method,
        "--send-bytes": str(request.body_bytes), "--chunk-bytes": str(request.chunk_bytes),
        "--roots": trust.roots, "--certificate": trust.chain, "--key": trust.key, "--server-name": trust.name,
    }  # fmt: skip
    words = [word for name, value in named.items() if value for word in (name, value)]
    words += [] if trust.verify else ["--insecure"]
    words += [word for name in trust.alpn for word in ("--alpn", name)]
    return words + [word for name, value in request.headers for word in ("--header", f"{name}: {value}")]


def _add_schedule(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--rate", type=_number(_MAX_RATE), default=1000.0, metavar="N", help="requests a second (default 1000)")
    add("--warm-up", type=_number(_MAX_SECONDS, 0.0), default=1.0, metavar="S", help="before it counts (default 1)")
    add("--window", type=_number(_MAX_SECONDS, 0.0), default=0.0, metavar="S", help="a histogram each (default: one)")
    add("--arrivals", choices=(CONSTANT, POISSON), default=CONSTANT, help=f"evenly, or at random (default {CONSTANT})")
    add("--seed", type=int, default=1, metavar="N", help=f"of {POISSON} arrivals (default 1)")


def _add_trust(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--roots", default="", metavar="FILE", help="PEM file of the roots to trust (default the system's)")
    add("--insecure", action="store_true", help="take any certificate")
    add("--certificate", default="", metavar="FILE", help="PEM file of a client certificate")
    add("--key", default="", metavar="FILE", help="PEM file of its key")
    add("--alpn", action="append", default=[], metavar="NAME", help="offer it; may be repeated")
    add("--server-name", default="", metavar="NAME", help="asked for and verified in TLS (default the target's host)")


def _trust(arguments: argparse.Namespace) -> Trust:
    if arguments.key and not arguments.certificate:
        raise MeshError("--key belongs to a --certificate")
    return Trust(
        roots=arguments.roots,
        verify=not arguments.insecure,
        chain=arguments.certificate,
        key=arguments.key,
        alpn=tuple(arguments.alpn),
        name=arguments.server_name,
    )


def _add_request(made: argparse.ArgumentParser) -> None:
    add = made.add_argument
    add("--method", default="GET", metavar="NAME", help="(default GET)")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="of every request; may be repeated")
    add("--send-bytes", type=_whole(_MAX_BODY, 0), default=0, metavar="N", help="of body with every request")
    add("--chunk-bytes", type=_whole(_MAX_BODY, 0), default=0, metavar="N", help="send it in chunks of so many")
    add("--body-bytes", type=_whole(_MAX_BODY, -1), default=-1, metavar="N", help="of each answer, else it is an error")


def _request(arguments: argparse.Namespace) -> Request:
    return Request(arguments.method, parse_headers(arguments.header), arguments.send_bytes, arguments.chunk_bytes)


def _number(most: float, least: float | None = None) -> Callable[[str], float]:
    """A number up to `most`, from `least` on, or above 0."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 < value <= most or (least is not None and least <= value <= most)):
            lowest = "above 0" if least is None else f"from {least:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {lowest} up to {most:g}")
        return value

    return read


def _whole(most: int, least: int = 1) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return value

    return read
