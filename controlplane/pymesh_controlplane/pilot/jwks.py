"""The keys of issuers: fetched from where RequestAuthentications say, kept fresh, and put into pilot's worlds.

Sidecars fetch nothing: their keys come with the configuration, so that they need no way out of the mesh. Until the keys
of an issuer have been fetched once, none of its tokens is good. From then on the last good ones stay in force until
others are fetched, however long that takes, and a problem of the world says that they could not be renewed.

A world that names a new issuer waits for its keys, PATIENCE seconds at most. Otherwise a pilot that starts would take
away the keys that sidecars have until it had fetched them itself.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pymesh.errors import ConfigError
from pymesh.jwks import key_set
from pymesh.resources.fields import seconds
from pymesh.resources.istio.request_authentication import KeySource
from pymesh_controlplane.metrics import Metrics
from pymesh_controlplane.pilot.model import Problem, Severity, World
from pymesh_controlplane.sources.base import Source

log = logging.getLogger("pymesh.pilot.jwks")

# Seconds after which keys are fetched again, as in Istio: issuers publish a key hours before they sign with it.
REFRESH: Final = 20 * 60.0
# Seconds until the next attempt after one that failed; twice as many after each more, up to the longest.
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 5 * 60.0
# Fraction by which chance lengthens each pause at most: issuers behind one server are not all asked at once.
SPREAD: Final = 0.2
# Seconds that a world waits for keys that were never asked for before.
PATIENCE: Final = 2.0
# Addresses that keys are fetched from; a mesh has one or two. Issuers beyond are not believed, and a problem says so.
MAX_SOURCES: Final = 200
# Addresses that are asked at once.
MAX_AT_ONCE: Final = 8

# Fetches the text of a key set, within so many seconds. Raises FetchError.
Fetch = Callable[[KeySource, float], Awaitable[bytes]]


class FetchError(Exception):
    """Keys could not be fetched; the text says why."""


@dataclass(slots=True)
class _Kept:
    """What is known of one address.

    Attributes:
        timeout: seconds that an answer may take.
        keys: the last good key set (KeySet.encoded); empty before the first.
        wrong: why the last attempt has failed; empty if it has not.
        asked: set after the first attempt.
    """

    timeout: float
    keys: str = ""
    wrong: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class KeyedSource:
    """A source whose worlds have the keys of the issuers that they name.

    Args:
        random: a number from 0 to 1, by chance; spreads the pauses.
    """

    def __init__(
        self,
        source: Source,
        fetch: Fetch,
        metrics: Metrics,
        random: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._fetch = fetch
        self._metrics = metrics
        self._random = random
        self._sleep = sleep
        self._kept: dict[KeySource, _Kept] = {}
        self._at_once = asyncio.Semaphore(MAX_AT_ONCE)
        self._world: World | None = None
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Follow the source and keep the keys, until cancelled."""
        async with asyncio.TaskGroup() as group:
            async for world in self._source.watch():
                fresh = self._follow(sources(world), group)
                if fresh:
                    await _first_attempts(fresh)
                self._world = world
                await self._tell()

    async def watch(self) -> AsyncIterator[World]:
        """See Source. A new world also after keys have changed."""
        last: World | None = None
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._is_news(last))  # noqa: B023  asked only before `last` moves on
                last = self._keyed()
            yield last

    def _is_news(self, last: World | None) -> bool:
        return self._world is not None and (last is None or not _same(self._keyed(), last))

    def _keyed(self) -> World:
        assert self._world is not None, "there is one before anybody is told of one"
        keys = {source: kept.keys for source, kept in self._kept.items() if kept.keys}
        wrong = {source: self._problem(source) for source in sources(self._world)}
        problems = _told(self._world, {source: why for source, why in wrong.items() if why})
        return replace(self._world, key_sets=keys, problems=(*self._world.problems, *problems))

    def _problem(self, source: KeySource) -> str:
        kept = self._kept.get(source)
        if kept is None:
            return (
                f"keys are fetched from {MAX_SOURCES} addresses already, and no token of {source.issuer} is good: "
                "name fewer issuers, or write keys under jwks"
            )
        if not kept.wrong:
            return ""
        if kept.keys:
            return f"the keys of {source.issuer} cannot be renewed, and those of before stay in force: {kept.wrong}"
        return (
            f"the keys of {source.issuer} could not be fetched, and no token of it is good until they are: {kept.wrong}"
        )

    def _follow(self, wanted: Mapping[KeySource, float], group: asyncio.TaskGroup) -> list[_Kept]:
        """Keep the keys of the sources that are `wanted`, and of no others; those that are new."""
        for source in self._kept.keys() - wanted.keys():
            task = self._kept.pop(source).task
            if task is not None:
                task.cancel()
        fresh = []
        for source, timeout in wanted.items():
            if source in self._kept:
                self._kept[source].timeout = timeout
            elif len(self._kept) < MAX_SOURCES:
                kept = self._kept[source] = _Kept(timeout)
                kept.task = group.create_task(self._keep(source, kept))
                fresh.append(kept)
        return fresh

    async def _keep(self, source: KeySource, kept: _Kept) -> None:
        pause = FIRST_PAUSE
        while True:
            before = kept.keys, kept.wrong
            await self._attempt(source, kept)
            kept.asked.set()
            if (kept.keys, kept.wrong) != before:
                await self._tell()
            delay, pause = (pause, min(2 * pause, LONGEST_PAUSE)) if kept.wrong else (REFRESH, FIRST_PAUSE)
            await self._sleep(delay * (1 + SPREAD * self._random()))

    async def _attempt(self, source: KeySource, kept: _Kept) -> None:
        try:
            async with self._at_once:
                text = await self._fetch(source, kept.timeout)
            found = key_set(text)
            if not found.keys:
                reasons = [str(error) for error in (*found.refused, *found.ignored)]
                raise FetchError("; ".join(["there is no key of use in the answer", *reasons[:3]]))
        except Exception as error:  # noqa: BLE001 - whatever somebody's server brings about, pilot goes on
            self._failed(source, kept, error)
            return
        self._metrics.count("pilot_jwks_resolver_network_fetch_success_total")
        for refused in found.refused:
            log.warning("keys of %s: %s: this one is not used", source.issuer, refused)
        kept.keys, kept.wrong = found.encoded(), ""

    def _failed(self, source: KeySource, kept: _Kept, error: Exception) -> None:
        expected = isinstance(error, FetchError | ConfigError)
        reason = str(error) if expected else f"pymesh cannot cope with the answer: {type(error).__name__}"
        self._metrics.count("pilot_jwks_resolver_network_fetch_fail_total")
        if kept.wrong != reason:
            log.warning("keys of %s: %s", source.issuer, reason, exc_info=None if expected else error)
        kept.wrong = reason

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _first_attempts(fresh: Iterable[_Kept]) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            for kept in fresh:
                await kept.asked.wait()
    except TimeoutError:
        log.info("some keys take longer than %.0f s: sidecars are told what is known by now", PATIENCE)


def _same(one: World, other: World) -> bool:
    return one.revision == other.revision and (one.key_sets, one.problems) == (other.key_sets, other.problems)


# --- What a world asks for -----------------------------------------------------------------------------------------


def sources(world: World) -> dict[KeySource, float]:
    """The addresses of keys that a world names, and the longest that anybody would wait for each."""
    found: dict[KeySource, float] = {}
    for resource in world.request_authentications:
        for rule in resource.value.spec.jwt_rules:
            if rule.source is not None:
                found[rule.source] = max(found.get(rule.source, 0.0), seconds(rule.timeout))
    return found


def _told(world: World, wrong: Mapping[KeySource, str]) -> Iterable[Problem]:
    """A problem of each rule whose keys are not as they should be."""
    for resource in world.request_authentications:
        for index, rule in enumerate(resource.value.spec.jwt_rules):
            if rule.source is not None and rule.source in wrong:
                error = resource.error(wrong[rule.source], f"spec.jwtRules[{index}]")
                yield Problem.of(error, Severity.WARNING)
