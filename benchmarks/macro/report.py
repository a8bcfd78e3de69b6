"""Results for people: sections of tables and sentences, as plain text or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.macro import figures, goals
from benchmarks.macro.figures import Summary, summary
from benchmarks.macro.goals import Finding
from benchmarks.macro.machine import Machine
from benchmarks.macro.measure import Measured, Result
from benchmarks.macro.proxies import PYMESH, REFERENCE
from benchmarks.macro.sample import LATE, Figure

# Above this share of its core the load side may have been what limited the throughput.
_LOAD_LIMIT: Final = 0.95
Table = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Section:
    """Sentences before, tables (the first row is the header), and sentences behind."""

    title: str
    before: Sequence[str]
    tables: Sequence[Table]
    behind: Sequence[str]


def text(section: Section) -> list[str]:
    """For a terminal."""
    lines = [section.title, *section.before]
    for table in section.tables:
        lines += ["", *columns(table)]
    return [*lines, *([""] if section.behind else []), *section.behind]


def markdown(section: Section) -> list[str]:
    """For a page."""
    lines = [f"### {section.title}", "", *section.before]
    for table in section.tables:
        header, *rows = columns(table, " | ", pad_last=True)
        rule = "|".join("-" * (len(cell) + 2) for cell in _padded(table)[0])
        lines += ["", f"| {header} |", f"|{rule}|", *(f"| {row} |" for row in rows)]
    return [*lines, *([""] if section.behind else []), *(f"- {line}" for line in section.behind)]


def columns(rows: Table, separator: str = "  ", *, pad_last: bool = False) -> list[str]:
    """A line for each row, with columns as wide as their content."""
    lines = (separator.join(row) for row in _padded(rows))
    return [line if pad_last else line.rstrip() for line in lines]


def _padded(rows: Table) -> list[list[str]]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows]


def machine_section(machine: Machine, programs: dict[str, str]) -> Section:
    """Where the figures come from."""
    apart = machine.proxy_cores != machine.load_cores
    cores = (
        f"proxies on core {_numbers(machine.proxy_cores)}, load and upstream on {_numbers(machine.load_cores)}"
        if apart
        else "one core for everything: throughput says nothing here"
    )
    versions = " · ".join(f"{name} {version}" for name, version in programs.items())
    said = [
        f"{machine.cpu}, {machine.cores} cores ({cores}), Linux {machine.kernel}, load {machine.load_average:g}",
        f"{machine.python} · pymesh at {machine.commit} · {versions}",
    ]
    return Section("machine", said, [], [])


def result_section(result: Result) -> Section:
    """A scenario's tables, and the comparison where there may be one."""
    plan = result.plan
    turns = {1: "once", 2: "twice"}[plan.turns]
    tables = [_cost_table(result)] + ([_latency_table(result)] if plan.scenario.latency else [])
    return Section(
        plan.scenario.name,
        [
            plan.scenario.summary,
            f"{result.count} round{'s' * (result.count != 1)}, in each {turns} {plan.seconds} s of load on each proxy",
        ],
        tables,
        _comparison(result),
    )


def summary_section(results: Sequence[Result], failed: Sequence[str]) -> Section:
    """Every goal next to what was found: one row a goal. `failed`: scenarios that could not be measured."""
    rows = [("scenario", "figure", "median (least-most)", "target", "", "stretch", "")]
    for result in results:
        for each in goals.findings(result):
            wanted = (_wanted(each, each.goal.target), _wanted(each, each.goal.stretch))
            name = result.plan.scenario.name
            rows.append((name, each.subject, between(each.found, 2), *wanted[0], *wanted[1]))
    broken = [result.plan.scenario.name for result in results if result.errors]
    notes = [f"no comparison, since there were errors: {', '.join(broken)}"] if broken else []
    notes += [f"not measured: {', '.join(failed)}"] if failed else []
    return Section("summary", ["What is wanted of pymesh, and what was found."], [rows], notes)


def _cost_table(result: Result) -> Table:
    shown = result.plan.scenario.figures
    header = (
        "",
        *(each.title for each in shown),
        "RSS idle",
        "after load",
        "errors",
        f"{_kind(shown[0])} / {REFERENCE}",
    )
    return [header, *(_cost_row(name, seen, result) for name, seen in result.proxies.items())]


def _cost_row(name: str, seen: Measured, result: Result) -> tuple[str, ...]:
    limited = any(one.seconds and one.load_busy > _LOAD_LIMIT for one in seen.rounds)
    first = result.plan.scenario.figures[0]
    ratio = result.ratios(name, first.name)
    reference = name == REFERENCE and len(result.proxies) > 1 and not result.errors
    return (
        name,
        *(
            ("≥ " if limited and each.title.endswith("/s") else "") + _values(each, result.values(name, each.name))
            for each in result.plan.scenario.figures
        ),
        _megabytes(seen.idle_memory),
        _megabytes(seen.loaded_memory),
        figures.counted(result.errors.get(name, {})) or "0",
        between(summary(ratio), 2) if ratio else ("1" if reference else "-"),
    )


def _latency_table(result: Result) -> Table:
    shown = result.plan.scenario.latency
    rows = [(name, *(_values(each, result.values(name, each.name)) for each in shown)) for name in result.proxies]
    return [("at a fixed rate", *(each.title for each in shown)), *rows]


def _comparison(result: Result) -> list[str]:
    if result.errors:
        return [f"no comparison: {', '.join(result.errors)} answered with errors in round {result.count}"]
    lines = [_finding(each) for each in goals.findings(result)]
    first = result.plan.scenario.figures[0]
    compared = {name: result.ratios(name, first.name) for name in result.proxies}
    if not any(compared.values()):
        lines.append(f"no comparison with {REFERENCE}: there is nothing of it to compare with")
    if ours := compared.get(PYMESH):
        lines.append(f"{PYMESH} / {REFERENCE}, round by round: {' '.join(f'{value:.2f}' for value in ours)}")
    if late := [name for name, seen in result.proxies.items() if any(LATE in one.most for one in seen.rounds)]:
        lines.append(f"the load generator was late: latencies of {', '.join(late)} are partly its own")
    if result.count < figures.FEWEST_ROUNDS:
        lines.append(f"fewer than {figures.FEWEST_ROUNDS} rounds: this shows that it works, not how well")
    elif unsteady := [name for name, values in compared.items() if figures.spread(values) > figures.STEADY]:
        lines.append(f"not steady: {', '.join(unsteady)} (something else was busy; measure again before comparing)")
    return lines


def _finding(found: Finding) -> str:
    said = f"{found.subject}: {between(found.found, 2)}"
    named = (("target", found.goal.target), ("stretch", found.goal.stretch))
    wanted = [f"{word} {_limit(found, value)} {found.verdict(value)}" for word, value in named if value is not None]
    return "; ".join([said, *wanted])


def _wanted(found: Finding, wanted: float | None) -> tuple[str, str]:
    return ("", "") if wanted is None else (_limit(found, wanted), found.verdict(wanted))


def _limit(found: Finding, wanted: float) -> str:
    return f"{found.goal.kind.sign} {wanted:,.2f}"


def _kind(figure: Figure) -> str:
    """`CPU` of `CPU µs/request`."""
    return figure.title.partition(" ")[0]


def _values(figure: Figure, values: Sequence[float]) -> str:
    found = summary(values)
    if figure.percent:
        return figure.text(found.median)
    return between(found, figure.digits)


def between(found: Summary, digits: int) -> str:
    """`0.50 (0.48-0.53)`; a single value has no range."""
    middle, least, most = (f"{value:,.{digits}f}" for value in (found.median, found.least, found.most))
    return middle if found.least == found.most else f"{middle} ({least}-{most})"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
