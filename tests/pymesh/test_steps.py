"""Work in steps, taken whole."""

import pytest

from pymesh.steps import Steps, whole


def work(times: int) -> Steps[int]:
    for _ in range(times):
        yield
    if times > 2:
        raise ValueError("too much")
    return times


def test_the_whole_has_the_result() -> None:
    assert (whole(work(0)), whole(work(2))) == (0, 2)


def test_what_fails_fails() -> None:
    with pytest.raises(ValueError, match="too much"):
        whole(work(3))
