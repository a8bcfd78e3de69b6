"""Work that lets others have a turn: a generator that yields wherever it may be interrupted, and returns its result.

A configuration of thousands of resources takes seconds to compile, and a proxy has one thread. So whatever may be large
is written as steps, each short: who has a loop takes as many at a time as fit (`pymesh_proxy.control.pace`), everybody
else takes them all. Between two steps anything may happen but what the work itself says must not.
"""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]


def whole(steps: Steps[T]) -> T:
    """All of `steps`, at once; their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
