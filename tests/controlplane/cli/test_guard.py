"""The guard: what it understands, what it says where it does not, and when it speaks."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.cli import guard
from pymesh_controlplane.cli.guard import ENOUGH, GuardError, Rule


def numbers(
    requests: int = 100, errors: float = 0.0, p50: float | None = 5.0, p99: float | None = 9.0
) -> guard.Numbers:
    failed = round(errors * requests)
    return {"requests": requests, "failed": failed, "errors": errors, "p50_ms": 5.0, "p99_ms": p99}


def test_rules_are_read() -> None:
    assert guard.parse(" errors < 1% , p99<=1.5s") == (
        Rule("errors", False, 0.01, "errors<1%"),
        Rule("p99", True, 1500.0, "p99<=1.5s"),
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "character 1: a rule is missing, as in errors<1%,p99<250ms"),
        ("errors<1%,", "character 11: a rule is missing"),
        ("errors<1%,p9<1s", "character 11: 'p9' is not measured; did you mean p99"),
        ("speed<1", "'speed' is not measured; there are errors, p50, p99"),
        ("errors>1%", "errors needs '<' or '<=' behind it"),
        ("errors", "errors needs '<' or '<=' behind it"),
        ("errors<0.01", "'0.01' is not a share of the requests: write it as in errors<1%"),
        ("errors<101%", "'101%' is not a share"),
        ("p99<250", "'250' is not a duration: write it with its unit, as in p99<250ms"),
        ("p99<", "'' is not a duration"),
        ("p99<1s p50<1s", "is no rule"),
        ("p99<1s,p99<2s", "character 8: there is a rule for p99 already"),
        ("<5", "'<5' is no rule"),
    ],
)
def test_what_is_no_guard_is_told_with_its_place_and_what_to_write(text: str, sentence: str) -> None:
    with pytest.raises(GuardError) as refused:
        guard.parse(text)
    assert str(refused.value).startswith(f"--guard {text!r}, character ")
    assert sentence in str(refused.value)


@given(st.text(alphabet="erosp950<=%,. 1mshx\n", max_size=20))
def test_whatever_is_written_is_a_guard_or_an_error(text: str) -> None:
    with contextlib.suppress(GuardError):
        assert guard.parse(text)


@pytest.mark.parametrize(
    ("text", "given_numbers", "expected"),
    [
        ("errors<1%", numbers(errors=0.0099), None),
        ("errors<1%", numbers(errors=0.01), "errors 1.0%, and the guard says errors<1%"),
        ("errors<=1%", numbers(errors=0.01), None),
        ("errors<=0%", numbers(errors=0.0), None),
        ("errors<1%,p99<10ms", numbers(p99=10.0), "p99 10 ms, and the guard says p99<10ms"),
        ("p50<4ms", numbers(), "p50 5.0 ms, and the guard says p50<4ms"),
        ("p99<1ms", numbers(p99=None), None),
        ("errors<1%", numbers(requests=ENOUGH - 1, errors=1.0), None),
        ("errors<1%", numbers(requests=ENOUGH, errors=1.0), "errors 100%, and the guard says errors<1%"),
    ],
)
def test_it_speaks_when_a_rule_is_broken_and_there_is_enough_to_tell(
    text: str, given_numbers: guard.Numbers, expected: str | None
) -> None:
    assert guard.breach(guard.parse(text), given_numbers) == expected
