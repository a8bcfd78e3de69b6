"""What is remembered of pure functions, and what is forgotten."""

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster

from pymesh_controlplane.pilot.memory import Memory


@pytest.fixture
def calls() -> list[tuple[int, int]]:
    return []


def test_a_function_is_called_again_only_for_other_inputs(calls: list[tuple[int, int]]) -> None:
    def add(a: int, b: int) -> int:
        calls.append((a, b))
        return a + b

    memory = Memory()
    assert [memory.call(add, "x", *inputs) for inputs in ((1, 2), (1, 2), (1, 3), (1, 2))] == [3, 3, 4, 3]
    assert calls == [(1, 2), (1, 3), (1, 2)]
    assert memory.call(add, "y", 1, 3) == 4
    assert memory.call(add, "x", 1, 2) == 3
    assert calls == [(1, 2), (1, 3), (1, 2), (1, 3)]


def test_what_one_function_made_is_not_taken_for_what_another_makes() -> None:
    def double(number: int) -> int:
        return number * 2

    memory = Memory()
    assert memory.call(double, "x", 3) == 6
    assert memory.call(str, "x", 3) == "3"


def test_nothing_is_remembered_that_was_not_asked_for_in_a_whole_turn(calls: list[tuple[int, int]]) -> None:
    def make(number: int) -> list[int]:
        calls.append((number, number))
        return [number]

    memory = Memory()
    first = memory.call(make, "x", 1)
    memory.turn()
    assert memory.call(make, "x", 1) is first
    memory.turn()
    memory.turn()
    memory.call(make, "x", 1)
    assert len(calls) == 2


def test_an_equal_result_is_the_same_object_again() -> None:
    """So that what is made out of it is not made again either."""

    def named(name: str) -> Cluster:
        return Cluster(name=name.lower())

    memory = Memory()
    first = memory.call(named, "x", "A")
    assert memory.call(named, "x", "a") is first
    assert memory.call(named, "x", "b") is not first


def test_a_result_that_says_nothing_is_remembered_too(calls: list[tuple[int, int]]) -> None:
    def nothing(number: int) -> list[str]:
        calls.append((number, number))
        return []

    memory = Memory()
    memory.call(nothing, "x", 1)
    memory.call(nothing, "x", 1)
    assert len(calls) == 1
