"""Which deadline comes first, and which has passed."""

import pytest

from pymesh_proxy.deadlines import Deadlines, Expired
from pymesh_proxy.timers import NEVER

EACH = {
    "response": Expired.RESPONSE,
    "arrival": Expired.ARRIVAL,
    "attempt": Expired.ATTEMPT,
    "idle": Expired.IDLE,
}


def test_without_limits_nothing_ever_expires() -> None:
    assert Deadlines().first() == NEVER
    assert Deadlines().expired(1e12) is None


@pytest.mark.parametrize("name", EACH)
def test_each_expires_by_itself_and_not_before_its_time(name: str) -> None:
    found = Deadlines(**{name: 10.0})
    assert found.first() == 10.0
    assert found.expired(9.999) is None
    assert found.expired(10.0) is EACH[name]


@pytest.mark.parametrize("name", EACH)
def test_the_first_is_the_nearest(name: str) -> None:
    found = Deadlines(20.0, 20.0, 20.0, 20.0)
    setattr(found, name, 10.0)
    assert found.first() == 10.0
    assert found.expired(15.0) is EACH[name]


def test_the_widest_is_told_of_several() -> None:
    found = Deadlines(1.0, 1.0, 1.0, 1.0)
    for name, expired in EACH.items():
        assert found.expired(1.0) is expired
        setattr(found, name, NEVER)
