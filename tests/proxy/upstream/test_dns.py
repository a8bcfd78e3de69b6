"""Names of DNS clusters: followed, refreshed, kept in bad times, and forgotten."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import pytest

from pymesh_proxy.config.model import Cluster, Discovery, DnsFamily
from pymesh_proxy.upstream.dns import DnsResolver, ResolutionError, select, system_lookup
from pymesh_proxy.upstream.registry import EndpointSpec
from tests.support.waiting import eventually


def cluster(name: str, *hosts: str, refresh: float = 0.01) -> Cluster:
    return Cluster(
        name, Discovery.STRICT_DNS, dns_targets=tuple(EndpointSpec(host, 80) for host in hosts),
        dns_refresh=refresh, dns_failure_refresh=(0.01, 0.02), dns_family=DnsFamily.V4_ONLY,
    )  # fmt: skip


class World:
    """A name server whose records a test writes, and what the resolver published of it."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[str, ...]] = {}
        self.lookups: list[str] = []
        self.published: list[tuple[str, Mapping[str, tuple[str, ...]]]] = []
        self.resolver = DnsResolver(self.publish, lookup=self.lookup)

    async def lookup(self, host: str, family: DnsFamily) -> tuple[str, ...]:
        self.lookups.append(host)
        await asyncio.sleep(0)
        if host not in self.records:
            raise ResolutionError("no such name")
        return self.records[host]

    def publish(self, name: str, addresses: Mapping[str, tuple[str, ...]]) -> None:
        self.published.append((name, addresses))

    def follow(self, *clusters: Cluster) -> None:
        self.resolver.follow({one.name: one for one in clusters})


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.resolver.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def world() -> World:
    return World()


async def test_names_are_published_when_found_and_when_they_change(world: World) -> None:
    world.records = {"a": ("10.0.0.1",), "b": ("10.0.0.2",)}
    world.follow(cluster("c", "a", "b"))
    async with running(world):
        await eventually(lambda: world.published[-1:] == [("c", {"a": ("10.0.0.1",), "b": ("10.0.0.2",)})])
        world.records["a"] = ("10.0.0.9",)
        await eventually(lambda: world.published[-1] == ("c", {"a": ("10.0.0.9",), "b": ("10.0.0.2",)}))
    assert len(world.published) == 3, "what did not change is not published again"


async def test_a_failure_keeps_what_was_known_and_is_tried_again(world: World) -> None:
    world.records = {"a": ("10.0.0.1",)}
    world.follow(cluster("c", "a"))
    async with running(world):
        await eventually(lambda: len(world.published) == 1)
        del world.records["a"]
        failed_at = len(world.lookups)
        await eventually(lambda: len(world.lookups) > failed_at + 3)
        world.records["a"] = ()  # the name is there, but has no address of this family: that is a failure, too
        failed_at = len(world.lookups)
        await eventually(lambda: len(world.lookups) > failed_at + 3)
        assert len(world.published) == 1
        world.records["a"] = ("10.0.0.2",)
        await eventually(lambda: world.published[-1] == ("c", {"a": ("10.0.0.2",)}))


async def test_clusters_come_and_go_while_it_runs(world: World) -> None:
    world.records = {"a": ("10.0.0.1",), "b": ("10.0.0.2",)}
    async with running(world):
        world.follow(cluster("one", "a"))
        await eventually(lambda: ("one", {"a": ("10.0.0.1",)}) in world.published)
        world.follow(cluster("two", "b"))
        await eventually(lambda: ("two", {"b": ("10.0.0.2",)}) in world.published)
        await eventually(lambda: world.lookups[-20:] == ["b"] * 20, what="a is no longer looked up")
        world.follow(cluster("one", "a"))
        await eventually(lambda: world.published.count(("one", {"a": ("10.0.0.1",)})) == 2)


async def test_a_snapshot_from_within_a_publication_may_end_the_very_job(world: World) -> None:
    world.records = {"a": ("10.0.0.1",), "b": ("10.0.0.2",)}
    original = world.publish

    def publish_and_drop(name: str, addresses: Mapping[str, tuple[str, ...]]) -> None:
        original(name, addresses)
        world.follow(cluster("other", "b"))

    world.resolver = DnsResolver(publish_and_drop, lookup=world.lookup)
    world.follow(cluster("c", "a"))
    async with running(world):
        await eventually(lambda: ("other", {"b": ("10.0.0.2",)}) in world.published)


async def test_the_systems_resolver_reads_etc_hosts() -> None:
    assert await system_lookup("localhost", DnsFamily.V4_ONLY) == ("127.0.0.1",)
    assert await system_lookup("10.1.2.3", DnsFamily.AUTO) == ("10.1.2.3",)


@pytest.mark.parametrize("name", ["nowhere.invalid", "a..b", "x" * 300])
async def test_the_systems_resolver_says_why_it_failed(name: str) -> None:
    with pytest.raises(ResolutionError, match=r"\w"):
        await system_lookup(name, DnsFamily.AUTO)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (DnsFamily.AUTO, ("::1", "::2")),
        (DnsFamily.V4_ONLY, ("10.0.0.1", "10.0.0.2")),
        (DnsFamily.V6_ONLY, ("::1", "::2")),
        (DnsFamily.V4_PREFERRED, ("10.0.0.1", "10.0.0.2")),
        (DnsFamily.ALL, ("::1", "::2", "10.0.0.1", "10.0.0.2")),
    ],
)
def test_families(family: DnsFamily, expected: tuple[str, ...]) -> None:
    assert select({"10.0.0.2", "::1", "10.0.0.1", "::2"}, family) == expected


def test_a_family_that_is_missing_is_replaced_where_that_is_asked_for() -> None:
    assert select({"10.0.0.1"}, DnsFamily.AUTO) == ("10.0.0.1",)
    assert select({"::1"}, DnsFamily.V4_PREFERRED) == ("::1",)
    assert select({"::1"}, DnsFamily.V4_ONLY) == ()
