"""The pictures, as SVG. The same figures give the same bytes: no date, no random names, letters as outlines."""

import math
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.pictures.data import REFERENCE, SUBJECT, Bar, Chart, Curves

# Colours that the colour-blind tell apart (Okabe and Ito).
_COLOURS: Final = {
    SUBJECT: "#0072B2", REFERENCE: "#D55E00", "haproxy": "#009E73", "nginx": "#CC79A7", "mitmproxy": "#E69F00",
}  # fmt: skip
_OTHER: Final = "#56B4E9"
_GRID: Final = "#DDDDDD"
# Inches.
_WIDTH: Final = 8.0
_BAR: Final = 0.17
_GAP: Final = 0.14
_CURVE_HEIGHT: Final = 4.2
_RATIO_TICKS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
_PERCENT_TICKS: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)

mpl.rcParams.update(
    {
        "svg.hashsalt": "pymesh",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9,
        "axes.axisbelow": True,
    }
)


def ratios(chart: Chart, file: Path) -> None:
    """Bars that begin at the reference: to the left is less than it takes, to the right more; lines are the range."""
    count = sum(len(row.bars) for row in chart.rows)
    figure, axes = _empty(1.2 + count * _BAR + len(chart.rows) * _GAP)
    at, middles = 0.0, []
    for row in chart.rows:
        middles.append(at + (len(row.bars) - 1) * _BAR / 2)
        for bar in row.bars:
            _draw_bar(axes, at, bar)
            if bar.proxy == SUBJECT and row.target is not None:
                axes.plot([row.target] * 2, [at - _BAR / 2, at + _BAR / 2], color="black", linewidth=2)
            at += _BAR
        at += _GAP
    axes.axvline(1, color=_COLOURS[REFERENCE], linewidth=1.2)
    axes.set_yticks(middles, [row.label for row in chart.rows])
    axes.set_ylim(at - _GAP, -_BAR)
    _ratio_axis(axes, chart)
    axes.set_title(chart.title, loc="left", fontweight="bold")
    _legend(figure, chart)
    _save(figure, file)


def latencies(picture: Curves, file: Path) -> None:
    """Milliseconds over percentiles; each step to the right is ten times fewer requests."""
    figure, axes = _empty(_CURVE_HEIGHT)
    for curve in picture.curves:
        places = [_place(percent) for percent, _ in curve.points]
        label = f"{curve.proxy} ({curve.answers:,} requests)"
        colour = _COLOURS.get(curve.proxy, _OTHER)
        axes.plot(places, [value for _, value in curve.points], color=colour, label=label, marker="o", markersize=3)
    farthest = max(percent for curve in picture.curves for percent, _ in curve.points)
    shown = [percent for percent in _PERCENT_TICKS if percent <= farthest]
    names = [f"{percent:g} %" if percent else "least" for percent in shown]
    axes.set_xticks([_place(percent) for percent in shown], names)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axes.grid(which="both", color=_GRID, linewidth=0.6)
    axes.set_xlabel("of all requests were answered within that time")
    axes.set_ylabel("milliseconds")
    axes.set_title(picture.title, loc="left", fontweight="bold")
    axes.legend(frameon=False)
    _save(figure, file)


def _empty(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _draw_bar(axes: Axes, at: float, bar: Bar) -> None:
    axes.barh(at, bar.median - 1, left=1, height=_BAR * 0.85, color=_COLOURS.get(bar.proxy, _OTHER))
    axes.plot([bar.least, bar.most], [at, at], color="black", linewidth=0.9)
    label = f"{bar.median:.2f}" if bar.median < 10 else f"{bar.median:.0f}"
    axes.annotate(label, (max(bar.most, 1), at), (4, 0), textcoords="offset points", va="center", fontsize=7.5)


def _legend(figure: Figure, chart: Chart) -> None:
    proxies = dict.fromkeys(bar.proxy for row in chart.rows for bar in row.bars)
    handles: list[Patch | Line2D] = [Patch(color=_COLOURS.get(proxy, _OTHER), label=proxy) for proxy in proxies]
    handles.append(Line2D([], [], color=_COLOURS[REFERENCE], linewidth=1.2, label=f"{REFERENCE} = 1"))
    if any(row.target is not None for row in chart.rows):
        handles.append(Line2D([], [], color="black", linewidth=2, label=f"target of {SUBJECT}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _ratio_axis(axes: Axes, chart: Chart) -> None:
    """Logarithmic, so that half as much is as far from 1 as twice as much."""
    known = [value for row in chart.rows for bar in row.bars for value in (bar.least, bar.most)]
    known += [1.0, *(row.target for row in chart.rows if row.target is not None)]
    low, high = min(known) / 1.15, max(known) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [tick for tick in _RATIO_TICKS if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
    axes.set_xlabel(f"times what {REFERENCE} takes: less is better (bars: median; lines: least to most of all rounds)")


def _place(percent: float) -> float:
    """Where a percentile is on the axis: 90, 99, 99.9 are one apart."""
    return -math.log10(1 - percent / 100)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
