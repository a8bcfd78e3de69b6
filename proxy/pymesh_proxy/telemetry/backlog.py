"""What waits to be reported: encoded entries in their order, within a bound. Pure.

A receiver that is away or slow costs the oldest entries, never a request and never more memory: what is new says more
about the present than what is old.
"""

from collections import deque


class Backlog:
    """A queue of encoded entries that holds at most `capacity` bytes; `size` are in it."""

    def __init__(self, capacity: int) -> None:
        self.size = 0
        self._capacity = capacity
        self._entries: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: bytes) -> int:
        """Queue `entry`; the oldest make room for it, and itself too if it is larger than all. How many had to."""
        self._entries.append(entry)
        self.size += len(entry)
        dropped = 0
        while self.size > self._capacity:
            self.size -= len(self._entries.popleft())
            dropped += 1
        return dropped

    def take(self, size: int) -> list[bytes]:
        """The oldest entries, of at most `size` bytes together, but at least one if there is any."""
        taken: list[bytes] = []
        total = 0
        while self._entries and (not taken or total + len(self._entries[0]) <= size):
            taken.append(entry := self._entries.popleft())
            total += len(entry)
        self.size -= total
        return taken

    def put_back(self, entries: list[bytes]) -> int:
        """Queue again, as the oldest, what was taken and could not be sent. How many have no room any more."""
        for number, entry in enumerate(reversed(entries)):
            if self.size + len(entry) > self._capacity:
                return len(entries) - number
            self._entries.appendleft(entry)
            self.size += len(entry)
        return 0
