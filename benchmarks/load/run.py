"""The instruments as processes on cores of their own: what benchmarks call.

A process of its own, since it must not share an event loop, a lock or a core with anything that is measured.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.load import command_line
from benchmarks.load.plans import Churn, Idle, Requests, Stream
from benchmarks.load.results import Churned, Held, Latencies, Streamed
from pymesh.errors import MeshError

ROOT: Final = Path(__file__).resolve().parents[2]
# Seconds beyond what a plan may take by itself.
_GRACE: Final = 30.0


def latencies(plan: Requests, cores: Collection[int] = ()) -> Latencies:
    """Requests by a schedule, from a process of its own on these processors (none: on any).

    Raises:
        MeshError: it could not be measured: nobody listens, a file of the plan cannot be read.
    """
    wait = plan.warm_up + plan.seconds + plan.timeout + _GRACE
    return Latencies.of(_document(command_line.requests_words(plan), cores, wait))


def churned(plan: Churn, cores: Collection[int] = ()) -> Churned:
    """A connection for every request; as `latencies`."""
    return Churned.of(_document(command_line.churn_words(plan), cores, plan.seconds + plan.timeout + _GRACE))


def streamed(plan: Stream, cores: Collection[int] = ()) -> Streamed:
    """Opaque bytes to and fro; as `latencies`."""
    wait = plan.timeout * (plan.connections + 1) + plan.seconds + _GRACE
    return Streamed.of(_document(command_line.stream_words(plan), cores, wait))


@contextmanager
def held(plan: Idle, cores: Collection[int] = ()) -> Iterator[Callable[[], Held]]:
    """Connections that are there during the block. The result, called at last in the block, says how many still are.

    Raises:
        MeshError: as `latencies`; and not every connection could be had, or had its answer.
    """
    line = command(command_line.idle_words(plan), cores)
    with subprocess.Popen(
        line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            first = _next_held(process)
            if first.errors:
                said = ", ".join(f"{count} x {kind}: {first.examples[kind]}" for kind, count in first.errors.items())
                raise MeshError(f"{first.there} of {first.connections} connections could be had: {said}")
            yield lambda: _ended(process)
        finally:
            assert process.stdin
            process.stdin.close()
            _wait(process)


def _wait(process: "subprocess.Popen[str]") -> None:
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def _ended(process: "subprocess.Popen[str]") -> Held:
    assert process.stdin
    process.stdin.close()
    return _next_held(process)


def _next_held(process: "subprocess.Popen[str]") -> Held:
    """What it reports next, as one line."""
    assert process.stdout
    assert process.stderr
    return Held.of(_parsed(process.stdout.readline(), process.stderr))


def command(words: list[str], cores: Collection[int]) -> list[str]:
    """The command line of an instrument, to be run in `ROOT`."""
    pinned = ["taskset", "-c", ",".join(map(str, sorted(cores)))] if cores else []
    return [*pinned, sys.executable, "-m", "benchmarks.load", *words, "--json"]


def _document(words: list[str], cores: Collection[int], wait: float) -> dict[str, Any]:
    line = command(words, cores)
    try:
        ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=wait)
    except subprocess.TimeoutExpired as error:
        raise MeshError(f"the load generator did not end within {wait:g} s") from error
    return _parsed(ended.stdout, ended.stderr)


def _parsed(said: str, errors: str | IO[str]) -> dict[str, Any]:
    try:
        document = json.loads(said)
    except ValueError as error:
        words = errors if isinstance(errors, str) else errors.read()
        raise MeshError(words.strip().removeprefix("load: ") or "the load generator said nothing") from error
    assert isinstance(document, dict)
    return document
