"""When to push, and to whom: changes that come in bursts are pushed once, and no proxy stands in the queue twice. Pure.

Source of the idea: Istio's pilot/pkg/xds/{discovery,pushqueue}.go.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# Seconds without a further change before one is pushed: `kubectl apply` of a folder is one change, not twenty.
QUIET: Final = 0.1
# Seconds after which a change is pushed even if others keep coming. With it a change is in force within a second.
LONGEST_DELAY: Final = 0.5


@dataclass(slots=True)
class Debounce:
    """Tells when a burst of changes is over. Times are seconds on the caller's monotonic clock."""

    quiet: float = QUIET
    longest: float = LONGEST_DELAY
    first: float | None = None
    last: float = 0.0

    def changed(self, now: float) -> None:
        """Something changed."""
        self.last = now
        if self.first is None:
            self.first = now

    def due(self) -> float | None:
        """When to push; None if nothing changed."""
        return None if self.first is None else min(self.last + self.quiet, self.first + self.longest)

    def take(self, now: float) -> float | None:
        """When the first change of the burst came, if the burst is over: it then starts anew. None: not yet."""
        due = self.due()
        if due is None or now < due:
            return None
        first, self.first = self.first, None
        return first


@dataclass(slots=True)
class PushQueue:
    """Proxies that are to be translated for, in order, each at most once, with the time of the oldest change."""

    _waiting: OrderedDict[int, float] = field(default_factory=OrderedDict)

    def add(self, proxies: Iterable[int], changed_at: float) -> None:
        """Queue `proxies`; one that waits already keeps its place and its time."""
        for proxy in proxies:
            self._waiting.setdefault(proxy, changed_at)

    def remove(self, proxy: int) -> None:
        """Forget a proxy that has gone."""
        self._waiting.pop(proxy, None)

    def pop(self) -> tuple[int, float] | None:
        """The next proxy and the time of its oldest change; None if nobody waits."""
        return self._waiting.popitem(last=False) if self._waiting else None

    def __len__(self) -> int:
        return len(self._waiting)
