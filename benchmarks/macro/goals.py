"""What is wanted of pymesh, next to what was found."""

from dataclasses import dataclass
from typing import Final

from benchmarks.macro import figures
from benchmarks.macro.figures import Summary, summary
from benchmarks.macro.measure import Result
from benchmarks.macro.proxies import PYMESH
from benchmarks.macro.sample import RSS_IDLE, RSS_LOADED
from benchmarks.macro.scenario import Goal, Kind

MET: Final = "met"
MISSED: Final = "missed"
NOT_JUDGED: Final = "not judged"
_MEMORY_TITLES: Final = {RSS_IDLE: "RSS idle", RSS_LOADED: "RSS after load"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A goal, and what there is of it.

    Attributes:
        values: round by round: ratios, or the figure itself where the goal is against nobody.
        judged: whether there were rounds enough to say `met` or `missed`.
    """

    goal: Goal
    title: str
    values: list[float]
    judged: bool

    @property
    def subject(self) -> str:
        """`CPU µs/request, pymesh / envoy`."""
        sign = "-" if self.goal.kind is Kind.ADDED else "/"
        return f"{self.title}, {PYMESH}" + (f" {sign} {self.goal.against}" if self.goal.against else "")

    @property
    def found(self) -> Summary:
        """Median and range."""
        return summary(self.values)

    def verdict(self, wanted: float) -> str:
        """What the median says of a target."""
        if not self.judged:
            return NOT_JUDGED
        found = self.found.median
        return MET if (found >= wanted if self.goal.kind is Kind.AT_LEAST else found <= wanted) else MISSED


def findings(result: Result) -> list[Finding]:
    """What there is of each goal of a scenario: nothing where there were errors, or its proxy was not measured."""
    if result.errors or PYMESH not in result.proxies:
        return []
    scenario = result.plan.scenario
    titles = {each.name: each.title for each in (*scenario.figures, *scenario.latency)} | _MEMORY_TITLES
    judged = result.count >= figures.FEWEST_ROUNDS
    return [
        Finding(goal, titles[goal.figure], values, judged)
        for goal in scenario.goals
        if (values := _values(result, goal))
    ]


def _values(result: Result, goal: Goal) -> list[float]:
    """Round by round, what the goal is about; empty where it cannot be told."""
    if not goal.against:
        return result.values(PYMESH, goal.figure)
    if goal.kind is Kind.ADDED:
        return result.differences(PYMESH, goal.figure, goal.against)
    return result.ratios(PYMESH, goal.figure, goal.against)
