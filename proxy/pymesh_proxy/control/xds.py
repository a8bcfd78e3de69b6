"""The ADS client: keeps a stream to pilot, and the configuration up to date."""

import random
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message

from pymesh_proxy.control.channel import Channel
from pymesh_proxy.control.node import Node


class Consumer(Protocol):
    """Who takes the resources: the proxy's configuration."""

    def check(self, type_url: str, added: dict[str, Message]) -> None:
        """Compile `added` and throw the result away; raises ConfigError for what `apply` would refuse."""

    def apply(self, type_url: str, added: dict[str, Message], removed: set[str], version: str) -> None:
        """Put `added` in force and `removed` out of it, all or nothing; raises ConfigError and leaves all as it was."""


@dataclass(slots=True)
class XdsStats:
    """Counters for the admin port."""

    connected: bool = False
    connects: int = 0
    disconnects: int = 0
    updates: int = 0
    rejected: int = 0
    last_error: str = ""


class XdsClient:
    """Follows pilot until cancelled. `delta` is the bootstrap's api_type DELTA_GRPC."""

    def __init__(self, channel: Channel, node: Node, consumer: Consumer, *, delta: bool, rng: random.Random) -> None:
        self.stats = XdsStats()
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether the first complete configuration is in force."""
        raise NotImplementedError

    @property
    def waiting_for(self) -> str:
        """One sentence on what is still awaited before `ready`; empty when ready."""
        raise NotImplementedError

    async def run(self) -> None:
        """Keep a stream to pilot; ends only by cancellation."""
        raise NotImplementedError
