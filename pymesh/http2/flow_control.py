"""Flow control (RFC 9113 sections 5.2 and 6.9): how much a peer may send before somebody has dealt with it. Pure."""

from typing import Final

# Bytes: no credit is announced in smaller pieces than that, where windows are larger: a peer that fills them byte by
# byte would be sent a frame of thirteen bytes for each (RFC 1122 section 4.2.3.3 calls it the silly window).
LEAST_CREDIT: Final = 1024


class ReceiveWindow:
    """What a peer may send, on a stream or on the connection.

    Attributes:
        size: of the whole window, in bytes.
        left: bytes of it that it may still send; below zero where the window shrank while they were under way.
    """

    __slots__ = ("_credit", "left", "size")

    def __init__(self, left: int, size: int) -> None:
        self.size = size
        self.left = left
        self._credit = 0  # consumed, and not announced yet

    def take(self, size: int) -> bool:
        """So many bytes have come; False if there was no room for them."""
        self.left -= size
        return self.left >= 0 or not size

    def give(self, size: int) -> int:
        """So many have been consumed: what is to be announced now, 0 for nothing yet.

        Announced is what at least doubles what the peer may send. With nothing held that is half of a window; and the
        more is held by consumers that do not come, the sooner the others' credit counts.
        """
        self._credit += size
        credit = self._credit
        if credit < self.left or credit < min(LEAST_CREDIT, self.size // 4):
            return 0
        self._credit = 0
        self.left += credit
        return credit
