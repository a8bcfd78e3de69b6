"""The bounded queue: in order, within its bound, and every entry either taken or counted as dropped."""

from hypothesis import given
from hypothesis import strategies as st

from pymesh_proxy.telemetry.backlog import Backlog

CAPACITY = 20
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 25)),
        st.tuples(st.just("take"), st.integers(0, 25)),
        st.tuples(st.just("fail"), st.integers(0, 25)),
    )
)


@given(STEPS)
def test_nothing_is_lost_uncounted_and_nothing_comes_out_of_order(steps: list[tuple[str, int]]) -> None:
    backlog = Backlog(CAPACITY)
    added, taken, dropped = 0, [], 0
    for what, size in steps:
        if what == "add":
            dropped += backlog.add(bytes([added]) * size)
            added += 1
        else:
            batch = backlog.take(size)
            assert not batch or len(batch) == 1 or sum(map(len, batch)) <= size
            if what == "fail":
                dropped += backlog.put_back(batch)
            else:
                taken += batch
        assert backlog.size <= CAPACITY
    rest = backlog.take(10**6)
    assert (backlog.size, len(backlog)) == (0, 0)
    assert len(taken) + len(rest) + dropped == added
    order = [entry[0] for entry in taken + rest if entry]
    assert order == sorted(order)


def test_the_oldest_make_room() -> None:
    backlog = Backlog(10)
    assert [backlog.add(entry) for entry in (b"1234", b"5678", b"abcd")] == [0, 0, 1]
    assert backlog.take(100) == [b"5678", b"abcd"]
    assert backlog.add(b"x" * 11) == 1
    assert backlog.put_back([b"x" * 11, b"y"]) == 1
    assert backlog.take(0) == [b"y"]
