"""The ring: as Envoy builds it, in proportion, and stable."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymesh.steps import whole
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.hashing import xxh64
from pymesh_proxy.upstream.ring import Places, Ring, RingSettings
from tests.proxy.upstream.endpoints import endpoints


def ring(them: list[Endpoint], settings: RingSettings | None = None) -> Ring:
    settings = settings or RingSettings()
    total = sum(endpoint.weight for endpoint in them)
    shares = [(endpoint, endpoint.weight / total) for endpoint in them]
    return whole(Ring.building(shares, settings, Places(settings), random.Random(1).random))


def envoys_ring() -> Ring:
    """The ring of Envoy's own test RingHashLoadBalancerTest.Basic."""
    them = [Endpoint("127.0.0.1", 90 + number) for number in range(6)]
    return ring(them, RingSettings(minimum=12))


# test/extensions/load_balancing_policies/ring_hash/ring_hash_lb_test.cc: hash of the request -> port.
@pytest.mark.parametrize(
    ("key", "port"),
    [(0, 94), (2**64 - 1, 94), (3551244743356806947, 95), (3551244743356806948, 93)],
)
def test_the_ring_of_envoys_own_test(key: int, port: int) -> None:
    found = envoys_ring().pick((), key)
    assert found is not None
    assert found.port == port


def test_murmur_and_host_names() -> None:
    them = endpoints(1, 1, 1)
    for number, endpoint in enumerate(them):
        endpoint.hostname = f"host-{number}"
    keys = [xxh64(b"%d" % number) for number in range(100)]
    plain, murmur, named = (
        [ring(them, settings).pick((), key) for key in keys]
        for settings in (RingSettings(), RingSettings(hash="MURMUR_HASH_2"), RingSettings(by_hostname=True))
    )
    assert plain != murmur
    assert plain != named
    moved = [Endpoint("192.0.2.9", 1 + number) for number in range(3)]
    for number, endpoint in enumerate(moved):
        endpoint.hostname = f"host-{number}"
    again = [ring(moved, RingSettings(by_hostname=True)).pick((), key) for key in keys]
    assert [them.index(one) for one in named if one] == [moved.index(one) for one in again if one]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 2048), st.integers(1, 4096))
def test_places_are_in_proportion_and_within_bounds(weights: list[int], minimum: int, more: int) -> None:
    settings = RingSettings(minimum=minimum, maximum=minimum + more)
    built = ring(endpoints(*weights), settings)
    count = Counter(built._owners)
    size = sum(count.values())
    assert min(minimum, settings.maximum) <= size <= settings.maximum + len(weights)
    for endpoint in built.endpoints:
        assert abs(count[endpoint] - size * endpoint.weight / sum(weights)) <= 1 + len(weights)


@given(st.integers(2, 6), st.integers(0, 5), st.lists(st.integers(0, 2**64 - 1), max_size=60))
def test_only_the_keys_of_who_leaves_move(count: int, number: int, keys: list[int]) -> None:
    them = endpoints(*[1] * count)
    gone = them[number % count]
    # Rings of the same density, so that all others keep their places.
    before = ring(them, RingSettings(minimum=count * 64))
    after = ring([one for one in them if one is not gone], RingSettings(minimum=(count - 1) * 64))
    for key in keys:
        owner = before.pick((), key)
        if owner is not gone:
            assert after.pick((), key) is owner


def test_keys_spread_over_the_endpoints() -> None:
    built = ring(endpoints(*[1] * 4))
    found = Counter(built.pick((), xxh64(b"user-%d" % number)) for number in range(4000))
    assert all(700 < count < 1300 for count in found.values()), found


def test_an_empty_ring_has_nobody() -> None:
    assert ring([]).pick((), 1) is None


def test_places_are_hashed_once() -> None:
    them = endpoints(1, 1, 1)
    first = Places(RingSettings())
    known = [first.of(endpoint, 0, 3) for endpoint in them]
    second = Places(RingSettings(), them[:2], first)
    assert [second.of(endpoint, 0, 3) for endpoint in them] == known
    assert second._found[them[0]] is first._found[them[0]]
    assert second._found[them[2]] is not first._found[them[2]], "it was not there meanwhile"
    other = Places(RingSettings(hash="MURMUR_HASH_2"), them, first)
    assert other.of(them[0], 0, 3) != known[0]
