"""One scenario: everything is started, and put under load in turn, round by round."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.macro import figures, procfs, sites
from benchmarks.macro.machine import Cores
from benchmarks.macro.proxies import BASELINE, PYMESH, REFERENCE, Proxy
from benchmarks.macro.running import settled_memory
from benchmarks.macro.sample import RSS_IDLE, RSS_LOADED, Sample
from benchmarks.macro.scenario import Contender, Scenario, Site, Turn
from pymesh.errors import MeshError


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        rounds: at least so many.
        seconds: of each turn of load.
        turns: of each proxy in a round; two, forwards and backwards, or one where it has to be quick.
        warm_up: each proxy has a turn before the first round.
    """

    scenario: Scenario
    rounds: int
    seconds: int
    cores: Cores
    turns: int = 2
    warm_up: bool = True


@dataclass(slots=True)
class Measured:
    """What was seen of one proxy. Memory in bytes resident: before its first request, and after the last round."""

    rounds: list[Sample] = field(default_factory=list)
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

    def values(self, name: str, figure: str) -> list[float]:
        """A figure of a proxy, round by round; memory has one value for all of them.

        Raises:
            KeyError: there is no such figure in this scenario.
        """
        seen = self.proxies[name]
        memory = {RSS_IDLE: seen.idle_memory, RSS_LOADED: seen.loaded_memory}
        if figure in memory:
            return [float(memory[figure])]
        scenario = self.plan.scenario
        of = {each.name: each.of for each in (*scenario.figures, *scenario.latency)}[figure]
        return [of(one) for one in seen.rounds]

    def ratios(self, name: str, figure: str, against: str = REFERENCE) -> list[float]:
        """A figure next to another proxy's in the same round; empty where there were errors, or one is missing."""
        if not self._comparable(name, against):
            return []
        return figures.ratios(self.values(name, figure), self.values(against, figure))

    def differences(self, name: str, figure: str, against: str) -> list[float]:
        """What a figure is more than another proxy's in the same round; empty where `ratios` are."""
        if not self._comparable(name, against):
            return []
        pairs = zip(self.values(name, figure), self.values(against, figure), strict=True)
        return [one - other for one, other in pairs]

    def _comparable(self, name: str, against: str) -> bool:
        return not self.errors and name != against and {name, against} <= self.proxies.keys()


def measure(plan: Plan, proxies: Sequence[Proxy], say: Callable[[str], None]) -> Result:
    """Warm up, then measure round by round until the figures are steady, or one round has errors.

    Raises:
        MeshError: a program is missing, does not start, or does not answer as the upstream does.
    """
    scenario = plan.scenario
    start = scenario.start or sites.processes
    with tempfile.TemporaryDirectory(prefix="pymesh-bench-") as path:
        folder = Path(path)
        folder.chmod(0o711)  # some of what is started gives up being root, and reads its configuration then
        with start(scenario, proxies, folder, plan.cores) as site:
            result = Result(plan, {name: Measured() for name in site.contenders})
            for name, idle in _idle_memory(site).items():
                result.proxies[name].idle_memory = idle
            for contender in site.contenders.values() if scenario.asked else ():
                sites.check_answer(scenario, contender)
            if plan.warm_up:
                say(f"{scenario.name}: warm-up")
                _warm_up(plan, site, folder)
            while not result.errors and not _done(result):
                _add_round(result, site, folder)
                say(_progress(result))
            for name, contender in site.contenders.items():
                result.proxies[name].loaded_memory = _memory(contender)
    return result


def _warm_up(plan: Plan, site: Site, folder: Path) -> None:
    for name, contender in site.contenders.items():
        if errors := _turn(plan, site, contender, folder).errors:
            said = f"{name} had errors while warming up: {figures.counted(errors)}\n{contender.said()}"
            raise MeshError(said.strip())


def _idle_memory(site: Site) -> Mapping[str, int]:
    settled = settled_memory(pid for contender in site.contenders.values() for pid in contender.pids.values())
    return {name: sum(settled[pid] for pid in contender.pids.values()) for name, contender in site.contenders.items()}


def _memory(contender: Contender) -> int:
    return sum(procfs.resident_bytes(pid) for pid in contender.pids.values())


def _turn(plan: Plan, site: Site, contender: Contender, folder: Path) -> Sample:
    turn = Turn(plan.scenario, contender, site.upstream, plan.seconds, plan.cores, folder)
    sample = plan.scenario.instrument(turn)
    if not sample.units and not sample.latencies.count:
        said = f"{contender.name} answered nothing: {figures.counted(sample.errors)}\n{contender.said()}"
        raise MeshError(said.strip())
    return sample


def _done(result: Result) -> bool:
    """Whether there are rounds enough; it is the comparison of pymesh with the reference that has to be steady.

    Where there is no reference, it is that with pymesh without what the scenario is about.
    """
    first = result.plan.scenario.figures[0].name
    compared = result.ratios(PYMESH, first) or result.ratios(PYMESH, first, BASELINE)
    return figures.enough(compared or [1.0] * result.count, result.plan.rounds)


def _add_round(result: Result, site: Site, folder: Path) -> None:
    seen: dict[str, Sample] = {}
    for name in figures.order(list(site.contenders), result.count, result.plan.turns):
        one = _turn(result.plan, site, site.contenders[name], folder)
        seen[name] = seen[name] + one if name in seen else one
    for name, both in seen.items():
        result.proxies[name].rounds.append(both)


def _progress(result: Result) -> str:
    figure = result.plan.scenario.figures[0]
    values = (f"{name} {figure.text(figure.of(seen.rounds[-1]))}" for name, seen in result.proxies.items())
    return f"{result.plan.scenario.name}: round {result.count}: {figure.title}: {' · '.join(values)}"
