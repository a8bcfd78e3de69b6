"""Checks in Python in their own processes: answers, deadlines, crashes, new sources. All of it with real processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from pymesh.checks import Request, Verdict
from pymesh_controlplane.policy import python_checks
from pymesh_controlplane.policy.python_checks import CheckFailedError, PythonChecks
from tests.support.waiting import eventually

SOURCE = """
import os, resource, time
from pymesh.checks import allow, check, deny

@check
def polite(request):
    if request.headers.get("please"):
        return allow(seconds=5, uses=3, by=["source.principal"])
    return deny(451, "say please")

@check
def raises(request):
    return request.claims["absent"]["deeper"]

@check
def spins(request):
    while True:
        pass

@check
def dies(request):
    os._exit(3)

@check
def rights(request):
    print("goes to the log, not among the frames")
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    return deny(400, f"{processes} processes, {sorted(os.environ)}, {os.getcwd()}")

@check
def sleeps(request):
    time.sleep(0.05)
    return allow()
"""
BUDGET = 5.0  # of those that answer: the machine may be busy


@asynccontextmanager
async def running(source: str = SOURCE, children: int = 1) -> AsyncIterator[PythonChecks]:
    checks = PythonChecks(monotonic, children)
    checks.offer({"a.py": source})
    task = asyncio.get_running_loop().create_task(checks.run())
    try:
        await eventually(lambda: checks.names or checks.problem)
        yield checks
    finally:
        task.cancel()
        await asyncio.wait([task])


async def failure(checks: PythonChecks, name: str, budget: float = BUDGET) -> CheckFailedError:
    with pytest.raises(CheckFailedError) as caught:
        await checks.ask(name, Request(), budget)
    return caught.value


async def test_a_check_answers_and_what_it_raises_is_told_with_its_line() -> None:
    async with running() as checks:
        said = await checks.ask("polite", Request(headers={"please": "1"}), BUDGET)
        assert said == Verdict(True, seconds=5, uses=3, by=("source.principal",))
        assert await checks.ask("polite", Request(), BUDGET) == Verdict(False, 451, "say please")
        assert str(await failure(checks, "raises")) == "KeyError: 'absent' (line 13 of a.py)"
        assert str(await failure(checks, "absent")) == "there is no check called absent"
        assert checks.failures == {("raises", "raised"): 1, ("absent", "unknown"): 1}
        assert (await checks.ask("rights", Request(), BUDGET)).reason == "0 processes, ['LC_ALL'], /"


async def test_a_check_that_spins_costs_its_budget_and_others_go_on() -> None:
    """Its process is killed and replaced; after three times in a row it is not asked for a while."""
    async with running() as checks:
        (before,) = {child.process.pid for child in checks._children}
        assert (await failure(checks, "spins", 0.05)).kind == "late"
        assert (await checks.ask("polite", Request(), BUDGET)).status == 451
        (after,) = {child.process.pid for child in checks._children}
        assert after != before
        for _ in range(2):
            await checks.ask("polite", Request(), BUDGET)  # there is a process again
            assert (await failure(checks, "spins", 0.05)).kind == "late"
        assert (await failure(checks, "spins", 0.05)).kind == "resting"
        assert (await checks.ask("polite", Request(), BUDGET)).status == 451


async def test_a_check_that_ends_its_process_is_a_failure_of_its_own() -> None:
    async with running() as checks:
        assert (await failure(checks, "dies")).kind == "crashed"
        assert (await checks.ask("polite", Request(), BUDGET)).status == 451


async def test_who_gives_up_waiting_leaves_the_process_to_the_next() -> None:
    async with running() as checks:
        (before,) = {child.process.pid for child in checks._children}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await checks.ask("sleeps", Request(), BUDGET)
        assert (await checks.ask("polite", Request(), BUDGET)).status == 451
        assert {child.process.pid for child in checks._children} == {before}


async def test_new_sources_come_into_force_and_those_that_cannot_be_loaded_do_not() -> None:
    async with running() as checks:
        digest = checks.digest
        checks.offer({"a.py": SOURCE, "b.py": "from pymesh.checks import *\nthis is no Python"})
        await eventually(lambda: checks.problem)
        assert checks.problem == "b.py: line 2: invalid syntax"
        assert (await checks.ask("polite", Request(), BUDGET)).status == 451
        checks.offer({"a.py": SOURCE, "b.py": SOURCE})
        await eventually(lambda: "another file" in checks.problem)
        checks.offer({"a.py": "import nothing_like_it"})
        await eventually(lambda: "nothing_like_it" in checks.problem)
        assert checks.digest == digest
        checks.offer({"a.py": SOURCE.replace("451", "402")})
        await eventually(lambda: checks.digest != digest)
        assert checks.problem == ""
        assert (await checks.ask("polite", Request(), BUDGET)).status == 402
        checks.offer({})
        await eventually(lambda: not checks.names)
        assert (await failure(checks, "polite")).kind == "unknown"


async def test_sources_that_never_end_to_load_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as checks:
        monkeypatch.setattr(python_checks, "LOAD_TIMEOUT", 0.5)
        checks.offer({"a.py": "while True: pass"})
        await eventually(lambda: "takes longer" in checks.problem)
        assert (await checks.ask("polite", Request(), BUDGET)).status == 451
