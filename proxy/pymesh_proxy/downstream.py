"""What an exchange needs of the connection that it sits on."""

import asyncio
from typing import Protocol

from pymesh_proxy.config.model import HttpManager
from pymesh_proxy.runtime import Runtime
from pymesh_proxy.serving import Serving
from pymesh_proxy.telemetry.metrics import HttpStats
from pymesh_proxy.transport.facts import Facts


class Downstream(Protocol):
    """A client's connection.

    Attributes:
        patience: seconds that the manager gives a request without any movement; NEVER for no limit.
        deadline: when its `on_deadline`, and so the exchange's, is called next, in monotonic seconds.
    """

    runtime: Runtime
    manager: HttpManager
    facts: Facts
    stats: HttpStats
    serving: Serving
    transport: asyncio.Transport
    patience: float
    deadline: float

    def exchange_done(self, now: float, *, keep: bool) -> None:
        """The answer is written; `keep` says whether another request may follow."""

    def is_last(self) -> bool:
        """Whether no other request may follow this one."""

    def switch_protocols(self) -> None:
        """From here on the client's bytes are opaque."""

    def pause_reading(self) -> None:
        """Read no more from the client for now."""

    def resume_reading(self) -> None:
        """Read from the client again."""

    def set_deadline(self, when: float) -> None:
        """Call `on_deadline` at `when`, or earlier."""
