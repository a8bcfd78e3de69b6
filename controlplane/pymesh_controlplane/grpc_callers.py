"""Who calls a `grpc_server`, and how much of it each may have. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Of all calls, the part of one address: a node may hide its hundred pods behind its own.
SHARE: Final = 4
# Bytes of messages that are held for one address: 2,000 questions of 8 KiB.
MAX_HELD: Final = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Caller:
    """Whoever is behind one address.

    Attributes:
        links: connections.
        calls: that are not over.
        held: bytes of their messages.
    """

    address: str
    links: int = 0
    calls: int = 0
    held: int = 0

    @property
    def excess(self) -> str:
        """Why some of what is held has to go; "" if nothing has."""
        if self.held <= MAX_HELD:
            return ""
        return f"{self.address} has {self.held} bytes of messages here: {MAX_HELD} are the most of one address"


class Callers:
    """All that are connected.

    Attributes:
        calls: of all of them.

    Args:
        max_calls: at once.
        address_of: the address behind the other end of a connection (`ipv4:127.0.0.1:40000`).
    """

    def __init__(self, max_calls: int, address_of: Callable[[str], str]) -> None:
        self.calls = 0
        self._max_calls = max_calls
        self._address_of = address_of
        self._by_address: dict[str, Caller] = {}

    def arrived(self, peer: str) -> Caller:
        """Somebody has connected: who it is."""
        address = self._address_of(peer)
        caller = self._by_address.setdefault(address, Caller(address))
        caller.links += 1
        return caller

    def left(self, caller: Caller) -> None:
        """A connection of `caller` is gone, and all of its calls."""
        caller.links -= 1
        if not caller.links:
            del self._by_address[caller.address]

    def count(self, caller: Caller, change: int) -> None:
        """A call of `caller` has begun, or is over."""
        self.calls += change
        caller.calls += change

    def refusal(self, caller: Caller) -> str:
        """Why no call of `caller` can be taken now; "" if it can."""
        if self.calls >= self._max_calls:
            return "too many calls at once"
        if caller.calls >= (most := self._max_calls // SHARE):
            return f"too many calls of {caller.address}: {most} at once are the most of one address"
        return ""
