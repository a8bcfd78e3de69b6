"""Proxies under load, next to each other.

    python -m benchmarks.macro [--rounds N] [--seconds S] [--proxies A,B] [--json FILE] [--quick] [SCENARIO ...]
    python -m benchmarks.macro --target URL [--rate N] [--connections N]

`benchmarks/README.md` has the method, and how to read the figures.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.load.target import Request, parse_headers
from benchmarks.macro import endpoint, procfs, report, scenarios
from benchmarks.macro.endpoint import Asked
from benchmarks.macro.machine import Cores, describe, divide
from benchmarks.macro.measure import Plan, measure
from benchmarks.macro.outcome import Outcome
from benchmarks.macro.proxies import NEEDED, NGINX, PROXIES, WRK, Proxy, choose
from benchmarks.macro.report import Section
from benchmarks.macro.running import nothing_left
from benchmarks.macro.scenario import Scenario
from benchmarks.macro.scenarios import SCENARIOS
from pymesh.errors import MeshError

_ROUNDS: Final = 5
_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to take: see `Plan`."""

    rounds: int
    seconds: int
    turns: int
    warm_up: bool

    def plan(self, scenario: Scenario, cores: Cores) -> Plan:
        """For one scenario."""
        return Plan(scenario, self.rounds, self.seconds, cores, self.turns, self.warm_up)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.macro", description="Proxies under load, side by side.")
    add = made.add_argument
    add("scenarios", nargs="*", metavar="SCENARIO", help=f"(default all: {', '.join(SCENARIOS)})")
    add("--rounds", type=_count, metavar="N", help=f"at least; at most twice as many (default {_ROUNDS})")
    add("--seconds", type=_count, metavar="S", help=f"of load on each proxy, twice a round (default {_SECONDS})")
    add("--proxies", type=_names, default=[], metavar="A,B", help=f"(default those installed of {', '.join(PROXIES)})")
    add("--json", type=Path, metavar="FILE", help="also write everything there")
    add("--markdown", type=Path, metavar="FILE", help="also write the tables there")
    add("--target", metavar="URL", help="measure this endpoint of yours, and nothing else")
    add("--rate", type=_count, default=1000, metavar="N", help="of requests to it, for latencies (default 1000)")
    add("--connections", type=_count, default=32, metavar="N", help="to it (default 32)")
    add(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="of every request to it; may be repeated"
    )
    add("--insecure", action="store_true", help="take any certificate of it")
    add("--quick", action="store_true", help=f"one round, one second, {' and '.join(NEEDED)}: shows that it works")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status: 1 where there are figures that are not to be trusted, or none."""
    made = parser()
    arguments = made.parse_args(argv)
    chosen, unknown = scenarios.choose(arguments.scenarios)
    if unknown:
        made.error(f"unknown scenario {', '.join(unknown)}: choose from {', '.join(SCENARIOS)}")
    quick = arguments.quick
    pace = Pace(
        arguments.rounds or (1 if quick else _ROUNDS),
        arguments.seconds or (1 if quick else _SECONDS),
        turns=1 if quick else 2,
        warm_up=not quick,
    )
    names = arguments.proxies or (list(NEEDED) if quick else [])
    try:
        if arguments.target:
            return measure_endpoint(
                Asked(
                    arguments.target,
                    arguments.rate,
                    arguments.connections,
                    pace.rounds,
                    pace.seconds,
                    verify=not arguments.insecure,
                    request=Request(headers=parse_headers(arguments.header)),
                )
            )
        return run(chosen, names, pace, arguments.json, arguments.markdown)
    except MeshError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(chosen: Sequence[Scenario], names: list[str], pace: Pace, json_file: Path | None, page: Path | None) -> int:
    """Measure these scenarios; the exit status. One that cannot be measured does not keep the others from it.

    Raises:
        MeshError: a program is missing, or a file cannot be written.
    """
    say = _progress()
    for program in (WRK, NGINX):
        program.require()
    proxies, skipped = choose(names)
    for line in skipped:
        say(line)
    cores = divide(os.sched_getaffinity(0), procfs.siblings)
    programs = {program.name: program.version() for program in (WRK, *(proxy.program for proxy in proxies))}
    outcome = Outcome(describe(cores), programs)
    outcome.write(json_file, page)  # to know now if that is not possible
    _print(outcome.head)
    for scenario in chosen:
        try:
            outcome.add(measure(pace.plan(scenario, cores), taking_part(scenario, proxies), say))
        except MeshError as error:
            outcome.fail(scenario, error)
        _print(outcome.sections[-1])
        outcome.write(json_file, page)
    _print(outcome.summary)
    return 0 if outcome.sound else 1


def measure_endpoint(asked: Asked) -> int:
    """Measure somebody's endpoint; the exit status.

    Raises:
        MeshError: there is nothing to measure.
    """
    section, failed = endpoint.measure(asked, _progress())
    _print(section)
    return 1 if failed else 0


def taking_part(scenario: Scenario, proxies: Sequence[Proxy]) -> list[Proxy]:
    """The proxies that the scenario has a configuration for; it is up to one with its own way of starting."""
    if scenario.start is not None:
        return list(proxies)
    return [proxy for proxy in proxies if all(proxy.has_template(scenario.folder / hop) for hop in scenario.hops)]


def _print(section: Section) -> None:
    print("\n".join(report.text(section)) + "\n", flush=True)


def _progress() -> Callable[[str], None]:
    """Says how far it is, apart from the results."""
    return lambda line: print(line, file=sys.stderr, flush=True)


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1 on")
    return int(value)


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.split(",") if name.strip()]


if __name__ == "__main__":
    # As Ctrl-C does: everything that was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with nothing_left():
        sys.exit(main())
