"""The end of a client's connection: it has time to take the answer, and what it still sends is read and dropped. Pure.

Closed with bytes that nobody has read, its kernel would throw our answer away (RFC 9112 9.6).
"""

from typing import Final

# What is read and dropped, and for how long.
LINGER_SECONDS: Final = 1.0
LINGER_BYTES: Final = 1024 * 1024
# A connection that is over waits for its client to take the rest of the answer, but not longer than this without any
# progress (nginx: send_timeout).
STALL_SECONDS: Final = 60.0


class Ending:
    """Of one connection. `due` is when to look whether it `goes_on`, in monotonic seconds."""

    __slots__ = ("_left", "_unsent", "due")

    def __init__(self, now: float) -> None:
        self.due = now + LINGER_SECONDS
        self._left = LINGER_BYTES
        self._unsent = 0

    def drops(self, count: int) -> bool:
        """Whether so many more bytes are to be dropped; False if that is too much."""
        self._left -= count
        return self._left >= 0

    def goes_on(self, now: float, unsent: int) -> bool:
        """Whether the client is given more time; it has yet to take `unsent` bytes of the answer."""
        if now >= self.due:
            if unsent in {0, self._unsent}:
                return False
            self._unsent = unsent
            self.due = now + STALL_SECONDS
        return True
