"""Rules decided early and late: whatever is asked when, the decision is that of asking everything in turn."""

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from pymesh_proxy.filters import access_rules
from pymesh_proxy.filters.access_rules import (
    MAX_KINDS_OF_CONNECTIONS,
    Action,
    All,
    Not,
    OfConnection,
    OfRequest,
    Policy,
    Rule,
    Rules,
    Some,
)
from pymesh_proxy.routing import PathKind
from pymesh_proxy.telemetry.record import RequestRecord
from pymesh_proxy.transport.facts import Facts
from tests.proxy.filters.context import Context
from tests.support.heads import request

PATHS = (b"/a", b"/ab", b"/a/b", b"/b", b"/a?x=/b")
CONNECTIONS = tuple(Facts("inbound", f"10.0.0.{number}:1", "10.1.0.1:80") for number in range(4))


def of_path(kind: PathKind, path: bytes) -> OfRequest:
    if kind is PathKind.EXACT:
        return OfRequest(
            lambda context: access_rules.without_query(context.request.path) == path,
            2,
            ((PathKind.EXACT, path),),
            of_path=True,
        )
    return OfRequest(
        lambda context: context.request.path.startswith(path), paths=((PathKind.PREFIX, path),), of_path=True
    )


def from_network(last: int) -> OfConnection:
    return OfConnection(("from", b"%d" % last), lambda facts: facts.remote == f"10.0.0.{last}:1")


def by_method(method: bytes) -> OfRequest:
    return OfRequest(lambda context: context.request.method == method, cost=1)


LEAVES: st.SearchStrategy[Rule] = st.one_of(
    st.booleans(),
    st.builds(from_network, st.integers(0, 3)),
    st.builds(by_method, st.sampled_from([b"GET", b"POST"])),
    st.builds(
        of_path, st.sampled_from([PathKind.EXACT, PathKind.PREFIX]), st.sampled_from([b"/a", b"/ab", b"/b", b"/"])
    ),
)
RULES: st.SearchStrategy[Rule] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, min_size=1, max_size=4).map(tuple)),
        st.builds(Some, st.lists(inner, min_size=1, max_size=4).map(tuple)),
    ),
    max_leaves=12,
)


def plainly(rule: Rule, context: Context) -> bool:
    """What a rule says, word by word."""
    match rule:
        case OfConnection():
            return rule.holds(context.record.facts)
        case OfRequest():
            return rule.holds(context)
        case Not():
            return not plainly(rule.rule, context)
        case All():
            return all(plainly(each, context) for each in rule.rules)
        case Some():
            return any(plainly(each, context) for each in rule.rules)
        case _:
            return rule


@settings(max_examples=150, deadline=None)
@given(st.lists(RULES, max_size=8), st.sampled_from(PATHS), st.sampled_from(["GET", "POST"]), st.integers(0, 3))
def test_the_same_policy_is_found_as_by_asking_all_in_turn(
    rules: list[Rule], path: bytes, method: str, caller: int
) -> None:
    policies = [Policy(f"p{number}", rule) for number, rule in enumerate(rules)]
    facts = Facts("inbound", CONNECTIONS[caller].remote, "10.1.0.1:80")
    context = Context(request(path.decode(), method=method), RequestRecord(facts, 0.0, 0.0))
    expected = next((policy.name for policy in policies if plainly(policy.rule, context)), "")
    assert Rules(Action.ALLOW, policies).matching(context) == expected


def counting(asked: list[str], name: str, answers: Mapping[str, bool]) -> OfConnection:
    def holds(facts: Facts) -> bool:
        asked.append(name)
        return answers[facts.remote]

    return OfConnection((name, b""), holds)


def test_a_connection_is_asked_once_and_each_question_once() -> None:
    asked: list[str] = []
    question = counting(asked, "who", {"10.0.0.1:1": True, "10.0.0.2:1": False})
    same = OfConnection(question.key, question.holds)
    rules = Rules(Action.ALLOW, [Policy("a", All((question, by_method(b"POST")))), Policy("b", same)])
    first, second = (Facts("inbound", f"10.0.0.{number}:1", "") for number in (1, 2))
    contexts = [Context(request(), RequestRecord(facts, 0.0, 0.0)) for facts in (first, first, second, first)]
    assert [rules.matching(context) for context in contexts] == ["b", "b", "", "b"]
    assert asked == ["who", "who"]


def test_what_is_left_is_shared_by_connections_that_answer_alike() -> None:
    rules = Rules(Action.ALLOW, [Policy("a", All((from_network(1), by_method(b"GET"))))])
    one, other, caller = (Facts("inbound", f"10.0.0.{number}:1", "") for number in (2, 3, 1))
    assert rules.residual(one) is rules.residual(other)
    assert rules.residual(one).settled == ""
    assert rules.residual(caller).settled is None


def test_kinds_of_connections_are_bounded() -> None:
    bits = [
        OfConnection(("bit", b"%d" % bit), lambda facts, bit=bit: bool(int(facts.remote) >> bit & 1))  # type: ignore[misc]  # bound now
        for bit in range(10)
    ]
    rules = Rules(Action.DENY, [Policy(f"{number}", bit) for number, bit in enumerate(bits)])
    for number in range(4 * MAX_KINDS_OF_CONNECTIONS):
        rules.residual(Facts("inbound", str(number), ""))
        assert len(rules._kinds) <= MAX_KINDS_OF_CONNECTIONS


def test_what_costs_less_is_asked_first() -> None:
    asked: list[str] = []

    def question(name: str, cost: int) -> OfRequest:
        def holds(_: object) -> bool:
            asked.append(name)
            return True

        return OfRequest(holds, cost)

    dear = Some((question("dear", 8), question("too", 8)))
    rules = Rules(Action.ALLOW, [Policy("p", All((dear, question("cheap", 1), question("dearer", 9))))])
    assert rules.matching(Context(request(), RequestRecord(CONNECTIONS[0], 0.0, 0.0))) == "p"
    assert asked == ["cheap", "dearer", "dear"]
