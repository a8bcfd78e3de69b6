"""Where the world comes from."""

from collections.abc import AsyncIterator
from typing import Protocol

from pymesh_controlplane.pilot.model import World


class Source(Protocol):
    """Something that knows the world and notices when it changes: a directory, the Kubernetes API."""

    def watch(self) -> AsyncIterator[World]:
        """The world as it is now, at once, and then a new one after every change that matters.

        An async generator: `async for world in source.watch()`. It ends only by cancellation (or `aclose()`). Trouble
        with single resources is in `World.problems`; it never ends the iteration.
        """
        ...
