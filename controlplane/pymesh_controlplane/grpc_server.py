"""A gRPC server for calls that are many and small, on the gRPC layer that the sidecars use too (`pymesh.grpc`).

It takes the handlers that grpc.aio takes, and gives them of its context what they use: `grpc_call.Call`.
benchmarks/README.md has what a call costs it, next to grpc.aio. It has no TLS: a `TlsFrontend` in the same process
hands connections to it, bounds their number and knows who is at their other end.

It trusts nobody. What one address can make it hold is bounded in calls and in bytes (`grpc_callers`), and what does not
become whole, or is not taken, in time (`grpc_link`): whoever tries takes room from itself alone, and that for seconds.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Final

import grpc

from pymesh.grpc.status import Code, Status
from pymesh_controlplane.grpc_call import Methods
from pymesh_controlplane.grpc_callers import Callers
from pymesh_controlplane.grpc_link import Link

# Seconds in which clients hear that they should go elsewhere; what they ask meanwhile is answered.
FAREWELL: Final = 0.3
# Seconds that questions have after that. Most take milliseconds; a check in Python may take as long as its rule says.
GRACE: Final = 2.0
_ENDING: Final = Status(Code.UNAVAILABLE, "the service ends")


class GrpcServer:
    """Serves `handlers`; no more than `max_calls` at once, and a part of them for each address.

    Args:
        address_of: the address behind `Call.peer`, where that is not the connection's own.
    """

    def __init__(
        self,
        handlers: Iterable[grpc.GenericRpcHandler],
        max_calls: int,
        address_of: Callable[[str], str] = lambda peer: peer.rpartition(":")[0],
    ) -> None:
        self.methods = Methods(handlers)
        self.callers = Callers(max_calls, address_of)
        self.links: set[Link] = set()
        self.ending = False
        self._over = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    def link(self) -> asyncio.Protocol:
        """What serves a connection; none that comes too late."""
        return asyncio.Protocol() if self._tasks is None else Link(self, self._tasks)

    async def serve(self, listener: socket.socket | None = None) -> None:
        """Serve connections until cancelled; then questions under way are answered, and streams end.

        Args:
            listener: whose connections are taken; None: others are, for which `link` is asked.
        """
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            loop = asyncio.get_running_loop()
            server = None if listener is None else await loop.create_server(self.link, sock=listener)
            try:
                await loop.create_future()
            finally:
                try:
                    # In a task of its own: in one that was cancelled, asyncio.timeout of Python 3.11 cancels it again
                    # where it should raise TimeoutError.
                    await asyncio.wait([tasks.create_task(self._take_leave())])
                finally:
                    self._tasks = None
                    if server is not None:
                        server.close()
                    for link in tuple(self.links):
                        link.end_calls(_ENDING)
                        link.close()

    def over(self) -> None:
        """A call or a connection is over."""
        if self.ending:
            self._over.set()

    async def _take_leave(self) -> None:
        """Send clients elsewhere, and answer what they ask before they have heard of it."""
        self.ending = True
        for link in tuple(self.links):
            link.take_leave()
        await self._until(lambda: not self.links, FAREWELL)
        await self._until(lambda: not any(link.answers for link in self.links), GRACE)

    async def _until(self, so_far: Callable[[], bool], seconds: float) -> None:
        """Wait until `so_far`, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not so_far():
                    self._over.clear()
                    await self._over.wait()
