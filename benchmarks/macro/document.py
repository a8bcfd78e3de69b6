"""Results for programs: one JSON document. Times in seconds or as named, memory in bytes."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from operator import add

from benchmarks.load.histogram import Histogram
from benchmarks.macro import goals
from benchmarks.macro.figures import summary
from benchmarks.macro.goals import Finding
from benchmarks.macro.machine import Machine
from benchmarks.macro.measure import Measured, Result
from benchmarks.macro.proxies import REFERENCE
from benchmarks.macro.sample import RSS_IDLE, RSS_LOADED, Sample


def document(machine: Machine, programs: dict[str, str], results: Sequence[Result]) -> dict[str, object]:
    """Everything: the machine, the versions of what ran, and by scenario every round of every proxy."""
    return {
        "machine": asdict(machine),
        "programs": programs,
        "scenarios": {result.plan.scenario.name: _scenario(result) for result in results},
    }


def _scenario(result: Result) -> dict[str, object]:
    plan = result.plan
    return {
        "summary": plan.scenario.summary,
        "unit": plan.scenario.unit.value,
        "turn_seconds": plan.seconds,
        "turns_a_round": plan.turns,
        "proxies": {name: _proxy(result, name, seen) for name, seen in result.proxies.items()},
        f"ratios_to_{REFERENCE}": {name: ratios for name in result.proxies if (ratios := _ratios(result, name))},
        "goals": [_goal(found) for found in goals.findings(result)],
    }


def _proxy(result: Result, name: str, seen: Measured) -> dict[str, object]:
    scenario = result.plan.scenario
    latencies = reduce(add, (one.latencies for one in seen.rounds), Histogram())
    return {
        "figures": {
            each.name: asdict(summary(result.values(name, each.name)))
            for each in (*scenario.figures, *scenario.latency)
        },
        "rss_idle_bytes": seen.idle_memory,
        "rss_loaded_bytes": seen.loaded_memory,
        "errors": sum(sum(one.errors.values()) for one in seen.rounds),
        "latencies": latencies.document() if latencies.count else None,
        "rounds": [_round(one) for one in seen.rounds],
    }


def _round(one: Sample) -> dict[str, object]:
    return {
        "units": one.units,
        "seconds": one.seconds,
        "cpu_seconds": dict(one.cpu),
        "load_cpu_seconds": one.load_cpu,
        "errors": dict(one.errors),
        "most": dict(one.most),
    }


def _ratios(result: Result, name: str) -> dict[str, object]:
    """By figure: the ratios round by round, and what they come to."""
    scenario = result.plan.scenario
    named = [each.name for each in (*scenario.figures, *scenario.latency) if not each.percent]
    found = {figure: result.ratios(name, figure) for figure in (*named, RSS_IDLE, RSS_LOADED)}
    return {
        figure: {"rounds": [round(value, 4) for value in values], **asdict(summary(values))}
        for figure, values in found.items()
        if values
    }


def _goal(found: Finding) -> dict[str, object]:
    wanted = {"target": found.goal.target, "stretch": found.goal.stretch}
    return {
        "figure": found.goal.figure,
        "against": found.goal.against,
        "kind": found.goal.kind.value,
        **asdict(found.found),
        **wanted,
        "verdicts": {word: found.verdict(value) for word, value in wanted.items() if value is not None},
    }
