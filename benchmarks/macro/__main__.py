"""Proxies under load, next to each other.

    python -m benchmarks.macro [--rounds N] [--seconds S] [--proxies A,B] [--json FILE] [--quick] [SCENARIO ...]

`benchmarks/README.md` has the method, and how to read the figures.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.macro import procfs, report
from benchmarks.macro.machine import describe, divide
from benchmarks.macro.measure import Plan, measure
from benchmarks.macro.proxies import NGINX, PROXIES, WRK, choose
from benchmarks.macro.scenarios import SCENARIOS
from pymesh.errors import MeshError

_ROUNDS: Final = 7
_SECONDS: Final = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.macro", description="Proxies under load, side by side.")
    add = made.add_argument
    add("scenarios", nargs="*", metavar="SCENARIO", help=f"(default all: {', '.join(SCENARIOS)})")
    add("--rounds", type=_count, metavar="N", help=f"at least; at most twice as many (default {_ROUNDS})")
    add("--seconds", type=_count, metavar="S", help=f"of load on each proxy, twice a round (default {_SECONDS})")
    add("--proxies", type=_names, default=[], metavar="A,B", help=f"(default those installed of {', '.join(PROXIES)})")
    add("--json", type=Path, metavar="FILE", help="also write everything there")
    add("--quick", action="store_true", help="one round, one second: shows that it works, not how well")
    return made


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit status: 1 where there are no figures to trust."""
    made = parser()
    arguments = made.parse_args(argv)
    if unknown := [name for name in arguments.scenarios if name not in SCENARIOS]:
        made.error(f"unknown scenario {', '.join(unknown)}: choose from {', '.join(SCENARIOS)}")
    try:
        return run(
            arguments.scenarios or list(SCENARIOS),
            arguments.proxies,
            arguments.rounds or (1 if arguments.quick else _ROUNDS),
            arguments.seconds or (1 if arguments.quick else _SECONDS),
            arguments.json,
        )
    except MeshError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run(scenarios: list[str], names: list[str], rounds: int, seconds: int, file: Path | None) -> int:
    """Measure these scenarios; the exit status.

    Raises:
        MeshError: a program is missing or fails, or the file cannot be written.
    """
    say = _progress()
    for program in (WRK, NGINX):
        program.require()
    proxies, skipped = choose(names)
    for line in skipped:
        say(line)
    cores = divide(os.sched_getaffinity(0), procfs.siblings)
    machine = describe(cores)
    programs = {program.name: program.version() for program in (WRK, *(proxy.program for proxy in proxies))}
    print("\n".join(report.machine_lines(machine, programs)), flush=True)
    results = []
    for name in scenarios:
        result = measure(Plan(SCENARIOS[name], rounds, seconds, cores), proxies, say)
        print("\n" + "\n".join(report.result_lines(result)), flush=True)
        results.append(result)
    if file is not None:
        _write(file, report.document(machine, programs, results))
    return 1 if any(result.errors for result in results) else 0


def _write(file: Path, document: dict[str, object]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise MeshError(f"cannot write {file}: {error.strerror}") from error


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
    sys.exit(main())
