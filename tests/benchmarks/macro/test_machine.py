"""Which core does what."""

import os

from benchmarks.macro.machine import Cores, describe, divide


def cores(proxy: int, load: int) -> Cores:
    return Cores(frozenset({proxy}), frozenset({load}))


def test_two_cores_are_one_for_each_side() -> None:
    assert divide({0, 1}, lambda cpu: {cpu}) == cores(1, 0)
    assert divide({0, 1}, lambda cpu: {cpu}).apart


def test_the_load_is_not_on_the_other_thread_of_the_proxys_core() -> None:
    def pairs(cpu: int) -> set[int]:
        return {cpu & ~1, cpu | 1}

    assert divide(range(8), pairs) == cores(7, 5)
    assert divide({0, 1}, pairs) == cores(1, 0), "two threads of one core are all there is"


def test_only_processors_that_may_be_used() -> None:
    assert divide({3, 5, 6}, lambda cpu: {cpu}) == cores(6, 5)


def test_one_processor_is_shared() -> None:
    assert divide({2}, lambda cpu: {cpu}) == cores(2, 2)
    assert not divide({2}, lambda cpu: {cpu}).apart


def test_this_machine_has_a_description() -> None:
    machine = describe(divide(os.sched_getaffinity(0), lambda cpu: {cpu}))
    assert machine.cores == len(os.sched_getaffinity(0))
    assert machine.python.startswith("CPython 3.")
    assert machine.kernel == os.uname().release
    assert machine.commit
