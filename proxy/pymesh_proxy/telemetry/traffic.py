"""Whether bytes go through the proxy at present, which is not the same as whether connections are open.

Clients keep connections for hours without a word. What tells traffic is what begins: a request, a connection, or more
bytes on an opaque one. A request that neither begins nor ends, and there is no other, is not seen: who works in short
slices meanwhile lets its bytes through between any two of them.
"""

from collections.abc import Callable
from itertools import islice
from time import monotonic
from typing import Final

from pymesh_proxy.telemetry.metrics import Stats

# Seconds that something which happened counts as the present.
LASTS: Final = 1.0
# Opaque connections that are looked at, once in that time: 0.1 ms. Where there are more, some of these move.
FLOWS: Final = 128


class Traffic:
    """Looks at the counters of one proxy; `clock` is monotonic, in seconds."""

    def __init__(self, stats: Stats, clock: Callable[[], float] = monotonic) -> None:
        self._stats = stats
        self._clock = clock
        self._begun = self._moved = 0
        self._until = self._look = 0.0

    def moving(self) -> bool:
        """Whether anything has happened within the last second, as far as somebody asked meanwhile."""
        now, stats = self._clock(), self._stats
        begun = sum(one.rq_total for one in stats.http.values()) + sum(one.cx_total for one in stats.listeners.values())
        if begun != self._begun:
            self._begun = begun
            self._until = now + LASTS
        if now >= self._look:
            self._look = now + LASTS
            for flow in islice(stats.flows, FLOWS):
                flow.catch_up()
            moved = sum(one.bytes_received + one.bytes_sent for one in stats.tcp.values())
            if moved != self._moved:
                self._moved = moved
                self._until = now + LASTS
        return now < self._until
