"""When to push, and to whom."""

from hypothesis import given
from hypothesis import strategies as st

from pymesh_controlplane.pilot.push import LONGEST_DELAY, QUIET, Debounce, PushQueue


def test_a_change_is_pushed_after_a_moment_of_quiet() -> None:
    """Not before, and once."""
    debounce = Debounce(quiet=0.1, longest=0.5)
    assert debounce.due() is None
    debounce.changed(10.0)
    assert debounce.due() == 10.1
    assert debounce.take(10.05) is None
    assert debounce.take(10.1) == 10.0
    assert debounce.take(10.2) is None
    assert debounce.due() is None


def test_changes_that_keep_coming_are_pushed_all_the_same() -> None:
    """After the longest delay; then the next burst begins."""
    debounce = Debounce(quiet=0.1, longest=0.5)
    for tenth in range(60):
        debounce.changed(tenth / 100)
    assert debounce.due() == 0.5
    assert debounce.take(0.59) == 0.0
    debounce.changed(0.6)
    assert debounce.due() == 0.7


@given(st.lists(st.floats(0, 2), min_size=1, max_size=50))
def test_no_change_waits_longer_than_the_longest_delay(gaps: list[float]) -> None:
    """Whatever the rhythm."""
    debounce, now = Debounce(), 0.0
    waiting: float | None = None
    for gap in gaps:
        now += gap
        if (due := debounce.due()) is not None and due <= now:
            assert waiting is not None
            assert due - waiting <= LONGEST_DELAY + 1e-9
            assert debounce.take(due) == waiting
            waiting = None
        debounce.changed(now)
        waiting = now if waiting is None else waiting
        due = debounce.due()
        assert due is not None
        assert due <= now + QUIET + 1e-9


def test_a_proxy_stands_in_the_queue_once_with_its_oldest_change() -> None:
    """And keeps its place."""
    queue = PushQueue()
    queue.add([1, 2, 3], 10.0)
    queue.add([3, 2, 1, 4], 11.0)
    queue.remove(2)
    queue.remove(7)
    assert len(queue) == 3
    assert [queue.pop() for _ in range(4)] == [(1, 10.0), (3, 10.0), (4, 11.0), None]
