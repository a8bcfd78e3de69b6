"""Probes: whether a container has started, is ready, is alive. The counting is pure; asking is apart from it.

Source: Kubernetes, "Configure Liveness, Readiness and Startup Probes". They are asked from inside the pod's network
namespace, at the pod's own address: as the kubelet's, these connections never pass the sidecar.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pymesh_controlplane.local import http
from pymesh_controlplane.local.podspec import Container, Probe

# Characters of what a probe said that are kept, for `ps` and events.
MAX_MESSAGE: Final = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer, with the words for a person who wants to know why."""

    success: bool
    message: str = ""


@dataclass(slots=True)
class Counter:
    """What the answers amount to.

    Attributes:
        passing: whether the last `success_threshold` answers were good, until `failure_threshold` in a row are not.
        failed: whether the last `failure_threshold` answers were bad.
        message: what the last bad answer said; empty after a good one.
    """

    success_threshold: int
    failure_threshold: int
    passing: bool = False
    failed: bool = False
    message: str = ""
    streak: int = 0
    last: bool | None = None

    def add(self, outcome: Outcome) -> bool:
        """Count `outcome`; whether any attribute that others read has changed."""
        before = (self.passing, self.failed, self.message)
        self.streak = self.streak + 1 if outcome.success == self.last else 1
        self.last = outcome.success
        self.message = "" if outcome.success else outcome.message
        if outcome.success and self.streak >= self.success_threshold:
            self.passing, self.failed = True, False
        elif not outcome.success and self.streak >= self.failure_threshold:
            self.passing, self.failed = False, True
        return (self.passing, self.failed, self.message) != before


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container is asked: at `ip`, by a socket that `connect` makes in the pod's network namespace."""

    ip: str
    connect: Callable[[], socket.socket]


Run = Callable[[Sequence[str]], Awaitable[Outcome]]


async def ask(probe: Probe, container: Container, target: Target, run: Run) -> Outcome:
    """One answer to `probe`, within its timeout; `run` runs a command in the container."""
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            return await _ask(probe, container, target, run)
    except TimeoutError:
        return Outcome(False, f"no answer within {probe.timeout_seconds} s")
    except OSError as error:
        # asyncio's own text for a failed connect does not say what failed.
        return Outcome(False, (os.strerror(error.errno) if error.errno else str(error))[:MAX_MESSAGE])


async def _ask(probe: Probe, container: Container, target: Target, run: Run) -> Outcome:
    if probe.exec is not None:
        return await run(probe.exec.command)
    if probe.http_get is not None:
        action = probe.http_get
        headers = {header.name: header.value for header in action.http_headers}
        address = (target.ip, _port(action.port, container))
        status, body = await http.get(target.connect(), address, action.path, headers)
        if 200 <= status < 400:
            return Outcome(True)
        text = " ".join(body.decode(errors="replace").split())
        return Outcome(False, (text or f"HTTP status {status}")[:MAX_MESSAGE])
    assert probe.tcp_socket is not None
    sock = target.connect()
    try:
        await asyncio.get_running_loop().sock_connect(sock, (target.ip, _port(probe.tcp_socket.port, container)))
    finally:
        sock.close()
    return Outcome(True)


def _port(port: int | str, container: Container) -> int:
    if isinstance(port, int):
        return port
    return next(known.container_port for known in container.ports if known.name == port)
