"""What is wanted of pymesh, next to what was found."""

from dataclasses import dataclass
from typing import Final

from benchmarks.macro import figures
from benchmarks.macro.figures import Summary, summary
from benchmarks.macro.measure import Result
from benchmarks.macro.proxies import PYMESH
from benchmarks.macro.sample import RSS_IDLE, RSS_LOADED
from benchmarks.macro.scenario import Goal

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
        return f"{self.title}, {PYMESH}" + (f" / {self.goal.against}" if self.goal.against else "")

    @property
    def found(self) -> Summary:
        """Median and range."""
        return summary(self.values)

    def verdict(self, wanted: float) -> str:
        """What the median says of a target."""
        if not self.judged:
            return NOT_JUDGED
        return MET if self.found.median <= wanted else MISSED


def findings(result: Result) -> list[Finding]:
    """What there is of each goal of a scenario: nothing where there were errors, or its proxy was not measured."""
    if result.errors or PYMESH not in result.proxies:
        return []
    scenario = result.plan.scenario
    titles = {each.name: each.title for each in (*scenario.figures, *scenario.latency)} | _MEMORY_TITLES
    found = []
    for goal in scenario.goals:
        values = (
            result.ratios(PYMESH, goal.figure, goal.against) if goal.against else result.values(PYMESH, goal.figure)
        )
        if values:
            found.append(Finding(goal, titles[goal.figure], values, result.count >= figures.FEWEST_ROUNDS))
    return found
