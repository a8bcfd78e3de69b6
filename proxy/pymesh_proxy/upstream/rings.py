"""The rings of one cluster, one for each priority that has traffic. Pure.

A large ring takes long to make: it is made in steps (`pymesh.steps`), and until it is ready the one before it serves,
of which those places are passed over whose endpoints may not be used. So few keys go for a moment to another endpoint
than by the new ring: those of places that it has more or fewer.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final

from pymesh.steps import Steps, whole
from pymesh_proxy.upstream.endpoint import Endpoint
from pymesh_proxy.upstream.ring import Places, Ring, RingSettings, Share, size_of

# Places of a ring that is made at once: Envoy's default for a hundred endpoints. Where none of them is known, at the
# first request of a cluster, that takes 4 ms of a quiet machine.
AT_ONCE: Final = 1200


class Meanwhile:
    """A ring of other days, of which only some endpoints are used."""

    __slots__ = ("_ring", "_usable")

    def __init__(self, ring: Ring, usable: frozenset[Endpoint]) -> None:
        self._ring = ring
        self._usable = usable

    def pick(self, tried: Collection[Endpoint], key: int | None) -> Endpoint | None:
        """See `Ring.pick`."""
        return self._ring.pick(tried, key, self._usable)


class Rings:
    """Makes rings, and knows the latest of each priority."""

    __slots__ = ("_latest", "_places", "_random", "_settings")

    def __init__(
        self,
        settings: RingSettings,
        endpoints: Sequence[Endpoint],
        random: Callable[[], float],
        before: "Rings | None" = None,
    ) -> None:
        """What was known `before` is not worked out again."""
        self._settings = settings
        self._random = random
        self._places: Places = Places(settings, endpoints, None if before is None else before._places)
        same = before is not None and before._settings == settings
        self._latest: dict[int, tuple[Sequence[Share] | None, Ring]] = {}
        if before is not None and same:
            self._latest |= before._latest
        if settings.by_hostname:  # names may be others now
            self._latest = {priority: (None, ring) for priority, (_, ring) in self._latest.items()}

    def is_long(self, priority: int, shares: Sequence[Share]) -> bool:
        """Whether the ring of these `shares` is not there and takes long to make."""
        return self._latest.get(priority, (None,))[0] != shares and size_of(shares, self._settings) > AT_ONCE

    def ready(self, priority: int, shares: Sequence[Share]) -> Ring | None:
        """The ring of these `shares`, if it is there, or small enough to be made at once."""
        made_of, ring = self._latest.get(priority, (None, None))
        if made_of == shares:
            return ring
        if size_of(shares, self._settings) <= AT_ONCE:
            return whole(self.making(priority, shares))
        return None

    def meanwhile(self, priority: int, shares: Sequence[Share]) -> Meanwhile | None:
        """What serves until the ring is ready; None if there is nothing that could."""
        usable = frozenset(endpoint for endpoint, _ in shares)
        _, ring = self._latest.get(priority, (None, None))
        return None if ring is None or usable.isdisjoint(ring.endpoints) else Meanwhile(ring, usable)

    def making(self, priority: int, shares: Sequence[Share]) -> Steps[Ring]:
        """The ring of these `shares`, from now on the latest."""
        made_of, known = self._latest.get(priority, (None, None))
        if known is not None and made_of == shares:
            return known
        ring = yield from Ring.building(shares, self._settings, self._places, self._random)
        self._latest[priority] = (shares, ring)
        return ring
