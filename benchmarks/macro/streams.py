"""Opaque bytes as load, both ways at once: what goes out comes back, and every byte is looked at."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.load import run
from benchmarks.load.plans import Stream
from benchmarks.macro.accounting import accounted
from benchmarks.macro.machine import Cores
from benchmarks.macro.running import free_port, running
from benchmarks.macro.sample import Sample
from benchmarks.macro.scenario import Instrument, Turn

_GIGABYTE: Final = 1e9


@contextmanager
def echo(folder: Path, cores: Cores) -> Iterator[Mapping[str, object]]:
    """Something that sends everything back, in the place of the upstream."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.load", "echo", "--port", str(port)]
    with running("the echo", command, port, folder / "echo.log", cores.load):
        yield {"UPSTREAM": port}


def both_ways(connections: int) -> Instrument:
    """As many bytes as go through; a gigabyte is counted in each direction."""

    def instrument(turn: Turn) -> Sample:
        plan = Stream("127.0.0.1", turn.contender.port, connections, turn.seconds)
        with accounted(turn) as used:
            found = run.streamed(plan, turn.cores.load)
        return Sample(found.moved / _GIGABYTE, found.seconds, used.cpu, used.load_cpu, dict(found.errors))

    return instrument
