"""A ring of hashes: the same key leads to the same endpoint, and few keys move when endpoints come or go. Pure.

Built like Envoy's, hash by hash (ring_hash_lb.cc, after ketama): the n-th place of an endpoint is the hash of
`ip:port_n`. So pymesh and Envoy, given the same endpoints, send the same key to the same one.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from pymesh.consistent_hashing import DEFAULT_RING_SIZE
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.hashing import MASK, murmur2, xxh64

HASHES: Final[dict[str, Callable[[bytes], int]]] = {"XX_HASH": xxh64, "MURMUR_HASH_2": murmur2}

# Envoy's default, and the greatest bound that it takes.
LARGEST_BOUND: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RingSettings:
    """envoy Cluster.RingHashLbConfig. `hash` is a name of HASHES; `by_hostname` hashes the endpoints' host names."""

    minimum: int = DEFAULT_RING_SIZE
    maximum: int = LARGEST_BOUND
    hash: str = "XX_HASH"
    by_hostname: bool = False


DEFAULT_RING: Final = RingSettings()


class Ring:
    """Endpoints, each at many places of a circle of 64-bit hashes."""

    __slots__ = ("_hashes", "_owners", "_random", "endpoints")

    def __init__(
        self,
        shares: Sequence[tuple[Endpoint, float]],
        settings: RingSettings,
        places: "Places",
        random: Callable[[], float],
    ) -> None:
        """`shares` are endpoints and their parts of the whole, which add up to 1."""
        self._random = random
        self.endpoints = [endpoint for endpoint, _ in shares]
        found: list[tuple[int, int]] = []
        if shares:
            smallest = min(share for _, share in shares)
            # As many places as the smallest share needs to have a whole number of them.
            scale = min(ceil(smallest * settings.minimum) / smallest, float(settings.maximum))
            wanted = 0.0
            for number, (endpoint, share) in enumerate(shares):
                wanted += scale * share
                count = max(ceil(wanted) - len(found), 0)
                found += [(place, number) for place in places.of(endpoint, count)]
        found.sort()
        self._hashes = [place for place, _ in found]
        self._owners = [self.endpoints[number] for _, number in found]

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """The endpoint at the first place from `key` on, or from anywhere without a key.

        Those in `tried` are passed over if there are others.
        """
        owners = self._owners
        if not owners:
            return None
        count = len(owners)
        start = bisect_left(self._hashes, random_key(self._random) if key is None else key) % count
        chosen = owners[start]
        if chosen in tried and any(endpoint not in tried for endpoint in self.endpoints):
            while (chosen := owners[start % count]) in tried:
                start += 1
        return chosen


def random_key(random: Callable[[], float]) -> int:
    """64 bits made of the 53 that a float has: times an odd number, so that also the last digits are random."""
    return int(random() * (1 << 53)) * 0x9E3779B97F4A7C15 & MASK


class Places:
    """The places of endpoints, hashed once: a ring that is built again, since health or who there is has changed, only
    sorts them.
    """

    __slots__ = ("_found", "_hash", "_settings")

    def __init__(
        self, settings: RingSettings, endpoints: Sequence[Endpoint] = (), before: "Places | None" = None
    ) -> None:
        """Of these `endpoints` those places are known that were known `before`."""
        self._settings = settings
        self._hash = HASHES[settings.hash]
        same = before is not None and before._settings == settings and not settings.by_hostname
        known = before._found if before is not None and same else {}
        self._found: dict[Endpoint, list[int]] = {
            endpoint: known[endpoint] for endpoint in endpoints if endpoint in known
        }

    def of(self, endpoint: Endpoint, count: int) -> list[int]:
        """The first `count` places of `endpoint`."""
        found = self._found.setdefault(endpoint, [])
        if len(found) < count:
            name = (endpoint.hostname if self._settings.by_hostname else "") or endpoint.address
            found += [self._hash(f"{name}_{number}".encode()) for number in range(len(found), count)]
        return found[:count]
