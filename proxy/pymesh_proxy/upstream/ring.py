"""A ring of hashes: the same key leads to the same endpoint, and few keys move when endpoints come or go. Pure.

Built like Envoy's, hash by hash (ring_hash_lb.cc, after ketama): the n-th place of an endpoint is the hash of
`ip:port_n`. So pymesh and Envoy, given the same endpoints, send the same key to the same one.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, TypeAlias

from pymesh.consistent_hashing import DEFAULT_RING_SIZE
from pymesh.steps import Steps
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

# An endpoint and its part of the whole; the parts of a ring add up to 1.
Share: TypeAlias = tuple[Endpoint, float]
# Places that are hashed or sorted in one step: 0.3 ms.
_AT_A_TIME: Final = 100


class Ring:
    """Endpoints, each at many places of a circle of 64-bit hashes."""

    __slots__ = ("_hashes", "_owners", "_random", "endpoints")

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        hashes: Sequence[int],
        owners: Sequence[Endpoint],
        random: Callable[[], float],
    ) -> None:
        """`hashes`, ascending, are the places, and `owners` whose each of them is."""
        self.endpoints = endpoints
        self._hashes = hashes
        self._owners = owners
        self._random = random

    @classmethod
    def building(
        cls, shares: Sequence[Share], settings: RingSettings, places: "Places", random: Callable[[], float]
    ) -> Steps["Ring"]:
        """The ring of these `shares`."""
        size = size_of(shares, settings)
        # Hashes are spread evenly, so a part of the circle for each few of them can be sorted by itself.
        shift = 64 - max(size // _AT_A_TIME, 1).bit_length()
        parts: list[list[tuple[int, int]]] = [[] for _ in range(1 << 64 - shift)]
        scale, wanted, found = _scale(shares, settings), 0.0, 0
        for number, (endpoint, share) in enumerate(shares):
            wanted += scale * share
            count = max(ceil(wanted) - found, 0)
            found += count
            for start in range(0, count, _AT_A_TIME):
                for place in places.of(endpoint, start, min(start + _AT_A_TIME, count)):
                    parts[place >> shift].append((place, number))
                yield
        hashes: list[int] = []
        owners: list[Endpoint] = []
        for part in parts:
            part.sort()
            hashes += [place for place, _ in part]
            owners += [shares[number][0] for _, number in part]
            part.clear()
            yield
        return cls([endpoint for endpoint, _ in shares], hashes, owners, random)

    def pick(
        self, tried: Collection[Endpoint], key: int | None, usable: frozenset[Endpoint] | None = None
    ) -> Endpoint | None:
        """The endpoint at the first place from `key` on, or from anywhere without a key.

        Those in `tried` are passed over if there are others; those that are not `usable`, of which there must be one
        in the ring, always.
        """
        owners = self._owners
        if not owners:
            return None
        count = len(owners)
        start = bisect_left(self._hashes, random_key(self._random) if key is None else key) % count
        if usable is not None:
            while owners[start % count] not in usable:
                start += 1
        chosen = owners[start % count]
        if chosen in tried:
            allowed = self.endpoints if usable is None else usable.intersection(self.endpoints)
            if any(endpoint not in tried for endpoint in allowed):
                while (chosen := owners[start % count]) in tried or chosen not in allowed:
                    start += 1
        return chosen


def size_of(shares: Sequence[Share], settings: RingSettings) -> int:
    """How many places there are for `shares`."""
    return ceil(_scale(shares, settings))


def _scale(shares: Sequence[Share], settings: RingSettings) -> float:
    """As many places as the smallest share needs to have a whole number of them."""
    smallest = min((share for _, share in shares), default=1.0)
    return min(ceil(smallest * settings.minimum) / smallest, float(settings.maximum))


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

    def of(self, endpoint: Endpoint, start: int, end: int) -> list[int]:
        """The places of `endpoint` from the one numbered `start` to the one before `end`; those before are known."""
        found = self._found.setdefault(endpoint, [])
        if len(found) < end:
            name = (endpoint.hostname if self._settings.by_hostname else "") or endpoint.address
            found += [self._hash(f"{name}_{number}".encode()) for number in range(len(found), end)]
        return found[start:end]
