"""The guard of `pymesh shift`: what must hold of a version while requests are shifted to it. Pure.

errors<1%,p99<250ms
guard    = rule *( "," rule )
rule     = ( "errors" ( "<" / "<=" ) percent ) / ( ( "p50" / "p99" ) ( "<" / "<=" ) duration )
percent  = 1*DIGIT [ "." 1*DIGIT ] "%"
duration = as in Istio's kinds: 250ms, 1.5s
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymesh.errors import MeshError
from pymesh.resources.fields import seconds

# Requests that a version must have answered before it is judged. One failure among fewer says nothing: the best that a
# guard of 5 % could then do is to go back for every single one.
ENOUGH: Final = 20

_RULE: Final = re.compile(r"\s*(?P<metric>[a-z0-9_]+)?\s*(?P<operator><=|<|[=>!]+)?\s*(?P<limit>[^\s]*)\s*")
_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?)%")
_EXAMPLE: Final = "as in errors<1%,p99<250ms"
# By metric, the field of the collector's numbers that has it.
_FIELDS: Final = {"errors": "errors", "p50": "p50_ms", "p99": "p99_ms"}

Numbers = Mapping[str, Any]


class GuardError(MeshError):
    """A guard that cannot be read; the text says where and what to write."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One comparison. `limit` is a share (0 to 1) for errors, milliseconds for the others."""

    metric: str
    inclusive: bool
    limit: float
    text: str

    def broken_by(self, numbers: Numbers) -> str | None:
        """How `numbers` (of the collector's `/stats`) break the rule, in words; None if they do not."""
        value = numbers[_FIELDS[self.metric]]
        if value is None or value < self.limit or (self.inclusive and value == self.limit):
            return None
        return f"{self.metric} {shown(self.metric, value)}, and the guard says {self.text}"


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of a guard.

    Raises:
        GuardError: it is none.
    """
    rules: list[Rule] = []
    at = 0
    for part in text.split(","):
        try:
            rule = _rule(part)
            if any(rule.metric == other.metric for other in rules):
                raise GuardError(f"there is a rule for {rule.metric} already")
        except GuardError as error:
            raise GuardError(f"--guard {text!r}, character {at + 1}: {error}") from None
        rules.append(rule)
        at += len(part) + 1
    return tuple(rules)


def _rule(part: str) -> Rule:
    found = _RULE.fullmatch(part)
    if found is None or not found["metric"]:
        what = f"{part.strip()!r} is no rule" if part.strip() else "a rule is missing"
        raise GuardError(f"{what}, {_EXAMPLE}")
    metric, operator, limit = found["metric"], found["operator"], found["limit"]
    if metric not in _FIELDS:
        close = difflib.get_close_matches(metric, _FIELDS, n=1)
        hint = f"did you mean {close[0]}" if close else f"there are {', '.join(_FIELDS)}"
        raise GuardError(f"{metric!r} is not measured; {hint}")
    if operator not in {"<", "<="}:
        raise GuardError(f"{metric} needs '<' or '<=' behind it, {_EXAMPLE}")
    return Rule(metric, operator == "<=", _limit(metric, limit), f"{metric}{operator}{limit}")


def _limit(metric: str, text: str) -> float:
    if metric == "errors":
        percent = _PERCENT.fullmatch(text)
        if percent is None or float(percent[1]) > 100:
            raise GuardError(f"{text!r} is not a share of the requests: write it as in errors<1%")
        return float(percent[1]) / 100
    try:
        return seconds(text) * 1000
    except ValueError:
        raise GuardError(f"{text!r} is not a duration: write it with its unit, as in {metric}<250ms") from None


def breach(rules: Sequence[Rule], numbers: Numbers) -> str | None:
    """Which rule `numbers` break, and how; None if none, or if there are not ENOUGH requests to tell."""
    if numbers["requests"] < ENOUGH:
        return None
    return next((sentence for rule in rules if (sentence := rule.broken_by(numbers)) is not None), None)


def shown(metric: str, value: float | None) -> str:
    """A number as people read it: `0.5%`, `12 ms`, `-` if there is none."""
    if value is None:
        return "-"
    if metric == "errors":
        return f"{value * 100:.1f}%" if value < 1 else "100%"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
