"""What is let go of piece by piece, and not before its owner is gone."""

import weakref

from pymesh.steps import whole
from pymesh_proxy.config.remains import Remains


class Thing:
    """Something that a weak reference can watch."""


def test_pieces_outlive_their_owner_and_go_in_steps() -> None:
    told: list[int] = []
    remains = Remains()
    remains.on_loose = lambda: told.append(len(remains))
    owner, pieces = Thing(), [Thing() for _ in range(100)]
    watched = [weakref.ref(piece) for piece in pieces]
    remains.keep(owner, list(pieces))
    del pieces
    whole(remains.letting_go())
    assert all(ref() is not None for ref in watched), "the owner may still be asked for them"
    del owner
    assert told == [100]
    steps = remains.letting_go()
    next(steps)
    alive = sum(ref() is not None for ref in watched)
    assert 0 < alive < 100
    whole(steps)
    assert not any(ref() for ref in watched)
    assert len(remains) == 0


def test_an_owner_of_nothing_is_not_watched() -> None:
    told: list[int] = []
    remains = Remains()
    remains.on_loose = lambda: told.append(1)
    remains.keep(Thing(), [])
    assert not told
