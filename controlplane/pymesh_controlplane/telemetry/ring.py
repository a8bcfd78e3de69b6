"""The last flights, by request id and in the order in which they came. Pure."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from pymesh_controlplane.telemetry.entries import Flight

# Flights that are kept, and bytes of their entries. An entry has about 1.2 KiB, so this is about 80 MB at most. At a
# thousand requests/s that pass five proxies each it is the last ten seconds; a mesh that rests keeps them for long.
MAX_FLIGHTS: Final = 50_000
MAX_BYTES: Final = 48 * 1024 * 1024

Test = Callable[[Flight], bool]


class Ring:
    """Keeps flights until there are too many.

    Attributes:
        size: bytes of the entries that are kept.
        evicted: how many had to go.
    """

    def __init__(self, first: int) -> None:
        """Number the flights from `first`; larger than all numbers of an earlier ring, where askers may know these."""
        self.size = 0
        self.evicted = 0
        self._next = first
        self._flights: deque[Flight] = deque()
        self._by_id: dict[str, deque[Flight]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def add(self, flight: Flight) -> None:
        """Keep `flight`, and give it its number."""
        flight.number = self._next
        self._next += 1
        self._flights.append(flight)
        self.size += _size(flight)
        if flight.request_id:
            self._by_id.setdefault(flight.request_id, deque()).append(flight)
        while len(self._flights) > MAX_FLIGHTS or self.size > MAX_BYTES:
            self._evict()

    def of_request(self, request_id: str) -> list[Flight]:
        """What is kept of one request, oldest first."""
        return list(self._by_id.get(request_id, ()))

    def last(self, count: int, wanted: Test, after: int = 0) -> list[Flight]:
        """The newest `count` that are `wanted` and numbered higher than `after`, oldest first."""
        return list(islice(filter(wanted, self._newer_than(after)), count))[::-1]

    def _newer_than(self, number: int) -> Iterator[Flight]:
        for flight in reversed(self._flights):
            if flight.number <= number:
                return
            yield flight

    def _evict(self) -> None:
        flight = self._flights.popleft()
        self.size -= _size(flight)
        self.evicted += 1
        if flight.request_id:
            same = self._by_id[flight.request_id]
            same.popleft()  # this one: they are in the order in which they came
            if not same:
                del self._by_id[flight.request_id]


def _size(flight: Flight) -> int:
    return len(flight.entry) + len(flight.request_id)
