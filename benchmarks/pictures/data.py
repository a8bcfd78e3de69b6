"""What the pictures show, from the document of a run: no drawing here.

Only what was measured well enough is shown: a scenario with errors has no ratios in the document, and so no bars.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.load.histogram import Histogram
from pymesh.errors import MeshError

REFERENCE: Final = "envoy"
SUBJECT: Final = "pymesh"
# Parts of a hundred of requests; the axis of a latency curve is made for these.
PERCENTS: Final = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99)
# Answers beyond a percentile below which it says something of a single slow request rather than of the proxy.
_FEWEST_BEYOND: Final = 5

_MEMORY: Final = "rss_"
_COSTS: Final = {"request": "µs/request", "connection": "µs/connection", "GB": "s/GB"}


@dataclass(frozen=True, slots=True)
class Bar:
    """Of one proxy: its figure next to the reference's, the median of the rounds with the least and the most."""

    proxy: str
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Row:
    """Bars that belong together, and what is wanted of pymesh (None: nothing)."""

    label: str
    bars: tuple[Bar, ...]
    target: float | None


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture of ratios to the reference, which is 1."""

    name: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """Of one proxy: percents of the requests, and the milliseconds that so many did not exceed."""

    proxy: str
    answers: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """One picture of latencies."""

    name: str
    title: str
    curves: tuple[Curve, ...]


def charts(document: Mapping[str, Any]) -> list[Chart]:
    """CPU, latency and memory next to the reference, as far as they were measured.

    Raises:
        MeshError: the document is of something else.
    """
    scenarios = _scenarios(document)
    costs = [
        _row(f"{name}, {_COSTS[scenario['unit']]}", scenario, figure)
        for name, scenario in scenarios.items()
        for figure in list(next(iter(scenario["proxies"].values()))["figures"])
        if figure in ("cpu_us_per_request", "cpu_us_per_connection", "cpu_s_per_gb")
    ]
    latencies = [
        _row(f"{name}, {figure.removesuffix('_ms')}", scenario, figure)
        for name, scenario in scenarios.items()
        for figure in ("p50_ms", "p99_ms")
    ]
    memory = [
        _row(f"{name}, {when}", scenario, figure)
        for name, scenario in scenarios.items()
        if any(goal["figure"].startswith(_MEMORY) for goal in scenario["goals"])  # it is what the scenario is about
        for figure, when in (
            ("rss_idle_bytes", "before"),
            ("rss_connected_bytes", "with connections"),
            ("rss_loaded_bytes", "after"),
        )
    ]
    made = [
        Chart("cpu", f"CPU for the same work, next to {REFERENCE}", _shown(costs)),
        Chart("latency", f"Latency at a fixed rate, next to {REFERENCE}", _shown(latencies)),
        Chart("memory", f"Memory resident, next to {REFERENCE}", _shown(memory)),
    ]
    return [chart for chart in made if chart.rows]


def curves(document: Mapping[str, Any]) -> list[Curves]:
    """Latencies of each scenario that was measured at a fixed rate.

    Raises:
        MeshError: the document is of something else.
    """
    made = []
    for name, scenario in _scenarios(document).items():
        found = tuple(
            _curve(proxy, Histogram.of(seen["latencies"]))
            for proxy, seen in scenario["proxies"].items()
            if seen["latencies"] and not seen["errors"]
        )
        if found:
            made.append(Curves(f"latency-{name}", f"{name}: latency from when each request was due", found))
    return made


def _curve(proxy: str, histogram: Histogram) -> Curve:
    percents = [
        percent for percent in PERCENTS if percent == 0 or histogram.count * (100 - percent) / 100 >= _FEWEST_BEYOND
    ]
    values = histogram.quantiles(percent / 100 for percent in percents)
    return Curve(proxy, histogram.count, tuple(zip(percents, (value / 1e6 for value in values), strict=True)))


def _row(label: str, scenario: Mapping[str, Any], figure: str) -> Row:
    ratios: Mapping[str, Any] = scenario[f"ratios_to_{REFERENCE}"]
    bars = [
        Bar(proxy, found[figure]["median"], found[figure]["least"], found[figure]["most"])
        for proxy, found in ratios.items()
        if figure in found
    ]
    targets = [
        goal["target"] for goal in scenario["goals"] if goal["figure"] == figure and goal["against"] == REFERENCE
    ]
    return Row(label, tuple(bars), targets[0] if targets else None)


def _shown(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows with something of pymesh in them."""
    return tuple(row for row in rows if any(bar.proxy == SUBJECT for bar in row.bars))


def _scenarios(document: Mapping[str, Any]) -> Mapping[str, Any]:
    scenarios = document.get("scenarios")
    if not isinstance(scenarios, dict) or not all(f"ratios_to_{REFERENCE}" in one for one in scenarios.values()):
        raise MeshError("this is not what `python -m benchmarks.macro --json` writes")
    return scenarios
