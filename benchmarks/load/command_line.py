"""Plans as command lines, both ways: what a benchmark runs can be run again by hand."""

import argparse
from collections.abc import Callable
from typing import Final

from benchmarks.load.plans import CONSTANT, POISSON, TIMEOUT, Requests
from benchmarks.load.target import Request, Trust, parse_headers, parse_target
from pymesh.errors import MeshError

_MAX_RATE: Final = 1_000_000.0
_MAX_SECONDS: Final = 86_400.0
_MAX_CONNECTIONS: Final = 20_000
_MAX_BODY: Final = 1 << 30


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m benchmarks.load`."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description="Requests at a fixed rate, whatever the answers do; each timed from when it was due.",
    )
    add = made.add_argument
    add("--json", action="store_true", help="print everything as one JSON document")
    add("--rate", type=_number(_MAX_RATE), default=1000.0, metavar="N", help="requests a second (default 1000)")
    add("--seconds", type=_number(_MAX_SECONDS), default=5.0, metavar="S", help="that count (default 5)")
    add("--warm-up", type=_number(_MAX_SECONDS, 0.0), default=1.0, metavar="S", help="before them (default 1)")
    add("--window", type=_number(_MAX_SECONDS, 0.0), default=0.0, metavar="S", help="a histogram each (default: one)")
    add("--arrivals", choices=(CONSTANT, POISSON), default=CONSTANT, help=f"evenly, or at random (default {CONSTANT})")
    add("--seed", type=int, default=1, metavar="N", help=f"of {POISSON} arrivals (default 1)")
    add("--body-bytes", type=_whole(_MAX_BODY, -1), default=-1, metavar="N", help="of each answer, else it is an error")
    _add_endpoint(made, connections=16)
    _add_request(made)
    return made


def requests(arguments: argparse.Namespace) -> Requests:
    """The plan of a command line.

    Raises:
        MeshError: the target, a header or the method is none.
    """
    plan = Requests(
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
    plan.request.encode(plan.target)
    return plan


def requests_arguments(plan: Requests) -> list[str]:
    """The command line of a plan."""
    return [
        *_endpoint_arguments(plan), *_request_arguments(plan.request),
        "--rate", repr(plan.rate), "--seconds", repr(plan.seconds), "--warm-up", repr(plan.warm_up),
        "--window", repr(plan.window), "--arrivals", plan.arrivals, "--seed", str(plan.seed),
        "--body-bytes", str(plan.body_bytes),
    ]  # fmt: skip


def _add_endpoint(made: argparse.ArgumentParser, connections: int) -> None:
    add = made.add_argument
    add("--target", required=True, metavar="URL", help="http://host:port/path, or https")
    add(
        "--connections",
        type=_whole(_MAX_CONNECTIONS),
        default=connections,
        metavar="N",
        help=f"(default {connections})",
    )
    add("--timeout", type=_number(_MAX_SECONDS), default=TIMEOUT, metavar="S", help=f"(default {TIMEOUT:g})")
    add("--roots", default="", metavar="FILE", help="PEM file of the roots to trust (default the system's)")
    add("--insecure", action="store_true", help="take any certificate")
    add("--certificate", default="", metavar="FILE", help="PEM file of a client certificate")
    add("--key", default="", metavar="FILE", help="PEM file of its key")
    add("--alpn", action="append", default=[], metavar="NAME", help="offer it; may be repeated")
    add("--server-name", default="", metavar="NAME", help="asked for and verified in TLS (default the target's host)")


def _endpoint_arguments(plan: Requests) -> list[str]:
    trust = plan.trust
    named = {"--roots": trust.roots, "--certificate": trust.chain, "--key": trust.key, "--server-name": trust.name}
    words = ["--target", str(plan.target), "--connections", str(plan.connections), "--timeout", repr(plan.timeout)]
    words += [word for name, value in named.items() if value for word in (name, value)]
    words += [] if trust.verify else ["--insecure"]
    return words + [word for name in trust.alpn for word in ("--alpn", name)]


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
    add(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="of every request; may be repeated",
    )
    add("--send-bytes", type=_whole(_MAX_BODY, 0), default=0, metavar="N", help="of body with every request")
    add(
        "--chunk-bytes", type=_whole(_MAX_BODY, 0), default=0, metavar="N", help="send it chunked, in chunks of so many"
    )


def _request_arguments(request: Request) -> list[str]:
    words = ["--method", request.method]
    words += [word for name, value in request.headers for word in ("--header", f"{name}: {value}")]
    words += ["--send-bytes", str(request.body_bytes)] if request.body_bytes else []
    return words + (["--chunk-bytes", str(request.chunk_bytes)] if request.chunk_bytes else [])


def _request(arguments: argparse.Namespace) -> Request:
    return Request(arguments.method, parse_headers(arguments.header), arguments.send_bytes, arguments.chunk_bytes)


def _number(most: float, least: float | None = None) -> Callable[[str], float]:
    """A number up to `most`, from `least` on, or above 0."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 < value <= most or (least is not None and least <= value <= most)):
            lowest = "above 0" if least is None else f"from {least:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {lowest} up to {most:g}")
        return value

    return parse


def _whole(most: int, least: int = 1) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return value

    return parse
