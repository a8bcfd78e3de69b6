"""Turns in proportion to weights: earliest deadline first. Pure.

Every item is due again `1 / weight` after its turn. The phases start at random places, so that many proxies with the
same configuration do not all begin with the same endpoint, and so that a heavy item's turns lie between those of the
light ones. With whole weights, every run of as many turns as they sum to holds each item exactly `weight` times.

Source: Envoy's EdfScheduler (its load balancing documentation, "weighted least request").
"""

from collections.abc import Callable, Iterable
from heapq import heapify, heapreplace
from typing import Generic, TypeVar

T = TypeVar("T")


class Schedule(Generic[T]):
    """Whose turn it is. A turn costs the logarithm of the number of items."""

    __slots__ = ("_heap", "_weigh")

    def __init__(self, items: Iterable[T], weigh: Callable[[T], float], random: Callable[[], float]) -> None:
        """`weigh` gives an item's weight, above 0, whenever it has had its turn: it may change."""
        self._weigh = weigh
        self._heap = [((1 - random()) / weigh(item), number, item) for number, item in enumerate(items)]
        heapify(self._heap)

    def next(self) -> T:
        """Whose turn it is; there has to be one."""
        due, number, item = self._heap[0]
        heapreplace(self._heap, (due + 1 / self._weigh(item), number, item))
        return item
