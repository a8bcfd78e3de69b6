"""How much a peer may send, and when it is told that it may send more."""

from hypothesis import given
from hypothesis import strategies as st

from pymesh.http2.flow_control import LEAST_CREDIT, ReceiveWindow


def test_half_of_a_window_is_announced_at_once() -> None:
    window = ReceiveWindow(10_000, 10_000)
    assert window.take(8000)
    assert [window.give(size) for size in (1000, 999, 1, 0)] == [0, 0, 2000, 0]
    assert window.left == 4000


def test_what_is_held_by_others_does_not_hold_back_credit() -> None:
    window = ReceiveWindow(100_000, 100_000)
    assert window.take(100_000)
    assert [window.give(LEAST_CREDIT - 1), window.give(1)] == [0, LEAST_CREDIT]


def test_small_windows_have_small_credit() -> None:
    window = ReceiveWindow(210, 210)
    assert window.take(210)
    assert [window.give(51), window.give(1)] == [0, 52]


def test_more_than_the_window_holds() -> None:
    window = ReceiveWindow(10, 10)
    assert window.take(10)
    assert window.take(0)
    assert not window.take(1)


def test_nothing_is_welcome_in_a_window_that_has_shrunk() -> None:
    window = ReceiveWindow(-5, 10)
    assert window.take(0)
    assert not window.take(1)


@given(st.integers(1, 1 << 20), st.lists(st.integers(1, 1 << 16), max_size=50))
def test_credit_is_neither_lost_nor_invented_and_nobody_gets_stuck(size: int, wanted: list[int]) -> None:
    window = ReceiveWindow(size, size)
    allowed, sent, taken = size, 0, 0
    for want in wanted:
        piece = min(want, allowed - sent)
        assert window.take(piece)
        sent += piece
        allowed += window.give(piece)
        taken += piece
        assert window.left == allowed - sent
        assert taken <= sent
        assert allowed - sent > 0, "everything was consumed, and yet nothing may be sent"
        assert allowed <= taken + size
