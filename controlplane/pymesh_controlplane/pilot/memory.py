"""What pure functions made of their inputs, kept while they are asked for the same. Pure: same inputs, same results.

The world changes a little at a time and most proxies are to know the same of it. So the translation is cut into pure
functions with small, explicit inputs, and a `Memory` calls each of them once for all proxies, and again only once its
own inputs have changed. Nobody has to say what depends on what, and nothing can be forgotten when something changes.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar, TypeVarTuple, cast

T = TypeVar("T")
Inputs = TypeVarTuple("Inputs")


class Memory:
    """Remembers, per function and name, the last inputs and what was made of them. For one thread at a time.

    The inputs are compared by value (what is the same object is known to be equal at once). A result that is equal to
    the one before it is the same object again. Results are shared: whoever gets one must not change it.
    """

    def __init__(self) -> None:
        self._recent: dict[Hashable, tuple[tuple[object, ...], object]] = {}
        self._earlier: dict[Hashable, tuple[tuple[object, ...], object]] = {}

    def call(self, function: Callable[[*Inputs], T], name: Hashable, *inputs: *Inputs) -> T:
        """`function(*inputs)`; `name` tells apart what one function is asked for, and of two calls the last counts."""
        key = (function, name)
        entry = self._recent.get(key) or self._earlier.get(key)
        if entry is None or entry[0] != inputs:
            result = function(*inputs)
            entry = (inputs, entry[1] if entry is not None and entry[1] == result else result)
        self._recent[key] = entry
        return cast("T", entry[1])

    def turn(self) -> None:
        """Forget what nobody has asked for since the last turn."""
        self._earlier, self._recent = self._recent, {}
