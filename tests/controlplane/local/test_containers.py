"""One container's life: restarts and their pauses, probes, and an end in good order."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pymesh_controlplane.local import processes
from pymesh_controlplane.local.containers import MAX_BACKOFF, ContainerRunner, Policy, next_backoff
from pymesh_controlplane.local.launch import Launch
from pymesh_controlplane.local.logs import ContainerLog
from pymesh_controlplane.local.podspec import Container, Exec, Lifecycle, LifecycleHandler, Probe
from pymesh_controlplane.local.probes import Target
from tests.support.netns import Network
from tests.support.waiting import eventually


def test_backoff_grows_to_a_limit_and_is_forgotten_after_a_long_run() -> None:
    pauses = [0.0]
    for _ in range(8):
        pauses.append(next_backoff(pauses[-1], ran_for=0.1))
    assert pauses == [0, 1, 2, 4, 8, 16, MAX_BACKOFF, MAX_BACKOFF, MAX_BACKOFF]
    assert next_backoff(16, ran_for=100) == 0


Start = Callable[..., ContainerRunner]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Makes runners of shell scripts in a network namespace."""
    with Network() as net:
        path = f"/run/netns/{net.pod('a').name}"
        (tmp_path / "root").mkdir()
        log = ContainerLog(tmp_path / "c.log")

        def make(script: str | Sequence[str], policy: Policy = "Always", **fields: object) -> ContainerRunner:
            argv = ["sh", "-c", script] if isinstance(script, str) else list(script)
            launch = Launch(
                argv,
                {"PATH": "/usr/bin:/bin"},
                "/",
                os.getuid(),
                os.getgid(),
                netns=path,
                staging=str(tmp_path / "root"),
            )
            spec = Container(name="c", **fields)  # type: ignore[arg-type]  # a test's shorthand
            target = Target("127.0.0.1", lambda: pytest.fail("nothing is connected to"))
            return ContainerRunner(
                spec, launch=lambda: launch, log=log, target=target, policy=policy, changed=lambda: None
            )

        try:
            yield make
        finally:
            log.close()


@asynccontextmanager
async def running(runner: ContainerRunner) -> AsyncIterator[ContainerRunner]:
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run())
        yield runner
        await runner.stop(5)


@pytest.mark.netns
async def test_a_killed_container_is_started_again_at_once(start: Start) -> None:
    async with running(start("exec sleep 60")) as runner:
        await eventually(lambda: runner.status.ready)
        first = runner.status.pid
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: runner.status.ready and runner.status.pid != first)
        assert runner.status.restarts == 1
    assert (runner.status.state, runner.status.ready) == ("terminated", False)


@pytest.mark.netns
async def test_a_crash_is_told_with_its_last_words(start: Start, tmp_path: Path) -> None:
    async with running(start("echo the moon is missing >&2; exit 3")) as runner:
        await eventually(lambda: runner.status.restarts >= 1 and runner.status.reason == "CrashLoopBackOff")
        assert runner.status.message == "exited with code 3: the moon is missing"
    assert "started again in" in (tmp_path / "c.log").read_text()


@pytest.mark.netns
async def test_a_command_that_does_not_exist_is_told(start: Start) -> None:
    async with running(start(["no-such-command"])) as runner:
        await eventually(lambda: runner.status.reason == "CrashLoopBackOff")
        assert runner.status.message == (
            "cannot be started: no-such-command is not in the container; PATH is /usr/bin:/bin"
        )


@pytest.mark.netns
@pytest.mark.parametrize(("policy", "code", "reason"), [("Never", 1, "Error"), ("OnFailure", 0, "Completed")])
async def test_what_is_not_to_be_restarted_is_not(start: Start, policy: Policy, code: int, reason: str) -> None:
    runner = start(f"exit {code}", policy)
    async with asyncio.timeout(10):
        await runner.run()
    assert (runner.status.state, runner.status.exit_code, runner.status.reason) == ("terminated", code, reason)


@pytest.mark.netns
async def test_probes_decide_readiness_and_life(start: Start, tmp_path: Path) -> None:
    script = "touch /tmp/alive; exec sleep 60"
    ready = Probe(exec=Exec(command=["test", "-e", "/tmp/ready"]), period_seconds=1)
    alive = Probe(exec=Exec(command=["test", "-e", "/tmp/alive"]), period_seconds=1, failure_threshold=1)
    startup = Probe(exec=Exec(command=["true"]))
    async with running(start(script, readiness_probe=ready, liveness_probe=alive, startup_probe=startup)) as runner:
        await eventually(lambda: runner.status.started)
        assert not runner.status.ready
        inside = Path(f"/proc/{runner.status.pid}/root/tmp")
        (inside / "ready").touch()
        await eventually(lambda: runner.status.ready)
        (inside / "alive").unlink()
        await eventually(lambda: runner.status.restarts == 1 and runner.status.started)


@pytest.mark.netns
async def test_the_end_comes_with_its_hook_and_then_with_force(start: Start, tmp_path: Path) -> None:
    hook = Lifecycle(pre_stop=LifecycleHandler(exec=Exec(command=["touch", "/tmp/hook"])))
    script = "trap '' TERM; while [ ! -e /tmp/hook ]; do sleep 0.02; done; echo hooked; while :; do sleep 0.1; done"
    runner = start(script, lifecycle=hook)
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run())
        await eventually(lambda: runner.status.ready)
        await runner.stop(0.5)
    assert runner.status.exit_code == 128 + signal.SIGKILL
    assert "hooked" in (tmp_path / "c.log").read_text()


@pytest.mark.netns
async def test_the_next_container_may_begin_when_the_post_start_hook_has_ended(start: Start, tmp_path: Path) -> None:
    script = "while [ ! -e /tmp/go ]; do sleep 0.02; done"
    hook = Lifecycle(post_start=LifecycleHandler(exec=Exec(command=["sh", "-c", script])))
    async with running(start("exec sleep 60", lifecycle=hook)) as runner:
        await eventually(lambda: runner.status.state == "running")
        assert not runner.has_begun.is_set()
        assert not runner.status.ready
        Path(f"/proc/{runner.status.pid}/root/tmp/go").touch()
        await eventually(lambda: runner.has_begun.is_set() and runner.status.ready)


@pytest.mark.netns
async def test_a_container_whose_hook_fails_is_started_again_and_holds_nobody(start: Start, tmp_path: Path) -> None:
    hook = Lifecycle(post_start=LifecycleHandler(exec=Exec(command=["sh", "-c", "echo no luck; exit 1"])))
    async with running(start("exec sleep 60", lifecycle=hook)) as runner:
        await eventually(lambda: runner.status.restarts >= 1)
        assert runner.has_begun.is_set()
    assert "the postStart hook failed: no luck" in (tmp_path / "c.log").read_text()


@pytest.mark.netns
async def test_a_sidecar_ends_after_the_containers_it_is_there_for_and_its_hook_runs_at_once(
    start: Start, tmp_path: Path
) -> None:
    hook = Lifecycle(pre_stop=LifecycleHandler(exec=Exec(command=["sh", "-c", "echo told; exit 1"])))
    said = "trap '{}; exit 0' TERM; echo NAME runs; while :; do sleep 0.02; done"
    app = start(said.replace("NAME", "app").format("sleep 0.3; echo app ends"))
    sidecar = start(said.replace("NAME", "sidecar").format("echo sidecar ends"), lifecycle=hook)
    async with asyncio.TaskGroup() as group:
        for runner in (sidecar, app):
            group.create_task(runner.run())
        await eventually(lambda: {"app runs", "sidecar runs"} <= set((tmp_path / "c.log").read_text().splitlines()))
        await asyncio.gather(sidecar.stop(20, after=(app,)), app.stop(20))
    lines = await eventually(lambda: _lines_with(tmp_path / "c.log", "sidecar ends"))
    told = next(index for index, line in enumerate(lines) if "preStop hook failed: told" in line)
    assert told < lines.index("app ends") < lines.index("sidecar ends")
    assert (app.status.exit_code, sidecar.status.exit_code) == (0, 0)


def _lines_with(path: Path, last: str) -> list[str]:
    """The lines in `path` once `last` is one of them; what a container says takes a moment to get there."""
    lines = path.read_text().splitlines()
    return lines if last in lines else []


@pytest.mark.netns
async def test_what_is_ending_is_not_ended_sooner_by_its_liveness_probe(start: Start, tmp_path: Path) -> None:
    dead = Probe(exec=Exec(command=["sh", "-c", "test -e /tmp/alive"]), period_seconds=1, failure_threshold=1)
    script = "rm /tmp/alive; sleep 2.5; echo finished >> /tmp/said"
    hook = Lifecycle(pre_stop=LifecycleHandler(exec=Exec(command=["sh", "-c", script])))
    said = "touch /tmp/alive; trap 'cat /tmp/said; exit 0' TERM; while :; do sleep 0.02; done"
    runner = start(said, lifecycle=hook, liveness_probe=dead)
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run())
        await eventually(lambda: runner.status.ready)
        await eventually(lambda: Path(f"/proc/{runner.status.pid}/root/tmp/alive").exists())
        await runner.stop(20)
    assert await eventually(lambda: _lines_with(tmp_path / "c.log", "finished"))


@pytest.mark.netns
async def test_a_sidecar_does_not_outlive_the_grace_period_of_an_app_that_hangs(start: Start) -> None:
    app = start("trap '' TERM; while :; do sleep 0.02; done")
    sidecar = start("exec sleep 60")
    async with asyncio.TaskGroup() as group:
        for runner in (sidecar, app):
            group.create_task(runner.run())
        await eventually(lambda: sidecar.status.ready and app.status.ready)
        await asyncio.gather(sidecar.stop(0.5, after=(app,)), app.stop(0.5))
    assert app.status.exit_code == 128 + signal.SIGKILL
    assert sidecar.status.exit_code == 128 + signal.SIGTERM


@pytest.mark.netns
async def test_processes_are_found_by_their_namespace(start: Start) -> None:
    async with running(start("sleep 60 & exec sleep 61")) as runner:
        await eventually(lambda: runner.status.ready)
        namespace = Path(f"/proc/{runner.status.pid}/ns/net")
        found = await eventually(lambda: len(processes.in_network_namespace(namespace)) == 2)
        assert found
        assert runner.status.pid in processes.in_network_namespace(namespace)
        processes.kill_in_network_namespace(namespace)
        await eventually(lambda: runner.status.restarts == 1)


def test_a_process_has_a_start_time_as_long_as_it_runs() -> None:
    assert processes.start_time(os.getpid()) == processes.start_time(os.getpid())
    assert processes.start_time(2**22 + 1) is None
    assert processes.in_network_namespace(Path("/run/netns/no-such")) == []
