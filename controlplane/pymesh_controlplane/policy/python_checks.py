"""Checks in Python, kept away from everything else: a few child processes that answer, and are killed when late.

A check that hangs or spins costs its own request its time budget, and one child, which is replaced; one that goes on
doing so is not asked for a while. New sources are tried in a child of their own first: what cannot be loaded changes
nothing, and is told.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pymesh.checks import Request, Verdict
from pymesh_controlplane.policy.check_worker import LENGTH, MAX_FRAME, Answer, Loaded, Question, Sources, frame

log = logging.getLogger("pymesh.policy.checks")

# Children: each answers one question at a time, in some 0.1 ms. One more than one, so that a late one is not missed.
CHILDREN: Final = 2
# Seconds for a child to start and to run the sources: an interpreter takes 0.2 s on a busy machine, imports more.
LOAD_TIMEOUT: Final = 10.0
# Times that a check may be late, or end its child, one after the other, before it rests.
MAX_LATE: Final = 3
# Seconds that it rests for then, twice as long each time, up to the second.
REST: Final = (1.0, 30.0)
# Seconds between two attempts to start a child that does not stay.
PAUSE: Final = 1.0
# Seconds that a child stays at least, if another is to follow it at once.
QUICK: Final = 0.01


class CheckFailedError(Exception):
    """There is no verdict; the text says why.

    Attributes:
        kind: raised, late, crashed, busy, resting, unknown.
    """

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(text)


@dataclass(slots=True, eq=False)
class _Child:
    """One process, with the checks of one generation of sources."""

    process: asyncio.subprocess.Process
    names: frozenset[str]
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def exchange(self, message: msgspec.Struct) -> bytes:
        """Send a frame and read the one that answers it. Raises OSError or EOFError where it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.write(frame(message))
        await self.process.stdin.drain()
        return await _read(self.process)

    async def end(self) -> None:
        """Kill it and all that it may have started, which is none unless we are root."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


@dataclass(slots=True)
class _Trouble:
    """How a check has done lately."""

    late: int = 0
    rests: int = 0
    until: float = 0.0


class PythonChecks:
    """The checks of the sources in force.

    Args:
        clock: seconds that never go back.

    Attributes:
        names: of the checks that there are.
        problem: why the last sources offered are not in force; "" if they are.
        digest: names exactly these sources.
        offered: the last sources.
        tried: the last that were tried: they are in force, or `problem` says why not.
        failures: by check and kind.
    """

    def __init__(self, clock: Callable[[], float], children: int = CHILDREN) -> None:
        self.names: frozenset[str] = frozenset()
        self.problem = ""
        self.digest = ""
        self.failures: Counter[tuple[str, str]] = Counter()
        self.loaded: Callable[[], None] = lambda: None
        self._clock = clock
        self._count = children
        self._files: Mapping[str, str] = {}
        self.offered: Mapping[str, str] = {}
        self.tried: Mapping[str, str] = {}
        self._news = asyncio.Event()
        self._wanted = asyncio.Event()
        self._idle: asyncio.Queue[_Child] = asyncio.Queue()
        self._children: set[_Child] = set()
        self._spare: _Child | None = None
        self._troubles: dict[str, _Trouble] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def offer(self, files: Mapping[str, str]) -> None:
        """Take these sources, if they can be loaded; `loaded` is called when they are in force."""
        if files != self.offered:
            self.offered = dict(files)
            self._news.set()

    async def run(self) -> None:
        """Keep the children, until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for _ in range(self._count):
                    self._tasks.create_task(self._keep())
                while True:
                    await self._news.wait()
                    self._news.clear()
                    files = self.offered
                    await self._try(files)
                    self.tried = files
        finally:
            self._tasks = None
            if self._spare is not None:
                await self._spare.end()

    async def ask(self, name: str, request: Request, budget: float) -> Verdict:
        """What the check called `name` says, within `budget` seconds; as long may pass until a child is free.

        Raises:
            CheckFailedError: it says nothing.
        """
        try:
            return await self._ask(name, request, budget)
        except CheckFailedError as error:
            self.failures[name, error.kind] += 1
            log.warning("check %s: %s: %s", name, error.kind, error)
            raise

    async def _ask(self, name: str, request: Request, budget: float) -> Verdict:
        if name not in self.names or self._tasks is None:
            raise CheckFailedError("unknown", f"there is no check called {name}{self.problem and f' ({self.problem})'}")
        trouble = self._troubles.setdefault(name, _Trouble())
        if self._clock() < trouble.until:
            raise CheckFailedError("resting", f"it rests, since it was late or crashed {MAX_LATE} times in a row")
        try:
            async with asyncio.timeout(budget):
                child = await self._free(name)
        except TimeoutError:
            raise CheckFailedError("busy", f"all {self._count} processes are busy with others") from None
        # The child is in the middle of something, whether our caller is still there or not: a task of ours sees to it.
        answer = await asyncio.shield(self._tasks.create_task(self._answer(child, Question(name, request), budget)))
        if isinstance(answer, CheckFailedError):
            raise answer
        return answer

    async def _free(self, name: str) -> _Child:
        while True:
            child = await self._idle.get()
            if name in child.names and not child.over.is_set():
                return child
            child.over.set()

    async def _answer(self, child: _Child, question: Question, budget: float) -> Verdict | CheckFailedError:
        trouble = self._troubles.setdefault(question.name, _Trouble())
        try:
            async with asyncio.timeout(budget):
                answer = msgspec.msgpack.decode(await child.exchange(question), type=Answer)
        except TimeoutError:
            self._late(child, trouble)
            return CheckFailedError("late", f"it took longer than {budget * 1000:g} ms")
        except (OSError, EOFError, msgspec.DecodeError):
            self._late(child, trouble)
            return CheckFailedError("crashed", "its process has ended")
        except BaseException:
            child.over.set()
            raise
        if not child.over.is_set():
            self._idle.put_nowait(child)
        trouble.late = trouble.rests = 0
        if answer.verdict is None:
            return CheckFailedError("raised", answer.problem)
        return answer.verdict

    def _late(self, child: _Child, trouble: _Trouble) -> None:
        child.over.set()
        trouble.late += 1
        if trouble.late >= MAX_LATE:
            first, longest = REST
            trouble.until = self._clock() + min(longest, first * 2**trouble.rests)
            trouble.late, trouble.rests = 0, min(trouble.rests + 1, 16)

    async def _keep(self) -> None:
        """Have one child at any time."""
        while True:
            await self._wanted.wait()
            child: _Child | None = None
            begun = self._clock()
            try:
                child, self._spare = self._spare, None
                child = child or await self._start(self._files)
                self._children.add(child)
                self._idle.put_nowait(child)
                await _first(child.over, child.process)
                child.over.set()
            except (CheckFailedError, OSError) as error:
                log.error("a process for checks cannot be started: %s", error)
            finally:
                if child is not None:
                    self._children.discard(child)
                    await asyncio.shield(child.end())
            if child is None or self._clock() - begun < QUICK:
                await asyncio.sleep(max(0.0, PAUSE - (self._clock() - begun)))

    async def _try(self, files: Mapping[str, str]) -> None:
        """Put `files` in force, if they can be loaded."""
        child: _Child | None = None
        if files:
            try:
                child = await self._start(files)
            except (CheckFailedError, OSError) as error:
                self.problem = str(error)
                log.error("checks stay as they were: %s", error)
                return
        names = frozenset[str]() if child is None else child.names
        self._files, self.names, self.problem = files, names, ""
        self.digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16] if files else ""
        self._troubles.clear()
        if self._spare is not None:
            await self._spare.end()
        self._spare = child  # whoever loses its child now has this one at once
        for old in self._children:
            old.over.set()
        if files:
            self._wanted.set()
        else:
            self._wanted.clear()
        log.info("checks in force: %s", ", ".join(sorted(names)) or "none")
        self.loaded()

    async def _start(self, files: Mapping[str, str]) -> _Child:
        """A child that has loaded `files`. Raises CheckFailedError, with what is wrong with them."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-m",
            "pymesh_controlplane.policy.check_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd="/",
            env={"LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        child = _Child(process, frozenset())
        try:
            async with asyncio.timeout(LOAD_TIMEOUT):
                loaded = msgspec.msgpack.decode(await child.exchange(Sources(dict(files))), type=Loaded)
        except TimeoutError:
            await child.end()
            raise CheckFailedError("late", f"it takes longer than {LOAD_TIMEOUT:g} s to load them") from None
        except (OSError, EOFError, msgspec.DecodeError):
            await child.end()
            raise CheckFailedError("crashed", "the process that loads them has ended") from None
        except BaseException:
            await asyncio.shield(child.end())
            raise
        if loaded.problem:
            await child.end()
            raise CheckFailedError("raised", loaded.problem)
        child.names = frozenset(loaded.names)
        return child


async def _read(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    if length > MAX_FRAME:
        raise EOFError("a frame that is too long")
    return await process.stdout.readexactly(length)


async def _first(over: asyncio.Event, process: asyncio.subprocess.Process) -> None:
    """Wait until one of them says that the child is of no use any more."""
    async with asyncio.TaskGroup() as waits:
        ended = waits.create_task(process.wait())
        told = waits.create_task(over.wait())
        await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        told.cancel()
