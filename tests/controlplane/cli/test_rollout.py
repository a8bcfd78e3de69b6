"""When a step is over, when it is waited for, and when it goes back; and signals as something to look at."""

import os
import signal

import pytest

from pymesh_controlplane.cli import guard
from pymesh_controlplane.cli.rollout import PATIENCE, InterruptedByPersonError, Seen, Signals, StepError, judge

RULES = guard.parse("errors<1%")


def seen(requests: int, failed: int = 0) -> Seen:
    numbers = {"requests": requests, "failed": failed, "errors": failed / max(requests, 1), "p50_ms": 1, "p99_ms": 2}
    return Seen(10, 7, {"v2": numbers, "v1": {**numbers, "errors": 1.0}} if requests else {})


def test_a_step_that_went_well_is_over_with_its_time_and_not_before() -> None:
    assert judge(seen(100), "v2", RULES, over=-3.0) == "watched for 3 s more"
    assert judge(seen(100), "v2", RULES, over=0.1) == ""


def test_a_breach_does_not_wait_for_the_end_of_the_step_and_only_the_new_version_is_judged() -> None:
    with pytest.raises(StepError, match=r"v2 has errors 50\.0%, and the guard says errors<1%"):
        judge(seen(100, 50), "v2", RULES, over=-3.0)
    assert judge(seen(100, 50), "v2", (), over=1.0) == ""


@pytest.mark.parametrize("requests", [0, guard.ENOUGH - 1])
def test_too_few_requests_are_waited_for_and_not_for_ever(requests: int) -> None:
    waiting = judge(seen(requests), "v2", RULES, over=PATIENCE - 1)
    assert waiting == f"waiting for requests: {requests} of the {guard.ENOUGH} that v2 is judged by"
    with pytest.raises(StepError, match=f"v2 had {requests} requests in 7 s, too few to judge it by"):
        judge(seen(requests), "v2", RULES, over=PATIENCE + 1)
    assert judge(seen(requests), "v2", (), over=1.0) == ""


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")])
def test_a_signal_is_noticed_at_the_next_pause_and_can_be_ignored(number: signal.Signals, words: str) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        os.kill(os.getpid(), number)
        with pytest.raises(InterruptedByPersonError, match=words):
            signals.pause(0)
        signals.ignore()
        os.kill(os.getpid(), number)
        signals.pause(0)
    assert signal.getsignal(number) is before
