"""Results for people, as tables, and for programs, as one JSON document."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from benchmarks.macro import figures
from benchmarks.macro.figures import Summary, summary
from benchmarks.macro.machine import Machine
from benchmarks.macro.measure import Measured, Result
from benchmarks.macro.proxies import REFERENCE

_HEADER: Final = ("", "CPU µs/request", "requests/s", "core", "RSS idle", "after load", "errors", f"CPU / {REFERENCE}")
# Above this share of its core the load side may have been what limited the throughput.
_LOAD_LIMIT: Final = 0.95


def machine_lines(machine: Machine, programs: dict[str, str]) -> list[str]:
    """Where the figures come from."""
    apart = machine.proxy_cores != machine.load_cores
    cores = (
        f"proxies on core {_numbers(machine.proxy_cores)}, wrk and upstream on {_numbers(machine.load_cores)}"
        if apart
        else "one core for everything: throughput says nothing here"
    )
    versions = " · ".join(f"{name} {version}" for name, version in programs.items())
    return [
        f"{machine.cpu}, {machine.cores} cores ({cores}), Linux {machine.kernel}, load {machine.load_average:g}",
        f"{machine.python} · pymesh at {machine.commit} · {versions}",
    ]


def result_lines(result: Result) -> list[str]:
    """A scenario's table, and the comparison where there may be one."""
    scenario, seconds, count = result.plan.scenario, result.plan.seconds, result.count
    rows = [_HEADER, *(_row(name, seen, result) for name, seen in result.proxies.items())]
    return [
        f"{scenario.name}: {scenario.summary}, {scenario.connections} connections",
        f"{count} round{'s' * (count != 1)}, in each twice {seconds} s of load on each proxy: median (least-most)",
        "",
        *table(rows),
        "",
        *_verdict(result),
    ]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their content."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def document(machine: Machine, programs: dict[str, str], results: Sequence[Result]) -> dict[str, object]:
    """Everything, for programs: times in seconds or as named, memory in bytes."""
    return {
        "machine": asdict(machine),
        "programs": programs,
        "scenarios": {result.plan.scenario.name: _scenario(result) for result in results},
    }


def _scenario(result: Result) -> dict[str, object]:
    return {
        "round_seconds": result.plan.seconds,
        "connections": result.plan.scenario.connections,
        "proxies": {name: _proxy(seen) for name, seen in result.proxies.items()},
        f"cpu_ratio_to_{REFERENCE}": {
            name: {"rounds": [round(value, 4) for value in values], **asdict(summary(values))}
            for name, values in result.ratios.items()
        },
    }


def _proxy(seen: Measured) -> dict[str, object]:
    return {
        "cpu_us_per_request": asdict(summary([one.cpu_us for one in seen.rounds])),
        "requests_per_second": asdict(summary([one.per_second for one in seen.rounds])),
        "rss_idle_bytes": seen.idle_memory,
        "rss_loaded_bytes": seen.loaded_memory,
        "errors": sum(sum(one.errors.values()) for one in seen.rounds),
        "rounds": [asdict(one) for one in seen.rounds],
    }


def _row(name: str, seen: Measured, result: Result) -> tuple[str, ...]:
    limited = any(one.load_busy > _LOAD_LIMIT for one in seen.rounds)
    ratio = result.ratios.get(name)
    return (
        name,
        _range(summary([one.cpu_us for one in seen.rounds]), 1),
        ("≥ " if limited else "") + _range(summary([one.per_second for one in seen.rounds]), 0),
        f"{summary([one.busy for one in seen.rounds]).median:.0%}",
        _megabytes(seen.idle_memory),
        _megabytes(seen.loaded_memory),
        figures.counted(result.errors.get(name, {})) or "0",
        _range(summary(ratio), 2) if ratio else ("1" if name == REFERENCE and result.ratios else "-"),
    )


def _verdict(result: Result) -> list[str]:
    if result.errors:
        return [f"no comparison: {', '.join(result.errors)} answered with errors in round {result.count}"]
    if not result.ratios:
        return [f"no comparison: {REFERENCE} was not measured"]
    lines = [
        f"{name} / {REFERENCE}, round by round: {' '.join(f'{value:.2f}' for value in values)}"
        for name, values in result.ratios.items()
    ]
    if result.count < figures.FEWEST_ROUNDS:
        lines.append(f"fewer than {figures.FEWEST_ROUNDS} rounds: this shows that it works, not how well")
    elif unsteady := [name for name, values in result.ratios.items() if figures.spread(values) > figures.STEADY]:
        lines.append(f"not steady: {', '.join(unsteady)} (something else was busy; measure again before comparing)")
    return lines


def _range(found: Summary, digits: int) -> str:
    return f"{found.median:,.{digits}f} ({found.least:,.{digits}f}-{found.most:,.{digits}f})"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
