"""What replicas share: the exchange as plain Python, and the script in a real Redis held against it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest
import redis

from pymesh_controlplane.policy import redis_store
from pymesh_controlplane.policy.redis_store import RedisStore
from pymesh_controlplane.policy.store import LEASE, SETTLE, Claim, Ledger, Peer, StoreError, Transfer
from tests.support.certificates import Authority, Issued
from tests.support.redis_server import redis_server

RULE = "ConcurrencyLimit default/web"
RATE = "RateLimit default/web"


def claim(charged: int = 0, asked: int = 0, *, limit: int = 10, spent: int = 0, rate: int = 0, **more: object) -> Claim:
    rule = RATE if rate else RULE
    made = Claim(rule, limit, charged, asked, asked, 1, rate, 1 if rate else 0, spent)
    return Claim(**{**{name: getattr(made, name) for name in Claim.__slots__}, **more})  # type: ignore[arg-type]


def settled() -> Ledger:
    return Ledger(born=-SETTLE)


def one(ledger: Ledger, name: str, said: Claim, now: float = 0.0) -> int:
    return ledger.exchange(name, [said], now)[0].allotted


def test_replicas_together_never_get_more_than_there_is() -> None:
    ledger = settled()
    assert one(ledger, "a", claim(0, 7)) == 7
    assert one(ledger, "b", claim(0, 7)) == 3
    assert one(ledger, "a", claim(2, 4)) == 4
    share = ledger.exchange("b", [claim(3, 10)], 0.0)[0]
    assert (share.allotted, share.level, share.others) == (6, 10, (Peer(4, 4, 1),))


def test_what_is_out_counts_whether_it_fits_or_not() -> None:
    """Sidecars that came over have it; nobody gets more until it has gone down."""
    ledger = settled()
    assert one(ledger, "a", claim(10, 10)) == 10
    assert one(ledger, "b", claim(4, 9)) == 4
    assert one(ledger, "c", claim(0, 1)) == 0


def test_a_replica_that_is_not_heard_of_loses_its_allotment() -> None:
    ledger = settled()
    one(ledger, "a", claim(10, 10))
    assert one(ledger, "b", claim(0, 10), LEASE - 0.001) == 0
    assert one(ledger, "b", claim(0, 10), LEASE) == 10


def test_what_sidecars_bring_along_is_the_other_replicas_no_more() -> None:
    """If that one is alive, it says so."""
    ledger = settled()
    one(ledger, "a", claim(10, 10))
    assert one(ledger, "b", claim(4, 4, transferred={"a": Transfer(4, 1), "gone": Transfer(1, 1)})) == 4
    assert one(ledger, "c", claim(0, 1)) == 0
    share = ledger.exchange("c", [claim(0, 1)], 0.0)[0]
    assert sum(peer.allotted for peer in share.others) == 10
    assert one(ledger, "a", claim(10, 10)) == 10


def test_a_store_that_is_new_first_hears_what_is_out() -> None:
    ledger = Ledger(born=0.0)
    assert one(ledger, "a", claim(3, 10), SETTLE - 0.01) == 3
    assert one(ledger, "a", claim(3, 10), SETTLE) == 10


def test_of_a_rate_the_level_is_shared() -> None:
    """Spent tokens come back with time; a claim that is repeated spends nothing twice."""
    ledger = settled()
    assert one(ledger, "a", claim(0, 10, rate=10)) == 10
    for _ in range(2):
        share = ledger.exchange("a", [claim(4, 10, rate=10, spent=6)], 0.0)[0]
        assert (share.allotted, share.level) == (4, 4)
    assert one(ledger, "b", claim(0, 5, rate=10)) == 0
    assert one(ledger, "b", claim(0, 5, rate=10), 0.5) == 5
    assert ledger.exchange("c", [claim(rate=10)], 100.0)[0].level == 1, "what both had in stock counts as spent"


# --- Redis ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as (port, _):
        yield port


@pytest.fixture
async def store(server: int) -> AsyncIterator[RedisStore]:
    made = RedisStore(f"redis://127.0.0.1:{server}/0")
    try:
        yield made
    finally:
        await made.close()


def emptied(port: int, *, settled: bool = True) -> None:
    with redis.Redis(port=port) as client:
        client.flushall()
        if settled:
            client.set(f"{redis_store.PREFIX}born", "1.0")


async def test_the_script_decides_as_the_ledger_does(store: RedisStore, server: int) -> None:
    """300 random claims of three replicas, for slots; for a rate that time hardly moves, which is the same."""
    emptied(server)
    ledger, random = settled(), Random(7)
    spent = dict.fromkeys("abc", 0)
    for step in range(300):
        name = random.choice("abc")
        charged = random.randrange(5)
        brought = {random.choice("abcd"): Transfer(random.randrange(4), 1)} if random.random() < 0.2 else {}
        spent[name] += random.randrange(2)
        claims = [
            claim(charged, charged + random.randrange(8), transferred=brought),
            Claim(RATE, 300, charged, charged + random.randrange(99), 3, 2, 1, 86_400, spent[name], brought),
        ]
        expected = ledger.exchange(name, claims, 0.0)
        found = await store.exchange(name, claims)
        for wanted, got in zip(expected, found, strict=True):
            assert (got.allotted, got.level) == (wanted.allotted, wanted.level), step
            assert sorted(map(repr, got.others)) == sorted(map(repr, wanted.others)), step


async def test_leases_lapse_by_the_clock_of_redis(
    store: RedisStore, server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied(server)
    monkeypatch.setattr(redis_store, "LEASE", 0.05)
    assert (await store.exchange("a", [claim(10, 10), claim(10, 10, rate=10)]))[0].allotted == 10

    async with asyncio.timeout(10):
        while (await store.exchange("b", [claim(0, 10)]))[0].allotted < 10:
            await asyncio.sleep(0.01)
    [share] = await store.exchange("b", [claim(0, 10, rate=10, limit=1000)])
    assert share.level < 1000, "what the lapsed one had in stock counts as spent"


async def test_a_store_that_lost_everything_settles(store: RedisStore, server: int) -> None:
    emptied(server, settled=False)
    assert (await store.exchange("a", [claim(3, 10)]))[0].allotted == 3


async def test_garbage_under_our_key_is_an_error_and_no_more(store: RedisStore, server: int) -> None:
    emptied(server)
    with redis.Redis(port=server) as client:
        client.set(f"{redis_store.PREFIX}rule:{RULE}", "rubbish")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await store.exchange("a", [claim(0, 1)])


async def test_a_store_that_is_away_or_stopped_costs_a_bounded_time(tmp_path: Path) -> None:
    """And is used again when it is back."""
    with redis_server(tmp_path) as (port, process):
        store = RedisStore(f"redis://127.0.0.1:{port}")
        await store.exchange("a", [claim(0, 1)])
        process.send_signal(19)  # SIGSTOP
        with pytest.raises(StoreError, match=r"no answer|Timeout"):
            await store.exchange("a", [claim(0, 1)])
        process.send_signal(18)  # SIGCONT
        await store.exchange("a", [claim(0, 1)])
    with pytest.raises(StoreError, match=f"redis://127.0.0.1:{port}"):
        await store.exchange("a", [claim(0, 1)])
    with redis_server(tmp_path, port=port):
        await store.exchange("a", [claim(0, 1)])
    await store.close()


async def test_a_password_is_used_and_never_told(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "sesame") as (port, _):
        right = RedisStore(f"redis://127.0.0.1:{port}", password="sesame")
        await right.exchange("a", [claim(0, 1)])
        wrong = RedisStore(f"redis://:guess@127.0.0.1:{port}")
        with pytest.raises(StoreError) as told:
            await wrong.exchange("a", [claim(0, 1)])
        assert "guess" not in str(told.value) + wrong.where + repr(wrong)
        await right.close()
        await wrong.close()


async def test_over_tls_the_server_must_be_whom_the_roots_know_by_the_name_that_was_called(tmp_path: Path) -> None:
    """And a password never goes out before that is known."""
    authority, ours, foreign = Authority(), tmp_path / "roots.pem", tmp_path / "foreign.pem"
    ours.write_bytes(authority.root)
    foreign.write_bytes(Authority("somebody else").root)
    with redis_server(tmp_path, *tls(tmp_path, authority.issue(ips=("127.0.0.1",))), "--requirepass", "sesame") as (
        port,
        _,
    ):
        where = f"127.0.0.1:{port}"
        right = RedisStore(f"rediss://{where}", password="sesame", ca_file=ours)
        assert [share.allotted for share in await right.exchange("a", [claim(3, 3)])] == [3]
        await right.close()
        for url, roots, why in (
            (f"rediss://{where}", foreign, "certificate verify failed"),
            (f"rediss://{where}", None, "certificate verify failed"),
            (f"redis://{where}", None, "closed|reset"),
        ):
            wrong = RedisStore(url, password="sesame", ca_file=roots)
            with pytest.raises(StoreError, match=why) as told:
                await wrong.exchange("a", [claim(0, 1)])
            assert "sesame" not in str(told.value)
            await wrong.close()


async def test_over_tls_a_server_of_another_name_is_refused(tmp_path: Path) -> None:
    authority, roots = Authority(), tmp_path / "roots.pem"
    roots.write_bytes(authority.root)
    with redis_server(tmp_path, *tls(tmp_path, authority.issue(dns=("redis.elsewhere",)))) as (port, _):
        wrong = RedisStore(f"rediss://127.0.0.1:{port}", ca_file=roots)
        with pytest.raises(StoreError, match=r"certificate is not valid for '127\.0\.0\.1'"):
            await wrong.exchange("a", [claim(0, 1)])
        await wrong.close()


def tls(directory: Path, issued: Issued) -> list[str]:
    """Options of a server that speaks nothing but TLS at its port."""
    (directory / "redis.pem").write_bytes(issued.chain)
    (directory / "redis.key").write_bytes(issued.key)
    return ["--tls-cert-file", "redis.pem", "--tls-key-file", "redis.key", "--tls-auth-clients", "no"]


@pytest.mark.parametrize("url", ["http://x", "localhost:6379", ""])
def test_urls_of_something_else_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisStore(url)
