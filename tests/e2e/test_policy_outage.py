"""While the policy service is killed, stopped, slow, refuses or talks rubbish: 500 requests a second, counted.

One proxy process answers for three ports, whose rules have the three failure modes (policy_site.py). What is asserted
are counts: who was let in, who was held up, who asked.
"""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import TypeAlias

import h2.config
import h2.connection
import h2.events
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from pymesh.policy_api import RULES_EXTENSION
from pymesh_controlplane.policy import checks
from pymesh_controlplane.policy.rules import rules_of
from tests.controlplane.pilot.worlds import world_of
from tests.e2e.policy_site import CONNECTIONS, MODES, PLENTY, SENT, Site, held, rate, site, world
from tests.support.policy_peer import PolicyPeer, policy_peer
from tests.support.redis_server import listens
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.mesh]  # a load of 500 requests a second, twice

# Attempts to find the service in one outage, of some seconds: the pause between them grows to a second.
MOST_PROBES = 15

Act = Callable[[], Awaitable[object]]


async def lives_through(at: Site, outage: str, begin: Act, end: Act, why: tuple[str, ...]) -> None:
    """The load runs, `begin` takes the service away, `end` gives it back. `why`: words, one of which records say."""
    await eventually(at.back, what=f"the service before {outage}", timeout=20)
    spent = f"/once/{outage.replace(' ', '-').replace('/', '')}"
    soon = spent.replace("once", "soon")
    for port in ("open", "last"):
        await eventually(partial(at.refuses, port, spent), what="one an hour")
    await eventually(partial(at.refuses, "last", soon), what="one a second")

    enough = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        loads = {port: group.create_task(at.load(port, enough)) for port in MODES}
        served = at.app.served.copy()
        # Not of all ports together: on a busy machine one late answer makes the service away until a probe finds it.
        await eventually(partial(at.let_in, served), what="requests of every port under way")
        await begin()
        before = await at.counters()
        await eventually(at.keeps_out, what=f"{outage} to be noticed")
        enough.set()

    if not any("503" in turn.statuses for turn in loads["closed"].result()):
        loads["closed"].result().append(await at.turn("closed"))  # the last one had just ended
    for port, load in loads.items():
        turns = load.result()
        statuses = sum((Counter(turn.statuses) for turn in turns), Counter[str]())
        errors = {error for turn in turns for error in turn.errors}
        about = (outage, port, [dict(turn.examples) for turn in turns])
        assert statuses.total() == SENT * len(turns), about
        wanted = ({"200", "503"}, {"status 503"}) if port == "closed" else ({"200"}, set())
        assert (statuses.keys(), errors) == wanted, about
    after = await at.counters()
    for key in [key for key in after if key[0] == "asked"]:
        # Those under way when the service fell silent, on each connection one; and one more where its last answers
        # were on their way still.
        assert after[key] - before.get(key, 0) <= 2 * CONNECTIONS, (outage, key)

    await decides_by_its_modes(at, spent, why)
    await goes_on_with_a_rate(at, soon)
    assert {key: at_last for key, at_last in (await at.counters()).items() if key[0] == "asked"} == {
        key: value for key, value in after.items() if key[0] == "asked"
    }, f"{outage}: nobody waits while it lasts"
    await end()
    await eventually(at.back, what=f"recovery from {outage}", timeout=20)


async def decides_by_its_modes(at: Site, spent: str, why: tuple[str, ...]) -> None:
    """While it lasts: the last answers count, and who is kept out is told by which rule, and why."""
    assert (await at.get("open", spent))[0] == 200
    status, head, body = await at.get("last", spent)
    assert (status, rate("last", "once") in head) == (429, True)
    assert (await at.get("last", "/once/unheard-of"))[0] == 503

    status, head, body = await at.get("closed")
    assert status == 503
    rules = [held("closed"), rate("closed", "leased"), rate("closed", "asked")]
    assert body in [f"{rule}: the policy service is away\n" for rule in rules]
    rule = body.partition(":")[0]
    assert f"UAEX policy_unavailable{{{rule}}}" in head
    record = (await asyncio.to_thread(at.proxy.requests))[-1]
    assert record["details"].startswith(f"policy_unavailable{{{rule}}}: the policy service is away: ")
    assert any(words in record["details"] for words in why), record["details"]
    assert f"{rule}: kept out, since the policy service is away (" in record["notes"]["policy"]
    assert at.proxy.logged("policy service policy is away: ")


async def goes_on_with_a_rate(at: Site, path: str) -> None:
    """Who was refused for a second, long ago, is let in again; those behind him are refused, for a second at most."""

    async def one_of_many() -> bool:
        return await at.in_a_row("last", path, 3) == [200, 429, 429]

    await eventually(one_of_many, what="one a second")
    status, head, _ = await at.get("last", path)
    assert (status, "\r\nretry-after: 1\r\n" in head) in {(429, True), (200, False)}


# --- A real service -----------------------------------------------------------------------------------------------


async def test_nothing_is_lost_when_the_policy_service_is_killed_or_stopped(tmp_path: Path) -> None:
    manifest = tmp_path / "world.yaml"
    manifest.write_text(world())
    running: list[subprocess.Popen[bytes]] = []

    async def start() -> None:
        command = [sys.executable, "-m", "tests.support.policy_replica", str(manifest), str(at.policy_port)]
        running.append(subprocess.Popen(command))

    async def kill() -> None:
        running[-1].kill()
        running[-1].wait()

    async def send(what: signal.Signals) -> None:
        running[-1].send_signal(what)

    async with site(tmp_path) as at:
        try:
            await start()
            await eventually(lambda: listens(at.policy_port), what="the service", timeout=30)
            stop, go = partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)
            await lives_through(at, "standstill", stop, go, ("no answer", "did not answer within"))
            await lives_through(at, "death", kill, start, ("Connection refused",))
        finally:
            for process in running:
                process.kill()
                process.wait()


# --- Scripted ones ------------------------------------------------------------------------------------------------


class Decisions:
    """Those of the policy service itself, in the threads of another server."""

    def __init__(self) -> None:
        self._rules = replace(rules_of(world_of(world())), epoch="1")  # as the peer's leases say
        self._limits = checks.Limits()
        self._limits.put(self._rules, monotonic_ns())
        self._one_at_a_time = threading.Lock()

    def __call__(self, request: CheckRequest) -> CheckResponse:
        with self._one_at_a_time:
            asked = checks.asked_rules(request.attributes)
            decision = self._limits.decide(asked, request.attributes, monotonic_ns())
        return checks.answer(decision, self._rules)


@dataclass
class Service:
    """The policy service of a test, now sane, now not, always at the same port."""

    peer: PolicyPeer
    connects: int = 0
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def sane(self) -> None:
        """A real gRPC server."""
        await self.gone()
        self.peer.delay, self.peer.rubbish = 0.0, False
        server = policy_peer(port=self.peer.port, peer=self.peer)
        server.__enter__()
        self._stack.push_async_callback(asyncio.to_thread, server.__exit__, None, None, None)

    async def sane_again(self) -> None:
        """After an outage, in which those have asked who were under way, and a probe; a probe alone has connected."""
        asked = [check.attributes.context_extensions[RULES_EXTENSION] for check in self.peer.checks]
        assert len([rules for rules in asked if rules]) <= 2 * CONNECTIONS * len(MODES)
        assert asked.count("") <= MOST_PROBES
        assert self.connects <= 2 * MOST_PROBES, "one for questions, one for leases"
        await self.sane()

    async def gone(self) -> None:
        """Connections are refused."""
        await self._stack.aclose()
        self.peer.checks.clear()
        self.connects = 0

    async def slow(self) -> None:
        """Every answer comes, late."""
        self.peer.checks.clear()
        self.peer.delay = 2.0  # seconds

    async def garbage(self) -> None:
        """Every answer is a gRPC message of bytes that are none of its kind."""
        self.peer.checks.clear()
        self.peer.rubbish = True

    async def speaking(self, talk: Callable[[bytes, "Talk"], bytes]) -> None:
        """Connections are taken, and answered with what `talk` makes of what comes."""
        await self.gone()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connects += 1
            talking.add(writer)
            state = Talk()
            try:
                while data := await reader.read(65536):
                    writer.write(talk(data, state))
            except ConnectionError:
                pass
            finally:
                writer.close()
                talking.remove(writer)

        async def hang_up() -> None:
            server.close()
            for writer in talking:
                writer.close()
            await eventually(lambda: not talking, what="the end of the connections")

        talking: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(serve, "127.0.0.1", self.peer.port)
        self._stack.push_async_callback(hang_up)

    async def unreachable(self) -> None:
        """Nobody answers to the attempt to connect: the queue of the listening socket is full."""
        await self.gone()
        self._stack.enter_context(full_queue(self.peer.port))


@dataclass
class Talk:
    """One connection of a scripted peer."""

    http2: h2.connection.H2Connection = field(
        default_factory=lambda: h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    )
    begun: bool = False


def no_http2(_: bytes, __: Talk) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"


def bad_frames(_: bytes, talk: Talk) -> bytes:
    """SETTINGS as it should be, then DATA of no stream."""
    begun, talk.begun = talk.begun, True
    return b"" if begun else b"\0\0\0\x04\0\0\0\0\0" + b"\0\0\x04\0\0\0\0\0\0" + b"data"


def odd_status(data: bytes, talk: Talk) -> bytes:
    """grpc-status 99 to every call."""
    if not talk.begun:
        talk.begun = True
        talk.http2.initiate_connection()
    for event in talk.http2.receive_data(data):
        if isinstance(event, h2.events.RequestReceived):
            said = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "99")]
            talk.http2.send_headers(event.stream_id, said, end_stream=True)
    return talk.http2.data_to_send()


@contextmanager
def full_queue(port: int) -> Iterator[None]:
    """A listening socket whose queue is full: the kernel drops every further SYN (listen(2), backlog)."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


Outage: TypeAlias = tuple[str, Callable[[Service], Awaitable[None]], tuple[str, ...]]

OUTAGES: list[Outage] = [
    ("slowness", Service.slow, ("no answer", "did not answer within")),
    ("refusal", Service.gone, ("Connection refused",)),
    ("a full queue", Service.unreachable, ("no answer", "connection lost", "Cancelling all calls")),
    ("no messages", Service.garbage, ("not a CheckResponse", "not a message of")),
    ("no HTTP/2", partial(Service.speaking, talk=no_http2), ("breaks HTTP/2",)),
    ("bad frames", partial(Service.speaking, talk=bad_frames), ("breaks HTTP/2",)),
    ("an odd status", partial(Service.speaking, talk=odd_status), ("UNKNOWN",)),
]


async def test_nothing_is_lost_while_the_policy_service_is_slow_or_refuses_or_talks_rubbish(tmp_path: Path) -> None:
    """Every other outage at a site of its own, side by side: most of the time is spent waiting."""
    async with asyncio.TaskGroup() as sites:
        for number in range(2):
            (directory := tmp_path / str(number)).mkdir()
            sites.create_task(one_after_the_other(directory, OUTAGES[number::2]))


async def one_after_the_other(directory: Path, outages: list[Outage]) -> None:
    async with site(directory) as at:
        granted = dict.fromkeys([held(port) for port in MODES], 100)
        granted |= dict.fromkeys([rate(port, "leased") for port in MODES], PLENTY)
        service = Service(PolicyPeer(granted, port=at.policy_port, decide=Decisions()))
        try:
            await service.sane()
            for outage, begin, why in outages:
                await lives_through(at, outage, partial(begin, service), service.sane_again, why)
        finally:
            await service.gone()
