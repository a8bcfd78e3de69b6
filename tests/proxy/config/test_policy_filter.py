"""The policy filter's configuration: read strictly, refused with the path of what is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xds.type.v3.typed_struct_pb2 import TypedStruct

from pymesh.errors import ConfigError
from pymesh.policy_api import FILTER, FILTER_TYPE
from pymesh_proxy.config.policy_filter import policy_filter
from pymesh_proxy.filters.policy import CheckSettings, PolicyFilter
from pymesh_proxy.filters.rates import RateSettings
from pymesh_proxy.filters.slots import SlotSettings
from pymesh_proxy.filters.standing import Mode
from tests.proxy.filters.test_remembered import context

SLOTS = {"name": "ConcurrencyLimit a/b", "kind": "slots", "max": 3, "failure_mode": "OPEN", "otherwise": "CLOSED"}
RATE = {
    "name": "RateLimit a/c", "kind": "rate", "requests": 600, "period": "60s", "burst": 100,
    "failure_mode": "OPEN", "otherwise": "CLOSED",
}  # fmt: skip
CHECK = {"name": "RateLimit a/b", "kind": "check", "failure_mode": "LAST_DECISION", "otherwise": "OPEN"}


def message(value: object, kind: str = FILTER_TYPE) -> TypedStruct:
    found = TypedStruct(type_url=kind)
    found.value.update(value)  # type: ignore[arg-type]  # whatever JSON holds
    return found


def with_rules(*rules: object, **more: object) -> TypedStruct:
    return message({"cluster": "policy", "rules": list(rules), **more})


def compiled(found: TypedStruct) -> PolicyFilter:
    hook = policy_filter(found, "f").on_request
    owner = getattr(hook, "__self__")  # noqa: B009  of a bound method
    assert isinstance(owner, PolicyFilter)
    return owner


def test_all_of_it() -> None:
    by = ["source.principal", "request.headers[x]"]
    settings = compiled(with_rules(SLOTS, {**CHECK, "by": by, "dry_run": True}, timeout="1.5s")).settings
    assert (settings.cluster, settings.timeout) == ("policy", 1.5)
    first, second = settings.rules
    assert first == SlotSettings("ConcurrencyLimit a/b", 3, Mode.OPEN, Mode.CLOSED)
    assert isinstance(second, CheckSettings)
    assert (second.name, second.mode, second.otherwise) == ("RateLimit a/b", Mode.LAST_DECISION, Mode.OPEN)
    assert second.by.names == tuple(by)
    assert second.dry_run
    assert policy_filter(with_rules(SLOTS), "f").name == FILTER


def test_what_need_not_be_said() -> None:
    settings = compiled(with_rules({**SLOTS, "by": []}, CHECK)).settings
    assert settings.timeout == 0.05


def test_a_rate() -> None:
    (rate,) = compiled(with_rules(RATE)).settings.rules
    assert rate == RateSettings("RateLimit a/c", 600, 60, 100, Mode.OPEN, Mode.CLOSED)


REFUSED = [
    (message({"cluster": "c"}), "f.value.rules", "is required"),
    (message({"rules": [SLOTS]}), "f.value.cluster", "is required"),
    (message({"cluster": "", "rules": [SLOTS]}), "f.value.cluster", "must be a text"),
    (message({"cluster": "c", "rules": {}}), "f.value.rules", "must be a list"),
    (message({"cluster": "c", "rules": []}), "f.value.rules", "1 to 256 rules"),
    (with_rules(SLOTS, SLOTS), "f.value.rules[1].name", "given twice"),
    (with_rules("a"), "f.value.rules[0]", "must be an object"),
    (with_rules(SLOTS, retries=3), "f.value.retries", "not supported"),
    (with_rules({**SLOTS, "burst": 3}), "f.value.rules[0].burst", "not supported"),
    (with_rules({**CHECK, "max": 3}), "f.value.rules[0].max", "not supported"),
    (with_rules({**SLOTS, "by": ["source.principal"]}), "f.value.rules[0].by", "goes with kind `check` only"),
    (with_rules({**RATE, "period": "7s"}), "f.value.rules[0]", "in 1, 60, 3600 or 86400 s"),
    (with_rules({**RATE, "requests": 0}), "f.value.rules[0]", "one request at least"),
    (with_rules({**RATE, "burst": -1}), "f.value.rules[0].burst", "whole number"),
    (with_rules({**SLOTS, "kind": "other"}), "f.value.rules[0].kind", "one of slots, rate, check"),
    (with_rules({**SLOTS, "max": 1.5}), "f.value.rules[0].max", "whole number"),
    (with_rules({**SLOTS, "max": -1}), "f.value.rules[0].max", "whole number"),
    (with_rules({**SLOTS, "max": 2**31}), "f.value.rules[0].max", "whole number"),
    (with_rules({**SLOTS, "max": "3"}), "f.value.rules[0].max", "whole number"),
    (with_rules({**SLOTS, "failure_mode": "open"}), "f.value.rules[0].failure_mode", "OPEN, CLOSED, LAST_DECISION"),
    (with_rules({**SLOTS, "otherwise": "LAST_DECISION"}), "f.value.rules[0].otherwise", "one of OPEN, CLOSED"),
    (with_rules({**SLOTS, "name": "a,b"}), "f.value.rules[0].name", "comma"),
    (with_rules({**CHECK, "by": ["source.ip"]}), "f.value.rules[0].by[0]", "no attribute"),
    (with_rules({**CHECK, "by": "source.principal"}), "f.value.rules[0].by", "must be a list"),
    (with_rules({**CHECK, "dry_run": "true"}), "f.value.rules[0].dry_run", "true or false"),
    (with_rules(SLOTS, timeout="0s"), "f.value.timeout", "above 0"),
    (with_rules(SLOTS, timeout="61s"), "f.value.timeout", "at most 60 s"),
    (with_rules(SLOTS, timeout=1), "f.value.timeout", "a duration"),
]


@pytest.mark.parametrize(("found", "path", "problem"), REFUSED, ids=[path for _, path, _ in REFUSED])
def test_what_is_refused(found: TypedStruct, path: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        policy_filter(found, "f")
    assert caught.value.path == path


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SLOTS, "by", "x"]), inner),
    max_leaves=10,
)


@given(_JSON, st.sampled_from([*SLOTS, "by"]))
def test_no_value_does_more_than_be_refused(value: object, key: str) -> None:
    try:
        policy_filter(with_rules({**CHECK, key: value}), "f")
    except ConfigError as error:
        json.dumps(error.path)


def test_a_filter_that_is_not_in_force_lets_nothing_pass() -> None:
    found = compiled(with_rules(SLOTS))
    with pytest.raises(RuntimeError, match="before it was in force"):
        found.on_request(context())


@pytest.mark.parametrize("period", [1, 60, 3600, 86_400])
def test_every_period_that_a_rate_may_have_is_taken(period: int) -> None:
    """An hour is longer than any duration elsewhere in this filter."""
    (found,) = compiled(with_rules({**RATE, "period": f"{period}s"})).settings.rules
    assert isinstance(found, RateSettings)
    assert found.period == period
