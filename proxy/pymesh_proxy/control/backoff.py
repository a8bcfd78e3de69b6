"""How long to wait before the next attempt."""

import random

# Seconds. The first retry is quick, since most losses are a restart behind the same address; later ones double from
# FIRST to LONGEST, which is Envoy's and gRPC's order of magnitude. Each is spread, so that the proxies of a mesh do not
# all come back in the same instant.
QUICK = 0.2
FIRST = 1.0
LONGEST = 30.0
# Failures that are counted: enough to have doubled up to any sensible longest wait.
_MOST_FAILURES = 16


class Backoff:
    """The waits of one series of attempts; `rng` decides on the spread, and none is longer than `longest`."""

    def __init__(self, rng: random.Random, longest: float = LONGEST) -> None:
        self._rng = rng
        self._longest = longest
        self._failures = 0

    def reset(self) -> None:
        """An attempt succeeded."""
        self._failures = 0

    def exhaust(self) -> None:
        """An attempt failed in a way that the next one would, too: what follows is the longest wait."""
        self._failures = _MOST_FAILURES

    def delay(self) -> float:
        """Seconds to wait after one more failure."""
        longest = QUICK if self._failures == 0 else min(FIRST * 2 ** (self._failures - 1), self._longest)
        self._failures = min(self._failures + 1, _MOST_FAILURES)
        return longest * self._rng.uniform(0.5, 1.0)
