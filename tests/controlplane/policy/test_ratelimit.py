"""Envoy's global rate limits: which rules a descriptor is for, and what they say."""

from dataclasses import replace

import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from pymesh_controlplane.policy.checks import Limits
from pymesh_controlplane.policy.ratelimit import MAX_DESCRIPTORS, MAX_ENTRIES, answer, asked_by, decide
from pymesh_controlplane.policy.rules import Rate, Rule, Rules

HOST = "web.default.svc.cluster.local"


def rules(**rates: Rate) -> Rules:
    named = {f"RateLimit default/{name}": rate for name, rate in rates.items()}
    return Rules("epoch", {name: Rule(name, (HOST,), rate, "Open", "Closed") for name, rate in named.items()})


ALL = rules(
    plain=Rate(9, 60, 9),
    user=Rate(2, 60, 2, ("request.headers[X-User]",)),
    address=Rate(9, 60, 9, ("source.address",)),
    orders=Rate(9, 60, 9, ("request.path[/users/{user}/{*}]",)),
    two=Rate(9, 60, 9, ("request.method", "request.path")),
)


def request(*descriptors: dict[str, str], domain: str = HOST, hits: int = 0) -> RateLimitRequest:
    found = RateLimitRequest(domain=domain, hits_addend=hits)
    for descriptor in descriptors:
        added = found.descriptors.add()
        for key, value in descriptor.items():
            added.entries.add(key=key, value=value)
    return found


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"request.headers[x-user]": "a"}, [("user", ("a",))]),
        ({"request.headers[X-USER]": "a", "generic_key": "user"}, [("user", ("a",))]),
        ({"request.headers[x-user]": "a", "generic_key": "plain"}, []),
        ({"remote_address": "10.0.0.1"}, [("address", ("10.0.0.1",))]),
        ({"request.path[/users/{user}/{*}]": "/users/7/x?q=1"}, [("orders", ("/users/7/{*}",))]),
        ({"request.path[/users/{user}/{*}]": "/other"}, []),
        ({"request.path": "/p?q", "request.method": "GET"}, [("two", ("GET", "/p"))]),
        ({"request.path": "/p"}, []),
        ({"generic_key": "plain"}, [("plain", ())]),
        ({"generic_key": "absent"}, []),
        ({}, []),
    ],
)
def test_which_rules_a_descriptor_is_for(entries: dict[str, str], expected: list[tuple[str, tuple[str, ...]]]) -> None:
    found = [(one.rule.name.rpartition("/")[2], one.key) for one in asked_by(request(entries), ALL)]
    assert found == expected
    assert asked_by(request(entries, domain="other"), ALL) == ()


def test_one_refusal_spends_nothing_and_each_descriptor_is_told_its_own() -> None:
    limits = Limits()
    limits.put(ALL, 0)
    both = request({"generic_key": "plain"}, {"request.headers[x-user]": "a"})
    for left in (1, 0):
        said = answer(decide(asked_by(both, ALL), limits, 0), 2)
        assert said.overall_code == RateLimitResponse.OK
        assert said.statuses[1].limit_remaining == left
    said = answer(decide(asked_by(both, ALL), limits, 0), 2)
    assert said.overall_code == RateLimitResponse.OVER_LIMIT
    assert [status.code for status in said.statuses] == [RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT]
    assert said.statuses[0].limit_remaining == 7
    assert said.statuses[1].current_limit.name == "RateLimit default/user"
    assert said.statuses[1].current_limit.unit == RateLimitResponse.RateLimit.MINUTE
    assert said.statuses[1].duration_until_reset.ToSeconds() == 30
    assert {one.key: one.value for one in said.response_headers_to_add} == {
        "retry-after": "30",
        "ratelimit-policy": '"default/user";q=2;w=60',
        "ratelimit": '"default/user";r=0;t=30',
    }
    assert said.raw_body.startswith(
        b"RateLimit default/user: 2 a minute for each request.headers[X-User]; try again in"
    )


def test_hits_are_taken_together_or_not_at_all() -> None:
    limits = Limits()
    limits.put(ALL, 0)
    plain = {"generic_key": "plain"}
    assert not decide(asked_by(request(plain, hits=8), ALL), limits, 0).waits
    assert decide(asked_by(request(plain, hits=2), ALL), limits, 0).waits
    assert not decide(asked_by(request(plain), ALL), limits, 0).waits
    too_many = decide(asked_by(request(plain, hits=10), ALL), limits, 3600 * 10**9)
    assert too_many.waits, "more than the burst never comes in at once"


def test_on_a_dry_run_nobody_is_refused() -> None:
    name = "RateLimit default/user"
    dry = replace(ALL, by_name={name: replace(ALL.by_name[name], dry_run=True)})
    limits = Limits()
    limits.put(dry, 0)
    told = [decide(asked_by(request({"request.headers[x-user]": "a"}), dry), limits, 0) for _ in range(3)]
    assert [bool(one.waits) for one in told] == [False] * 3
    assert [one.would_refuse for one in told] == [frozenset(), frozenset(), frozenset({name})]


@pytest.mark.parametrize(
    "nonsense",
    [
        request(),
        request(*({"generic_key": "a"} for _ in range(MAX_DESCRIPTORS + 1))),
        request({str(number): "a" for number in range(MAX_ENTRIES + 1)}),
    ],
)
def test_what_is_too_much_is_refused_before_anything_is_done_for_it(nonsense: RateLimitRequest) -> None:
    with pytest.raises(ValueError, match=r"descriptors|entries"):
        asked_by(nonsense, ALL)
