"""Access rules: who may do what, in policies of Envoy's form, decided as early as they can be. Pure.

A policy matches if its rule does, and a rule is built of two kinds of questions. Those to the connection (who calls by
certificate, from where, to which port) have one answer for all of its requests: they are asked once, the rules are
evaluated as far as the answers go, and the residual is kept; connections with the same answers share it. Only the
questions to the request (path, method, headers, claims) are asked each time, the cheapest first; and where many
policies are left, only those whose path can be the request's.

Source: envoy.config.rbac.v3.RBAC
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from pymesh_proxy.filters.base import RequestContext
from pymesh_proxy.routing import PathKind
from pymesh_proxy.transport.facts import Facts

Holds: TypeAlias = Callable[[RequestContext], bool]
# Paths, and beginnings of paths.
Paths: TypeAlias = tuple[tuple[PathKind, bytes], ...]

# Residuals that are kept of one set of rules: as many as there are ways in which callers differ. A mesh has fewer.
MAX_KINDS_OF_CONNECTIONS: Final = 256
# Fewer policies than this are tried in turn: that is as quick as an index.
_WORTH_AN_INDEX: Final = 4


class Action(Enum):
    """What follows if a policy matches: ALLOW lets in only what one of them matches, DENY denies it, LOG neither."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    LOG = "LOG"


_ALLOW: Final = Action.ALLOW  # (an attribute of an enumeration costs 40 ns)
_LOG: Final = Action.LOG


# --- Rules -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class OfConnection:
    """A question to the connection. Two with the same `key` are the same question."""

    key: tuple[str, bytes]
    holds: Callable[[Facts], bool]


@dataclass(frozen=True, slots=True, eq=False)
class OfRequest:
    """A question to the request.

    Attributes:
        cost: of the answer, relative to other questions.
        paths: it can hold for these paths only; None if that is not known.
        of_path: it holds for all of `paths`, whatever else the request is.
    """

    holds: Holds
    cost: int = 1
    paths: Paths | None = None
    of_path: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class All:
    """Holds if all of them do."""

    rules: "tuple[Rule, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Some:
    """Holds if one of them does."""

    rules: "tuple[Rule, ...]"


@dataclass(frozen=True, slots=True, eq=False)
class Not:
    """Holds if the other does not."""

    rule: "Rule"


Rule: TypeAlias = bool | OfConnection | OfRequest | All | Some | Not


def questions(rule: Rule) -> Iterable[OfConnection]:
    """The questions to the connection in `rule`."""
    match rule:
        case OfConnection():
            yield rule
        case Not():
            yield from questions(rule.rule)
        case All() | Some():
            for each in rule.rules:
                yield from questions(each)


def residual(rule: Rule, answers: Mapping[tuple[str, bytes], bool]) -> Rule:
    """`rule` evaluated as far as the connection's `answers` go: it decides the same, and asks the request only."""
    match rule:
        case OfConnection():
            return answers[rule.key]
        case Not():
            left = residual(rule.rule, answers)
            return not left if isinstance(left, bool) else Not(left)
        case All() | Some():
            decides = isinstance(rule, Some)  # one True is enough for these, one False for the others
            open_: list[Rule] = []
            for each in rule.rules:
                left = residual(each, answers)
                if left is decides:
                    return decides
                if not isinstance(left, bool):
                    open_.append(left)
            if len(open_) > 1:
                return type(rule)(tuple(sorted(open_, key=_cost)))
            return open_[0] if open_ else not decides
        case _:
            return rule


def _cost(rule: Rule) -> int:
    match rule:
        case OfRequest():
            return rule.cost
        case Not():
            return _cost(rule.rule)
        case All() | Some():
            return sum(map(_cost, rule.rules))
        case _:
            return 0


def _paths(rule: Rule) -> Paths | None:
    """The only paths for which `rule` can hold; None if that is not known."""
    match rule:
        case OfRequest():
            return rule.paths
        case All():
            known = [paths for each in rule.rules if (paths := _paths(each)) is not None]
            return min(known, key=len, default=None)
        case Some():
            found: Paths = ()
            for each in rule.rules:
                paths = _paths(each)
                if paths is None:
                    return None
                found += paths
            return found
        case _:
            return None


def _compiled(rule: Rule) -> Holds:
    """A residual rule as one function."""
    match rule:
        case OfRequest():
            return rule.holds
        case Not():
            other = _compiled(rule.rule)
            return lambda context: not other(context)
        case All():
            return _all([_compiled(each) for each in rule.rules])
        case Some():
            return _some([_compiled(each) for each in rule.rules])
        case _:
            assert isinstance(rule, bool)
            return lambda _: rule


def _all(holds: list[Holds]) -> Holds:
    if len(holds) == 2:
        one, other = holds
        return lambda context: one(context) and other(context)
    if len(holds) == 3:  # method, path and something else: the usual policy
        first, second, third = holds
        return lambda context: first(context) and second(context) and third(context)

    def all_of_them(context: RequestContext) -> bool:
        for each in holds:  # noqa: SIM110 - `all` costs twice as much
            if not each(context):
                return False
        return True

    return all_of_them


def _some(holds: list[Holds]) -> Holds:
    if len(holds) == 2:
        one, other = holds
        return lambda context: one(context) or other(context)

    def some_of_them(context: RequestContext) -> bool:
        for each in holds:  # noqa: SIM110 - `any` costs twice as much
            if each(context):
                return True
        return False

    return some_of_them


# --- Policies --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: its name, and the rule by which it matches."""

    name: str
    rule: Rule


class Rules:
    """Policies in the order in which they are tried, and the action of the first that matches."""

    __slots__ = ("_kinds", "_questions", "action", "policies")

    def __init__(self, action: Action, policies: Sequence[Policy]) -> None:
        self.action = action
        self.policies = tuple(policies)
        asked = {each.key: each.holds for policy in self.policies for each in questions(policy.rule)}
        self._questions = tuple(asked.items())
        self._kinds: dict[tuple[bool, ...], Residual] = {}

    def matching(self, context: RequestContext) -> str:
        """The name of the first policy that matches; empty if none does."""
        facts = context.record.facts
        left = facts.decided.get(self)
        if not isinstance(left, Residual):
            left = self.residual(facts)
        return left.matching(context)

    def residual(self, facts: Facts) -> "Residual":
        """What is left of the policies for the requests of a connection; it is kept with the connection's facts."""
        answers = tuple([holds(facts) for _, holds in self._questions])
        left = self._kinds.get(answers)
        if left is None:
            if len(self._kinds) >= MAX_KINDS_OF_CONNECTIONS:
                self._kinds.clear()
            known = {key: answer for (key, _), answer in zip(self._questions, answers, strict=True)}
            left = Residual([(policy.name, residual(policy.rule, known)) for policy in self.policies])
            self._kinds[answers] = left
        facts.decided[self] = left
        return left

    def lets_in(self, matching: str) -> bool:
        """Whether the action lets a request in; `matching` is the policy that matched, empty if none did."""
        action = self.action
        return bool(matching) is (action is _ALLOW) or action is _LOG


class Residual:
    """What is left of policies once their questions to a connection are answered.

    Attributes:
        matching: request → the name of the first policy that matches; empty if none does.
        settled: that name, where it is the same for every request; None where it depends on them.
    """

    __slots__ = ("matching", "settled")

    def __init__(self, policies: Iterable[tuple[str, Rule]]) -> None:
        left: list[tuple[str, Rule]] = []
        otherwise = ""
        for name, rule in policies:
            if rule is True:
                otherwise = name
                break
            if rule is not False:
                left.append((name, rule))
        self.settled = None if left else otherwise
        self.matching = _first(left, otherwise)


def _first(policies: list[tuple[str, Rule]], otherwise: str) -> Callable[[RequestContext], str]:
    if not policies:
        return lambda _: otherwise
    if len(policies) == 1:
        [(name, rule)] = policies
        holds = _compiled(rule)
        return lambda context: name if holds(context) else otherwise
    if len(policies) < _WORTH_AN_INDEX:
        compiled = [(name, _compiled(rule)) for name, rule in policies]

        def first(context: RequestContext) -> str:
            for name, holds in compiled:
                if holds(context):
                    return name
            return otherwise

        return first
    return _Index(policies, otherwise).first


class _Index:
    """Many policies, of which only those are tried that can match a request's path; as in `routing.Routes`."""

    __slots__ = ("_all", "_exact", "_others", "_otherwise", "_prefixes")

    def __init__(self, policies: list[tuple[str, Rule]], otherwise: str) -> None:
        self._all = [(name, _compiled(_without_path(rule))) for name, rule in policies]
        self._otherwise = otherwise
        self._others: list[int] = []
        self._exact: dict[bytes, list[int]] = {}
        prefixes: dict[int, dict[bytes, list[int]]] = {}
        for position, (_, rule) in enumerate(policies):
            paths = _paths(rule)
            if paths is None:
                self._others.append(position)
                continue
            for kind, path in dict.fromkeys(paths):
                table = self._exact if kind is PathKind.EXACT else prefixes.setdefault(len(path), {})
                table.setdefault(path, []).append(position)
        self._prefixes = list(prefixes.items())

    def first(self, context: RequestContext) -> str:
        """The name of the first that matches: the same that trying all of them in turn would find."""
        path = context.request.path
        candidates = self._others
        for length, by_prefix in self._prefixes:
            if (found := by_prefix.get(path[:length])) is not None:
                candidates = sorted(candidates + found) if candidates else found
        if self._exact and (found := self._exact.get(without_query(path))) is not None:
            candidates = sorted(candidates + found) if candidates else found
        policies = self._all
        for position in candidates:
            name, holds = policies[position]
            if holds(context):
                return name
        return self._otherwise


def _without_path(rule: Rule) -> Rule:
    """`rule` without what is known once the path is one of `_paths(rule)`."""
    if isinstance(rule, OfRequest) and rule.of_path:
        return True
    if not isinstance(rule, All):
        return rule
    found = _paths(rule)
    known = [each for each in rule.rules if isinstance(each, OfRequest) and each.of_path and each.paths == found]
    left = tuple([each for each in rule.rules if each not in known])
    return All(left) if len(left) > 1 else left[0] if left else True


def without_query(target: bytes) -> bytes:
    """The path of a request target, without query and fragment."""
    path = target.partition(b"?")[0] if b"?" in target else target
    return path.partition(b"#")[0] if b"#" in path else path
