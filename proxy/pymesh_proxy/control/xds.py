"""The ADS client: keeps a stream to pilot, and the configuration up to date."""

import asyncio
import logging
import random

from envoy.config.core.v3.base_pb2 import Node as NodeMessage

from pymesh.errors import ConfigError
from pymesh.grpc.status import Code, RpcError
from pymesh_proxy.control.ads import Ads, Consumer, XdsStats
from pymesh_proxy.control.backoff import Backoff
from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node
from pymesh_proxy.control.pace import Pace
from pymesh_proxy.control.resources import EVERYTHING, Interest
from pymesh_proxy.control.subscription import Delta, StateOfTheWorld

log = logging.getLogger(__name__)


class XdsClient:
    """Follows pilot over `channel` and feeds `consumer`.

    Args:
        node: how the proxy introduces itself.
        delta: the bootstrap's `api_type` is DELTA_GRPC (only changes travel); otherwise the state of the world.
        rng: spreads the reconnects.
        pace: how fast what comes is dealt with.
        interest: what to ask for first.
    """

    def __init__(
        self,
        channel: Channel,
        node: NodeMessage,
        consumer: Consumer,
        *,
        delta: bool,
        rng: random.Random,
        pace: Pace,
        interest: Interest = EVERYTHING,
    ) -> None:
        self.stats = XdsStats()
        self._channel = channel
        self._pace = pace
        self._backoff = Backoff(rng)
        self._told = ""  # why streams are lost, as it was logged last
        self._exhausted = False  # whether the last one was lost to what will be the same next time
        self._ads = Ads(Delta() if delta else StateOfTheWorld(), node, consumer, self.stats, interest)

    @property
    def ready(self) -> bool:
        """Whether the first complete configuration is in force. Stays true when pilot is lost later."""
        return self._ads.ready

    @property
    def waiting_for(self) -> str:
        """One sentence on what is awaited before `ready`, and why it does not come; empty when ready."""
        if self.ready:
            return ""
        reason = f": {self.stats.last_error}" if self.stats.last_error else ""
        # The reason usually begins with the address that was tried.
        return f"waiting for {self._ads.missing()} from {self._channel.target}" + reason.replace(
            f": {self._channel.target}: ", ": ", 1
        )

    async def run(self) -> None:
        """Keep a stream to pilot; ends only by cancellation."""
        while True:
            exhausted = False
            try:
                await self._follow()
                problem = "pilot has ended the stream"
            except RpcError as error:
                problem = error.status.message or str(error)
                # A message larger than what is taken, or a flood: asking again soon would cost both sides the same.
                exhausted = error.status.code is Code.RESOURCE_EXHAUSTED
            except ConfigError as error:
                problem = f"{self._channel.target}: {error}"
            self.stats.disconnects += self.stats.connected
            self.stats.connected = False
            self.stats.last_error = problem
            self._exhausted = exhausted
            if exhausted:
                self._backoff.exhaust()
            delay = self._backoff.delay()
            # One line for each reason; how it goes on stands in `stats`.
            log.log(
                logging.DEBUG if problem == self._told else logging.WARNING,
                "xDS: %s; trying again in %.1f s",
                problem,
                delay,
            )
            self._told = problem
            await asyncio.sleep(delay)

    async def _follow(self) -> None:
        """One stream, to its end; raises RpcError, ConfigError."""
        clock = asyncio.get_running_loop().time
        async with self._channel.stream(self._ads.method) as stream:
            for request in self._ads.open(clock()):
                await stream.send(request)
            while True:
                try:
                    async with asyncio.timeout_at(self._ads.next_deadline()):
                        data = await stream.receive()
                except TimeoutError:
                    await self._pace.take(self._ads.tick(clock()))
                    continue
                if data is None:
                    return
                self._connected()
                updates = self.stats.updates
                requests = await self._pace.take(self._ads.receive(data, clock()))
                if self.stats.updates > updates:
                    self._accepted()
                for request in requests:
                    await stream.send(request)

    def _connected(self) -> None:
        """There is an answer: the stream works."""
        if not self.stats.connected:
            self.stats.connected = True
            self.stats.connects += 1
            self.stats.last_error = ""
            log.info("xDS: following %s", self._channel.target)

    def _accepted(self) -> None:
        """A response was taken: after the next loss it is worth coming back at once."""
        self._backoff.reset()
        if not self._exhausted:  # there, what is accepted before the loss says nothing of the message behind it
            self._told = ""


def node_message(node: Node) -> NodeMessage:
    """How the proxy introduces itself."""
    message = NodeMessage(id=node.id, cluster=node.cluster, user_agent_name=node.user_agent)
    message.metadata.update(node.metadata)
    return message
