"""The authority in force, and who is told when it is replaced: certificates and roots change while everything runs."""

from collections.abc import Callable

from pymesh_controlplane.citadel.authority import Authority


class Trust:
    """The authority in force; for one event loop only.

    Attributes:
        authority: what signs, and what is trusted.
    """

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self._subscribers: list[Callable[[], None]] = []

    def use(self, authority: Authority) -> None:
        """Put `authority` in force, and tell the subscribers if it has changed."""
        if authority == self.authority:
            return
        self.authority = authority
        for tell in tuple(self._subscribers):
            tell()

    def subscribe(self, tell: Callable[[], None]) -> Callable[[], None]:
        """Call `tell()` after each change, until the function returned is called. It must not raise and not block."""
        self._subscribers.append(tell)
        return lambda: self._subscribers.remove(tell)
