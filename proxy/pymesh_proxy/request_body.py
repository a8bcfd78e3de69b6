"""The body of a request, as far as its exchange keeps it: until there is an upstream, and for another attempt."""

from typing import Final

# A request body up to this size is kept until the response begins, so that it can be sent again (linkerd: 64 KiB).
MAX_REPLAY_BYTES: Final = 64 * 1024


class RequestBody:
    """A body that follows a request's head.

    Attributes:
        held: all of it so far, framing included; None once it cannot be sent again.
        arrive_by: when all of it has to be here (monotonic seconds).
        ended_at: when it was; 0.0 before.
    """

    __slots__ = ("arrive_by", "ended_at", "held")

    def __init__(self, arrive_by: float) -> None:
        self.arrive_by = arrive_by
        self.ended_at = 0.0
        self.held: bytes | bytearray | None = b""

    def hold(self, data: bytes, *, sent: bool) -> bool:
        """Keep one more piece, which was `sent` to an upstream or waits for one; False if it is enough for now."""
        held = self.held
        if held is None:
            return True
        size = len(held) + len(data)
        if sent and size > MAX_REPLAY_BYTES:
            self.held = None
            return True
        if not held:  # mostly it is all in one piece, which is not copied then
            self.held = data
        elif isinstance(held, bytearray):
            held += data
        else:
            self.held = bytearray(held) + data
        return size <= MAX_REPLAY_BYTES

    def take(self) -> tuple[bytes, bool]:
        """What there is of it, for an upstream; and whether it was enough, so that more is to be read from now on."""
        held = bytes(self.held or b"")
        if len(held) <= MAX_REPLAY_BYTES:
            return held, False
        self.held = None
        return held, True
