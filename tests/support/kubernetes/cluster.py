"""The state of one API server, and what all requests share."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.kubernetes.errors import Object
from tests.support.kubernetes.registry import Registry
from tests.support.kubernetes.store import Store


@dataclass(slots=True)
class Cluster:
    """Outlives a server that is stopped and started again, as etcd does."""

    store: Store = field(default_factory=Store)
    registry: Registry = field(default_factory=Registry)
    clock: Callable[[], float] = time.time
    # Where Services that webhooks are reached by really listen: (namespace, name, port) -> host, port.
    routes: dict[tuple[str, str, int], tuple[str, int]] = field(default_factory=dict)
    # Where ports of pods that are forwarded really listen: (namespace, pod, port) -> host, port.
    forwards: dict[tuple[str, str, int], tuple[str, int]] = field(default_factory=dict)
    # What containers have written: (namespace, pod, container) -> text.
    logs: dict[tuple[str, str, str], str] = field(default_factory=dict)
    dice: random.Random = field(default_factory=random.SystemRandom)


@dataclass(slots=True)
class Answer:
    """What a verb gives: a body, its status, and warnings for the person who asked."""

    body: Object
    code: int = 200
    warnings: list[str] = field(default_factory=list)
