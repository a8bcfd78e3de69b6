"""One scenario: the upstream and all proxies are started, and put under load in turn, round by round."""

import http.client
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

from benchmarks.macro import figures, load, procfs
from benchmarks.macro.figures import Round
from benchmarks.macro.machine import Cores
from benchmarks.macro.proxies import NGINX, PYMESH, REFERENCE, WRK, Proxy
from benchmarks.macro.running import Running, free_port, on_cores, running, settled_memory
from benchmarks.macro.scenarios import Scenario
from pymesh.errors import MeshError

_UPSTREAM_CONFIG: Final = Path(__file__).with_name("upstream.conf")
# Seconds: wrk ends by itself; a proxy answers one request.
_WRK_GRACE: Final = 30.0
_ANSWER_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: at least so many rounds; in each, every proxy is loaded twice for so many seconds."""

    scenario: Scenario
    rounds: int
    seconds: int
    cores: Cores


@dataclass(slots=True)
class Measured:
    """What was seen of one proxy. Memory in bytes resident: before its first request, and after the last round."""

    rounds: list[Round] = field(default_factory=list)
    idle_memory: int = 0
    loaded_memory: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """A scenario's measurements, by the proxies' names; the rounds of all are as many, and pairs by their index."""

    plan: Plan
    proxies: dict[str, Measured]

    @property
    def count(self) -> int:
        """How many rounds there have been."""
        return len(next(iter(self.proxies.values())).rounds)

    @property
    def errors(self) -> dict[str, dict[str, int]]:
        """The errors of the round in which there were any, after which the run ended; by proxy."""
        return {name: dict(one.errors) for name, seen in self.proxies.items() for one in seen.rounds[-1:] if one.errors}

    @property
    def ratios(self) -> dict[str, list[float]]:
        """CPU per request next to the reference's, round by round; empty where there were errors or no reference."""
        reference = self.proxies.get(REFERENCE)
        if reference is None or self.errors:
            return {}
        others = {name: seen for name, seen in self.proxies.items() if name != REFERENCE}
        return {name: figures.ratios(seen.rounds, reference.rounds) for name, seen in others.items()}


def measure(plan: Plan, proxies: Sequence[Proxy], say: Callable[[str], None]) -> Result:
    """Warm up, then measure round by round until the figures are steady, or one round has errors.

    Raises:
        MeshError: a program is missing, does not start, or does not answer as the upstream does.
    """
    result = Result(plan, {proxy.name: Measured() for proxy in proxies})
    with tempfile.TemporaryDirectory(prefix="pymesh-bench-") as folder, ExitStack() as stack:
        upstream = stack.enter_context(_upstream(plan, Path(folder)))
        started = {
            proxy.name: stack.enter_context(_proxy(plan, proxy, upstream.port, Path(folder))) for proxy in proxies
        }
        for name, process in started.items():
            result.proxies[name].idle_memory = settled_memory(process.pid)
            _check_answer(plan.scenario, process)
        say("warm-up")
        for name, process in started.items():
            if errors := _turn(plan, process, upstream).errors:
                raise MeshError(f"{name} had errors while warming up: {figures.counted(errors)}\n{process.said()}")
        while not result.errors and not _done(result):
            _add_round(result, started, upstream)
            say(_progress(result))
        for name, process in started.items():
            result.proxies[name].loaded_memory = procfs.resident_bytes(process.pid)
    return result


def _done(result: Result) -> bool:
    """Whether there are rounds enough; it is the comparison of pymesh with the reference that has to be steady."""
    compared = result.ratios.get(PYMESH)
    return figures.enough(compared or [1.0] * result.count, result.plan.rounds)


def _add_round(result: Result, started: Mapping[str, Running], upstream: Running) -> None:
    turns: dict[str, Round] = {}
    for name in figures.order(list(started), result.count):
        one = _turn(result.plan, started[name], upstream)
        turns[name] = turns[name] + one if name in turns else one
    for name, both in turns.items():
        result.proxies[name].rounds.append(both)


def _progress(result: Result) -> str:
    costs = (f"{name} {seen.rounds[-1].cpu_us:.1f}" for name, seen in result.proxies.items())
    return f"round {result.count}: {' · '.join(costs)} µs a request"


def _turn(plan: Plan, process: Running, upstream: Running) -> Round:
    command = load.command(WRK.require(), plan.scenario, process.port, plan.seconds)
    before, load_before = procfs.cpu_seconds(process.pid), _load_cpu(upstream)
    with on_cores(plan.cores.load):
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=plan.seconds + _WRK_GRACE)
    used, load_used = procfs.cpu_seconds(process.pid) - before, _load_cpu(upstream) - load_before
    try:
        seen = load.parse(ended.stdout, plan.scenario.body_bytes)
    except ValueError as error:
        raise MeshError(f"{process.name} under load: {error}\n{ended.stderr}{process.said()}") from error
    return Round(seen.requests, seen.seconds, used, load_used, seen.errors)


def _load_cpu(upstream: Running) -> float:
    """CPU seconds of the upstream, and of every wrk that has ended (each is waited for, and nothing else is)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return procfs.cpu_seconds(upstream.pid) + children.ru_utime + children.ru_stime


def _check_answer(scenario: Scenario, process: Running) -> None:
    """A proxy that answers something else than the upstream would be measured doing something else."""
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=_ANSWER_TIMEOUT)
    try:
        connection.request("GET", scenario.path, headers=dict(scenario.headers))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise MeshError(f"{process.name} does not answer: {error!r}\n{process.said()}") from error
    finally:
        connection.close()
    if answer.status != 200 or body != scenario.body.encode():
        raise MeshError(f"{process.name} answers {answer.status}, {len(body)} bytes: not what the upstream said")


@contextmanager
def _upstream(plan: Plan, folder: Path) -> Iterator[Running]:
    values = {"BODY": plan.scenario.body, "BODY_BYTES": plan.scenario.body_bytes}
    port, config, log = _write(folder, "upstream", _UPSTREAM_CONFIG, values)
    command = [NGINX.require(), "-c", str(config), "-e", "stderr"]
    with running("the upstream", command, port, log, plan.cores.load) as process:
        _check_answer(plan.scenario, process)
        yield process


@contextmanager
def _proxy(plan: Plan, proxy: Proxy, upstream: int, folder: Path) -> Iterator[Running]:
    port, config, log = _write(folder, proxy.name, plan.scenario.folder / proxy.config, {"UPSTREAM": upstream})
    with running(proxy.name, proxy.command(config), port, log, plan.cores.proxy) as process:
        yield process


def _write(folder: Path, name: str, template: Path, values: dict[str, object]) -> tuple[int, Path, Path]:
    """A port to listen on, the configuration that says so, in a folder of its own, and where to log."""
    own = folder / name
    own.mkdir()
    port, config = free_port(), own / template.name
    config.write_text(Template(template.read_text()).substitute(values, LISTEN=port, FOLDER=own))
    return port, config, own / "log"
