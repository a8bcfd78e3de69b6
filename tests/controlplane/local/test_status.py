"""What a pod's containers amount to, in one word and one sentence."""

import pytest

from pymesh_controlplane.local.containers import ContainerStatus
from pymesh_controlplane.local.status import summarise

RUNNING = ContainerStatus("app", "running", "", ready=True, started=True, pid=7)
INIT_DONE = ContainerStatus("init", "terminated", "Completed", exit_code=0)
UNREADY = ContainerStatus("pymesh-proxy", "running", "", "waiting for listeners from pilot", started=True, pid=8)
CRASHED = ContainerStatus("app", "waiting", "CrashLoopBackOff", "exited with code 1: boom", restarts=3)
FAILED = ContainerStatus("app", "terminated", "Error", "exited with code 1", exit_code=1)
DONE = ContainerStatus("app", "terminated", "Completed", exit_code=0)
NEW = ContainerStatus("app")


@pytest.mark.parametrize(
    ("init", "main", "phase", "ready", "reason", "message"),
    [
        ([], [RUNNING], "Running", True, "Running", ""),
        ([INIT_DONE], [RUNNING, RUNNING], "Running", True, "Running", ""),
        (
            [INIT_DONE],
            [RUNNING, UNREADY],
            "Running",
            False,
            "Running",
            "pymesh-proxy not ready: waiting for listeners from pilot",
        ),
        ([ContainerStatus("init")], [NEW], "Pending", False, "Init:0/1", ""),
        ([INIT_DONE, ContainerStatus("two")], [NEW], "Pending", False, "Init:1/2", ""),
        ([CRASHED], [NEW], "Pending", False, "Init:CrashLoopBackOff", "app: exited with code 1: boom"),
        ([], [CRASHED, RUNNING], "Running", False, "CrashLoopBackOff", "app: exited with code 1: boom"),
        ([], [NEW], "Pending", False, "ContainerCreating", ""),
        ([], [DONE], "Succeeded", False, "Completed", ""),
        ([], [FAILED], "Failed", False, "Error", "app: exited with code 1"),
        ([FAILED], [NEW], "Failed", False, "Init:Error", "app: exited with code 1"),
    ],
)
def test_summary(  # noqa: PLR0917  a row of the table
    init: list[ContainerStatus], main: list[ContainerStatus], phase: str, ready: bool, reason: str, message: str
) -> None:
    status = summarise(tuple(init), tuple(main), [False] * len(init), "", terminating=False)
    assert (status.phase, status.ready, status.reason, status.message) == (phase, ready, reason, message)


def test_what_is_waited_for_comes_first() -> None:
    status = summarise((), (NEW,), [], "waiting for ConfigMap default/x", terminating=False)
    assert (status.phase, status.reason, status.message) == (
        "Pending",
        "ContainerCreating",
        "waiting for ConfigMap default/x",
    )


def test_a_pod_that_ends_is_not_ready() -> None:
    status = summarise((), (RUNNING,), [], "", terminating=True)
    assert (status.ready, status.reason) == (False, "Terminating")


def test_a_native_sidecar_counts_as_long_as_the_pod_lives() -> None:
    sidecar = ContainerStatus("pymesh-proxy", "running", "", ready=True, started=True)
    assert summarise((sidecar,), (RUNNING,), [True], "", terminating=False).ready
    unready = ContainerStatus("pymesh-proxy", "running", "", started=True)
    assert not summarise((unready,), (RUNNING,), [True], "", terminating=False).ready
