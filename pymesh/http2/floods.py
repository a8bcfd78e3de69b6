"""What a peer may cost without giving anything in return. Pure: the time is an argument.

Every frame that is legal alone is a weapon in a flood: streams that are reset as soon as they are begun
(CVE-2023-44487), or that we are made to reset (CVE-2025-8671), pings, settings, empty frames, windows opened byte by
byte (CVE-2019-9511 to 9518). An honest peer sends few of them a second, or many beside a load of requests.
"""

from collections.abc import Callable
from typing import Final

from pymesh.http2.errors import ConnectionBrokenError, ErrorCode

# Streams that end before their time, at once and per second, beside one for each that ends well: a sidecar with a
# thousand questions open may give all of them up in one moment, and, of a service that is too slow, a thousand that it
# asks in a second. One that is given up costs us no more than one that is answered, of which we take as many as come.
RESETS: Final = 1000
RESETS_PER_SECOND: Final = 1000.0
# Frames that carry no message, at once and per second.
NOISE: Final = 1000
NOISE_PER_SECOND: Final = 100.0
# Such frames that are welcome for each frame with something in it, whichever way that goes: a WINDOW_UPDATE for a
# stream and one for the connection, a PING to measure the bandwidth. Envoy lets pass ten as well.
NOISE_PER_FRAME: Final = 10


class Patience:
    """What is left of both, for one connection.

    Attributes:
        messages: frames of HEADERS and DATA with something in them; whoever takes or sends one adds to it.
        ended: streams that have ended well.
    """

    __slots__ = ("_clock", "_noise", "_resets", "ended", "messages")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.messages = 0
        self.ended = 0
        self._clock = clock
        self._noise = _Budget("frames that carry nothing", NOISE, NOISE_PER_SECOND, clock())
        self._resets = _Budget("streams that are given up", RESETS, RESETS_PER_SECOND, clock())

    def noise(self) -> None:
        """A frame has come that carries nothing. Raises ConnectionBrokenError."""
        self._noise.spend(self._clock(), self.messages * NOISE_PER_FRAME)
        self.messages = 0

    def reset(self) -> None:
        """A stream has ended before its time, and not because we wanted it. Raises ConnectionBrokenError."""
        self._resets.spend(self._clock(), self.ended)
        self.ended = 0


class _Budget:
    """So much at once, and so much a second."""

    __slots__ = ("_at", "_left", "_limit", "_per_second", "_what")

    def __init__(self, what: str, limit: int, per_second: float, now: float) -> None:
        self._what = what
        self._limit = limit
        self._per_second = per_second
        self._left: float = limit
        self._at = now

    def spend(self, now: float, earned: int) -> None:
        """One more; `earned` has come in since the last time.

        Raises:
            ConnectionBrokenError: that was one too many.
        """
        self._left = min(self._limit, self._left + earned + (now - self._at) * self._per_second) - 1
        self._at = now
        if self._left < 0:
            raise ConnectionBrokenError(ErrorCode.ENHANCE_YOUR_CALM, f"a flood of {self._what}")
