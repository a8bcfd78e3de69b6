"""Checks: which rules, counted by what, and the answer as Envoy takes it."""

from dataclasses import replace

import pytest
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from google.protobuf.json_format import MessageToDict

from pymesh.checks import Verdict
from pymesh_controlplane.policy.buckets import NANOSECONDS, Spent
from pymesh_controlplane.policy.checks import (
    Decision,
    Limits,
    answer,
    asked_rules,
    both,
    key_of,
    of_python,
    request_of,
    speaks_grpc,
)
from pymesh_controlplane.policy.rules import Code, Memory, Rate, Rule, Rules

A, B = "RateLimit default/a", "RateLimit default/b"


def rules(**rates: Rate) -> Rules:
    named = {f"RateLimit default/{name}": rate for name, rate in rates.items()}
    return Rules("epoch", {name: Rule(name, (), rate, "Open", "Closed") for name, rate in named.items()})


def request(principal: str = "", path: str = "/", **headers: str) -> AttributeContext:
    found = AttributeContext()
    found.source.principal = principal
    found.source.address.socket_address.address = "10.0.0.9"
    found.request.http.path = path
    found.request.http.method = "GET"
    found.request.http.host = "Reviews"
    found.request.http.headers.update(headers)
    return found


def test_attributes_are_those_that_envoy_tells() -> None:
    """The path without its query, the host in small letters, a header by its name in any case."""
    by = ("source.principal", "source.address", "request.method", "request.host", "request.path")
    by += ("request.headers[X-Tenant]", "request.headers[absent]")
    key = key_of(by, request("spiffe://a", "/p?q=1", **{"x-tenant": "t"}))
    assert key == ("spiffe://a", "10.0.0.9", "GET", "reviews", "/p", "t", "")


def test_who_calls_and_what_his_token_says() -> None:
    """From the identity, and from what the filter for JWTs has verified."""
    about = request("spiffe://cluster.local/ns/shop/sa/web")
    by = ("source.namespace", "source.serviceAccount", "request.auth.principal", "request.auth.claims[realm][role]")
    assert key_of(by, about) == ("shop", "shop/web", "", "")
    claims = {"iss": "https://i", "sub": "u", "realm": {"role": "admin", "level": 3}}
    about.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"].update({"payload": claims})
    assert key_of(by, about) == ("shop", "shop/web", "https://i/u", "admin")
    assert key_of(("request.auth.claims[realm][level]",), about) == ("3",)


def test_a_rule_by_a_path_template_is_about_the_paths_that_match_and_no_others() -> None:
    limits = Limits()
    limits.put(rules(a=Rate(1, 60, 1, ("request.path[/users/{user}/{*}]",))), 0)
    paths = ["/users/7/a?x", "/users/7/b", "/users/8/a", "/other", "/other"]
    refused = [limits.decide([A], request(path=path), 0).refused_by for path in paths]
    assert refused == ["", A, "", "", ""]
    assert limits.decide([A], request(path="/other"), 0) == Decision(())


def test_on_a_dry_run_a_rule_counts_and_refuses_nobody() -> None:
    """Nor does it count whom it would have refused, as if it had."""
    limits = Limits()
    a, b = Rate(1, 60, 1), Rate(9, 60, 9)
    found, two = rules(a=a, b=b), {A: a, B: b}
    dry = replace(found.by_name[A], dry_run=True)
    limits.put(replace(found, by_name={**found.by_name, A: dry}), 0)
    minute = 60 * NANOSECONDS
    assert limits.decide([A, B], request(), 0) == Decision((A, B), spent={A: Spent(0, 0), B: Spent(0, 8)}, rates=two)
    expected = Decision((A, B), would_refuse=(A,), spent={A: Spent(minute, 0), B: Spent(0, 7)}, rates=two)
    assert limits.decide([A, B], request(), 0) == expected
    assert limits.decide([A], request(), minute) == Decision((A,), spent={A: Spent(0, 0)}, rates={A: a})
    given = answer(Decision((A, B), would_refuse=(A,)), limits.rules)
    assert given.HasField("ok_response")
    assert MessageToDict(given.dynamic_metadata)["pymesh.policy"]["would_refuse"] == [A]


def test_all_rules_have_to_agree_and_a_refusal_costs_nothing() -> None:
    """Of the one that refuses nothing is spent, nor of the other."""
    limits = Limits()
    a, b = Rate(10, 1, 2), Rate(10, 1, 1)
    limits.put(rules(a=a, b=b), 0)
    first = Decision((A, B), spent={A: Spent(0, 1), B: Spent(0, 0)}, rates={A: a, B: b})
    assert limits.decide([A, B], request(), 0) == first
    memories, spent = {B: Memory(0.1, None, ())}, {B: Spent(NANOSECONDS // 10, 0)}
    refused = Decision((A, B), B, 0.1, memories=memories, spent=spent, rates={B: b})
    assert limits.decide([A, B], request(), 0) == refused
    assert limits.decide([A], request(), 0) == Decision((A,), spent={A: Spent(0, 0)}, rates={A: a})
    assert limits.decide([A], request(), 0).refused_by == A


def test_what_is_not_in_force_limits_nothing() -> None:
    """A rule that was deleted, and the sidecar has not heard yet."""
    limits = Limits()
    limits.put(rules(a=Rate(1, 1, 1)), 0)
    assert limits.decide(["RateLimit default/gone"], request(), 0) == Decision(())


def test_a_change_of_one_rule_leaves_the_others_alone() -> None:
    """And of itself keeps what was spent."""
    limits = Limits()
    limits.put(rules(a=Rate(2, 60, 2), b=Rate(1, 60, 1)), 0)
    limits.decide([A, B], request(), 0)
    limits.put(rules(a=Rate(3, 60, 3), b=Rate(1, 60, 1)), NANOSECONDS)
    assert limits.decide([B], request(), NANOSECONDS).refused_by == B
    assert [limits.decide([A], request(), NANOSECONDS).refused_by for _ in range(3)] == ["", "", A]


def test_a_sidecar_is_told_where_each_rate_stands_so_that_it_can_go_on_with_it() -> None:
    """Of those that were spent, or of the one that refuses; nothing is said of others."""
    limits = Limits()
    found = rules(a=Rate(10, 60, 5), b=Rate(1, 1, 1))
    limits.put(replace(found, pods={A: frozenset({"web-0.default", "web-1.default"})}), 0)
    told = [answer(limits.decide([A, B], request(), 0), limits.rules) for _ in range(2)]
    first, second = (MessageToDict(each.dynamic_metadata)["pymesh.policy"]["rates"] for each in told)
    b = {"requests": 1, "period": 1, "burst": 1, "sidecars": 1, "full_in": 1}
    assert first == {A: {"requests": 10, "period": 60, "burst": 5, "sidecars": 2, "full_in": 6}, B: b}
    assert second == {B: b}


def test_rules_that_change_while_a_request_is_asked_about_are_told_as_they_were_when_it_was_decided() -> None:
    """`answer` has those from before: there may be no such rate, or another one, of which not as many could be left."""
    limits = Limits()
    before = rules(a=Rate(10, 60, 5))
    limits.put(rules(a=Rate(100, 1, 100), b=Rate(1, 1, 1)), 0)
    let_in, refused = (answer(limits.decide([A, B], request(), 0), before) for _ in range(2))
    about = MessageToDict(let_in.dynamic_metadata)["pymesh.policy"]["rates"]
    assert about[A] == {"requests": 100, "period": 1, "burst": 100, "sidecars": 1, "full_in": 0.01}
    assert about[B] == {"requests": 1, "period": 1, "burst": 1, "sidecars": 1, "full_in": 1}
    assert refused.denied_response.body == f"{B}: 1 a second; try again in 1 s\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("RateLimit default/a", (A,)),
        ("RateLimit default/b, RateLimit default/a,,", (B, A)),
        (f"{A},{A}", (A,)),
    ],
)
def test_the_rules_of_a_check(text: str, expected: tuple[str, ...]) -> None:
    """Separated by commas, each once, in their order."""
    assert asked_rules(AttributeContext(context_extensions={"pymesh.rules": text})) == expected


def test_a_check_about_everything_is_refused() -> None:
    """It is bounded before anything is done for it."""
    with pytest.raises(ValueError, match="257 rules"):
        asked_rules(AttributeContext(context_extensions={"pymesh.rules": ",".join(map(str, range(257)))}))


def test_yes_has_what_a_sidecar_needs_to_remember_it() -> None:
    """A rate's yes is for one request."""
    given = MessageToDict(answer(Decision((A, B)), rules(a=Rate(1, 1, 1, ("source.principal",)), b=Rate(1, 1, 1))))
    assert given == {
        "okResponse": {},
        "dynamicMetadata": {
            "pymesh.policy": {
                "rule": f"{A},{B}",
                "epoch": "epoch",
                "valid_for": "0s",
                "valid_uses": 0.0,
                "attributes": [],
                "would_refuse": [],
            }
        },
    }


def test_no_says_by_what_and_when_to_come_back() -> None:
    """429, Retry-After in whole seconds, Proxy-Status, and a sentence for people."""
    rate = Rate(5, 60, 2, ("request.path",))
    given = answer(Decision((A,), A, 2.1, rates={A: rate}), rules(a=rate))
    assert given.status.code == 8
    denied = given.denied_response
    assert denied.status.code == 429
    assert {option.header.key: option.header.value for option in denied.headers} == {
        "retry-after": "3",
        "ratelimit-policy": '"default/a";q=5;w=60',
        "ratelimit": '"default/a";r=0;t=3',
        "proxy-status": f'pymesh; error=http_request_denied; details="{A}"',
        "content-type": "text/plain; charset=utf-8",
    }
    assert denied.body == f"{A}: 5 a minute, 2 at once for each request.path; try again in 3 s\n"
    assert MessageToDict(given.dynamic_metadata)["pymesh.policy"]["rule"] == A


# --- Checks in Python ---

C, D = "Check default/c", "Check default/d"
KEPT = Memory(30.0, 100, ("source.principal",))


def code(memory: Memory | None = KEPT, **more: object) -> Rules:
    modes = {"failure_mode": "Closed", "otherwise": "Closed", **more}
    limit = Code("f", 0.05, memory)
    return Rules("epoch", {name: Rule(name, (), limit, **modes) for name in (C, D)})  # type: ignore[arg-type]  # modes


def said(decision: Decision, found: Rules) -> dict[str, object]:
    about: dict[str, object] = MessageToDict(answer(decision, found).dynamic_metadata)["pymesh.policy"]
    return about


def test_a_check_sees_the_request_as_the_sidecar_has_it() -> None:
    about = request("spiffe://t/ns/a/sa/b", "/p?q=1", **{":path": "/p?q=1", "x-tenant": "t"})
    about.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"].update({"payload": {"sub": "u"}})
    seen = request_of(about)
    assert (seen.principal, seen.address, seen.method, seen.host) == (
        "spiffe://t/ns/a/sa/b",
        "10.0.0.9",
        "GET",
        "reviews",
    )
    assert (seen.path, seen.query, seen.headers, seen.claims) == ("/p", "q=1", {"x-tenant": "t"}, {"sub": "u"})


def test_an_answer_is_remembered_as_its_rule_says_or_as_it_says_itself() -> None:
    found = of_python({C: Verdict(True), D: Verdict(True, seconds=5, by=("request.path",))}, code(), tell=True)
    assert found.memories == {C: KEPT, D: Memory(5, 100, ("request.path",))}
    about = said(found, code())
    assert about["rules"] == {
        C: {"valid_for": "30s", "valid_uses": 100.0, "attributes": ["source.principal"]},
        D: {"valid_for": "5s", "valid_uses": 100.0, "attributes": ["request.path"]},
    }
    assert about["valid_for"] == "5s"
    assert about["attributes"] == ["source.principal", "request.path"]


def test_what_nobody_says_how_to_tell_apart_is_not_remembered() -> None:
    found = of_python({C: Verdict(True, seconds=5), D: Verdict(True, by=())}, code(None), tell=True)
    assert found.memories == {}
    assert of_python({C: Verdict(True, seconds=0)}, code(), tell=True).memories == {}


def test_the_first_refusal_wins_and_is_told_with_its_reason() -> None:
    found = of_python({C: Verdict(True), D: Verdict(False, 401, "who are you")}, code(), tell=True)
    assert (found.refused_by, found.memories) == (D, {D: KEPT})
    response = answer(found, code())
    assert response.status.code == 16
    assert response.denied_response.status.code == 401
    assert response.denied_response.body == f"{D}: who are you\n"


@pytest.mark.parametrize(
    ("modes", "refused"),
    [
        ({}, True),
        ({"failure_mode": "Open"}, False),
        ({"failure_mode": "LastDecision"}, True),
        ({"failure_mode": "LastDecision", "otherwise": "Open"}, False),
        ({"dry_run": True}, False),
    ],
)
def test_where_a_check_fails_its_mode_decides_unless_the_sidecar_does_that_itself(
    modes: dict[str, object], refused: bool
) -> None:
    rules = code(**modes)
    told = of_python({C: "f: late", D: Verdict(True)}, rules, tell=True)
    assert (told.refused_by, told.undecided, told.would_refuse) == ("", {C: "f: late"}, ())
    assert said(told, rules)["undecided"] == {C: "f: late"}
    decided = of_python({C: "f: late", D: Verdict(True)}, rules, tell=False)
    assert decided.refused_by == (C if refused else "")
    assert decided.would_refuse == ((C,) if "dry_run" in modes else ())
    if refused:
        response = answer(decided, rules)
        assert (response.status.code, response.denied_response.status.code) == (14, 503)
        assert response.denied_response.body == f"{C}: it could not decide\n"


def test_a_check_on_a_dry_run_refuses_nobody() -> None:
    found = of_python({C: Verdict(False, 403)}, code(dry_run=True), tell=True)
    assert (found.refused_by, found.would_refuse) == ("", (C,))


def test_rates_and_checks_make_one_answer() -> None:
    found = both(of_python({C: Verdict(True)}, code(), tell=True), Decision((A,)))
    assert (found.rules, found.memories) == ((A, C), {C: KEPT})
    refused = both(found, Decision((A,), A, 1.5, memories={A: Memory(1.0, None, ())}))
    assert (refused.refused_by, refused.memories) == (A, {A: Memory(1.0, None, ())})


def test_a_caller_that_speaks_grpc_is_told_its_status_by_any_proxy() -> None:
    about = request(**{"content-type": "application/grpc+proto"})
    rate = Rate(5, 60, 2)
    denied = answer(Decision((A,), A, 2.1, rates={A: rate}), rules(a=rate), for_grpc=speaks_grpc(about)).denied_response
    assert ("grpc-status", "8") in [(option.header.key, option.header.value) for option in denied.headers]
    assert not speaks_grpc(request(**{"content-type": "application/grpc-web"}))
