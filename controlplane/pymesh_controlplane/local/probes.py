"""Probes: whether a container has started, is ready, is alive. The counting is pure; asking is apart from it.

Source: Kubernetes, "Configure Liveness, Readiness and Startup Probes", and its prober. They are asked as a kubelet
does, from the node: from the mesh's network namespace to the pod's address, without a certificate. The pod's redirect
leads such a connection to the sidecar like any other, but for the ports that it never catches.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

from pymesh_controlplane.local import grpc_health, http
from pymesh_controlplane.local.podspec import Container, HttpGet, Probe

# Characters of what a probe said that are kept, for `ps` and events.
MAX_MESSAGE: Final = 300
# Redirects to the same host that are followed.
MAX_REDIRECTS: Final = 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


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
    """Where a container is asked: at `ip`, by a socket that `connect` makes in the node's network."""

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
        return await ask_http(probe.http_get, container, target)
    if probe.grpc is not None:
        message = await grpc_health.check(target.connect(), (target.ip, probe.grpc.port), probe.grpc.service or "")
        return Outcome(not message, message[:MAX_MESSAGE])
    assert probe.tcp_socket is not None
    sock = target.connect()
    try:
        await asyncio.get_running_loop().sock_connect(sock, (target.ip, _port(probe.tcp_socket.port, container)))
    finally:
        sock.close()
    return Outcome(True)


async def ask_http(action: HttpGet, container: Container, target: Target) -> Outcome:
    """One answer to an HTTP probe or hook; raises OSError where there is none."""
    headers = {header.name: header.value for header in action.http_headers}
    port, secure, path = _port(action.port, container), action.scheme == "HTTPS", action.path
    for _ in range(MAX_REDIRECTS + 1):
        answer = await http.fetch(target.connect(), (target.ip, port), path, headers, secure=secure)
        if answer.status not in _REDIRECTS or not answer.location:
            break
        url = urlsplit(urljoin(f"{'https' if secure else 'http'}://{target.ip}:{port}{path}", answer.location))
        if url.hostname != target.ip or url.scheme not in {"http", "https"}:
            break  # another host is none of a probe's business, and to be sent there is as good as an answer
        secure = url.scheme == "https"
        port, path = url.port or (443 if secure else 80), url._replace(scheme="", netloc="", fragment="").geturl()
    else:
        return Outcome(False, f"more than {MAX_REDIRECTS} redirects")
    if 200 <= answer.status < 400:
        return Outcome(True)
    text = " ".join(answer.body.decode(errors="replace").split())
    return Outcome(False, (text or f"HTTP status {answer.status}")[:MAX_MESSAGE])


def _port(port: int | str, container: Container) -> int:
    if isinstance(port, int):
        return port
    return next(known.container_port for known in container.ports if known.name == port)
