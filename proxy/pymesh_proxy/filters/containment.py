"""What runs code that cannot be trusted to end; `control.containment` does it."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class TooSlowError(Exception):
    """A hook has taken longer than it may."""


class Containment(Protocol):
    """Runs what cannot be trusted to end."""

    def call(self, seconds: float, hook: Callable[..., Any], *arguments: object) -> Any:
        """What `hook` returns. Raises TooSlowError after so many seconds, and what `hook` raises."""

    def wait(self, seconds: float, awaited: Awaitable[Any]) -> Awaitable[Any]:
        """What `awaited` results in. Raises TooSlowError after so many seconds, and what it raises."""

    def complain(self, name: str, what: str, error: BaseException) -> None:
        """Log that a filter failed; the same filter's failures not more often than a person can read."""
