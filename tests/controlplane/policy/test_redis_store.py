"""Rates that are asked about, spent in a real Redis: as the buckets in memory do it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import NoPermissionError

from pymesh_controlplane.policy import redis_store
from pymesh_controlplane.policy.buckets import Buckets, Spend, Spent
from pymesh_controlplane.policy.redis_store import RedisStore
from pymesh_controlplane.policy.rules import Rate
from pymesh_controlplane.policy.store import PATIENCE, Claim, Question, StoreError, Transfer
from pymesh_controlplane.policy.till import Till
from tests.support.redis_server import redis_server
from tests.support.repository import ROOT
from tests.support.waiting import eventually

A, B = "RateLimit default/a", "RateLimit default/b"
HOUR = Rate(3, 3600, 3, ("source.principal",))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as (port, _):
        yield port


@pytest.fixture
async def store(server: int) -> AsyncIterator[RedisStore]:
    with redis.Redis(port=server) as client:
        client.flushall()
    made = RedisStore(f"redis://127.0.0.1:{server}/0")
    try:
        yield made
    finally:
        await made.close()


def spend(rule: str = A, rate: Rate = HOUR, key: str = "me", count: int = 1, *, dry: bool = False) -> Spend:
    return Spend(rule, rate, (key,), count, dry)


async def answers(store: RedisStore, *wanted: Spend, look: bool = False) -> list[Spent]:
    [found] = await store.spend([Question(wanted, look)])
    return found


# --- Held against the buckets in memory -----------------------------------------------------------------------------

_TIME: Final = "redis.call('TIME')"
_KEYS: Final = ("x", "y")
_RATES: Final = st.builds(
    Rate,
    st.one_of(st.integers(1, 1000), st.just(1_000_000)),
    st.sampled_from([1, 60, 3600, 86_400]),
    st.one_of(st.integers(1, 50), st.just(1_000_000)),
    st.just(("source.principal",)),
)
_WANTED: Final = st.lists(
    st.tuples(st.sampled_from([A, B]), st.sampled_from(_KEYS), st.integers(0, 60), st.booleans()),
    min_size=1,
    max_size=3,
    unique_by=lambda wanted: wanted[:2],
)
_STEPS: Final = st.lists(st.tuples(st.integers(0, 120_000_000), _WANTED, st.booleans()), max_size=12)


class AtAnyTime:
    """The script with a clock that is an argument."""

    def __init__(self, port: int) -> None:
        self._client = redis.Redis(port=port)
        self._client.flushall()
        assert redis_store.SPEND.count(_TIME) == 1
        self._script = self._client.register_script(redis_store.SPEND.replace(_TIME, "{ARGV[4], ARGV[5]}"))

    def spend(self, question: Question, now: int) -> list[Spent]:
        args = [*redis_store.spend_arguments([question]), now // 1_000_000, now % 1_000_000]
        [found] = redis_store.spent([question], self._script(args=args))
        return found


@settings(max_examples=150, deadline=None)
@given(_RATES, _RATES, _STEPS)
def test_the_script_spends_as_the_buckets_do(server: int, a: Rate, b: Rate, steps: list) -> None:  # type: ignore[type-arg]  # see _STEPS
    redis, buckets = AtAnyTime(server), {A: Buckets(a), B: Buckets(b)}
    now = 1_800_000_000_000_000
    for pause, wanted, look in steps:
        now += pause
        asked = [Spend(rule, buckets[rule].rate, (key,), count, dry) for rule, key, count, dry in wanted]
        waits = [buckets[one.rule].wait(one.key, now * 1000, one.count) if one.count else 0 for one in asked]
        if not look and not any(wait and not one.dry_run for one, wait in zip(asked, waits, strict=True)):
            for one, wait in zip(asked, waits, strict=True):
                if not wait:
                    buckets[one.rule].take(one.key, now * 1000, one.count)
        left = [max(0, buckets[one.rule].left(one.key, now * 1000)) for one in asked]
        expected = [Spent(-(-wait // 1000) * 1000, each) for wait, each in zip(waits, left, strict=True)]
        assert redis.spend(Question(asked, look), now) == expected


# --- By its own clock -----------------------------------------------------------------------------------------------


async def test_all_of_what_a_request_wants_is_spent_or_nothing(store: RedisStore) -> None:
    assert [each.left for each in await answers(store, spend(), spend(B))] == [2, 2]
    assert [each.left for each in await answers(store, spend(count=3), spend(B))] == [2, 2], "a refuses three"
    dry, hard = await answers(store, spend(count=3, dry=True), spend(B))
    assert dry.wait
    assert (hard.wait, hard.left) == (0, 1), "what is on a dry run keeps nobody out"
    assert [each.left for each in await answers(store, spend(), look=True)] == [2], "a look costs nothing"


async def test_what_is_spent_comes_back_by_the_clock_of_redis(store: RedisStore) -> None:
    rate = Rate(1, 1, 1, ("source.principal",))
    [first], [second] = await answers(store, spend(rate=rate)), await answers(store, spend(rate=rate))
    assert (first.wait, 0 < second.wait <= 10**9) == (0, True)
    await asyncio.sleep(second.wait / 1e9)
    assert [each.wait for each in await answers(store, spend(rate=rate))] == [0]


async def test_another_rate_forgets_nothing_that_was_spent(store: RedisStore) -> None:
    """One of three an hour is spent; then there are 30 a minute, of which two thirds of that are left."""
    await answers(store, spend())
    [told] = await answers(store, spend(rate=Rate(30, 60, 30, HOUR.by)))
    assert told.left == 28
    [fewer] = await answers(store, spend(rate=Rate(1, 60, 1, HOUR.by)))
    assert 0 < fewer.wait <= 60 * 10**9
    [anew] = await answers(store, spend(rate=Rate(3, 3600, 3, ("request.path",))))
    assert anew.left == 2, "counted by something else it begins anew"


async def test_whoever_makes_up_keys_shares_one_bucket(
    store: RedisStore, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And Redis keeps no more than so many, however long they are, and none for longer than it matters."""
    monkeypatch.setattr(redis_store, "MAX_KEYS", 10)
    tenth = Rate(1, 60, 1, HOUR.by)
    told = await store.spend([Question([spend(rate=tenth, key=f"{number}" * 9999)]) for number in range(50)])
    assert sum(not each.wait for [each] in told) == 11
    assert [each.overflow for [each] in told] == [False] * 10 + [True] * 40
    with redis.Redis(port=server) as client:
        names = client.keys("*")
        assert len(names) == 12, "the buckets, one for all others, and the list of them"
        assert max(map(len, names)) < 100
        assert all(0 < client.pttl(name) <= 121_000 for name in names)


async def test_a_user_needs_no_more_than_the_page_says(store: RedisStore, server: int) -> None:
    """docs/kubernetes.md has the line for Redis' ACL; all that a replica does is done under it."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("~pymesh:policy:*")]
    with redis.Redis(port=server) as client:
        client.execute_command("ACL", "SETUSER", "policy", "reset", "on", ">pw", *line.split())
    theirs = RedisStore(f"redis://policy@127.0.0.1:{server}/0", password="pw")
    try:
        await theirs.exchange("a", [])
        claim = Claim("RateLimit default/leased", 10, 0, 5, requests=10, period=1)
        for name, brought in (("a", {}), ("b", {"a": Transfer(1, 1)})):
            await theirs.exchange(name, [replace(claim, transferred=brought)])
        assert [each.wait for each in await answers(theirs, spend())] == [0]
    finally:
        await theirs.close()
    with redis.Redis(port=server, username="policy", password="pw") as client, pytest.raises(NoPermissionError):
        client.set("another", "1")


async def test_meshes_in_one_database_count_apart(store: RedisStore, server: int) -> None:
    east, west = (RedisStore(f"redis://127.0.0.1:{server}/0", mesh=name) for name in ("east.example", "west.example"))
    try:
        for mesh in (east, west, store):
            [share] = await mesh.exchange(mesh._prefix, [Claim(B, limit=10, charged=10, asked=10)])
            assert await answers(mesh, spend(count=3)) == [Spent(0, 0)], "all three were there"
            assert (share.allotted, share.others) == (10, ())
        [share] = await east.exchange("b", [Claim(B, limit=10, charged=0, asked=10)])
        assert (share.allotted, len(share.others)) == (0, 1), "its own replicas are one"
        with redis.Redis(port=server) as client:
            assert all(key.startswith(b"pymesh:policy:") for key in client.scan_iter())
    finally:
        await east.close()
        await west.close()


# --- Where questions wait for it ------------------------------------------------------------------------------------


async def test_many_questions_of_two_replicas_are_counted_once(server: int, store: RedisStore) -> None:
    """Four hundred at once, at two tills: as many get in as there are, in a few round trips."""
    hundred = Rate(100, 86_400, 100, HOUR.by)
    other = RedisStore(f"redis://127.0.0.1:{server}/0")
    tills = [Till(store, lambda: None), Till(other, lambda: None)]

    async def ask(number: int) -> bool:
        try:
            [told] = await tills[number % 2].ask(Question([spend(rate=hundred)]))
        except StoreError:  # a slow machine: it may be spent, and nobody was let in
            return False
        return not told.wait

    running = asyncio.gather(*(till.run() for till in tills))
    try:
        let_in = 0
        for _ in range(20):
            for till in tills:
                till.problem = ""
            let_in += sum(await asyncio.gather(*map(ask, range(20))))
        assert 90 < let_in <= 100
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await other.close()


async def test_a_store_that_stands_still_costs_a_moment_once(tmp_path: Path) -> None:
    """Those that wait have waited for the patience; those after them do not wait, until it was found again."""
    looked: list[float] = []
    with redis_server(tmp_path) as (port, process):
        store = RedisStore(f"redis://127.0.0.1:{port}/0")
        till = Till(store, lambda: looked.append(monotonic()))
        running = asyncio.gather(till.run())
        try:
            with pytest.raises(StoreError, match="not been reached yet"):
                await till.ask(Question([spend()]))
            till.problem = ""
            process.send_signal(signal.SIGSTOP)
            asked = [till.ask(Question([spend()])) for _ in range(5)]
            failures = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(each) for each in failures} == {StoreError}
            assert f"no answer within {PATIENCE:g} s" in str(failures[0])
            assert len(looked) == 1
            with pytest.raises(StoreError, match="the store of counts is away"):
                till.ask(Question([spend()])).send(None)  # it ends without having waited for anything
            process.send_signal(signal.SIGCONT)

            async def found_again() -> bool:
                till.problem = ""
                try:
                    [told] = await till.ask(Question([spend(key="other")]))
                except StoreError:
                    return False
                return not told.wait

            await eventually(found_again, what="an answer")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await store.close()
