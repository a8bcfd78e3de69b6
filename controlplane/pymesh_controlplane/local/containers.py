"""One container: started, watched by its probes, restarted when it ends, stopped with time to finish."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pymesh.errors import MeshError
from pymesh_controlplane.local import probes, processes
from pymesh_controlplane.local.launch import Launch
from pymesh_controlplane.local.logs import ContainerLog
from pymesh_controlplane.local.podspec import Container, LifecycleHandler, Probe
from pymesh_controlplane.local.probes import Counter, Outcome, Target
from pymesh_controlplane.local.processes import Ended, Process

# Seconds between restarts: none before the first, then doubled. Kubernetes waits 10 s to 5 min; on one machine somebody
# is watching.
FIRST_BACKOFF: Final = 1.0
MAX_BACKOFF: Final = 30.0
# Seconds a container must have run for its next end to count as the first one again.
RUN_LONG_ENOUGH: Final = 60.0
# Seconds between two looks at a container that was not ready yet, however rarely it is to be asked later.
STARTING_PERIOD: Final = 0.25
# Seconds to end that a container has at least, of the pod's, when hooks and other containers have taken the rest.
MINIMUM_GRACE: Final = 2.0
# Seconds that a container gets whose postStart hook or probe has failed, where nothing else is said: Kubernetes'
# default for a pod.
DEFAULT_GRACE: Final = 30.0

Policy = Literal["Always", "OnFailure", "Never"]


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What there is to say about a container.

    Attributes:
        state: `waiting` (to be started, perhaps again), `running`, or `terminated` for good.
        reason: one word, as Kubernetes has it: ContainerCreating, CrashLoopBackOff, Completed, Error.
        message: a sentence about it: why it ended, or what its probe said.
        ready: running, started up and, where it has a readiness probe, that passes.
        started: running, and its startup probe, where it has one, has passed.
        since: Unix time of the start of the running process.
    """

    name: str
    state: Literal["waiting", "running", "terminated"] = "waiting"
    reason: str = "ContainerCreating"
    message: str = ""
    ready: bool = False
    started: bool = False
    restarts: int = 0
    exit_code: int | None = None
    pid: int = 0
    since: float = 0.0


def next_backoff(previous: float, ran_for: float) -> float:
    """Seconds to wait before the next start, after a process that `ran_for` seconds. Pure."""
    if ran_for >= RUN_LONG_ENOUGH:
        return 0.0
    return min(max(previous * 2, FIRST_BACKOFF), MAX_BACKOFF)


class ContainerRunner:
    """A container of one pod.

    Attributes:
        status: how it is now.
        has_begun: set once a start has been tried and its postStart hook has ended: the next container may be started.
        has_started: set once it has started up for the first time.
        running_launch: how to start another command in it; None while it does not run.

    Args:
        spec: what to run.
        launch: how, made anew for each start. It may raise MeshError: then the start has failed.
        log: where its output goes; closed by its owner.
        target: where its probes ask.
        policy: whether it is started again after it has ended.
        changed: is called after every change of `status`.
    """

    def __init__(
        self,
        spec: Container,
        *,
        launch: Callable[[], Launch],
        log: ContainerLog,
        target: Target,
        policy: Policy,
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.status = ContainerStatus(spec.name)
        self.running_launch: Launch | None = None
        self._launch = launch
        self._log = log
        self._target = target
        self._policy = policy
        self._changed = changed
        self._process: Process | None = None
        self._stopping = False
        self.has_begun = asyncio.Event()
        self.has_started = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Run it until it ends for good: by `stop`, or because its policy does not restart it."""
        try:
            await self._keep_running()
        finally:
            self.has_begun.set()
            self._ended.set()

    async def _keep_running(self) -> None:
        backoff = 0.0
        while not self._stopping:
            begun = time.monotonic()
            ended = await self._run_once()
            if self._stopping or not self._again(ended):
                self._end(ended)
                return
            message = str(ended) if isinstance(ended, Ended) else ended
            if isinstance(ended, Ended) and ended.exit_code and (last := self._log.last_line()):
                message = f"{message}: {last}"
            self._log.note(f"{self.spec.name} {message}; started again in {backoff:g} s")
            self._set(
                replace(
                    self.status,
                    state="waiting",
                    reason="CrashLoopBackOff",
                    message=message,
                    ready=False,
                    started=False,
                    pid=0,
                )
            )
            self.has_begun.set()
            await asyncio.sleep(backoff)
            backoff = next_backoff(backoff, time.monotonic() - begun)
            self._set(replace(self.status, restarts=self.status.restarts + 1))

    async def _run_once(self) -> Ended | str:
        """How it ended, or why it could not start."""
        try:
            launch = self._launch()
            self._process = await processes.start(launch, self._log.write_fd)
        except (MeshError, OSError) as error:
            return f"cannot be started: {error}"
        self.running_launch = replace(launch, join=self._process.pid, sockets={})
        running = replace(self.status, state="running", reason="", message="", started=False, ready=False)
        self._set(replace(running, pid=self._process.pid, since=time.time()))
        if self._stopping:
            self._process.send(signal.SIGKILL)
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(self._process))
            ended = await self._process.wait()
            watch.cancel()
        self._process = self.running_launch = None
        return ended

    def _again(self, ended: Ended | str) -> bool:
        if self._policy == "OnFailure":
            return isinstance(ended, str) or ended.exit_code != 0
        return self._policy == "Always"

    def _end(self, ended: Ended | str) -> None:
        code = ended.exit_code if isinstance(ended, Ended) else None
        reason = "Completed" if code == 0 else "Error"
        message = "" if code == 0 else str(ended)
        if code and not self._stopping and (last := self._log.last_line()):
            message = f"{message}: {last}"
        self._set(
            replace(self.status, state="terminated", reason=reason, message=message, ready=False, pid=0, exit_code=code)
        )

    async def stop(self, grace: float, after: Sequence["ContainerRunner"] = ()) -> None:
        """Run its preStop hook, let the containers `after` end, then send SIGTERM and, when `grace` seconds are over,
        SIGKILL; returns when it has ended."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        deadline = time.monotonic() + grace
        hook = self.spec.lifecycle.pre_stop if self.spec.lifecycle else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                if hook is not None and (failure := await self._run_hook(hook)):
                    self._log.note(f"{self.spec.name}: the preStop hook failed: {failure}")
                for other in after:
                    await other.ended()
        await terminate(process, max(min(grace, MINIMUM_GRACE), deadline - time.monotonic()))

    async def ended(self) -> None:
        """Wait until it has ended for good; at once if it does not run."""
        if self._process is not None:
            await self._ended.wait()

    async def _run_hook(self, hook: LifecycleHandler) -> str:
        """Why the hook failed; empty if it did not."""
        if hook.sleep is not None:
            await asyncio.sleep(hook.sleep.seconds)
            return ""
        if hook.exec is not None:
            outcome = await self._exec(hook.exec.command)
            return "" if outcome.success else outcome.message
        assert hook.http_get is not None
        try:
            # As a kubelet: to have been answered is enough, whatever the answer.
            await probes.ask_http(hook.http_get, self.spec, self._target)
        except OSError as error:
            return str(error)
        return ""

    async def _watch(self, process: Process) -> None:
        """What a kubelet does with a container that runs: its postStart hook, then its probes."""
        hook = self.spec.lifecycle.post_start if self.spec.lifecycle else None
        if hook is not None and (failure := await self._run_hook(hook)):
            self._log.note(f"{self.spec.name} is stopped: the postStart hook failed: {failure}")
            self.has_begun.set()
            await terminate(process, DEFAULT_GRACE)
            return
        self.has_begun.set()
        if self.spec.startup_probe is None:
            self._set(replace(self.status, started=True, ready=self.spec.readiness_probe is None))
        await self._probe(process)

    async def _probe(self, process: Process) -> None:
        if self.spec.startup_probe is not None:
            await self._ask_until_started(self.spec.startup_probe, process)
            self._set(replace(self.status, started=True, ready=self.spec.readiness_probe is None, message=""))
        async with asyncio.TaskGroup() as group:
            if self.spec.readiness_probe is not None:
                group.create_task(self._watch_readiness(self.spec.readiness_probe))
            if self.spec.liveness_probe is not None:
                group.create_task(self._watch_liveness(self.spec.liveness_probe, process))

    async def _ask_until_started(self, probe: Probe, process: Process) -> None:
        # Asked more often than it says, and given up after as long: others wait for it.
        pause = min(STARTING_PERIOD, probe.period_seconds)
        counter = Counter(1, max(1, round(probe.failure_threshold * probe.period_seconds / pause)))
        await asyncio.sleep(probe.initial_delay_seconds)
        while not counter.passing:
            if counter.add(await self._ask(probe)):
                self._set(replace(self.status, message=f"startup probe: {counter.message}" if counter.message else ""))
            if counter.failed:
                await self._fail(probe, process, f"startup probe: {counter.message}")
            if not counter.passing:
                await asyncio.sleep(pause)

    async def _watch_readiness(self, probe: Probe) -> None:
        counter = Counter(probe.success_threshold, probe.failure_threshold)
        been_ready = False
        await asyncio.sleep(probe.initial_delay_seconds)
        while True:
            if counter.add(await self._ask(probe)):
                self._set(replace(self.status, ready=counter.passing, message=counter.message))
            been_ready = been_ready or counter.passing
            await asyncio.sleep(probe.period_seconds if been_ready else min(STARTING_PERIOD, probe.period_seconds))

    async def _watch_liveness(self, probe: Probe, process: Process) -> None:
        counter = Counter(1, probe.failure_threshold, passing=True)
        await asyncio.sleep(probe.initial_delay_seconds)
        while True:
            counter.add(await self._ask(probe))
            if self._stopping:
                return  # as a kubelet: what is ending anyway is left to its hook and its grace period
            if counter.failed:
                await self._fail(probe, process, f"liveness probe: {counter.message}")
            await asyncio.sleep(probe.period_seconds)

    async def _fail(self, probe: Probe, process: Process, why: str) -> None:
        """End the process because a probe demands it; its run loop then decides what comes next."""
        self._log.note(f"{self.spec.name} is stopped: {why}")
        grace = probe.termination_grace_period_seconds
        await terminate(process, DEFAULT_GRACE if grace is None else grace)

    async def _ask(self, probe: Probe) -> Outcome:
        return await probes.ask(probe, self.spec, self._target, self._exec)

    async def _exec(self, command: Sequence[str]) -> Outcome:
        if self.running_launch is None:
            return Outcome(False, "not running")
        read, write = os.pipe()
        try:
            process = await processes.start(replace(self.running_launch, argv=command), write)
        except processes.StartError as error:
            os.close(read)
            return Outcome(False, str(error))
        finally:
            os.close(write)
        try:
            output, ended = await asyncio.gather(asyncio.to_thread(_read_some, read), process.wait())
        finally:
            process.send(signal.SIGKILL)
        return Outcome(ended.exit_code == 0, output or str(ended))

    def _set(self, status: ContainerStatus) -> None:
        if status != self.status:
            self.status = status
            if status.started:
                self.has_started.set()
            self._changed()


async def terminate(process: Process, grace: float) -> None:
    """SIGTERM, and SIGKILL when `grace` seconds are over; returns when the process has ended."""
    process.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(grace):
            await process.wait()
    except TimeoutError:
        process.send(signal.SIGKILL)
        await process.wait()


def _read_some(fd: int) -> str:
    with os.fdopen(fd, "rb") as pipe:
        return pipe.read(probes.MAX_MESSAGE).decode(errors="replace").strip()
