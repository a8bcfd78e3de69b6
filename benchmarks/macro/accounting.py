"""Whose CPU time a turn of load took."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.macro import procfs
from benchmarks.macro.scenario import Turn


@dataclass(slots=True)
class Used:
    """Seconds of user and system time: the contender's by part, and the load's. Filled in when the block has ended."""

    cpu: dict[str, float] = field(default_factory=dict)
    load_cpu: float = 0.0


@contextmanager
def accounted(turn: Turn) -> Iterator[Used]:
    """What the contender, and upstream and load generator, use during the block."""
    used = Used()
    before, load_before = _contender(turn), _load(turn)
    yield used
    used.cpu = {part: seconds - before[part] for part, seconds in _contender(turn).items()}
    used.load_cpu = _load(turn) - load_before


def _contender(turn: Turn) -> dict[str, float]:
    return {part: procfs.cpu_seconds(pid) for part, pid in turn.contender.pids.items()}


def _load(turn: Turn) -> float:
    """The upstream's, and that of every load generator that has ended (each is waited for, and nothing else is)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(procfs.cpu_seconds(pid) for pid in turn.upstream) + children.ru_utime + children.ru_stime
