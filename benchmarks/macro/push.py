"""Configuration that is replaced under load: 1,000 clusters of 10 endpoints, over and over.

The control plane is `pilot.py`, the same for all. Requests come at a fixed rate meanwhile, so that whatever a push
holds up is seen from outside; pymesh-proxy tells besides for how long its event loop did not turn, and for how much of
that its thread was running at all. The same is asked of as long a time before the first push: that is the machine.
"""

import http.client
import json
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.load import run
from benchmarks.load.plans import Requests
from benchmarks.load.results import Latencies, added
from benchmarks.load.target import Trust
from benchmarks.macro.accounting import accounted
from benchmarks.macro.machine import Cores
from benchmarks.macro.proxies import PYMESH
from benchmarks.macro.running import free_port, running
from benchmarks.macro.sample import LATE, Sample, largest
from benchmarks.macro.scenario import Instrument, Turn
from pymesh.errors import MeshError

# Requests a second, and the connections that they come over.
_RATE: Final = 1000.0
_CONNECTIONS: Final = 16
# Seconds: of requests that do not count; after which they surely come; of quiet between two pushes; of a histogram.
_WARM_UP: Final = 0.5
_STARTED: Final = 1.0
_PAUSE: Final = 0.2
_WINDOW: Final = 0.05
# Times the turn's seconds: without a push, and then as long with them, so that the longest of both can be compared.
_EACH: Final = 2
_CONTROL: Final = "pilot.sock"
_ADMIN: Final = "admin_port"


@dataclass(frozen=True, slots=True)
class Told:
    """What pymesh-proxy tells of its event loop: how often it took how long, and the longest of late.

    Attributes:
        counted: a pattern for the names of its histograms; `longest` the name of the gauge.
    """

    counted: str
    longest: str


# For how long it did not turn, whether a timer saw that or a slice of a push told; and of that the CPU time.
DELAY: Final = Told("pymesh_loop_(?:delay|slice)_seconds", "pymesh_loop_delay_longest_seconds")
CPU: Final = Told("pymesh_loop_delay_cpu_seconds", "pymesh_loop_delay_cpu_longest_seconds")

SLOWEST: Final = largest("slowest_ms", "slowest meanwhile, ms")
BEFORE: Final = largest("p99_before_ms", "p99 before, ms", 2)
MEANWHILE: Final = largest("p99_meanwhile_ms", "p99 meanwhile, ms", 2)
TIMES: Final = largest("p99_times", "p99, times", 2)
IN_FORCE: Final = largest("in_force_ms", "a push, ms", 0)
STALL: Final = largest("stall_ms", "stall of pymesh's loop, ms", 2)
STALL_CPU: Final = largest("stall_cpu_ms", "of CPU, ms", 2)
STALL_BEFORE: Final = largest("stall_before_ms", "stall before, ms", 2)
FIGURES: Final = (SLOWEST, BEFORE, MEANWHILE, TIMES, IN_FORCE, STALL, STALL_CPU, STALL_BEFORE)


@contextmanager
def control_plane(folder: Path, cores: Cores) -> Iterator[Mapping[str, object]]:
    """`${PILOT}`, the port of a control plane, and `${ADMIN}`, one for pymesh-proxy's admin pages."""
    port, admin = free_port(), free_port()
    (folder / _ADMIN).write_text(str(admin))
    command = [sys.executable, "-m", "benchmarks.macro.pilot"]
    command += ["--port", str(port), "--control", str(folder / _CONTROL)]
    with running("the control plane", command, port, folder / "pilot.log", cores.load):
        yield {"PILOT": port, "ADMIN": admin}


# More arguments of pymesh-proxy: it tells of its event loop.
ARGUMENTS: Final = {PYMESH: ("--admin", "127.0.0.1:${ADMIN}")}


def replaced_under_load() -> Instrument:
    """Requests by a schedule, first alone, then with one push after another."""

    def instrument(turn: Turn) -> Sample:
        scenario = turn.scenario
        plan = Requests(
            turn.target,
            _RATE,
            _CONNECTIONS,
            turn.seconds * 2 * _EACH,
            scenario.request,
            Trust(verify=False),
            warm_up=_WARM_UP,
            window=_WINDOW,
            body_bytes=scenario.body_bytes,
        )
        with accounted(turn) as used, ThreadPoolExecutor(1) as pool:
            load = pool.submit(run.latencies, plan, turn.cores.load)
            time.sleep(_STARTED + _WARM_UP)
            first_push = time.monotonic() + turn.seconds * _EACH
            began = _counters(turn)
            time.sleep(max(0.0, first_push - time.monotonic()))
            before = _counters(turn)
            pushes = _push(turn, load)
            after = _counters(turn)
            found = load.result()
        most = figures(found, pushes)
        if after:
            most |= stalls(began, before, after)
        return Sample(found.histogram.count, plan.seconds, used.cpu, used.load_cpu, dict(found.errors), most=most)

    return instrument


def figures(found: Latencies, pushes: list[tuple[float, float]]) -> dict[str, float]:
    """What the requests saw, before the first push and during all of them.

    Args:
        pushes: when each began and was acknowledged, by `time.monotonic()`.
    """
    before = found.between(found.began, pushes[0][0])
    meanwhile = added(found.between(begin - found.window, end + found.window) for begin, end in pushes)
    if not before.count or not meanwhile.count:
        raise MeshError("no request was answered before the first push, or during one")
    p99_before, p99_meanwhile = before.quantile(0.99) / 1e6, meanwhile.quantile(0.99) / 1e6
    late = {} if found.kept_schedule else {LATE: found.late.quantile(0.99) / 1e6}
    return late | {
        SLOWEST.name: meanwhile.most / 1e6,
        BEFORE.name: p99_before,
        MEANWHILE.name: p99_meanwhile,
        TIMES.name: p99_meanwhile / p99_before,
        IN_FORCE.name: max(end - begin for begin, end in pushes) * 1e3,
    }


def _push(turn: Turn, load: "Future[Latencies]") -> list[tuple[float, float]]:
    """One after another while there is load; at least one."""
    pushes: list[tuple[float, float]] = []
    while not pushes or not load.done():
        said = _tell(turn.folder / "setting" / _CONTROL, f"push {turn.contender.name}")
        if "error" in said:
            raise MeshError(f"{turn.contender.name}: {said['error']}\n{turn.contender.said()}")
        pushes.append((said["pushed"], said["acknowledged"]))
        time.sleep(_PAUSE)
    return pushes


def _tell(control: Path, command: str) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control))
        connection.sendall(command.encode() + b"\n")
        said = json.loads(connection.makefile().readline())
    assert isinstance(said, dict)
    return said


def stalls(began: str, before: str, after: str) -> dict[str, float]:
    """What pymesh-proxy's counters tell of its event loop, from before the load, the first push, and after the last."""
    return {
        STALL.name: longest(DELAY, before, after) * 1e3,
        STALL_CPU.name: longest(CPU, before, after) * 1e3,
        STALL_BEFORE.name: longest(DELAY, began, before) * 1e3,
    }


def longest(told: Told, before: str, after: str) -> float:
    """Seconds of the longest stall between two looks at pymesh-proxy's counters.

    It counts stalls in buckets, and remembers the longest for half a minute or more: where that may be from before the
    first look (from its start, say), it is the bound of the bucket.

    Raises:
        MeshError: there are no such counters.
    """
    counted, already = _counts(told, after), _counts(told, before)
    found = re.search(rf"^{told.longest} (\S+)$", after, re.MULTILINE)
    if not counted or found is None:
        raise MeshError(f"{PYMESH} does not tell for how long its event loop did not turn")
    bounds = sorted(counted)
    total = counted[bounds[-1]] - already.get(bounds[-1], 0)
    bucket = next(bound for bound in bounds if counted[bound] - already.get(bound, 0) == total)
    return min(float(found[1]), bucket)


def _counts(told: Told, text: str) -> dict[float, float]:
    """How many stalls were at most so many seconds long, in all histograms together."""
    found: dict[float, float] = {}
    for bound, count in re.findall(rf'^{told.counted}_bucket\{{le="(\S+)"\}} (\S+)$', text, re.MULTILINE):
        found[float(bound)] = found.get(float(bound), 0.0) + float(count)
    return found


def _counters(turn: Turn) -> str:
    """What pymesh-proxy counts; empty for the others."""
    if turn.contender.name != PYMESH:
        return ""
    connection = http.client.HTTPConnection("127.0.0.1", int((turn.folder / "setting" / _ADMIN).read_text()))
    try:
        connection.request("GET", "/stats")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
