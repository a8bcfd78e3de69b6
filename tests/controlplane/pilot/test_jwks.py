"""Keys of issuers: asked for when a world names them, kept while they cannot be had, told of when they change."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from pymesh.jwks import MAX_BYTES, key_set
from pymesh.resources.istio.request_authentication import KeySource
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot import jwks
from pymesh_controlplane.pilot.jwks import FIRST_PAUSE, LONGEST_PAUSE, REFRESH, FetchError, KeyedSource, sources
from pymesh_controlplane.pilot.model import World
from tests.controlplane.pilot.security_worlds import authentication
from tests.controlplane.pilot.worlds import BOOKINFO, world_of
from tests.support.tokens import ec_key
from tests.support.tokens import jwks as written

FIRST, SECOND = written(ec_key().public(kid="first")), written(ec_key().public(kid="second"))
A, B = KeySource("https://a.test", "https://a.test/keys"), KeySource("https://b.test", "")
FAILED = "pilot_jwks_resolver_network_fetch_fail_total"
GOOD = "pilot_jwks_resolver_network_fetch_success_total"
RULE_A = "{issuer: 'https://a.test', jwksUri: 'https://a.test/keys', timeout: 3s}"
RULE_B = "{issuer: 'https://b.test'}"


def naming(*rules: str) -> World:
    return world_of(BOOKINFO + authentication("one", f"{{jwtRules: [{', '.join(rules)}]}}"))


class Situation:
    """An issuer whose answers, a source whose worlds, and a clock whose pauses the test decides."""

    def __init__(self) -> None:
        self.worlds: asyncio.Queue[World] = asyncio.Queue()
        self.answers: dict[KeySource, str | Exception] = {}
        self.asked: list[tuple[KeySource, float]] = []
        self.pauses: list[float] = []
        self.sleepers: list[asyncio.Future[None]] = []
        self.metrics = Metrics()
        self.keyed = KeyedSource(self, self.fetch, self.metrics, lambda: 0.5, self.sleep)

    async def watch(self) -> AsyncIterator[World]:
        while True:
            yield await self.worlds.get()

    async def fetch(self, source: KeySource, within: float) -> bytes:
        self.asked.append((source, within))
        answer = self.answers.get(source, FetchError("nobody is there"))
        if isinstance(answer, Exception):
            raise answer
        return answer.encode()

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append(future)
        await future

    async def wake(self) -> None:
        """Every pause is over; returns when they have begun anew."""
        sleepers, self.sleepers = self.sleepers, []
        for future in sleepers:
            if not future.done():
                future.set_result(None)
        while len(self.sleepers) < len(sleepers):
            await asyncio.sleep(0)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Situation, Callable[[], Awaitable[World]]]]:
    """A situation, and what pilot is told next."""
    found = Situation()
    task = asyncio.get_running_loop().create_task(found.keyed.run())
    try:
        async with aclosing(found.keyed.watch()) as told:  # type: ignore[type-var]  # an async generator

            async def after() -> World:
                async with asyncio.timeout(10):
                    return await anext(told)

            yield found, after
    finally:
        task.cancel()
        await asyncio.wait([task])


def problems(world: World) -> list[str]:
    return [f"{problem.path}: {problem.sentence}" for problem in world.problems]


async def test_a_world_has_the_keys_that_it_names() -> None:
    async with running() as (found, after):
        found.answers = {A: FIRST, B: SECOND}
        found.worlds.put_nowait(naming(RULE_A, RULE_B))
        world = await after()
        assert world.key_sets == {A: key_set(FIRST).encoded(), B: key_set(SECOND).encoded()}
        assert problems(world) == []
        assert sorted(found.asked) == [(A, 3.0), (B, 5.0)]
        assert found.metrics.counted(GOOD) == 2
        assert found.pauses == [REFRESH * 1.1, REFRESH * 1.1]


async def test_a_world_that_names_none_waits_for_nothing() -> None:
    async with running() as (found, after):
        found.worlds.put_nowait(world_of(BOOKINFO))
        assert (await after()).key_sets == {}
        assert found.asked == []


async def test_keys_that_cannot_be_had_are_told_of_and_asked_for_more_and_more_seldom() -> None:
    async with running() as (found, after):
        found.worlds.put_nowait(naming(RULE_A))
        world = await after()
        assert world.key_sets == {}
        sentence = "the keys of https://a.test could not be fetched, and no token of it is good until they are"
        assert problems(world) == [f"spec.jwtRules[0]: {sentence}: nobody is there"]
        for _ in range(9):
            await found.wake()
        assert found.pauses[:3] == [FIRST_PAUSE * 1.1, FIRST_PAUSE * 2.2, FIRST_PAUSE * 4.4]
        assert found.pauses[-1] == LONGEST_PAUSE * 1.1
        assert found.metrics.counted(FAILED) == 10
        found.answers[A] = FIRST
        await found.wake()
        world = await after()
        assert (list(world.key_sets), problems(world)) == ([A], [])
        assert found.pauses[-1] == REFRESH * 1.1


async def test_the_last_good_keys_stay_whatever_comes_after_them() -> None:
    async with running() as (found, after):
        found.answers[A] = FIRST
        found.worlds.put_nowait(naming(RULE_A))
        good = (await after()).key_sets
        for answer, reason in (
            (FetchError("gone"), "gone"),
            ("<html>", "a key set is an object of JSON"),
            ('{"keys":[]}', "there is no key of use in the answer"),
            (written({"kty": "oct", "k": "AQ"}), "there is no key of use in the answer; keys[0]: a symmetric key"),
            (" " * (MAX_BYTES + 1), "at most"),
            (ZeroDivisionError("nobody thought of that"), "pymesh cannot cope with the answer: ZeroDivisionError"),
        ):
            found.answers[A] = answer
            await found.wake()
            world = await after()
            assert world.key_sets == good
            [problem] = problems(world)
            assert "cannot be renewed, and those of before stay in force" in problem
            assert reason in problem
        found.answers[A] = SECOND
        await found.wake()
        world = await after()
        assert (world.key_sets, problems(world)) == ({A: key_set(SECOND).encoded()}, [])


async def test_nobody_is_told_of_what_is_as_it_was() -> None:
    async with running() as (found, after):
        found.answers[A] = FIRST
        found.worlds.put_nowait(naming(RULE_A))
        await after()
        await found.wake()  # the same keys again
        found.worlds.put_nowait(naming(RULE_A))  # the same world again
        found.worlds.put_nowait(naming(RULE_A, RULE_B))
        world = await after()
        assert set(sources(world)) == {A, B}


async def test_what_no_world_names_any_more_is_not_asked_for() -> None:
    async with running() as (found, after):
        found.answers = {A: FIRST, B: SECOND}
        found.worlds.put_nowait(naming(RULE_A, RULE_B))
        await after()
        found.worlds.put_nowait(naming(RULE_B))
        assert list((await after()).key_sets) == [B]
        found.asked.clear()
        sleepers = [future for future in found.sleepers if not future.done()]
        found.sleepers = sleepers
        await found.wake()
        assert found.asked == [(B, 5.0)]


async def test_there_is_an_end_to_how_many_are_asked() -> None:
    async with running() as (found, after):
        text = ""
        for part in range(4):
            rules = ", ".join(f"{{issuer: 'https://{number}.test/{part}'}}" for number in range(60))
            text += authentication(f"part-{part}", f"{{jwtRules: [{rules}]}}")
        found.worlds.put_nowait(world_of(BOOKINFO + text))
        world = await after()
        assert len({source for source, _ in found.asked}) == jwks.MAX_SOURCES
        beyond = [problem for problem in problems(world) if "addresses already, and no token of" in problem]
        assert len(beyond) == 240 - jwks.MAX_SOURCES


async def test_a_world_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (found, after):
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def fetch(source: KeySource, within: float) -> bytes:
            return await never

        found.keyed._fetch = fetch
        monkeypatch.setattr(jwks, "PATIENCE", 0.01)
        found.worlds.put_nowait(naming(RULE_A))
        world = await after()
        assert (world.key_sets, world.problems) == ({}, ())
        never.set_result(FIRST.encode())
        assert list((await after()).key_sets) == [A]
