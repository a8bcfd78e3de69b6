"""What the status of a resource is to say."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pymesh_controlplane.pilot.model import Problem, Severity
from pymesh_controlplane.sources.ledger import INCOMPLETE, KEPT, STANDS
from pymesh_controlplane.written_back.conditions import MAX_MESSAGE, conditions

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LATER = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
WRONG = Problem(Severity.ERROR, "there is no service nowhere", "spec.hosts[0]", consequence=KEPT)
SENTENCE = "spec.hosts[0]: there is no service nowhere (the version before it stays in force)"
ACCEPTED = {
    "type": "Accepted",
    "status": "True",
    "reason": "Accepted",
    "message": "",
    "observedGeneration": 2,
    "lastTransitionTime": "2026-11-23T12:00:00Z",
}


def resource(*there: dict[str, Any], generation: int = 2) -> dict[str, Any]:
    return {"kind": "VirtualService", "metadata": {"generation": generation}, "status": {"conditions": list(there)}}


def test_what_is_in_force_is_accepted() -> None:
    assert conditions({"metadata": {"generation": 2}, "status": None}, (), NOW) == [ACCEPTED]


def test_what_is_not_is_told_in_galleys_words() -> None:
    [said] = conditions(resource(ACCEPTED), (WRONG,), LATER) or ()
    assert (said["status"], said["reason"], said["message"]) == ("False", "Invalid", SENTENCE)
    assert said["lastTransitionTime"] == "2026-11-23T13:00:00Z"


def test_what_is_said_already_is_not_said_again() -> None:
    """Or the write would be a change, and the change a write."""
    assert conditions(resource(ACCEPTED), (), LATER) is None
    said = conditions(resource(ACCEPTED), (WRONG,), LATER) or []
    assert conditions(resource(*said), (WRONG,), NOW) is None


def test_a_new_version_is_said_to_be_as_good_and_that_is_no_change() -> None:
    """The time is that of the last change from True to False, or back."""
    [said] = conditions(resource(ACCEPTED, generation=3), (), LATER) or ()
    assert (said["observedGeneration"], said["lastTransitionTime"]) == (3, ACCEPTED["lastTransitionTime"])


def test_conditions_of_others_stay() -> None:
    other = {"type": "Programmed", "status": "True"}
    assert conditions(resource(other), (), NOW) == [other, ACCEPTED]


@pytest.mark.parametrize("consequence", [STANDS, INCOMPLETE])
def test_warnings_and_what_broke_around_it_leave_it_accepted(consequence: str) -> None:
    """A route whose service was deleted, or is not there yet, is in force; and it is told what is wrong."""
    warning = Problem(Severity.WARNING, "no port speaks HTTP")
    missing = Problem(Severity.ERROR, "no such service", consequence=consequence)
    [said] = conditions(resource(), (warning, missing), NOW) or ()
    assert (said["status"], said["message"]) == ("True", f"no such service ({consequence})\nno port speaks HTTP")


def test_of_a_version_that_is_not_in_force_only_its_own_mistakes_are_told() -> None:
    """What broke around the one that is in its place is no reason."""
    [said] = conditions(resource(), (Problem(Severity.ERROR, "no such service", consequence=STANDS), WRONG), NOW) or ()
    assert (said["status"], said["message"]) == ("False", SENTENCE)


def test_a_message_has_an_end() -> None:
    [said] = conditions(resource(), (WRONG,) * 200, NOW) or ()
    assert len(said["message"]) == MAX_MESSAGE


@pytest.mark.parametrize("status", [None, {}, "x", {"conditions": None}, {"conditions": 5}, {"conditions": ["x"]}])
def test_a_status_may_hold_anything(status: object) -> None:
    """The kinds of others keep unknown fields."""
    assert conditions({"metadata": {"generation": 2}, "status": status}, (), NOW) == [ACCEPTED]
